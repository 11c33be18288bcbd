"""The server's side: each call is a task with a cancel scope of its own.

A handler is cancelled when its client resets the stream, disconnects, or lets its grpc-timeout pass; whatever it
raises becomes a status by one function, `status_of`, given by the owner. A call that ended early leaves nothing
behind: its task has returned, its stream is forgotten.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import h2.errors
import h2.events
import h2.exceptions
import trio
from hyperframe.frame import GoAwayFrame
from purerpc import Cardinality, Service, Status, StatusCode, wrappers
from purerpc.grpclib.events import RequestEnded
from purerpc.grpclib.exceptions import ProtocolError, RpcFailedError

from jobmaster.transport.connection import MAX_CONCURRENT_STREAMS, Http2Connection
from jobmaster.transport.headers import (
    RESPONSE_HEADERS,
    BadCall,
    NotGrpc,
    RequestHead,
    parse_request,
    status_trailers,
)
from jobmaster.transport.stream import GrpcStream, StreamGone

if TYPE_CHECKING:
    from google.protobuf.message import Message

logger = logging.getLogger(__name__)

STREAM_WINDOW: Final = 64 * 1024
CONNECTION_WINDOW: Final = 1024 * 1024
REQUEST_SECONDS: Final = 10.0
"""How long a caller may take to send its request message."""

_CALLERS: Final[dict[Cardinality, Callable[..., Awaitable[None]]]] = {
    Cardinality.UNARY_UNARY: wrappers.call_server_unary_unary,
    Cardinality.UNARY_STREAM: wrappers.call_server_unary_stream,
    Cardinality.STREAM_UNARY: wrappers.call_server_stream_unary,
    Cardinality.STREAM_STREAM: wrappers.call_server_stream_stream,
}


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """What a server connection serves: services by full name, and the one translation of errors to statuses."""

    services: Mapping[str, Service]
    status_of: Callable[[Exception], Status]


class ServerStream(GrpcStream):
    """A call as its handler sees it."""

    def __init__(self, connection: Http2Connection, stream_id: int) -> None:
        super().__init__(connection, stream_id)
        self.scope = trio.CancelScope()
        self.abandoned = False
        self._response_started = False

    def _end_event(self) -> RequestEnded:
        return RequestEnded(self.stream_id)

    async def receive_message(self) -> Message | None:
        """As `GrpcStream.receive_message`, but a caller that dawdles over its message is given up."""
        with trio.move_on_after(REQUEST_SECONDS):
            return await super().receive_message()
        raise RpcFailedError(Status(StatusCode.DEADLINE_EXCEEDED, "no complete request message arrived in time"))

    async def send_message(self, message: Message) -> None:
        """As `GrpcStream.send_message`; the response's headers go before the first message."""
        if not self._response_started and self._failure is None:
            self._response_started = True
            self._connection.send_headers(self.stream_id, RESPONSE_HEADERS, end_stream=False)
        await super().send_message(message)

    async def close(self, status: Status | None = None) -> None:
        """Ends the call with `status` (OK by default)."""
        await trio.lowlevel.checkpoint()
        self.finish(status or Status(StatusCode.OK))

    def finish(self, status: Status) -> None:
        """Queues the trailers (the only headers, where no message was sent) and lets go of the stream."""
        if self._local_ended or self.abandoned:
            return
        self._local_ended = True
        trailers = status_trailers(status)
        headers = trailers if self._response_started else [*RESPONSE_HEADERS, *trailers]
        try:
            self._connection.send_headers(self.stream_id, headers, end_stream=True)
        except h2.exceptions.ProtocolError:  # reset in the same instant
            self._connection.forget(self.stream_id)
            return
        if self._remote_ended:
            self._connection.forget(self.stream_id)
        else:  # RFC 9113, 8.1: tell the client that the rest of its request is not needed
            self._connection.reset(self.stream_id, h2.errors.ErrorCodes.NO_ERROR)

    def on_reset(self, code: int) -> None:
        """The client abandoned the call: its handler is cancelled."""
        self._abandon()
        super().on_reset(code)

    def on_connection_lost(self) -> None:
        """The client is gone: its handler is cancelled."""
        self._abandon()
        super().on_connection_lost()

    def _abandon(self) -> None:
        self.abandoned = True
        self.scope.cancel()


class ServerConnection(Http2Connection):
    """Serves one client's connection. `caller` is handed to each handler as its `request` argument."""

    def __init__(self, wire: trio.abc.Stream, dispatcher: Dispatcher, caller: object) -> None:
        super().__init__(wire, client_side=False, stream_window=STREAM_WINDOW, connection_window=CONNECTION_WINDOW)
        self._dispatcher = dispatcher
        self._caller = caller
        self._running_handlers = 0
        self._shutting_down = False

    def shut_down(self) -> None:
        """Says GOAWAY, takes no more calls, and ends the connection when the last call has. Idempotent."""
        if self._shutting_down:
            return
        self._shutting_down = True
        goaway = GoAwayFrame(0, last_stream_id=self._h2.highest_inbound_stream_id)
        self._queue_bytes(goaway.serialize())
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._shutting_down and not self._running_handlers:
            self.close_when_written()

    def _on_headers(self, event: Any) -> None:
        if not isinstance(event, h2.events.RequestReceived):
            return  # trailers of a request mean nothing in gRPC
        if self._shutting_down or self._running_handlers >= MAX_CONCURRENT_STREAMS:  # resets must not multiply work
            self.reset(event.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
            return
        match parse_request(event.headers):
            case NotGrpc(http_status):
                self._refuse(event.stream_id, [(b":status", b"%d" % http_status)], ended=event.stream_ended)
            case BadCall(status):
                self._refuse(event.stream_id, [*RESPONSE_HEADERS, *status_trailers(status)], ended=event.stream_ended)
            case RequestHead() as head:
                stream = ServerStream(self, event.stream_id)
                self._streams[event.stream_id] = stream
                self._running_handlers += 1
                self._nursery.start_soon(self._serve_call, stream, head)

    def _refuse(self, stream_id: int, headers: list[tuple[bytes, bytes]], *, ended: Any) -> None:
        try:
            self.send_headers(stream_id, headers, end_stream=True)
        except h2.exceptions.ProtocolError:
            return
        if ended is None:
            self.reset(stream_id, h2.errors.ErrorCodes.NO_ERROR)

    async def _serve_call(self, stream: ServerStream, head: RequestHead) -> None:
        try:
            with stream.scope:
                stream.scope.deadline = trio.current_time() + (math.inf if head.timeout is None else head.timeout)
                await self._run_handler(stream, head)
            if stream.scope.cancelled_caught:
                stream.finish(Status(StatusCode.DEADLINE_EXCEEDED, "the call's deadline passed"))
        finally:
            self._running_handlers -= 1
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
