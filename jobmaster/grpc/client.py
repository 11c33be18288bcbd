"""The client's side of a connection, and a call on one of its streams.

The deadline of the scope around a call is sent as its grpc-timeout, and a call that is cancelled or left early is
reset, so that the server stops working for it. Received DATA is most of a client's work, so it is read in large pieces,
the windows are large, and a server may send large frames.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import trio
from google.protobuf.message import Message

from jobmaster.errors import TransportError
from jobmaster.grpc.call import Failure, MessageReceiver, StreamGone, parse
from jobmaster.grpc.framing import PREFIX, prefix_for
from jobmaster.grpc.headers import parse_status, refusal_of, request_headers
from jobmaster.grpc.purerpc_adapter import ResponseEnded, Status, StatusCode
from jobmaster.http2.frames import ErrorCode
from jobmaster.http2.header_blocks import encode_block
from jobmaster.http2.protocol import Configuration
from jobmaster.wire.connection import BULK_READ_SIZE, Connection
from jobmaster.wire.lifetime import CLIENT_POLICY

if TYPE_CHECKING:
    from jobmaster.http2.events import DataReceived, GoawayReceived, HeadersReceived
    from jobmaster.http2.header_blocks import Field

STREAM_WINDOW: Final = 4 * 1024 * 1024
"""Bytes that a call may hold here; large, because each update of a window wakes the server."""
CONNECTION_WINDOW: Final = 16 * 1024 * 1024
FRAME_SIZE: Final = 64 * 1024
MAX_REASON: Final = 200
"""Characters of a server's reason for closing the connection that are shown."""


class ServerRefused(TransportError):
    """The server closed the connection before it was served: it does not accept this client, or no more of them."""


class CertificateNotAccepted(ServerRefused):
    """The server said in the TLS handshake that it does not accept this client's certificate."""


class StreamRefused(StreamGone):
    """The server has not processed the call, which can be made again."""


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


_CONFIGURATION: Final = Configuration(
    is_client=True,
    stream_window=STREAM_WINDOW,
    connection_window=CONNECTION_WINDOW,
    max_frame_size=FRAME_SIZE,
    parse=read_response,
)


class ClientStream:
    """A call on one stream, as its caller sees it: the interface of purerpc's streams.

    Attributes:
        end_stream_event: for purerpc, once the server has ended the call.
    """

    def __init__(self, owner: ClientConnection, stream_id: int) -> None:
        self._owner = owner
        self._connection = owner.connection
        self._stream_id = stream_id
        self._receiver = MessageReceiver(owner.connection, stream_id)
        self._message_type: type[Message] | None = None
        self._status: Status | None = None
        self.end_stream_event: ResponseEnded | None = None

    # --- events ---------------------------------------------------------------------------------------------------

    def on_headers(self, part: ResponsePart, *, ended: bool) -> None:
        """The response's headers or its trailers."""
        self._status = self._status or part.status or part.refusal
        if ended:
            self.on_end()

    def on_data(self, event: DataReceived) -> None:
        """A part of the answer."""
        self._receiver.on_data(event.data, event.length)
        if event.ended:
            self.on_end()

    def on_end(self) -> None:
        """The server has ended the call. Where it did so before the request's end, nobody reads the rest."""
        self._receiver.on_end(may_be_cut=self.end_status.status_code is not StatusCode.OK)
        self._connection.reset(self._stream_id, ErrorCode.CANCEL)
        self._owner.release(self._stream_id)

    def on_reset(self, code: int) -> None:
        """A server resets a call with NO_ERROR after its trailers; that is a normal end."""
        if self._status is not None:
            self._receiver.on_end(may_be_cut=self._status.status_code is not StatusCode.OK)
        elif code == ErrorCode.REFUSED_STREAM:
            self.fail(partial(StreamRefused, "the server refused the call, unprocessed: it has as many as it takes"))
        else:
            self.fail(partial(StreamGone, f"the server reset the call (HTTP/2 error {_code_name(code)})"))
        self._owner.release(self._stream_id)

    def fail(self, failure: Failure) -> None:
        """The call cannot go on."""
        self._receiver.fail(failure)

    # --- the call -------------------------------------------------------------------------------------------------

    @property
    def end_status(self) -> Status:
        """The status of a call that the server has ended."""
        return self._status or Status(StatusCode.UNKNOWN, "the server ended the call without a status")

    def expect_message_type(self, message_type: type[Message]) -> None:
        """Sets what the server's messages are parsed as."""
        self._message_type = message_type

    @property
    def send_window(self) -> int:
        """Bytes that the server takes on this call now."""
        return self._connection.send_window(self._stream_id)

    async def receive_message(self) -> Message | None:
        """The next message, or None once the server has ended the call. A cancelled wait abandons the call.

        Raises:
            StreamRefused: the server has not processed the call.
            StreamGone: the call was reset.
            TransportError: the connection was lost.
            RpcFailedError: a message could not be accepted.
        """
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            await self._receiver.wait()
        except trio.Cancelled:
            self.reset()
            raise
        if self._receiver.queued_messages:
            if self._message_type is None:
                raise TypeError("expect_message_type comes first")
            return parse(self._message_type, self._receiver.take())
        self._receiver.raise_failure()
        self.end_stream_event = ResponseEnded(self._stream_id, self.end_status)
        return None

    async def send_message(self, message: Message) -> None:
        """Sends a message. A cancelled wait abandons the call.

        A server may answer before it has read the request: its status, found by receiving, is then what counts.
        """
        await self.send_bytes(message.SerializeToString())

    async def send_bytes(self, data: bytes) -> None:
        """As `send_message`, for a serialized message."""
        parts = prefix_for(len(data)), data
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._connection.can_send_now(self._stream_id, PREFIX.size + len(data)):
                self._connection.send_now(self._stream_id, parts)
            elif not await self._connection.send(self._stream_id, parts) and self._status is None:
                self._receiver.raise_failure()
        except trio.Cancelled:
            self.reset()
            raise

    async def close(self) -> None:
        """Ends the request."""
        self._connection.end_stream(self._stream_id)

    def reset(self, code: ErrorCode = ErrorCode.CANCEL) -> None:
        """Abandons the call; does nothing when it has ended."""
        self.fail(partial(StreamGone, "the call was abandoned"))
        self._connection.reset(self._stream_id, code)
        self._receiver.drop()
        self._owner.release(self._stream_id)


