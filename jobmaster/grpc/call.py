"""One gRPC call on a connection, behind the interface of purerpc's streams.

purerpc's call wrappers and stubs use `expect_message_type`, `receive_message`, `end_stream_event`, `send_message`
and `close`; the connection uses the `on_…` methods, which never await. A stream has one receiver and one sender.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Final

import trio
from google.protobuf.message import DecodeError, Message
from purerpc import Status, StatusCode
from purerpc.grpclib.events import RequestEnded, ResponseEnded
from purerpc.grpclib.exceptions import RpcFailedError

from jobmaster.errors import TransportError
from jobmaster.grpc.framing import PREFIX, MessageCompressed, MessageDecoder, prefix_for
from jobmaster.grpc.lazy_messages import AtHand, StoredMessages
from jobmaster.http2.frames import ErrorCode
from jobmaster.wire.send_buffer import TURN

if TYPE_CHECKING:
    from jobmaster.grpc.connection import Http2Connection

MAX_MESSAGE_LENGTH: Final = 4 * 1024 * 1024
"""Bytes of one message; gRPC's own default, and more than a Linux command line can have."""


class StreamGone(TransportError):
    """The peer reset the stream or the connection is lost."""


class GrpcStream(ABC):
    """What both sides of a call have in common."""

    def __init__(self, connection: Http2Connection, stream_id: int) -> None:
        self._connection = connection
        self.stream_id = stream_id
        self._decoder = MessageDecoder(MAX_MESSAGE_LENGTH)
        self._message_type: type[Message] | None = None
        self._inbox: deque[bytes] = deque()
        self._unacknowledged = 0
        self._news = trio.lowlevel.ParkingLot()
        self._remote_ended = False
        self._local_ended = False
        self._has_sent = False
        self._failure: Exception | None = None
        self.end_stream_event: RequestEnded | ResponseEnded | None = None

    # --- receiving ------------------------------------------------------------------------------------------------

    def expect_message_type(self, message_type: type[Message]) -> None:
        """Sets what the peer's messages are parsed as."""
        self._message_type = message_type

    async def receive_message(self) -> Message | None:
        """The next message, or None once the peer has ended its side.

        Raises:
            StreamGone: the stream or its connection ended early.
            RpcFailedError: a message could not be taken; carries the status to answer with.
        """
        data = await self._receive_bytes()
        if data is None:
            return None
        if self._message_type is None:
            raise TypeError("expect_message_type comes first")
        message = self._message_type()
        try:
            message.ParseFromString(data)
        except DecodeError:
            raise RpcFailedError(
                Status(StatusCode.INVALID_ARGUMENT, f"not a {self._message_type.DESCRIPTOR.full_name} message")
            ) from None
        return message

    async def _receive_bytes(self) -> bytes | None:
        await trio.lowlevel.checkpoint_if_cancelled()  # what is here already is bounded by the window
        while not self._inbox:
            if self._failure is not None:
                raise self._failure
            if self._remote_ended:
                self.end_stream_event = self._end_event()
                return None
            await self.wait_for_news()
        data = self._inbox.popleft()
        if not self._inbox:
            self._connection.acknowledge(self.stream_id, self.take_unacknowledged())
        return data

    def on_data(self, data: bytes | memoryview, flow_controlled_length: int) -> None:
        """Takes bytes of the peer's messages.

        The window of an unfinished message is handed back at once (the decoder bounds it); that of finished ones
        when the receiver has taken them.
        """
        if self._failure is not None:
            self._connection.acknowledge(self.stream_id, flow_controlled_length)
            return
        self._inbox.extend(self._decoder.feed(data))
        if self._inbox:
            self._unacknowledged += flow_controlled_length
            self.wake()
        else:
            self._connection.acknowledge(self.stream_id, flow_controlled_length)

    def take_unacknowledged(self) -> int:
        """How many bytes of window the messages that nobody has taken hold; the caller hands them back."""
        length, self._unacknowledged = self._unacknowledged, 0
        return length

    def on_bad_message(self, error: TransportError) -> None:
        """The peer sent a message that is not taken: the receiver gets the status to answer with."""
        code = StatusCode.UNIMPLEMENTED if isinstance(error, MessageCompressed) else StatusCode.RESOURCE_EXHAUSTED
        self._fail(RpcFailedError(Status(code, str(error))))

    def on_end(self) -> None:
        """The peer has sent its last byte."""
        self._remote_ended = True
        if not self._decoder.is_between_messages:
            self._fail(RpcFailedError(Status(StatusCode.INTERNAL, "the stream ended inside a message")))
        self.wake()
        if self._local_ended:
            self._connection.forget(self.stream_id)

    def on_reset(self, code: int) -> None:
        """The peer reset the stream."""
        self._fail(StreamGone(f"the peer reset the call (HTTP/2 error code {int(code)})"))

    def on_connection_lost(self) -> None:
        """The connection ended with this stream open."""
        self._fail(StreamGone("the connection to the peer was lost"))

    def wake(self) -> None:
        """Whoever waits on this stream looks again."""
        if self._news:
            self._news.unpark_all()

    async def wait_for_news(self) -> None:
        """Waits for `wake`."""
        await self._news.park()

    @property
    def _would_wait(self) -> bool:
        """True when `receive_message` has to wait for the peer."""
        return not (self._inbox or self._remote_ended or self._failure)

    def _fail(self, failure: Exception) -> None:
        self._failure = self._failure or failure
        self.wake()

    @abstractmethod
    def _end_event(self) -> RequestEnded | ResponseEnded:
        """What `end_stream_event` is once the peer has ended."""

    # --- sending --------------------------------------------------------------------------------------------------

    async def send_message(self, message: Message | StoredMessages) -> None:
        """Sends one message, or a run of them; returns when it is queued.

        A checkpoint, but for the first on a stream, which is a point of cancellation alone.

        Raises:
            StreamGone: the stream or its connection ended.
            OSError: what is stored cannot be read.
        """
        if isinstance(message, StoredMessages):
            await self._send_stored(message)
        else:
            await self._send_whole(message.SerializeToString())

    async def _send_whole(self, data: bytes) -> None:
        parts, length, offset = (prefix_for(len(data)), data), PREFIX.size + len(data), 0
        while offset < length and await self._may_send():
            if sent := self._connection.send_turn(self.stream_id, parts, offset, length - offset):
                offset += sent
            else:
                await self._connection.wait_for_window(self)

    async def _send_stored(self, messages: StoredMessages) -> None:
        source: AtHand = messages.content
        offset = 0
        while offset < messages.length and await self._may_send():
            sent = self._connection.send_stored_turn(self.stream_id, messages, offset, source)
            if sent is None:
                source = await messages.load(offset, TURN)
            elif sent:
                source = messages.content
                offset += sent
            else:
                await self._connection.wait_for_window(self)

    async def _may_send(self) -> bool:
        """Waits until a turn may be queued; False where nobody listens any more."""
        await self._connection.wait_for_room(at_once=not self._has_sent)
        self._has_sent = True
        if self._failure is not None:
            raise self._failure
        return not self._peer_listens_no_more()

    def _peer_listens_no_more(self) -> bool:
        """True when the peer has ended the whole call, so that there is nothing to send for."""
        return False

    def reset(self, code: ErrorCode = ErrorCode.CANCEL) -> None:
        """Abandons the call; does nothing when it has already ended in both directions."""
        if self._remote_ended and self._local_ended:
            return
        self._local_ended = True
        self._fail(StreamGone("the call was abandoned"))
        self._connection.reset(self.stream_id, code)

    @abstractmethod
    async def close(self, status: Status | None = None) -> None:
        """Ends this side of the call."""
