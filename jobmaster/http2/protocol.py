"""HTTP/2 (RFC 9113) as gRPC uses it, sans-io: bytes in, events out, and frames to send.

Theory of operation
-------------------
The peer is hostile, and everything happens on the event loop that supervises the jobs. So nothing grows with what a
peer sends: `FrameReader` holds at most one incomplete frame and header block, open streams are what the owner keeps
open, and of closed ones the last `REMEMBERED_CLOSED` are known. Frames that cost work without carrying a request are
bounded by `RateLimits`.

A stream error ends its stream (RST_STREAM and an event); a connection error raises `ProtocolViolation`, whose code
belongs in the GOAWAY that the owner sends before it closes. RFC 9113 says which is which; where it leaves a choice, it
is a stream error. A malformed PRIORITY is the exception: priorities are deprecated and ignored, and such a frame ends
the connection.

`receive` is a generator: the state is settled before each event, so that the owner may answer, reset, or yield to other
tasks before it asks for the next. Its outcome does not depend on how the bytes were cut into reads.

Why not h2: it buffers, counts and remembers without bound, so that it needs a guard in front of it, makes several
objects a frame, and ends the connection for a malformed header. With both layers, half of a unary call was spent here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, NoReturn

from jobmaster.errors import TransportError
from jobmaster.http2 import fields, frames
from jobmaster.http2.errors import ProtocolViolation, connection_error
from jobmaster.http2.events import (
    DataReceived,
    Event,
    GoawayReceived,
    HeaderList,
    HeadersReceived,
    SettingsReceived,
    StreamReset,
    WindowUpdated,
)
from jobmaster.http2.frame_reader import DATA_HEADER, DATA_PAYLOAD, FrameReader, without_padding
from jobmaster.http2.frames import ErrorCode, Setting
from jobmaster.http2.header_blocks import BlockDecoder, Field, FieldList, MalformedBlock, Parsed
from jobmaster.http2.settings import MAX_CONCURRENT_STREAMS, PeerSettings
from jobmaster.http2.streams import ClosedBy, Stream, StreamTable
from jobmaster.http2.tolerance import RAPID_RESET_SECONDS, RateLimits

MAX_HEADER_LIST: Final = 16 * 1024
"""Bytes of a header list, as HPACK counts them; announced."""


class TooManyStreams(TransportError):
    """As many streams are open as the peer allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration(Generic[Parsed]):
    """What one side of a connection announces.

    Attributes:
        stream_window, connection_window: bytes of bodies that the peer may send before any are acknowledged.
        max_frame_size: bytes of the largest frame that is accepted.
        parse: what the owner reads in header fields; a pure function that does not raise, called once for a header
            block that is repeated.
    """

    is_client: bool
    stream_window: int
    connection_window: int
    max_frame_size: int
    parse: Callable[[tuple[Field, ...]], Parsed]


