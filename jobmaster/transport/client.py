"""The client's side of a connection, on which purerpc's stubs run (by way of `channel`).

The deadline of the scope around a call is sent as its grpc-timeout, and a call that is cancelled or left early is
reset, so that the server stops working for it.

Received DATA is most of a client's work, so it does not go through h2: `_receive` reads the frame headers itself,
hands the payload of plain DATA frames to their streams piece by piece as it comes, and everything else to h2. The
windows of that DATA are this module's: h2 never hears that they were used, nor that they were handed back.
"""

from __future__ import annotations

import math
import ssl
from typing import Any, Final

import h2.events
import h2.exceptions
import trio
from google.protobuf.message import Message
from purerpc import Status, StatusCode
from purerpc.grpclib.events import ResponseEnded

from jobmaster.errors import TransportError
from jobmaster.transport import frames
from jobmaster.transport.connection import READ_SIZE, Http2Connection
from jobmaster.transport.framing import MessageCompressed, MessageTooLarge
from jobmaster.transport.headers import parse_status, refusal_of, request_headers
from jobmaster.transport.lifetime import CLIENT_POLICY
from jobmaster.transport.stream import GrpcStream, PreparedMessage

STREAM_WINDOW: Final = 4 * 1024 * 1024
"""Bytes that a call may hold here; large, because each update of a window costs a wake-up of the server."""
CONNECTION_WINDOW: Final = 16 * 1024 * 1024
RECORDS_A_TURN: Final = 16
"""TLS records that are worked off before other tasks have their turn."""
FRAME_SIZE: Final = 64 * 1024


class ServerRefused(TransportError):
    """The server closed the connection before it said a word of HTTP/2: it does not take this client."""


class ClientStream(GrpcStream):
    """A call as its caller sees it."""

    def __init__(self, connection: Http2Connection, stream_id: int) -> None:
        super().__init__(connection, stream_id)
        self._status: Status | None = None
        self.window_used = 0
        """Bytes taken that the server has not been told of."""

    def on_headers(self, headers: list[tuple[bytes, bytes]]) -> None:
        """The response's headers or its trailers."""
        self._status = (
            self._status or parse_status(headers) or (refusal_of(headers) if self._is_opening(headers) else None)
        )

    @staticmethod
    def _is_opening(headers: list[tuple[bytes, bytes]]) -> bool:
        return any(bytes(name) == b":status" for name, _ in headers)

    @property
    def end_status(self) -> Status:
        """The status of a call that the server has ended."""
        return self._status or Status(StatusCode.UNKNOWN, "the server ended the call without a status")

    def _end_event(self) -> ResponseEnded:
        return ResponseEnded(self.stream_id, self.end_status)

    def on_reset(self, code: int) -> None:
        """A server resets a call with NO_ERROR after its trailers; that is a normal end."""
        if self._status is not None:
            self.on_end()
        else:
            super().on_reset(code)

    async def receive_message(self) -> Message | None:
        """As `GrpcStream.receive_message`; a cancelled wait abandons the call."""
        try:
            return await super().receive_message()
        except trio.Cancelled:
            self.reset()
            raise

    async def send_message(self, message: Message | PreparedMessage) -> None:
        """As `GrpcStream.send_message`; a cancelled wait abandons the call.

        A server may answer before it has read the request: its status, found by receiving, is then what counts.
        """
        try:
            await super().send_message(message)
        except trio.Cancelled:
            self.reset()
            raise

    def _peer_listens_no_more(self) -> bool:
        return self._remote_ended

    async def close(self, status: Status | None = None) -> None:
        """Ends the request. A client has no status to give."""
        if status is not None:
            raise ValueError("a client ends a request without a status")
        if self._local_ended or self._failure is not None:
            return
        self._local_ended = True
        if self._remote_ended:
            self._connection.forget(self.stream_id)
            return
        self._connection.end_request(self.stream_id)


