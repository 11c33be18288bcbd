"""The server's side: each call is a task with a cancel scope of its own.

A handler is cancelled when its client resets the stream, disconnects, or lets its grpc-timeout pass; whatever it
raises becomes a status by one function, `status_of`, given by the owner. A call that ended early leaves nothing
behind: its task has returned, its stream is forgotten.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import trio
from purerpc import Cardinality, Service, Status, StatusCode, wrappers
from purerpc.grpclib.events import RequestEnded
from purerpc.grpclib.exceptions import ProtocolError, RpcFailedError

from jobmaster.grpc.call import MAX_MESSAGE_LENGTH, GrpcStream, StreamGone
from jobmaster.grpc.connection import Http2Connection
from jobmaster.grpc.framing import MessageDecoder, MessageTooLarge
from jobmaster.grpc.headers import (
    OK_BLOCK,
    RESPONSE_BLOCK,
    RESPONSE_HEADERS,
    BadCall,
    NotGrpc,
    RequestHead,
    parse_request,
    status_trailers,
)
from jobmaster.http2 import frames
from jobmaster.http2.frames import ErrorCode
from jobmaster.http2.header_blocks import encode_block
from jobmaster.http2.protocol import MAX_CONCURRENT_STREAMS, MAX_HEADER_LIST, Side
from jobmaster.wire.lifetime import SERVER_POLICY, LifetimePolicy

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from jobmaster.grpc.lazy_messages import StoredMessages
    from jobmaster.http2.events import HeadersReceived
    from jobmaster.http2.header_blocks import Field

logger = logging.getLogger(__name__)

STREAM_WINDOW: Final = 64 * 1024
CONNECTION_WINDOW: Final = 1024 * 1024
MAX_RUNNING_HANDLERS: Final = 2_000
"""Handlers at a time over all connections; a handler that follows a quiet job counts too."""
MAX_HANDLERS_OF_ONE: Final = 500
"""Handlers at a time for one caller, on whatever many connections: it cannot shut out the others."""
MAX_HELD: Final = 64 * 1024 * 1024
"""Bytes of unfinished request messages over all connections."""
MAX_HELD_OF_ONE: Final = 16 * 1024 * 1024
"""The same on one connection."""
REQUEST_SECONDS: Final = 10.0
"""How long a caller may take to send its request message."""

_TOO_LARGE: Final = Status(
    StatusCode.RESOURCE_EXHAUSTED, f"the request's headers are more than {MAX_HEADER_LIST // 1024} KiB"
)
_SIDE: Final = Side(
    is_client=False,
    stream_window=STREAM_WINDOW,
    connection_window=CONNECTION_WINDOW,
    max_frame_size=frames.LEAST_MAX_FRAME_SIZE,
    read=parse_request,
)

_CALLERS: Final[dict[Cardinality, Callable[..., Awaitable[None]]]] = {
    Cardinality.UNARY_UNARY: wrappers.call_server_unary_unary,
    Cardinality.UNARY_STREAM: wrappers.call_server_unary_stream,
    Cardinality.STREAM_UNARY: wrappers.call_server_stream_unary,
    Cardinality.STREAM_STREAM: wrappers.call_server_stream_stream,
}


@dataclass(slots=True)
class Dispatcher:
    """What all connections of a server share.

    Attributes:
        services: what is served, by full name.
        status_of: the one translation of errors to statuses.
        running: handlers that run now, over all connections; `running_for` counts them by caller.
        held: bytes of unfinished request messages, over all connections.
    """

    services: Mapping[str, Service]
    status_of: Callable[[Exception], Status]
    running: int = 0
    running_for: Counter[object] = field(default_factory=Counter)
    held: int = 0

    def is_full_for(self, caller: object) -> bool:
        """True when no further handler may run for a caller."""
        return self.running >= MAX_RUNNING_HANDLERS or self.running_for[caller] >= MAX_HANDLERS_OF_ONE

    def starts(self, caller: object) -> None:
        """A handler starts."""
        self.running += 1
        self.running_for[caller] += 1

    def ends(self, caller: object) -> None:
        """A handler has ended."""
        self.running -= 1
        self.running_for[caller] -= 1
        if not self.running_for[caller]:
            del self.running_for[caller]


class ServerStream(GrpcStream):
    """A call as its handler sees it."""

    def __init__(self, connection: ServerConnection, stream_id: int) -> None:
        super().__init__(connection, stream_id)
        self._server = connection
        self.scope = trio.CancelScope()
        self.verdict = Status(StatusCode.DEADLINE_EXCEEDED, "the call's deadline passed")
        """What the client is told when the handler is cancelled."""
        self._abandoned = False
        self._response_started = False
        self._held = 0

    def on_data(self, data: bytes | memoryview, flow_controlled_length: int) -> None:
        """As `GrpcStream.on_data`, within what the server holds of unfinished messages."""
        super().on_data(data, flow_controlled_length)
        self._server.hold(self._decoder.held - self._held)
        self._held = self._decoder.held
        if self._server.holds_too_much:
            self.on_bad_message(MessageTooLarge("the server holds as much of unfinished requests as it may"))
            self.let_go()

    def let_go(self) -> None:
        """Drops an unfinished message."""
        self._server.hold(-self._held)
        self._held = 0
        self._decoder = MessageDecoder(MAX_MESSAGE_LENGTH)

    def _end_event(self) -> RequestEnded:
        return RequestEnded(self.stream_id)

    async def receive_message(self) -> Message | None:
        """As `GrpcStream.receive_message`, but a caller that dawdles over its message is given up."""
        if not self._would_wait:
            return await super().receive_message()
        with trio.move_on_after(REQUEST_SECONDS):
            return await super().receive_message()
        raise RpcFailedError(Status(StatusCode.DEADLINE_EXCEEDED, "no complete request message arrived in time"))

    async def send_message(self, message: Message | StoredMessages) -> None:
        """As `GrpcStream.send_message`, after the response's headers."""
        if not self._response_started and self._failure is None:
            self._response_started = True
            self._connection.send_headers(self.stream_id, RESPONSE_BLOCK, end_stream=False)
        await super().send_message(message)

    async def close(self, status: Status | None = None) -> None:
        """Ends the call with `status` (OK by default)."""
        self.finish(status or Status(StatusCode.OK))

    def finish(self, status: Status) -> None:
        """Queues the trailers (the only headers, where no message was sent) and lets go of the stream."""
        if self._local_ended or self._abandoned:
            return
        self._local_ended = True
        self._send_trailers(status)
        if self._remote_ended:
            self._connection.forget(self.stream_id)
        else:  # RFC 9113, 8.1: tell the client that the rest of its request is not needed
            self._connection.reset(self.stream_id, ErrorCode.NO_ERROR)

    def _send_trailers(self, status: Status) -> None:
        if status.status_code is StatusCode.OK and self._response_started:
            self._connection.send_headers(self.stream_id, OK_BLOCK, end_stream=True)
            return
        trailers = status_trailers(status)
        headers = trailers if self._response_started else [*RESPONSE_HEADERS, *trailers]
        self._connection.send_headers(self.stream_id, encode_block(headers), end_stream=True)

    def on_reset(self, code: int) -> None:
        """The client abandoned the call: its handler is cancelled."""
        self._abandon()
        super().on_reset(code)

    def on_connection_lost(self) -> None:
        """The client is gone: its handler is cancelled."""
        self._abandon()
        super().on_connection_lost()

    def _abandon(self) -> None:
        self._abandoned = True
        self.scope.cancel()


