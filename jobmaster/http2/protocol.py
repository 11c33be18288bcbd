"""HTTP/2 (RFC 9113) as gRPC uses it, sans-io: bytes in, events out, frames to send.

Theory of operation
-------------------
The peer is hostile, and everything happens on the event loop that supervises the jobs. So the nine bytes that open a
frame decide whether the rest is worth waiting for, no frame is looked at twice, and nothing grows with what a peer
says: at most one incomplete frame and one incomplete header block are held, streams are what the owner keeps open,
and of the ended ones the last `REMEMBERED_ENDS` are known. What may be overdone is bounded by a `Tolerance`.

What is wrong with a stream ends that stream (RST_STREAM and an event); what is wrong with the connection raises
`ProtocolViolation`, whose code belongs in the GOAWAY that its owner sends before it closes. RFC 9113 decides which;
where it leaves a choice, the stream alone is ended. Priorities are
the exception: they are deprecated, nobody here heeds them, and a malformed one ends the connection.

`receive` is a generator: state is settled before each event, so that the owner may answer, reset, or let others run
before it asks for the next. Its outcome does not depend on how the bytes were cut into reads. DATA is handed on as it
comes, without waiting for the end of its frame.

Why not h2: this needs a guard in front of it (it buffers, counts and remembers without bound), calls up several
objects a frame, and ends the connection for a malformed header; with both layers, half of a unary call was spent here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, NoReturn

from jobmaster.errors import TransportError
from jobmaster.http2 import fields, frames
from jobmaster.http2.events import (
    DataReceived,
    Event,
    GoingAway,
    HeaderList,
    HeadersReceived,
    SettingsReceived,
    StreamReset,
    WindowOpened,
)
from jobmaster.http2.frames import ErrorCode, Setting
from jobmaster.http2.header_blocks import NO_TABLE, BlockDecoder, Field, FieldList, MalformedBlock, Meaning
from jobmaster.http2.streams import End, ProtocolViolation, Stream, StreamTable, fail
from jobmaster.http2.tolerance import MAX_CONTINUATIONS, MAX_HEADER_BLOCK, MAX_SETTINGS, Tolerance

MAX_HEADER_LIST: Final = 16 * 1024
"""Bytes of a header list, as HPACK counts them; announced."""
MAX_CONCURRENT_STREAMS: Final = 100
"""Announced; the owner holds the peer to it, stream by stream."""
MAX_SENT_FRAME: Final = 64 * 1024
"""Bytes of frames sent, where the peer takes larger ones than the 16 KiB that all take."""

_HEAD: Final = frames.HEADER.size
_PRIORITY_LENGTH: Final = 5


class TooManyStreams(TransportError):
    """As many streams are open as the peer allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side(Generic[Meaning]):
    """Which side of a connection this is, and what it takes.

    Attributes:
        stream_window, connection_window: bytes of bodies that the peer may send ahead.
        max_frame_size: bytes of the largest frame that is taken.
        read: what the owner reads in header fields; asked once where they are repeated. It never raises.
    """

    is_client: bool
    stream_window: int
    connection_window: int
    max_frame_size: int
    read: Callable[[tuple[Field, ...]], Meaning]