class ClientConnection:
    """A connection to a server: the `StreamHandler` of a `Connection` on `stream`, which the caller closes."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.connection = Connection(stream, _CONFIGURATION, CLIENT_POLICY, read_size=BULK_READ_SIZE)
        self._streams: dict[int, ClientStream] = {}
        self._waiting: deque[trio.Event] = deque()
        self._is_running = False

    @property
    def takes_calls(self) -> bool:
        """Whether a new call can be opened, perhaps after waiting for one to end."""
        return self._is_running and self.connection.accepts_streams

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs the connection until it ends."""
        self._is_running = True
        await self.connection.run(self, task_status=task_status)

    async def start_call(self, service: str, method: str, authority: str) -> ClientStream:
        """Opens a call. Waits while as many are open as the server allows.

        Raises:
            ServerRefused: the server closed the connection before it was served.
            StreamRefused: the server is shutting down; the call can be made on another connection.
            TransportError: the connection is lost.
        """
        await self._wait_for_a_stream()
        timeout = trio.current_effective_deadline() - trio.current_time()
        stream_id = self.connection.open_stream()
        stream = self._streams[stream_id] = ClientStream(self, stream_id)
        headers = request_headers(
            authority=authority, service=service, method=method, timeout=None if math.isinf(timeout) else timeout
        )
        self.connection.send_headers(stream_id, encode_block(headers), end_stream=False)
        self.connection.mark_busy()
        return stream

    async def _wait_for_a_stream(self) -> None:
        """First come, first served; bounded by the caller's own deadline."""
        while self.takes_calls and not self.connection.can_open_stream:
            event = trio.Event()
            self._waiting.append(event)
            try:
                await event.wait()
            except trio.Cancelled:
                if event.is_set():
                    self._wake_next()
                else:
                    self._waiting.remove(event)
                raise
        if not self.takes_calls:
            raise self._loss()

    def _wake_next(self) -> None:
        if self._waiting:
            self._waiting.popleft().set()

    def release(self, stream_id: int) -> None:
        """A call has ended: another one can be opened. Idempotent."""
        if self._streams.pop(stream_id, None) is None:
            return
        self._wake_next()
        if not self._streams:
            self.connection.mark_idle()

    # --- events ---------------------------------------------------------------------------------------------------

    def on_headers(self, event: HeadersReceived) -> None:
        """A response's headers or trailers."""
        if (stream := self._streams.get(event.stream_id)) is not None:
            stream.on_headers(event.headers.parsed, ended=event.ended)

    def on_data(self, event: DataReceived) -> None:
        """A part of an answer; of a call that was abandoned, the window is returned."""
        if (stream := self._streams.get(event.stream_id)) is not None:
            stream.on_data(event)
        else:
            self.connection.acknowledge(0, event.length)

    def on_reset(self, stream_id: int, code: int) -> None:
        """The server reset a call."""
        if (stream := self._streams.get(stream_id)) is not None:
            stream.on_reset(code)

    def on_settings(self) -> None:
        """The server may allow more calls."""
        while self._waiting and self.connection.can_open_stream:
            self._wake_next()

    def on_goaway(self, event: GoawayReceived) -> None:
        """The server processes no stream above the last one that it names (RFC 9113, 6.8)."""
        for stream_id, stream in tuple(self._streams.items()):
            if stream_id > event.last_stream_id:
                stream.fail(partial(StreamRefused, str(self._loss())))
                self.connection.reset(stream_id, ErrorCode.CANCEL)
                self.release(stream_id)
        self._wake_all()

    def on_read_handled(self) -> None:
        """Nothing waits for the end of a read."""

    def should_yield(self) -> bool:
        """The callers have been woken; they run when the reader waits."""
        return False

    def on_closed(self) -> None:
        """The connection is lost, with all its calls."""
        self._is_running = False
        for stream in tuple(self._streams.values()):
            stream.fail(self._loss_of_open_call)
        self._streams.clear()
        self._wake_all()

    def _wake_all(self) -> None:
        while self._waiting:
            self._wake_next()

    def _loss(self) -> TransportError:
        """Why there are no calls on this connection any more."""
        connection = self.connection
        if connection.goaway is not None:
            reason = connection.goaway.reason.decode("utf-8", "replace")[:MAX_REASON]
            detail = f": {reason}" if reason.isprintable() and reason else ""
            if detail:
                return TransportError(f"the server closed the connection{detail}")
            return StreamRefused("the server is shutting down")
        if connection.alert is not None and not connection.has_settings:
            return CertificateNotAccepted(f"the server refused this client's certificate: {connection.alert}")
        if not connection.has_settings:
            return ServerRefused(
                "the server closed the connection before it was ready: it has too many connections, or does not know "
                "this client; its log says which"
            )
        return TransportError("the connection to the server was lost")

    def _loss_of_open_call(self) -> TransportError:
        """The same for a call that the server may have processed, also where its GOAWAY says that it leaves."""
        loss = self._loss()
        return TransportError(str(loss)) if isinstance(loss, StreamRefused) else loss


def _code_name(code: int) -> str:
    try:
        return ErrorCode(code).name
    except ValueError:
        return str(code)