class ServerConnection(Http2Connection):
    """Serves one client's connection. `caller` is handed to each handler as its `request` argument."""

    def __init__(
        self,
        wire: trio.abc.Stream,
        dispatcher: Dispatcher,
        caller: object,
        *,
        policy: LifetimePolicy = SERVER_POLICY,
    ) -> None:
        super().__init__(wire, _SIDE, policy)
        self._dispatcher = dispatcher
        self._caller = caller
        self._running_handlers = 0
        self._held = 0
        self._going_away = False
        self._takes_calls = True

    def _last_stream_of_peer(self) -> int:
        return self._http2.last_stream_id

    def _on_goaway(self, _last_stream_id: int) -> None:
        """The client opens no more calls, and waits for those that are open."""
        self._takes_calls = False
        self._end_if_idle()

    def hold(self, count: int) -> None:
        """`count` more bytes of unfinished messages are held."""
        self._held += count
        self._dispatcher.held += count

    @property
    def holds_too_much(self) -> bool:
        """True when a message has to be dropped."""
        return self._held > MAX_HELD_OF_ONE or self._dispatcher.held > MAX_HELD

    def _release(self, stream_id: int) -> GrpcStream | None:
        stream = super()._release(stream_id)
        if isinstance(stream, ServerStream):
            stream.let_go()
        return stream

    def _end_streams(self) -> None:
        for stream in self._streams.values():
            if isinstance(stream, ServerStream):
                stream.let_go()
        super()._end_streams()

    def shut_down(self) -> None:
        """Says GOAWAY in two steps, and ends the connection when the last call has. Idempotent.

        The first GOAWAY leaves room for calls that are under way from the client; the second, a moment later, names
        the last one that is taken (RFC 9113, 6.8).
        """
        if self._going_away:
            return
        self._going_away = True
        self._lifetime.on_shut_down(trio.current_time())
        self._outbox.put(frames.goaway(frames.LAST_STREAM_ID, ErrorCode.NO_ERROR))
        self._rewatch()

    def _final_goaway(self) -> None:
        super()._final_goaway()
        self._takes_calls = False
        self._outbox.put(frames.goaway(self._http2.last_stream_id, ErrorCode.NO_ERROR))
        self._end_if_idle()

    def give_up_calls(self) -> None:
        """Ends every call that is still open with UNAVAILABLE; for a shutdown whose grace has passed."""
        for stream in self._streams.values():
            if isinstance(stream, ServerStream):
                stream.verdict = Status(StatusCode.UNAVAILABLE, "the server is shutting down")
                stream.scope.cancel()
        self._final_goaway()

    def _end_if_idle(self) -> None:
        if not self._takes_calls and not self._running_handlers:
            self.close_when_written()

    def _on_headers(self, event: HeadersReceived) -> None:
        stream_id, headers, ended = event
        if (open_stream := self._streams.get(stream_id)) is not None:
            open_stream.on_end()  # trailers of a request, which mean nothing in gRPC
            return
        if (
            not self._takes_calls
            or self._running_handlers >= MAX_CONCURRENT_STREAMS
            or self._dispatcher.is_full_for(self._caller)
        ):
            self.reset(stream_id, ErrorCode.REFUSED_STREAM)
            return
        if headers.too_large:
            self._refuse(stream_id, [*RESPONSE_HEADERS, *status_trailers(_TOO_LARGE)], ended=ended)
            return
        match headers.meaning:
            case NotGrpc(http_status):
                self._refuse(stream_id, [(b":status", b"%d" % http_status)], ended=ended)
            case BadCall(status):
                self._refuse(stream_id, [*RESPONSE_HEADERS, *status_trailers(status)], ended=ended)
            case RequestHead() as head:
                self._start_call(ServerStream(self, stream_id), head, ended=ended)

    def _refuse(self, stream_id: int, headers: list[Field], *, ended: bool) -> None:
        self.send_headers(stream_id, encode_block(headers), end_stream=True)
        if not ended:
            self.reset(stream_id, ErrorCode.NO_ERROR)

    def _start_call(self, stream: ServerStream, head: RequestHead, *, ended: bool) -> None:
        self._streams[stream.stream_id] = stream
        if ended:
            stream.on_end()
        self._handler_starts()
        self._nursery.start_soon(self._serve_call, stream, head)

    async def _serve_call(self, stream: ServerStream, head: RequestHead) -> None:
        try:
            with stream.scope:
                if head.timeout is not None:
                    stream.scope.deadline = trio.current_time() + head.timeout
                await self._run_handler(stream, head)
            if stream.scope.cancelled_caught:
                stream.finish(stream.verdict)
        finally:
            self._handler_ends()

    def _handler_starts(self) -> None:
        self._running_handlers += 1
        self._dispatcher.starts(self._caller)
        self._lifetime.on_busy()

    def _handler_ends(self) -> None:
        self._running_handlers -= 1
        self._dispatcher.ends(self._caller)
        if not self._running_handlers:
            self._lifetime.on_idle(trio.current_time())
        self._end_if_idle()

    async def _run_handler(self, stream: ServerStream, head: RequestHead) -> None:
        service = self._dispatcher.services.get(head.service)
        method = service.methods.get(head.method) if service is not None else None
        if method is None:
            stream.finish(Status(StatusCode.UNIMPLEMENTED, "no such service or method"))
            return
        stream.expect_message_type(method.signature.request_type)
        call = _CALLERS[method.signature.cardinality]
        try:
            await call(partial(method.method_fn, request=self._caller), stream)
        except StreamGone:
            stream.finish(Status(StatusCode.CANCELLED))
        except RpcFailedError as error:
            stream.finish(error.status)
        except ProtocolError:  # purerpc's word for none or several messages where one belongs
            stream.finish(Status(StatusCode.UNIMPLEMENTED, "this method takes exactly one request message"))
        except Exception as error:  # noqa: BLE001  # the boundary: what it becomes is the owner's decision
            stream.finish(self._dispatcher.status_of(error))