class Http2Protocol(Generic[Parsed]):
    """One connection. `send` is called with whole frames, in the order in which the peer is to get them."""

    def __init__(self, configuration: Configuration[Parsed], send: Callable[[bytes | bytearray], None]) -> None:
        self._configuration = configuration
        self._is_client = configuration.is_client
        self._send = send
        self._limits = RateLimits()
        self._frames = FrameReader(max_frame_size=configuration.max_frame_size, is_client=configuration.is_client)
        self._decoder: BlockDecoder[HeaderList[Parsed]] = BlockDecoder(
            partial(_header_list, configuration), max_list_size=MAX_HEADER_LIST
        )
        self._table = StreamTable(
            stream_window=configuration.stream_window, connection_window=configuration.connection_window, send=send
        )
        self._streams = self._table.open
        self._now = 0.0
        self._violation: ProtocolViolation | None = None
        self._settings = PeerSettings(is_client=configuration.is_client)

    def start(self) -> None:
        """Sends the connection preface: SETTINGS, and the connection's window."""
        configuration = self._configuration
        ours = [
            (Setting.MAX_CONCURRENT_STREAMS, MAX_CONCURRENT_STREAMS),
            (Setting.INITIAL_WINDOW_SIZE, configuration.stream_window),
            (Setting.MAX_FRAME_SIZE, configuration.max_frame_size),
            (Setting.MAX_HEADER_LIST_SIZE, MAX_HEADER_LIST),
        ]
        if self._is_client:
            self._send(frames.PREFACE)
            ours.append((Setting.ENABLE_PUSH, 0))
        self._send(frames.settings(ours))
        if (increment := configuration.connection_window - frames.DEFAULT_WINDOW) > 0:
            self._send(frames.window_update(0, increment))

    @property
    def last_stream_id(self) -> int:
        """The last stream that was opened, by whichever side opens them."""
        return self._table.highest

    @property
    def open_streams(self) -> int:
        """Streams that are not closed."""
        return len(self._streams)

    @property
    def can_open_stream(self) -> bool:
        """Whether the server allows one more stream."""
        return len(self._streams) < self._settings.max_streams

    def is_sendable(self, stream_id: int) -> bool:
        """Whether DATA and headers may be sent on a stream: it is open, and not ended from this side."""
        stream = self._streams.get(stream_id)
        return stream is not None and not stream.local_ended

    # --- receiving ------------------------------------------------------------------------------------------------

    def receive(self, data: bytes | memoryview, now: float) -> Iterator[Event]:
        """Takes received bytes, used until it has ended, at `now` (seconds on a clock that does not go back); to be iterated to its end.

        Raises:
            ProtocolViolation: the connection has to end; what was yielded before stands. Every later call raises again.
        """
        if self._violation is not None:
            raise self._violation
        self._now = now
        try:
            self._frames.feed(data)
            while (frame := self._frames.next_frame()) is not None:
                kind, flags, stream_id, payload = frame
                rule = _RULES.get(kind, Http2Protocol._on_extension)
                event = rule(self, flags, stream_id, payload)
                if event is not None:
                    yield event
        except ProtocolViolation as violation:
            self._violation = violation
            raise

    # --- DATA -----------------------------------------------------------------------------------------------------

    def _on_data_header(self, flags: int, stream_id: int, length: int) -> Event | None:
        """Counts a DATA frame against the windows, whatever of its payload has arrived."""
        if length == 0 and not flags & frames.END_STREAM:
            self._limits.empty_data.count(self._now)
        event = self._count_data(stream_id, length)
        if event is None and length == 0:
            return self._on_data_payload(flags, stream_id, b"")
        return event

    def _count_data(self, stream_id: int, length: int) -> StreamReset | None:
        self._table.count_received(length)
        stream = self._streams.get(stream_id)
        if stream is None:
            self._on_frame_of_closed_stream(stream_id)
            return None
        if stream.remote_ended:
            return self._stream_error(stream_id, ErrorCode.STREAM_CLOSED)
        if self._is_client and not stream.has_headers:
            return self._stream_error(stream_id, ErrorCode.PROTOCOL_ERROR)
        stream.receive_window -= length
        if stream.receive_window < 0:
            return self._stream_error(stream_id, ErrorCode.FLOW_CONTROL_ERROR)
        return None

    def _on_padded_data(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        body = without_padding(flags, payload)
        if not body and not flags & frames.END_STREAM:
            self._limits.empty_data.count(self._now)
        error = self._count_data(stream_id, len(payload))
        event = self._on_data_payload(flags, stream_id, body, padding=len(payload) - len(body))
        return error or event

    def _on_data_payload(self, flags: int, stream_id: int, data: bytes, *, padding: int = 0) -> Event | None:
        """The next bytes of a DATA frame; END_STREAM is set with the last ones."""
        length = len(data) + padding
        stream = self._streams.get(stream_id)
        if stream is None:
            self._table.acknowledge(0, length)
            return None
        ended = flags & frames.END_STREAM != 0
        if stream.content_left is not None:
            stream.content_left -= len(data)
            if stream.content_left < 0 or (ended and stream.content_left):
                self._table.acknowledge(0, length)
                return self._stream_error(stream_id, ErrorCode.PROTOCOL_ERROR)
        if ended:
            self._table.end_remote(stream_id, stream)
        if data or ended:
            return DataReceived(stream_id, data, length, ended)
        self._table.acknowledge(stream_id, length)  # of padding alone, which nobody consumes
        return None

    def acknowledge(self, stream_id: int, length: int) -> None:
        """Returns `length` bytes of consumed DATA to the peer's windows, that of the connection alone for stream 0."""
        self._table.acknowledge(stream_id, length)

    def set_window_apart(self, stream_id: int, more: int) -> int:
        """As `StreamTable.set_window_apart`."""
        return self._table.set_window_apart(stream_id, more)

    def take_window_back(self, added: int) -> None:
        """As `StreamTable.take_window_back`."""
        self._table.take_window_back(added)

    # --- headers --------------------------------------------------------------------------------------------------

    def _on_headers(self, flags: int, stream_id: int, block: bytes) -> Event | None:
        try:
            headers = self._decoder.decode(block)
        except MalformedBlock as error:
            raise ProtocolViolation(ErrorCode.COMPRESSION_ERROR, str(error)) from None
        if headers.too_large:
            self._limits.oversized_lists.count(self._now)
        ended = flags & frames.END_STREAM != 0
        stream = self._streams.get(stream_id)
        if stream is None:
            if self._is_client or stream_id <= self._table.highest:
                self._on_frame_of_closed_stream(stream_id, opens=not self._is_client)
                return None
            return self._on_request(stream_id, headers, ended)
        if stream.remote_ended:
            return self._stream_error(stream_id, ErrorCode.STREAM_CLOSED)
        if stream.has_headers:
            if not ended or stream.content_left or fields.trailers_problem(headers.fields):
                return self._stream_error(stream_id, ErrorCode.PROTOCOL_ERROR)
        elif not headers.too_large and not _begin_message(stream, headers, ended):
            return self._stream_error(stream_id, ErrorCode.PROTOCOL_ERROR)
        elif _is_informational(headers):
            return None
        stream.has_headers = True
        if ended:
            self._table.end_remote(stream_id, stream)
        return HeadersReceived(stream_id, headers, ended)

    def _on_request(self, stream_id: int, headers: HeaderList[Parsed], ended: bool) -> Event | None:
        """The client opens a stream."""
        if stream_id % 2 == 0:
            connection_error(ErrorCode.PROTOCOL_ERROR, "a client's stream with an even number")
        stream = self._table.add(stream_id, self._now)
        self._limits.stream_opened()
        stream.has_headers = True
        if not headers.too_large and not _begin_message(stream, headers, ended):
            self._stream_error(stream_id, ErrorCode.PROTOCOL_ERROR)
            return None
        if ended:
            self._table.end_remote(stream_id, stream)
        return HeadersReceived(stream_id, headers, ended)

    # --- other frames ---------------------------------------------------------------------------------------------

    def _on_settings(self, flags: int, _stream_id: int, payload: bytes) -> Event | None:
        if flags & frames.ACK:
            if payload:
                connection_error(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS acknowledgement with a payload")
            self._limits.settings_acks.count(self._now)
            return None
        self._limits.settings.count(self._now)
        initial_window = self._settings.apply(payload)
        if initial_window is not None:
            self._table.set_initial_window(initial_window)
        self._send(frames.frame(frames.SETTINGS, frames.ACK, 0))
        return SettingsReceived()

    def _on_window_update(self, _flags: int, stream_id: int, payload: bytes) -> Event | None:
        self._limits.window_updates.count(self._now)
        increment = _uint31(payload)
        if stream_id == 0:
            if increment == 0:
                connection_error(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            self._table.increment_connection_window(increment)
            return WindowUpdated(0)
        stream = self._streams.get(stream_id)
        if stream is None:
            self._table.closed_by(stream_id)
            if increment == 0:
                self._send(frames.rst_stream(stream_id, ErrorCode.PROTOCOL_ERROR))
            return None
        stream.send_window += increment
        if increment == 0:
            return self._stream_error(stream_id, ErrorCode.PROTOCOL_ERROR)
        if stream.send_window > frames.LARGEST_WINDOW:
            return self._stream_error(stream_id, ErrorCode.FLOW_CONTROL_ERROR)
        return WindowUpdated(stream_id)

    def _on_rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> Event | None:
        stream = self._streams.get(stream_id)
        if stream is None:  # of a stream that ended in good order, the first one crossed our END_STREAM
            if self._table.closed_by(stream_id) in {None, ClosedBy.PEER_RESET}:
                self._limits.resets.count(self._now)
        elif not stream.has_sent and self._now - stream.opened_at < RAPID_RESET_SECONDS:
            self._limits.resets.count(self._now)
        if self._table.reset(stream_id, ClosedBy.PEER_RESET):
            return StreamReset(stream_id, _uint31(payload))
        return None

    def _on_ping(self, flags: int, _stream_id: int, payload: bytes) -> Event | None:
        if flags & frames.ACK:
            self._limits.ignored_frames.count(self._now)
        else:
            self._limits.pings.count(self._now)
            self._send(frames.frame(frames.PING, frames.ACK, 0, payload))
        return None

    def _on_goaway(self, _flags: int, _stream_id: int, payload: bytes) -> Event | None:
        if len(payload) < frames.GOAWAY_HEAD.size:
            connection_error(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY that is too short")
        self._limits.ignored_frames.count(self._now)
        last_stream_id, code = frames.GOAWAY_HEAD.unpack_from(payload)
        return GoawayReceived(last_stream_id & 0x7FFF_FFFF, code, payload[frames.GOAWAY_HEAD.size :])

    def _on_priority(self, _flags: int, stream_id: int, payload: bytes) -> Event | None:
        self._limits.ignored_frames.count(self._now)
        if stream_id == 0:
            connection_error(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if _uint31(payload[:4]) == stream_id:
            connection_error(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")
        return None

    def _on_push_promise(self, _flags: int, _stream_id: int, _payload: bytes) -> NoReturn:
        connection_error(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE, which is not enabled")

    def _on_extension(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        self._limits.ignored_frames.count(self._now)

    # --- errors of streams ----------------------------------------------------------------------------------------

    def _on_frame_of_closed_stream(self, stream_id: int, *, opens: bool = False) -> None:
        """HEADERS or DATA on a stream that is not open: valid only where they were under way when we reset it."""
        match self._table.closed_by(stream_id):
            case ClosedBy.BOTH_ENDS:
                connection_error(ErrorCode.STREAM_CLOSED, "a frame for a stream that has ended")
            case ClosedBy.PEER_RESET:
                self._send(frames.rst_stream(stream_id, ErrorCode.STREAM_CLOSED))
            case None if opens:
                connection_error(ErrorCode.PROTOCOL_ERROR, "a stream that is older than the last one")

    def _stream_error(self, stream_id: int, code: ErrorCode) -> StreamReset:
        """Resets a stream because of what the peer sent; counted like a reset by the peer, which costs as much."""
        self._limits.resets.count(self._now)
        self.reset(stream_id, code)
        return StreamReset(stream_id, code)

    # --- sending: nothing is sent on a stream that is closed; its owner has had the event --------------------------

    def open_stream(self) -> int:
        """Opens a stream of a client, whose headers are to be sent next; returns its id.

        Raises:
            TooManyStreams: the server has to end one first.
        """
        if not self.can_open_stream:
            raise TooManyStreams("as many calls are open on this connection as the server allows")
        stream_id = self._table.highest + 2 if self._table.highest else 1
        self._table.add(stream_id)
        self._limits.stream_opened()
        return stream_id

    def send_headers(self, stream_id: int, block: bytes, *, end_stream: bool) -> None:
        """Sends a header block of `header_blocks.encode_block`."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.local_ended:
            return
        if self._settings.block_prefix:
            block = self._settings.take_block_prefix() + block
        stream.has_sent = True
        self._send(frames.header_frames(stream_id, block, end_stream=end_stream))
        if end_stream:
            self._end_local(stream_id, stream)

    def send_window(self, stream_id: int) -> int:
        """How many bytes of DATA may be sent on a stream now; 0 for one that is closed."""
        return self._table.send_window(stream_id)

    def send_data(self, stream_id: int, parts: Sequence[bytes | memoryview], offset: int, length: int) -> None:
        """Sends `length` bytes, at most `send_window`, from `offset` of the concatenation of `parts`."""
        self._count_sent(stream_id, length)
        self._send(frames.data_frames(stream_id, parts, offset, length, self._settings.max_frame_size))

    def send_data_from(self, stream_id: int, length: int, fill: Callable[[list[memoryview]], bool]) -> bool:
        """Sends `length` bytes, at most `send_window`, which `fill` writes into the payloads of the frames.

        Nothing is sent, and False returned, where `fill` returns False.
        """
        data_frames, payloads = frames.empty_data_frames(stream_id, length, self._settings.max_frame_size)
        filled = fill(payloads)
        if filled:
            self._count_sent(stream_id, length)
            self._send(data_frames)
        return filled

    def _count_sent(self, stream_id: int, length: int) -> None:
        self._table.count_sent(stream_id, length)
        self._limits.data_sent(-(-length // frames.LEAST_MAX_FRAME_SIZE))

    def end_stream(self, stream_id: int) -> None:
        """Sends END_STREAM in an empty DATA frame."""
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.local_ended:
            self._send(frames.frame(frames.DATA, frames.END_STREAM, stream_id))
            self._end_local(stream_id, stream)

    def _end_local(self, stream_id: int, stream: Stream) -> None:
        self._limits.stream_ended()
        self._table.end_local(stream_id, stream)

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """Closes a stream with RST_STREAM."""
        if self._table.reset(stream_id, ClosedBy.OUR_RESET):
            self._send(frames.rst_stream(stream_id, code))


_RULES: Final[dict[int, Callable[[Http2Protocol[Any], int, int, Any], Event | None]]] = {
    DATA_HEADER: Http2Protocol._on_data_header,
    DATA_PAYLOAD: Http2Protocol._on_data_payload,
    frames.DATA: Http2Protocol._on_padded_data,
    frames.HEADERS: Http2Protocol._on_headers,
    frames.PRIORITY: Http2Protocol._on_priority,
    frames.RST_STREAM: Http2Protocol._on_rst_stream,
    frames.SETTINGS: Http2Protocol._on_settings,
    frames.PUSH_PROMISE: Http2Protocol._on_push_promise,
    frames.PING: Http2Protocol._on_ping,
    frames.GOAWAY: Http2Protocol._on_goaway,
    frames.WINDOW_UPDATE: Http2Protocol._on_window_update,
}
"""What is done with the frames of each type; other types are extensions, and ignored."""


def _header_list(configuration: Configuration[Parsed], decoded: FieldList) -> HeaderList[Parsed]:
    find_problem = fields.response_problem if configuration.is_client else fields.request_problem
    problem, length = find_problem(decoded.fields), None
    try:
        length = fields.content_length(decoded.fields)
    except ValueError as error:
        problem = str(error)
    return HeaderList(decoded.fields, decoded.too_large, problem, length, configuration.parse(decoded.fields))


def _begin_message(stream: Stream, headers: HeaderList[Any], ended: bool) -> bool:
    """Notes the length of the body; False where the headers are malformed."""
    stream.content_left = headers.content_length
    return headers.problem is None and not (ended and headers.content_length)


def _is_informational(headers: HeaderList[Any]) -> bool:
    """Whether a response's headers announce the final ones (status 1xx)."""
    return any(name == b":status" and value.startswith(b"1") for name, value in headers.fields)


def _uint31(payload: bytes) -> int:
    """A number of 31 bits after a reserved one."""
    return int.from_bytes(payload, "big") & 0x7FFF_FFFF
