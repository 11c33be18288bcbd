"""The client's side of a connection, on which purerpc's stubs run (by way of `channel`).

The deadline of the scope around a call is sent as its grpc-timeout, and a call that is cancelled or left early is
reset, so that the server stops working for it.

Received DATA is most of a client's work, so it is read in large pieces, its windows are large, and a server may send it
in large frames.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio
from google.protobuf.message import Message
from purerpc import Status, StatusCode
from purerpc.grpclib.events import ResponseEnded

from jobmaster.errors import TransportError
from jobmaster.grpc.call import GrpcStream
from jobmaster.grpc.connection import Http2Connection
from jobmaster.grpc.headers import parse_status, refusal_of, request_headers
from jobmaster.http2.frames import ErrorCode
from jobmaster.http2.header_blocks import encode_block
from jobmaster.http2.protocol import Side
from jobmaster.wire.lifetime import CLIENT_POLICY

if TYPE_CHECKING:
    from jobmaster.grpc.lazy_messages import StoredMessages
    from jobmaster.http2.events import HeadersReceived
    from jobmaster.http2.header_blocks import Field

STREAM_WINDOW: Final = 4 * 1024 * 1024
"""Bytes that a call may hold here; large, because each update of a window costs a wake-up of the server."""
CONNECTION_WINDOW: Final = 16 * 1024 * 1024
RECEIVE_SIZE: Final = 240 * 1024
"""Bytes that are received from the network in one go, into a buffer that a connection has for it."""
READ_SIZE: Final = 112 * 1024
"""Bytes of what TLS makes of them that are worked off in one go; the C library would have pieces of memory of 128 KiB and
more come from the kernel and go back to it each time."""
FRAME_SIZE: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class ResponsePart:
    """What headers of a response say: the call's status, and what it means where they are not those of gRPC."""

    status: Status | None
    refusal: Status | None


def read_response(fields: Iterable[Field]) -> ResponsePart:
    """Reads the headers that open a response, or its trailers."""
    fields = tuple(fields)
    is_opening = any(name == b":status" for name, _ in fields)
    return ResponsePart(parse_status(fields), refusal_of(fields) if is_opening else None)


_SIDE: Final = Side(
    is_client=True,
    stream_window=STREAM_WINDOW,
    connection_window=CONNECTION_WINDOW,
    max_frame_size=FRAME_SIZE,
    read=read_response,
)


class ServerRefused(TransportError):
    """The server closed the connection before it said a word of HTTP/2: it does not take this client."""


class ClientStream(GrpcStream):
    """A call as its caller sees it."""

    def __init__(self, connection: Http2Connection, stream_id: int) -> None:
        super().__init__(connection, stream_id)
        self._status: Status | None = None

    def on_headers(self, part: ResponsePart) -> None:
        """The response's headers or its trailers."""
        self._status = self._status or part.status or part.refusal

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

    async def send_message(self, message: Message | StoredMessages) -> None:
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
        super().__init__(wire, _SIDE, CLIENT_POLICY, read_size=READ_SIZE)
        self._going_away = False
        self._broken: Exception | None = None
        self._ended = False

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
        stream_id = self._http2.open_stream()
        stream = ClientStream(self, stream_id)
        headers = request_headers(
            authority=authority, service=service, method=method, timeout=None if math.isinf(timeout) else timeout
        )
        self.send_headers(stream_id, encode_block(headers), end_stream=False)
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

    # --- receiving ------------------------------------------------------------------------------------------------

    def _on_broken_wire(self, error: Exception) -> None:
        self._broken = self._broken or error

    def _on_headers(self, event: HeadersReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if isinstance(stream, ClientStream) and isinstance(event.headers.meaning, ResponsePart):
            stream.on_headers(event.headers.meaning)
            if event.ended:
                stream.on_end()

    def _on_goaway(self, last_stream_id: int) -> None:
        self._going_away = True
        for stream_id, stream in list(self._streams.items()):
            if stream_id > last_stream_id:
                stream.on_connection_lost()
                self.reset(stream_id, ErrorCode.CANCEL)


def _tls_alert(error: BaseException | None) -> str:
    """The TLS alert behind a broken stream, as words for an error text."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__
    reason = getattr(error, "reason", None)
    return f" ({str(reason).lower().replace('_', ' ')})" if reason else ""
