"""What both sides of a call have in common: the peer's messages, received on one stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import trio
from google.protobuf.message import DecodeError, Message

from jobmaster.errors import TransportError
from jobmaster.grpc.framing import PIECE_OVERHEAD, MessageCompressed, MessageDecoder, MessageTooLarge
from jobmaster.grpc.purerpc_adapter import RpcFailedError, Status, StatusCode
from jobmaster.wire.connection import Connection

MAX_MESSAGE_LENGTH: Final = 4 * 1024 * 1024
"""Bytes of one message; gRPC's own default, and more than a Linux command line can have."""

_Message = TypeVar("_Message", bound=Message)


class StreamGone(TransportError):
    """The peer reset the stream or the connection is lost."""


Failure = Callable[[], Exception]
"""Makes the error that is raised to who receives. No error is kept: with its traceback it would make a cycle with the call."""


class MessageReceiver:
    """The messages of one stream, in the order of their arrival. One task waits for them and takes them.

    Attributes:
        ended: the peer has sent its last byte.
        failure: why no more messages are accepted.

    The window of an unfinished message is returned to the peer at once, since the decoder bounds it; that of finished
    messages, and of what has come behind them, when they are taken, so that a peer cannot queue more than a window of
    them.
    """

    __slots__ = (
        "_connection",
        "_decoder",
        "_queue",
        "_queued",
        "_stream_id",
        "_unacknowledged",
        "_waiter",
        "ended",
        "failure",
    )

    def __init__(self, connection: Connection, stream_id: int) -> None:
        self._connection = connection
        self._stream_id = stream_id
        self._decoder = MessageDecoder(MAX_MESSAGE_LENGTH)
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._unacknowledged: deque[int] = deque()
        """Bytes of window to be returned with each message of the queue."""
        self._waiter: trio.Event | None = None
        self.ended = False
        self.failure: Failure | None = None

    @property
    def held(self) -> int:
        """Bytes of memory of messages that are unfinished or have not been taken."""
        return self._decoder.held + self._queued + PIECE_OVERHEAD * len(self._queue)

    @property
    def has_news(self) -> bool:
        """Whether there is a message, the end of the stream, or a failure."""
        return bool(self._queue) or self.ended or self.failure is not None

    def on_data(self, data: bytes, length: int) -> None:
        """Takes bytes of the peer's messages, for which `length` bytes of window are to be acknowledged."""
        if self.failure is not None:
            self._connection.acknowledge(self._stream_id, length)
            return
        try:
            messages = self._decoder.feed(data)
        except (MessageTooLarge, MessageCompressed) as error:
            self._connection.acknowledge(self._stream_id, length)
            code = StatusCode.UNIMPLEMENTED if isinstance(error, MessageCompressed) else StatusCode.RESOURCE_EXHAUSTED
            self.fail(partial(RpcFailedError, Status(code, str(error))))
            return
        if messages:
            self._queue.extend(messages)
            self._queued += sum(map(len, messages))
            self._unacknowledged.extend([0] * len(messages))
        if self._queue:
            self._unacknowledged[-1] += length
            self._wake()
        else:
            self._connection.acknowledge(self._stream_id, length)

    def on_end(self, *, may_be_cut: bool = False) -> None:
        """The peer has sent its last byte, of a message that is not whole where it `may_be_cut`."""
        self.ended = True
        if not may_be_cut and not self._decoder.is_between_messages:
            self.fail(partial(RpcFailedError, Status(StatusCode.INTERNAL, "the stream ended inside a message")))
        self._wake()

    def fail(self, failure: Failure) -> None:
        """No more messages are accepted; those that are here can still be taken. The first failure counts."""
        self.failure = self.failure or failure
        self._wake()

    def drop(self, *, stream_goes_on: bool = False) -> None:
        """Frees all messages, finished or not, and returns their window to the connection; that of the stream where it goes on."""
        self._decoder = MessageDecoder(MAX_MESSAGE_LENGTH)
        self._queue.clear()
        self._queued = 0
        self._connection.acknowledge(self._stream_id if stream_goes_on else 0, sum(self._unacknowledged))
        self._unacknowledged.clear()

    def take(self) -> bytes:
        """The next message, where there is one."""
        data = self._queue.popleft()
        self._queued -= len(data)
        if length := self._unacknowledged.popleft():
            self._connection.acknowledge(self._stream_id, length)
        return data

    @property
    def queued_messages(self) -> int:
        """Finished messages that have not been taken."""
        return len(self._queue)

    async def wait(self) -> None:
        """Waits until there is a message, the end of the stream or a failure. Yields only when it waits."""
        while not self.has_news:
            self._waiter = trio.Event()
            await self._waiter.wait()

    def raise_failure(self) -> None:
        """Raises the failure, where there is one."""
        if self.failure is not None:
            raise self.failure()

    def _wake(self) -> None:
        if self._waiter is not None:
            self._waiter.set()


def parse(message_type: type[_Message], data: bytes) -> _Message:
    """A message from its bytes; raises RpcFailedError where they are none."""
    message = message_type()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise not_a_message(message_type) from None
    return message


def not_a_message(message_type: type[Message]) -> Exception:
    """The error of bytes that are no such message."""
    status = Status(StatusCode.INVALID_ARGUMENT, f"not a {message_type.DESCRIPTOR.full_name} message")
    error: Exception = RpcFailedError(status)
    return error
