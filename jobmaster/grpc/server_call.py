"""A call as its handler on the server sees it, behind the interface of purerpc's streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

import trio
from google.protobuf.message import DecodeError

from jobmaster.grpc.call import MessageReceiver, StreamGone, not_a_message, parse
from jobmaster.grpc.framing import PREFIX, prefix_for
from jobmaster.grpc.headers import OK_BLOCK, RESPONSE_BLOCK, RESPONSE_HEADERS, status_trailers
from jobmaster.grpc.lazy_messages import StoredMessages
from jobmaster.grpc.purerpc_adapter import ProtocolError, RequestEnded, RpcFailedError, Status, StatusCode
from jobmaster.http2.frames import ErrorCode
from jobmaster.http2.header_blocks import encode_block

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from jobmaster.grpc.memory import CallAccount, WideGrant
    from jobmaster.grpc.methods import Method
    from jobmaster.grpc.watch import Admission, CallWatch
    from jobmaster.http2.events import DataReceived
    from jobmaster.wire.connection import Connection

REQUEST_SECONDS: Final = 10.0
"""How long a caller may take to send its request message."""
STREAM_WINDOW: Final = 64 * 1024
WIDER: Final = 960 * 1024
"""Bytes that are added to the window of a call that sends very much: it has 1 MiB then."""
WINDOWS_HELD: Final = 3
"""Of the bytes that a call may hold apart: the message that is being handled, serialized and parsed, and a window behind it."""

_OK: Final = Status(StatusCode.OK)
_TOO_MUCH_HELD: Final = Status(
    StatusCode.RESOURCE_EXHAUSTED, "the server holds as much for this client's calls as it may; try again later"
)


class ServerCall:
    """One call, from its headers to its trailers.

    Attributes:
        method: what is called; None for a method that does not exist.
        request_cost: bytes that the request being handled holds.
        timeout: seconds until the caller's deadline; None where it has none.
        scope: of the task that runs the handler, once there is one.
        status_when_cancelled: what the client is told when that scope is cancelled.
        end_stream_event: for purerpc, once the client has ended its side.
        watch: is told of the call; None where nobody is.
        outcome: how the call has ended; None as long as it has not.
    """

    __slots__ = (
        "_abandoned",
        "_account",
        "_admission",
        "_connection",
        "_finished",
        "_response_started",
        "_sent_once",
        "end_stream_event",
        "method",
        "outcome",
        "receiver",
        "request_cost",
        "scope",
        "status_when_cancelled",
        "stream_id",
        "timeout",
        "watch",
    )

    def __init__(
        self,
        connection: Connection,
        stream_id: int,
        *,
        method: Method | None,
        timeout: float | None,
        account: CallAccount,
        watch: CallWatch | None = None,
    ) -> None:
        self._connection = connection
        self._account = account
        self.stream_id = stream_id
        self.method = method
        self.timeout = timeout
        self.receiver = MessageReceiver(connection, stream_id)
        self.scope: trio.CancelScope | None = None
        self.status_when_cancelled = Status(StatusCode.DEADLINE_EXCEEDED, "the call's deadline passed")
        self.end_stream_event: RequestEnded | None = None
        self.request_cost = 0
        self.watch = watch
        self.outcome: Status | None = None
        self._admission: Admission | None = None
        self._abandoned = False
        self._finished = False
        self._response_started = False
        self._sent_once = False

    # --- events ---------------------------------------------------------------------------------------------------

    def on_data(self, event: DataReceived) -> None:
        """A part of the request, within what the server may hold."""
        self.receiver.on_data(event.data, event.length)
        self._hold()

    def abandon(self, reason: str) -> None:
        """The client is gone, or not interested any more: the handler is cancelled, and nothing is sent."""
        self._abandoned = True
        if self.outcome is None:
            self.outcome = Status(StatusCode.CANCELLED, reason)
        self.receiver.fail(partial(StreamGone, reason))
        if self.scope is not None:
            self.scope.cancel()

    def cancel(self, status: Status) -> None:
        """Ends the call with that status, and its handler."""
        self.status_when_cancelled = status
        if self.scope is not None:
            self.scope.cancel()
        else:
            self.finish(status)

    @property
    def is_complete_request(self) -> bool:
        """Whether the request is here: one message, and the end of the stream."""
        receiver = self.receiver
        return receiver.ended and receiver.queued_messages == 1 and receiver.failure is None

    def _hold(self) -> None:
        if not self._account.set(self.receiver.held + self.request_cost):
            self.receiver.drop()
            self._account.set(self.request_cost)
            self.receiver.fail(partial(RpcFailedError, _TOO_MUCH_HELD))

    # --- receiving ------------------------------------------------------------------------------------------------

    def take_request(self) -> Message:
        """The next message, which is here.

        Raises:
            RpcFailedError: it cannot be accepted.
            Exception: whatever the method's check raises.
        """
        assert self.method is not None  # noqa: S101  # the caller looked
        data = self.receiver.take()
        try:
            self.request_cost = self.method.check(data)
        except DecodeError:
            raise not_a_message(self.method.request_type) from None
        if not self._account.set(self.receiver.held + self.request_cost):
            self.request_cost = 0
            raise RpcFailedError(_TOO_MUCH_HELD)
        message = parse(self.method.request_type, data)
        if self.watch is not None:
            self._admission = self.watch.on_request(message)
        return message

    @property
    def waits_for_admission(self) -> bool:
        """Whether the handler may not be called yet."""
        return self._admission is not None

    async def wait_admitted(self) -> None:
        """Returns when the handler may be called. Raises where the call is refused."""
        if (admission := self.take_admission()) is not None:
            await admission()

    def take_admission(self) -> Admission | None:
        """What is to be awaited before the call may take effect, for who does that."""
        admission, self._admission = self._admission, None
        return admission

    def expect_message_type(self, message_type: type[Message]) -> None:
        """For purerpc; the type is that of the method."""

    async def receive_message(self, *, seconds: float = REQUEST_SECONDS) -> Message | None:
        """The next message; None once the client has ended its side. A client that takes longer is given up.

        Raises:
            StreamGone: the client reset the call or is gone.
            RpcFailedError: a message could not be accepted, or did not come in time.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self.request_cost = 0
        if not self.receiver.queued_messages:
            with trio.move_on_after(seconds):
                await self.receiver.wait()
            if not self.receiver.has_news:
                status = Status(StatusCode.DEADLINE_EXCEEDED, "no complete request message arrived in time")
                raise RpcFailedError(status)
            if not self.receiver.queued_messages:
                self.receiver.raise_failure()
                self.end_stream_event = RequestEnded(self.stream_id)
                return None
        return self.take_request()

    async def receive_single_message(self) -> Message:
        """The one message of a unary request. Raises as `receive_message`, and ProtocolError."""
        message = await self.receive_message()
        cost = self.request_cost
        if message is None or await self.receive_message() is not None:
            raise ProtocolError("expected one message")
        self.request_cost = cost
        return message

    def ignore_requests(self) -> None:
        """Frees the messages that have come, and throws away what the client still sends."""
        self.receiver.drop(stream_goes_on=True)
        self.receiver.fail(partial(StreamGone, "no more messages are taken"))
        self.request_cost = 0
        self._hold()

    @contextmanager
    def window_apart(self) -> Iterator[WideGrant | None]:
        """For the block, what the client sends ahead in this call takes nothing of the window of its other calls.

        Nor of what may be held for them, so that messages that wait until they can be handled make no call fail.

        Where not too many have it, the client may send `WIDER` bytes more ahead. The block is given that grant, and has to
        release it, then or later.
        """
        grant = self._account.widen()
        more = WIDER if grant is not None else 0
        added = self._connection.set_window_apart(self.stream_id, more)
        self._account.apart = WINDOWS_HELD * (STREAM_WINDOW + more)
        try:
            yield grant
        finally:
            self._account.apart = 0
            self._hold()
            self._connection.take_window_back(added, more)

    # --- sending --------------------------------------------------------------------------------------------------

    async def send_message(self, message: Message | StoredMessages) -> None:
        """Sends one message, or a run of them; returns when it is queued.

        A checkpoint, but for the first message, which yields only when it has to wait.

        Raises:
            StreamGone: the stream or its connection ended.
            RpcFailedError: the server holds as many unsent messages as it may.
            Exception: what is stored cannot be read; the content's own.
        """
        if isinstance(message, StoredMessages):
            self._start_response()
            if not await self._connection.send_from(self.stream_id, message):
                self._raise_closed()
        else:
            await self.send_bytes(message.SerializeToString())

    async def send_bytes(self, data: bytes) -> None:
        """As `send_message`, for a serialized message."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._sent_once:
            self._sent_once = True
            if self.send_now(data):
                return
        self.hold_unsent(data)
        await self.send_held(data)

    def hold_unsent(self, data: bytes) -> None:
        """Counts a serialized message that has to wait. Raises RpcFailedError where too many bytes wait already."""
        if not self._account.set(self.receiver.held + self.request_cost + len(data)):
            raise RpcFailedError(_TOO_MUCH_HELD)

    async def send_held(self, data: bytes) -> None:
        """Sends a message that is counted."""
        self._start_response()
        if not await self._connection.send(self.stream_id, (prefix_for(len(data)), data)):
            self._raise_closed()
        self._account.set(self.receiver.held + self.request_cost)

    def send_now(self, data: bytes) -> bool:
        """Queues a serialized message without waiting; False where it would have to wait."""
        if not self._connection.can_send_now(self.stream_id, PREFIX.size + len(data)):
            return False
        self._start_response()
        self._connection.send_now(self.stream_id, (prefix_for(len(data)), data))
        return True

    def _start_response(self) -> None:
        if not self._response_started:
            self._response_started = True
            self._connection.send_headers(self.stream_id, RESPONSE_BLOCK, end_stream=False)

    def _raise_closed(self) -> NoReturn:
        self.receiver.raise_failure()
        raise StreamGone("the call has ended")

    async def close(self, status: Status = _OK) -> None:
        """Ends the call with a status."""
        self.finish(status)

    def finish(self, status: Status = _OK) -> None:
        """Queues the trailers (the only headers, where no message was sent) and frees what is held for the call."""
        if self._finished or self._abandoned:
            return
        self._finished = True
        self.outcome = status
        if status.status_code is StatusCode.OK and self._response_started:
            block = OK_BLOCK
        else:
            trailers = status_trailers(status)
            block = encode_block(trailers if self._response_started else [*RESPONSE_HEADERS, *trailers])
        self._connection.send_headers(self.stream_id, block, end_stream=True)
        if not self.receiver.ended:  # RFC 9113, 8.1: tell the client that the rest of its request is not needed
            self._connection.reset(self.stream_id, ErrorCode.NO_ERROR)

    def release(self) -> None:
        """Frees what is held for a call that has ended. Idempotent."""
        self.receiver.drop()
        self._account.set(0)
