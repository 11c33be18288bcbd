"""The server's side of a connection: its calls, and the tasks that run their handlers.

A handler is cancelled when its client resets the stream, disconnects, or lets its grpc-timeout pass. Whatever it raises
becomes a status by one function, `status_of`, given by the owner. A call that ended early leaves nothing behind.

A unary handler is called as soon as its request is complete. One that returns the answer, and no coroutine, does not
wait: it is answered at once, without a task. All other calls get a task and a cancel scope of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from jobmaster.grpc.call import StreamGone
from jobmaster.grpc.headers import (
    RESPONSE_HEADERS,
    BadCall,
    NotGrpc,
    RequestHead,
    method_name,
    parse_request,
    status_trailers,
)
from jobmaster.grpc.memory import CallAccount, CallerLoad, ServerLoad
from jobmaster.grpc.methods import Method, Unadmitted, methods_of
from jobmaster.grpc.purerpc_adapter import (
    STREAMING_CALLS,
    Cardinality,
    ProtocolError,
    RpcFailedError,
    Service,
    Status,
    StatusCode,
)
from jobmaster.grpc.server_call import STREAM_WINDOW, ServerCall
from jobmaster.http2.frames import ErrorCode
from jobmaster.http2.header_blocks import encode_block
from jobmaster.http2.protocol import MAX_HEADER_LIST, Configuration
from jobmaster.http2.settings import MAX_CONCURRENT_STREAMS
from jobmaster.wire.connection import Connection
from jobmaster.wire.lifetime import SERVER_POLICY, LifetimePolicy

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from jobmaster.grpc.watch import ConnectionWatch
    from jobmaster.http2.events import DataReceived, GoawayReceived, HeadersReceived
    from jobmaster.http2.header_blocks import Field

logger = logging.getLogger(__name__)

CONNECTION_WINDOW: Final = 1024 * 1024
FRAME_SIZE: Final = 64 * 1024
"""Bytes of the largest frame that is accepted: input for jobs comes in large ones, which costs less CPU time."""
MAX_LASTING: Final = 2_000
"""Calls that last, streams above all, at a time over all connections; one that follows a quiet job counts too."""
MAX_LASTING_OF_ONE: Final = 500
"""Those of one caller, on however many connections: it cannot shut out the others."""
MAX_RUNNING_HANDLERS: Final = 2_200
MAX_HANDLERS_OF_ONE: Final = 550
"""Calls of any kind: who has as many that last as may be can still stop a job."""
YIELD_BYTES: Final = 64 * 1024
"""Bytes of requests and answers that are handled in the reader before other tasks run."""

_TOO_LARGE: Final = Status(
    StatusCode.RESOURCE_EXHAUSTED, f"the request's headers are more than {MAX_HEADER_LIST // 1024} KiB"
)
_NO_SUCH_METHOD: Final = Status(StatusCode.UNIMPLEMENTED, "no such service or method")
_NOT_NOW: Final = "refused unread, to be tried again: as many calls are open as may be, or the connection is ending"
_NO_OUTCOME: Final = Status(StatusCode.UNAVAILABLE, "the server ended the connection")
_ONE_MESSAGE: Final = Status(StatusCode.UNIMPLEMENTED, "this method takes exactly one request message")
_SHUTTING_DOWN: Final = Status(StatusCode.UNAVAILABLE, "the server is shutting down")
_CONFIGURATION: Final = Configuration(
    is_client=False,
    stream_window=STREAM_WINDOW,
    connection_window=CONNECTION_WINDOW,
    max_frame_size=FRAME_SIZE,
    parse=parse_request,
)


@dataclass(slots=True)
class Dispatcher:
    """What all connections of a server share.

    Attributes:
        services: what is served, by full name.
        status_of: the one translation of errors to statuses.
        running: calls that are open now, over all connections.
        lasting: those of them that last.
        load: what is held for them, and how many of them each caller has.
    """

    services: Mapping[str, Service]
    status_of: Callable[[Exception], Status]
    running: int = 0
    lasting: int = 0
    load: ServerLoad = field(default_factory=ServerLoad)
    methods: Mapping[tuple[str, str], Method] = field(init=False)

    def __post_init__(self) -> None:
        self.methods = methods_of(self.services)

    def method_of(self, request: RequestHead) -> Method | None:
        """The method that is called; None where it does not exist."""
        return self.methods.get((request.service, request.method))

    def is_full_for(self, caller: CallerLoad, request: RequestHead | NotGrpc | BadCall) -> bool:
        """Whether no further call of a caller like this one may be opened."""
        if self.running >= MAX_RUNNING_HANDLERS or caller.open_calls >= MAX_HANDLERS_OF_ONE:
            return True
        method = self.method_of(request) if isinstance(request, RequestHead) else None
        is_full = self.lasting >= MAX_LASTING or caller.lasting_calls >= MAX_LASTING_OF_ONE
        return is_full and method is not None and method.lasts

    def count(self, caller: CallerLoad, method: Method | None, change: int) -> None:
        """Says that a call has begun (1) or has ended (-1)."""
        self.running += change
        caller.open_calls += change
        if method is not None and method.lasts:
            self.lasting += change
            caller.lasting_calls += change


class ServerConnection:
    """Serves one client's connection: the `StreamHandler` of a `Connection` on `stream`, which the caller closes.

    `caller` is passed to each handler as its `request` argument; `watch` is told of every call.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        dispatcher: Dispatcher,
        caller: object,
        *,
        policy: LifetimePolicy = SERVER_POLICY,
        watch: ConnectionWatch | None = None,
    ) -> None:
        self.connection = Connection(stream, _CONFIGURATION, policy)
        self._dispatcher = dispatcher
        self._caller = caller
        self._watch = watch
        self._load = dispatcher.load.of(caller)
        self._calls: dict[int, ServerCall] = {}
        self._open_calls = 0
        self._without_task: dict[int, ServerCall] = {}
        self._handled_bytes = 0

    @property
    def open_calls(self) -> int:
        """Calls whose handlers have not ended."""
        return self._open_calls

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves the connection until it ends; then the handlers are cancelled and waited for."""
        async with trio.open_nursery() as self._tasks:
            await self.connection.run(self, task_status=task_status)
            self._tasks.cancel_scope.cancel()

    def shut_down(self) -> None:
        """Tells the client that the server goes away; the connection ends with its last call. Idempotent."""
        self.connection.shut_down()

    def give_up_calls(self, status: Status = _SHUTTING_DOWN) -> None:
        """Ends every call that is still open with this status, takes no other, and ends the connection.

        One that has no handler yet will have none.
        """
        for call in tuple(self._calls.values()):
            call.cancel(status)
            if self._without_task.pop(call.stream_id, None) is not None:
                self._end_call(call)
        self.connection.send_final_goaway()

    # --- events ---------------------------------------------------------------------------------------------------

    def on_headers(self, event: HeadersReceived) -> None:
        """A request, or trailers of one, which have no meaning in gRPC."""
        stream_id, headers, ended = event
        if (open_call := self._calls.get(stream_id)) is not None:
            self._on_request_end(open_call)
        elif (
            not self.connection.accepts_streams
            or self._open_calls >= MAX_CONCURRENT_STREAMS
            or self._dispatcher.is_full_for(self._load, headers.parsed)
        ):
            self.connection.reset(stream_id, ErrorCode.REFUSED_STREAM)
            self._tell_refused(method_name(headers.parsed), StatusCode.UNAVAILABLE.name, _NOT_NOW)
        elif headers.too_large:
            self._refuse_with(stream_id, _TOO_LARGE, ended=ended)
        else:
            self._on_request(stream_id, headers.parsed, ended=ended)

    def _on_request(self, stream_id: int, request: RequestHead | NotGrpc | BadCall, *, ended: bool) -> None:
        match request:
            case NotGrpc(http_status):
                self._refuse(stream_id, [(b":status", b"%d" % http_status)], ended=ended)
                self._tell_refused(None, f"HTTP_{http_status}", "the request is no gRPC")
            case BadCall(status):
                self._refuse_with(stream_id, status, ended=ended)
            case RequestHead(service=service, method=name, timeout=timeout):
                call = ServerCall(
                    self.connection,
                    stream_id,
                    method=self._dispatcher.method_of(request),
                    timeout=timeout,
                    account=CallAccount(self._dispatcher.load, self._load),
                    watch=None if self._watch is None else self._watch.open(f"{service}/{name}"),
                )
                self._calls[stream_id] = self._without_task[stream_id] = call
                self._open_calls += 1
                self._dispatcher.count(self._load, call.method, 1)
                self.connection.mark_busy()
                if ended:
                    self._on_request_end(call)

    def _refuse_with(self, stream_id: int, status: Status, *, ended: bool) -> None:
        self._refuse(stream_id, [*RESPONSE_HEADERS, *status_trailers(status)], ended=ended)
        self._tell_refused(None, status.status_code.name, status.status_message)

    def _tell_refused(self, method: str | None, outcome: str, why: str) -> None:
        if self._watch is not None:
            self._watch.refused(method, outcome, why)

    def _refuse(self, stream_id: int, headers: list[Field], *, ended: bool) -> None:
        self.connection.send_headers(stream_id, encode_block(headers), end_stream=True)
        if not ended:
            self.connection.reset(stream_id, ErrorCode.NO_ERROR)

    def on_data(self, event: DataReceived) -> None:
        """A part of a request; of one that was ended from this side, the window is returned."""
        call = self._calls.get(event.stream_id)
        if call is None:
            self.connection.acknowledge(0, event.length)
            return
        call.on_data(event)
        if event.ended:
            self._on_request_end(call)

    def _on_request_end(self, call: ServerCall) -> None:
        call.receiver.on_end()
        method = call.method
        if method is None or method.cardinality is not Cardinality.UNARY_UNARY or not call.is_complete_request:
            return
        if self._without_task.pop(call.stream_id, None) is not None:
            self._call_unary(call, method)

    def on_reset(self, stream_id: int, code: int) -> None:
        """The client abandoned the call: its handler is cancelled."""
        if (call := self._calls.get(stream_id)) is not None:
            call.abandon(f"the client reset the call (HTTP/2 error code {code})")
            if self._without_task.pop(stream_id, None) is not None:
                self._end_call(call)

    def on_settings(self) -> None:
        """Nothing depends on them here."""

    def on_goaway(self, _event: GoawayReceived) -> None:
        """The client opens no more calls; those that are open go on."""

    def on_read_handled(self) -> None:
        """Starts a task for each call that has come and was not answered yet."""
        self._handled_bytes = 0
        while self._without_task:
            _, call = self._without_task.popitem()
            if call.method is None:
                call.finish(_NO_SUCH_METHOD)
                self._end_call(call)
            else:
                self._start_task(call, partial(self._run_handler, call, call.method))

    def should_yield(self) -> bool:
        """Whether as much has been handled as other tasks should wait for."""
        if self._handled_bytes < YIELD_BYTES:
            return False
        self._handled_bytes = 0
        return True

    def on_closed(self) -> None:
        """The client is gone: all handlers are cancelled."""
        for call in tuple(self._calls.values()):
            call.abandon("the connection to the client was lost")
            if self._without_task.pop(call.stream_id, None) is not None:
                self._end_call(call)

    # --- handlers -------------------------------------------------------------------------------------------------

    def _call_unary(self, call: ServerCall, method: Method) -> None:
        """Calls a handler whose request is complete."""
        try:
            request = call.take_request()
            self._handled_bytes += call.request_cost
            if call.waits_for_admission and not method.takes_admission:
                self._start_task(call, partial(self._answer_when_admitted, call, method, request))
                return
            result = self._call_handler(call, method, request)
            if isinstance(result, Awaitable):
                self._start_task(call, partial(_await_answer, call, result))
                return
            if call.watch is not None:
                call.watch.on_answer(result)
            data = result.SerializeToString()
            self._handled_bytes += len(data)
            if not call.send_now(data):
                call.hold_unsent(data)
                self._start_task(call, partial(call.send_held, data))
                return
            call.finish()
        except Exception as error:  # noqa: BLE001  # the boundary: what it becomes is the owner's decision
            self._finish_with(call, error)
        self._end_call(call)

    def _start_task(self, call: ServerCall, work: Callable[[], Awaitable[Any]]) -> None:
        call.scope = trio.CancelScope()
        if call.timeout is not None:
            call.scope.deadline = trio.current_time() + call.timeout
        self._tasks.start_soon(self._serve_call, call, call.scope, work)

    async def _serve_call(self, call: ServerCall, scope: trio.CancelScope, work: Callable[[], Awaitable[Any]]) -> None:
        try:
            with scope:
                try:
                    await work()
                    call.finish()
                except Exception as error:  # noqa: BLE001  # as above
                    self._finish_with(call, error)
            if scope.cancelled_caught:
                call.finish(call.status_when_cancelled)
        finally:
            self._end_call(call)

    async def _run_handler(self, call: ServerCall, method: Method) -> None:
        """Runs a handler of any kind, whose request may still be coming."""
        handler = partial(method.handler, request=self._caller)
        if method.takes_call:
            await handler(call)
            return
        if method.cardinality is not Cardinality.UNARY_UNARY:
            await STREAMING_CALLS[method.cardinality](handler, call)
            return
        await self._answer_when_admitted(call, method, await call.receive_single_message())

    async def _answer_when_admitted(self, call: ServerCall, method: Method, request: Message) -> None:
        if not method.takes_admission:
            await call.wait_admitted()
        result = self._call_handler(call, method, request)
        await _send_answer(call, await result if isinstance(result, Awaitable) else result)

    def _call_handler(self, call: ServerCall, method: Method, request: Message) -> Message | Awaitable[Message]:
        asked = Unadmitted(request, call.take_admission()) if method.takes_admission else request
        answer: Message | Awaitable[Message] = method.handler(asked, request=self._caller)
        return answer

    def _finish_with(self, call: ServerCall, error: Exception) -> None:
        match error:
            case StreamGone():
                call.finish(Status(StatusCode.CANCELLED))
            case RpcFailedError():
                call.finish(error.status)
            case ProtocolError():
                call.finish(_ONE_MESSAGE)
            case _:
                call.finish(self._dispatcher.status_of(error))
        drop_tracebacks(error)

    def _end_call(self, call: ServerCall) -> None:
        """The handler has ended."""
        if call.watch is not None:
            call.watch.on_end(call.outcome or _NO_OUTCOME)
        call.release()
        self._calls.pop(call.stream_id, None)
        self._open_calls -= 1
        self._dispatcher.count(self._load, call.method, -1)
        if not self._open_calls:
            self.connection.mark_idle()


async def _await_answer(call: ServerCall, answer: Awaitable[Message]) -> None:
    await _send_answer(call, await answer)


async def _send_answer(call: ServerCall, answer: Message) -> None:
    if call.watch is not None:
        call.watch.on_answer(answer)
    await call.send_bytes(answer.SerializeToString())


def drop_tracebacks(error: BaseException | None) -> None:
    """Frees the frames of an error that has been dealt with, and those of the errors behind it.

    A frame that holds the error it raised is a cycle, and holds the request too, until the collector's next full run.
    """
    pending, seen = [error], set()
    while pending:
        each = pending.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            each.__traceback__ = None
            pending += each.__cause__, each.__context__
            if isinstance(each, BaseExceptionGroup):
                pending += each.exceptions