class ClientConnection(Http2Connection):
    """A connection to a server."""

    def __init__(self, wire: trio.abc.Stream) -> None:
        super().__init__(
            wire,
            client_side=True,
            stream_window=STREAM_WINDOW,
            connection_window=CONNECTION_WINDOW,
            frame_size=FRAME_SIZE,
            policy=CLIENT_POLICY,
        )
        self._going_away = False
        self._broken: Exception | None = None
        self._ended = False
        self._header = b""
        self._payload_left = 0
        self._payload_of: int | None = None
        self._for_h2 = b""
        self._window_used = 0

    @property
    def takes_calls(self) -> bool:
        """True while a new call can be opened."""
        return not (self._ended or self._going_away)

    def start_call(self, service: str, method: str, authority: str) -> ClientStream:
        """Opens a call.

        Raises:
            ServerRefused: the server closed the connection without a word.
            TransportError: the connection is lost, or the server is going away.
        """
        if not self.takes_calls:
            raise self._loss()
        timeout = trio.current_effective_deadline() - trio.current_time()
        stream_id = self._h2.get_next_available_stream_id()
        stream = ClientStream(self, stream_id)
        headers = request_headers(
            authority=authority, service=service, method=method, timeout=None if math.isinf(timeout) else timeout
        )
        try:
            self.send_headers(stream_id, headers, end_stream=False)
        except h2.exceptions.TooManyStreamsError:
            raise TransportError("as many calls are open on this connection as the server allows") from None
        self._streams[stream_id] = stream
        self._lifetime.on_busy()
        return stream

    def shut_down(self) -> None:
        """Opens no more calls on this connection."""
        self._going_away = True

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """As `Http2Connection.run`; afterwards no call can be opened."""
        try:
            await super().run(task_status=task_status)
        finally:
            self._ended = True

    def _end_streams(self) -> None:
        self._ended = True
        for stream in list(self._streams.values()):
            stream._fail(self._loss())  # the two classes are two halves of one thing
        self._streams.clear()

    def _loss(self) -> TransportError:
        if self._going_away:
            return TransportError("the server is shutting down")
        if not self._has_settings:
            detail = _tls_alert(self._broken)
            return ServerRefused(f"the server refused this client's certificate{detail}; its log says why")
        return TransportError("the connection to the server was lost")

    # --- received DATA --------------------------------------------------------------------------------------------

    async def _receive(self, data: bytes) -> bool:
        turns = RECORDS_A_TURN
        while self._take(data):
            turns -= 1
            data = self._buffered_record() if turns else b""
            if not data:
                return True
        return False

    def _buffered_record(self) -> bytes:
        """A TLS record that has arrived already; b"" when there is none.

        trio.SSLStream gives one record for each turn of the event loop, which for bulk data is most of the cost; its
        SSL object, asked directly, has the next one at once or says that it wants more.
        """
        tls = getattr(self._wire, "_ssl_object", None)
        try:
            return bytes(tls.read(READ_SIZE)) if tls is not None else b""
        except ssl.SSLError:  # nothing there, or an end that the next read will meet too
            return b""

    def _take(self, data: bytes) -> bool:
        offset = 0
        while offset < len(data):
            if self._payload_left == 0:
                offset = self._read_header(data, offset)
                if self._payload_left == 0 and self._payload_of is None and not self._pass_to_h2(b""):
                    return False
                continue
            piece = data[offset : offset + self._payload_left]
            offset += len(piece)
            self._payload_left -= len(piece)
            if self._payload_of is not None:
                self._take_payload(self._payload_of, piece)
            elif not self._pass_to_h2(piece):
                return False
        return True

    def _read_header(self, data: bytes, offset: int) -> int:
        """Reads a frame's header, or a part of it: where in `data` to go on."""
        wanted = frames.HEADER.size - len(self._header)
        self._header += data[offset : offset + wanted]
        if len(self._header) < frames.HEADER.size:
            return len(data)
        high, low, kind, flags, stream_id = frames.HEADER.unpack(self._header)
        header, self._header = self._header, b""
        self._payload_left = high << 8 | low
        is_plain_data = kind == frames.DATA and flags == 0 and self._payload_left <= FRAME_SIZE
        self._payload_of = stream_id if is_plain_data and stream_id in self._streams else None
        if self._payload_of is None:
            self._for_h2 = header
        return offset + wanted

    def _pass_to_h2(self, piece: bytes) -> bool:
        data, self._for_h2 = self._for_h2 + piece, b""
        return self._parse_and_apply(data)

    def _take_payload(self, stream_id: int, piece: bytes) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:  # reset by us meanwhile
            self.acknowledge(stream_id, len(piece))
            return
        try:
            stream.on_data(piece, len(piece))
        except (MessageTooLarge, MessageCompressed) as error:
            self.acknowledge(stream_id, len(piece))
            stream.on_bad_message(error)

    def _data_received(self, event: Any) -> None:
        """DATA that came by way of h2: its windows are h2's."""
        self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        if (stream := self._streams.get(event.stream_id)) is not None:
            try:
                stream.on_data(event.data, 0)
            except (MessageTooLarge, MessageCompressed) as error:
                stream.on_bad_message(error)

    def acknowledge(self, stream_id: int, length: int) -> None:
        """Hands window back to the server, in halves of the whole."""
        self._window_used += length
        if self._window_used >= CONNECTION_WINDOW // 2:
            self._queue_bytes(frames.window_update(0, self._window_used))
            self._window_used = 0
        stream = self._streams.get(stream_id)
        if isinstance(stream, ClientStream):
            stream.window_used += length
            if stream.window_used >= STREAM_WINDOW // 2:
                self._queue_bytes(frames.window_update(stream_id, stream.window_used))
                stream.window_used = 0

    # --- the rest -------------------------------------------------------------------------------------------------

    def _on_broken_wire(self, error: Exception) -> None:
        self._broken = self._broken or error

    def _on_headers(self, event: Any) -> None:
        headers_events = (h2.events.ResponseReceived, h2.events.TrailersReceived)
        if isinstance(event, headers_events) and isinstance(stream := self._streams.get(event.stream_id), ClientStream):
            stream.on_headers(event.headers)

    def _on_goaway(self, event: Any) -> None:
        self._going_away = True
        for stream_id, stream in list(self._streams.items()):
            if stream_id > (event.last_stream_id or 0):
                stream.on_connection_lost()
                self.forget(stream_id)


def _tls_alert(error: BaseException | None) -> str:
    """The TLS alert behind a broken stream, as words for an error text."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__
    reason = getattr(error, "reason", None)
    return f" ({str(reason).lower().replace('_', ' ')})" if reason else ""