class Http2(Generic[Meaning]):
    """One connection. See the module's theory of operation.

    `send` is handed bytes for the peer, whole frames in their order.
    """

    def __init__(self, side: Side[Meaning], send: Callable[[bytes | bytearray], None]) -> None:
        self._side = side
        self._send = send
        self._tolerance = Tolerance()
        self._decoder: BlockDecoder[HeaderList[Meaning]] = BlockDecoder(
            partial(_look_at, side), max_list_size=MAX_HEADER_LIST
        )
        self._table = StreamTable(stream_window=side.stream_window, connection_window=side.connection_window, send=send)
        self._streams = self._table.open

        self._now = 0.0
        self._violation: ProtocolViolation | None = None
        self._held = b""
        self._preface_left = b"" if side.is_client else frames.PREFACE
        self._has_settings = False
        self._block: bytearray | None = None
        self._block_head = (0, 0)
        self._continuations = 0
        self._data_left = 0
        self._data_head = (0, 0)

        self._largest_sent = frames.LEAST_MAX_FRAME_SIZE
        self._peer_allows = MAX_CONCURRENT_STREAMS
        self._opening_of_block = b""

    def start(self) -> None:
        """Sends what opens the connection."""
        side = self._side
        ours = [
            (Setting.MAX_CONCURRENT_STREAMS, MAX_CONCURRENT_STREAMS),
            (Setting.INITIAL_WINDOW_SIZE, side.stream_window),
            (Setting.MAX_FRAME_SIZE, side.max_frame_size),
            (Setting.MAX_HEADER_LIST_SIZE, MAX_HEADER_LIST),
        ]
        if side.is_client:
            self._send(frames.PREFACE)
            ours.append((Setting.ENABLE_PUSH, 0))
        self._send(frames.settings(ours))
        self._send(frames.window_update(0, side.connection_window - frames.DEFAULT_WINDOW))

    @property
    def last_stream_id(self) -> int:
        """The last stream that was opened, by whichever side opens them."""
        return self._table.highest

    @property
    def open_streams(self) -> int:
        """Streams that have not ended in both directions."""
        return len(self._streams)

    # --- receiving ------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> Iterator[Event]:
        """Takes received bytes at `now` (seconds on a clock that does not go back); to be iterated to its end.

        Raises:
            ProtocolViolation: the connection has to end; what was yielded before stands. Every later call raises again.
        """
        if self._violation is not None:
            raise self._violation
        self._now = now
        try:
            yield from self._receive(data)
        except ProtocolViolation as violation:
            self._violation = violation
            raise

    def _receive(self, data: bytes) -> Iterator[Event]:
        if self._held:
            data, self._held = self._held + data, b""
        position = self._take_preface(data) if self._preface_left else 0
        end = len(data)
        while True:
            if self._data_left:
                if position == end:
                    return
                piece = self._cut(data, position)
                position += len(piece)
                event = self._on_piece(piece, len(piece))
            elif end - position < _HEAD:
                break
            else:
                word, flags, stream_id = frames.HEADER.unpack_from(data, position)
                length, kind, stream_id = word >> 8, word & 0xFF, stream_id & 0x7FFF_FFFF
                self._check_head(length, kind, flags, stream_id)
                if kind == frames.DATA and not flags & frames.PADDED:
                    position += _HEAD
                    event = self._begin_data(flags, stream_id, length)
                elif end - position - _HEAD < length:
                    break
                else:
                    position += _HEAD + length
                    rule = _RULES.get(kind, Http2._on_extension)
                    event = rule(self, flags, stream_id, data[position - length : position])
            if event is not None:
                yield event
        self._held = data[position:]

    def _take_preface(self, data: bytes) -> int:
        taken = len(data[: len(self._preface_left)])
        if not self._preface_left.startswith(data[:taken]):
            fail(ErrorCode.PROTOCOL_ERROR, "not the HTTP/2 preface")
        self._preface_left = self._preface_left[taken:]
        return taken

    def _check_head(self, length: int, kind: int, flags: int, stream_id: int) -> None:
        """Refuses a frame by its first nine bytes. Changes nothing: it is asked again while the rest arrives."""
        if length > self._side.max_frame_size:
            fail(ErrorCode.FRAME_SIZE_ERROR, "frame longer than was announced")
        if self._block is not None:
            if kind != frames.CONTINUATION or stream_id != self._block_head[1]:
                fail(ErrorCode.PROTOCOL_ERROR, "another frame inside a header block")
            if self._continuations == MAX_CONTINUATIONS:
                fail(ErrorCode.ENHANCE_YOUR_CALM, f"more than {MAX_CONTINUATIONS} CONTINUATION frames")
            if len(self._block) + length > MAX_HEADER_BLOCK:
                fail(ErrorCode.ENHANCE_YOUR_CALM, f"header block longer than {MAX_HEADER_BLOCK} bytes")
        elif not self._has_settings and (kind != frames.SETTINGS or flags & frames.ACK):
            fail(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")

    # --- DATA -----------------------------------------------------------------------------------------------------

    def _begin_data(self, flags: int, stream_id: int, length: int) -> Event | None:
        """Takes the head of a DATA frame whose payload follows, piece by piece."""
        if length == 0 and not flags & frames.END_STREAM:
            self._tolerance.empty_data.spend(self._now)
        self._table.received(length)
        self._data_left, self._data_head = length, (flags, stream_id)
        stream = self._streams.get(stream_id)
        if stream is None:
            self._on_frame_of_ended(stream_id)
            return None
        if stream.remote_ended:
            return self._break(stream_id, ErrorCode.STREAM_CLOSED)
        if self._side.is_client and not stream.has_headers:
            return self._break(stream_id, ErrorCode.PROTOCOL_ERROR)
        stream.receive_left -= length
        if stream.receive_left < 0:
            return self._break(stream_id, ErrorCode.FLOW_CONTROL_ERROR)
        return None if length else self._on_piece(b"", 0)

    def _on_padded_data(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        body = _without_padding(flags, payload)
        if not body and not flags & frames.END_STREAM:
            self._tolerance.empty_data.spend(self._now)
        broken = self._begin_data(flags, stream_id, len(payload))
        event = self._on_piece(body, len(payload))
        return broken or event

    def _cut(self, data: bytes, start: int) -> bytes | memoryview:
        """What `data` has of the DATA frame from `start` on.

        A client does not copy bulk data, which then keeps `data` in memory; a server has to know what it holds.
        """
        end = start + self._data_left
        if self._side.is_client and 2 * (min(end, len(data)) - start) > len(data):
            return memoryview(data)[start:end]
        return data[start:end]

    def _on_piece(self, piece: bytes | memoryview, length: int) -> Event | None:
        """Takes the next bytes of a DATA frame, which cost `length` bytes of window."""
        flags, stream_id = self._data_head
        self._data_left -= length
        stream = self._streams.get(stream_id)
        if stream is None:
            self._table.hand_back(0, length)
            return None
        ended = flags & frames.END_STREAM != 0 and self._data_left == 0
        if stream.content_left is not None:
            stream.content_left -= len(piece)
            if stream.content_left < 0 or (ended and stream.content_left):
                self._table.hand_back(0, length)
                return self._break(stream_id, ErrorCode.PROTOCOL_ERROR)
        if ended:
            self._table.remote_end(stream_id, stream)
        return DataReceived(stream_id, piece, length, ended) if piece or ended else None

    def hand_back(self, stream_id: int, length: int) -> None:
        """Gives `length` bytes of window back to the peer; stream 0 is the connection alone."""
        self._table.hand_back(stream_id, length)

    # --- headers --------------------------------------------------------------------------------------------------

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        fragment = _without_padding(flags, payload)
        if flags & frames.HAS_PRIORITY:
            if len(fragment) < _PRIORITY_LENGTH:
                fail(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            if _number(fragment[:4]) == stream_id:
                fail(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")
            fragment = fragment[_PRIORITY_LENGTH:]
        if stream_id == 0:
            fail(ErrorCode.PROTOCOL_ERROR, "HEADERS on no stream")
        if flags & frames.END_HEADERS:
            return self._on_block(flags, stream_id, fragment)
        self._block, self._block_head, self._continuations = bytearray(fragment), (flags, stream_id), 0
        return None

    def _on_continuation(self, flags: int, _stream_id: int, payload: bytes) -> Event | None:
        if self._block is None:
            fail(ErrorCode.PROTOCOL_ERROR, "CONTINUATION outside a header block")
        self._block += payload
        self._continuations += 1
        if not flags & frames.END_HEADERS:
            return None
        block, self._block = bytes(self._block), None
        return self._on_block(*self._block_head, block)

    def _on_block(self, flags: int, stream_id: int, block: bytes) -> Event | None:
        try:
            headers = self._decoder.decode(block)
        except MalformedBlock as error:
            raise ProtocolViolation(ErrorCode.COMPRESSION_ERROR, str(error)) from None
        if headers.too_large:
            self._tolerance.large_lists.spend(self._now)
        ended = flags & frames.END_STREAM != 0
        stream = self._streams.get(stream_id)
        if stream is None:
            if self._side.is_client or stream_id <= self._table.highest:
                self._on_frame_of_ended(stream_id, opens=not self._side.is_client)
                return None
            return self._open(stream_id, headers, ended)
        if stream.remote_ended:
            return self._break(stream_id, ErrorCode.STREAM_CLOSED)
        if stream.has_headers:
            if not ended or stream.content_left or fields.trailers_problem(headers.fields):
                return self._break(stream_id, ErrorCode.PROTOCOL_ERROR)
        elif not headers.too_large and not self._begins_message(stream, headers, ended):
            return self._break(stream_id, ErrorCode.PROTOCOL_ERROR)
        elif _is_informational(headers):
            return None
        stream.has_headers = True
        if ended:
            self._table.remote_end(stream_id, stream)
        return HeadersReceived(stream_id, headers, ended)

    def _open(self, stream_id: int, headers: HeaderList[Meaning], ended: bool) -> Event | None:
        """A stream that the client opens."""
        if stream_id % 2 == 0:
            fail(ErrorCode.PROTOCOL_ERROR, "a client's stream with an even number")
        stream = self._table.add(stream_id)
        stream.has_headers = True
        if not headers.too_large and not self._begins_message(stream, headers, ended):
            self._break(stream_id, ErrorCode.PROTOCOL_ERROR)
            return None
        if ended:
            self._table.remote_end(stream_id, stream)
        return HeadersReceived(stream_id, headers, ended)

    @staticmethod
    def _begins_message(stream: Stream, headers: HeaderList[Meaning], ended: bool) -> bool:
        stream.content_left = headers.content_length
        return headers.problem is None and not (ended and headers.content_length)

    # --- the other frames -----------------------------------------------------------------------------------------

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        if stream_id:
            fail(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & frames.ACK:
            if payload:
                fail(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS acknowledgement with a payload")
            self._tolerance.settings_acks.spend(self._now)
            return None
        self._tolerance.settings.spend(self._now)
        if len(payload) % frames.SETTING.size:
            fail(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS with half an entry")
        if len(payload) > MAX_SETTINGS * frames.SETTING.size:
            fail(ErrorCode.ENHANCE_YOUR_CALM, f"more than {MAX_SETTINGS} settings in one frame")
        for identifier, value in frames.SETTING.iter_unpack(payload):
            self._set(identifier, value)
        self._has_settings = True
        self._send(frames.frame(frames.SETTINGS, frames.ACK, 0))
        return SettingsReceived()

    def _set(self, identifier: int, value: int) -> None:
        match identifier:
            case Setting.HEADER_TABLE_SIZE:
                self._opening_of_block = NO_TABLE
            case Setting.ENABLE_PUSH if value > 1 or (value and self._side.is_client):
                fail(ErrorCode.PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH out of range")
            case Setting.MAX_CONCURRENT_STREAMS:
                self._peer_allows = value
            case Setting.INITIAL_WINDOW_SIZE:
                self._table.begin_with(value)
            case Setting.MAX_FRAME_SIZE:
                if not frames.LEAST_MAX_FRAME_SIZE <= value < 1 << 24:
                    fail(ErrorCode.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE out of range")
                self._largest_sent = min(value, MAX_SENT_FRAME)
            case _:
                pass

    def _on_window_update(self, _flags: int, stream_id: int, payload: bytes) -> Event | None:
        if len(payload) != 4:
            fail(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE that has not four bytes")
        self._tolerance.window_updates.spend(self._now)
        increment = _number(payload)
        if stream_id == 0:
            if increment == 0:
                fail(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
            self._table.widen(increment)
            return WindowOpened(0)
        stream = self._streams.get(stream_id)
        if stream is None:
            self._table.end_of(stream_id)
            if increment == 0:
                self._send(frames.rst_stream(stream_id, ErrorCode.PROTOCOL_ERROR))
            return None
        stream.send_left += increment
        if increment == 0:
            return self._break(stream_id, ErrorCode.PROTOCOL_ERROR)
        if stream.send_left > frames.LARGEST_WINDOW:
            return self._break(stream_id, ErrorCode.FLOW_CONTROL_ERROR)
        return WindowOpened(stream_id)

    def _on_rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> Event | None:
        if len(payload) != 4:
            fail(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM that has not four bytes")
        self._tolerance.resets.spend(self._now)
        if self._table.reset(stream_id, End.BY_PEER):
            return StreamReset(stream_id, _number(payload))
        self._table.end_of(stream_id)
        return None

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        if stream_id:
            fail(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            fail(ErrorCode.FRAME_SIZE_ERROR, "PING that has not eight bytes")
        if flags & frames.ACK:
            self._tolerance.talk.spend(self._now)
        else:
            self._tolerance.pings.spend(self._now)
            self._send(frames.frame(frames.PING, frames.ACK, 0, payload))
        return None

    def _on_goaway(self, _flags: int, stream_id: int, payload: bytes) -> Event | None:
        if stream_id:
            fail(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            fail(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY that is too short")
        self._tolerance.talk.spend(self._now)
        return GoingAway(_number(payload[:4]))

    def _on_priority(self, _flags: int, stream_id: int, payload: bytes) -> Event | None:
        self._tolerance.talk.spend(self._now)
        if stream_id == 0:
            fail(ErrorCode.PROTOCOL_ERROR, "PRIORITY on no stream")
        if len(payload) != _PRIORITY_LENGTH:
            fail(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY that has not five bytes")
        if _number(payload[:4]) == stream_id:
            fail(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")
        return None

    def _on_push_promise(self, _flags: int, _stream_id: int, _payload: bytes) -> NoReturn:
        fail(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE, which nobody asked for")

    def _on_extension(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        self._tolerance.talk.spend(self._now)

    # --- streams --------------------------------------------------------------------------------------------------

    def _on_frame_of_ended(self, stream_id: int, *, opens: bool = False) -> None:
        """HEADERS or DATA on a stream that is not there: right only where they were under way as we reset it."""
        match self._table.end_of(stream_id):
            case End.BY_BOTH:
                fail(ErrorCode.STREAM_CLOSED, "a frame for a stream that has ended")
            case End.BY_PEER:
                self._send(frames.rst_stream(stream_id, ErrorCode.STREAM_CLOSED))
            case None if opens:
                fail(ErrorCode.PROTOCOL_ERROR, "a stream that is older than the last one")

    def _break(self, stream_id: int, code: ErrorCode) -> StreamReset:
        """Resets a stream that the peer has broken; that counts as a reset by the peer, who could make work by it too."""
        self._tolerance.resets.spend(self._now)
        self.reset(stream_id, code)
        return StreamReset(stream_id, code)

    # --- sending: nothing is sent on a stream that is over, of which the owner has been told ------------------------

    def open_stream(self) -> int:
        """A new stream of a client; its headers come next.

        Raises:
            TooManyStreams: the server has to end one first.
        """
        if len(self._streams) >= self._peer_allows:
            raise TooManyStreams("as many calls are open on this connection as the server allows")
        stream_id = self._table.highest + 2 if self._table.highest else 1
        self._table.add(stream_id)
        return stream_id

    def send_headers(self, stream_id: int, block: bytes, *, end_stream: bool) -> None:
        """Sends a header block of `header_blocks.encode_block`."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.local_ended:
            return
        if self._opening_of_block:  # due once, where the peer has changed its table's size (RFC 7541, 4.2)
            block, self._opening_of_block = self._opening_of_block + block, b""
        self._send(frames.header_frames(stream_id, block, end_stream=end_stream))
        if end_stream:
            self._end_locally(stream_id, stream)

    def send_window(self, stream_id: int) -> int:
        """How many bytes of DATA the peer takes on a stream now; 0 for one that is over."""
        return self._table.send_window(stream_id)

    def send_data(self, stream_id: int, parts: Sequence[bytes | memoryview], offset: int, length: int) -> None:
        """Sends `length` bytes, at most `send_window`, from `offset` of the concatenation of `parts`."""
        self._data_sent(stream_id, length, frames.data_frames(stream_id, parts, offset, length, self._largest_sent))

    def send_filled(self, stream_id: int, length: int, fill: Callable[[list[memoryview]], bool]) -> bool:
        """Sends `length` bytes, at most `send_window`, that `fill` puts into the frames; False where it does not."""
        data_frames, payloads = frames.data_frames_to_fill(stream_id, length, self._largest_sent)
        filled = fill(payloads)
        if filled:
            self._data_sent(stream_id, length, data_frames)
        return filled

    def _data_sent(self, stream_id: int, length: int, data_frames: bytes | bytearray) -> None:
        self._table.sent(stream_id, length)
        self._tolerance.data_sent(-(-length // frames.LEAST_MAX_FRAME_SIZE))
        self._send(data_frames)

    def end_stream(self, stream_id: int) -> None:
        """Ends our side of a stream."""
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.local_ended:
            self._send(frames.frame(frames.DATA, frames.END_STREAM, stream_id))
            self._end_locally(stream_id, stream)

    def _end_locally(self, stream_id: int, stream: Stream) -> None:
        self._tolerance.stream_finished()
        self._table.local_end(stream_id, stream)

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """Ends a stream in both directions at once."""
        if self._table.reset(stream_id, End.BY_US):
            self._send(frames.rst_stream(stream_id, code))


def _look_at(side: Side[Meaning], listed: FieldList) -> HeaderList[Meaning]:
    find_problem = fields.response_problem if side.is_client else fields.request_problem
    problem, length = find_problem(listed.fields), None
    try:
        length = fields.content_length(listed.fields)
    except ValueError as error:
        problem = str(error)
    return HeaderList(listed.fields, listed.too_large, problem, length, side.read(listed.fields))


_RULES: Final[dict[int, Callable[[Http2[Any], int, int, bytes], Event | None]]] = {
    frames.DATA: Http2._on_padded_data,
    frames.HEADERS: Http2._on_headers,
    frames.PRIORITY: Http2._on_priority,
    frames.RST_STREAM: Http2._on_rst_stream,
    frames.SETTINGS: Http2._on_settings,
    frames.PUSH_PROMISE: Http2._on_push_promise,
    frames.PING: Http2._on_ping,
    frames.GOAWAY: Http2._on_goaway,
    frames.WINDOW_UPDATE: Http2._on_window_update,
    frames.CONTINUATION: Http2._on_continuation,
}
"""What is done with the whole frames of each type; others are extensions."""


def _number(payload: bytes) -> int:
    """31 bits; the first one is reserved."""
    return int.from_bytes(payload, "big") & 0x7FFF_FFFF


def _without_padding(flags: int, payload: bytes) -> bytes:
    """What a DATA or HEADERS frame carries (RFC 9113, 6.1)."""
    if not flags & frames.PADDED:
        return payload
    if not payload:
        fail(ErrorCode.FRAME_SIZE_ERROR, "a padded frame without the length of its padding")
    if payload[0] >= len(payload):
        fail(ErrorCode.PROTOCOL_ERROR, "padding longer than its frame")
    return payload[1 : len(payload) - payload[0]]


def _is_informational(headers: HeaderList[Meaning]) -> bool:
    """Whether a response's headers announce others (status 1xx)."""
    return any(name == b":status" and value.startswith(b"1") for name, value in headers.fields)
