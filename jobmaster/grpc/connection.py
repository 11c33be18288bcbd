"""One HTTP/2 connection on a Trio stream: what the server's and the client's side have in common.

Theory of operation
-------------------
Three tasks own the connection. The *reader* takes bytes, lets `Http2` turn them into events and applies each event
without awaiting, so that a reset, a window update or a ping is never stuck behind a slow handler. The *writer* sends
what has been queued in the `Outbox`. The *watch* sleeps until the connection's `Lifetime` has something due. Everything
else is synchronous state changed by whoever runs.

Back-pressure has three parts, all bounded:

* a *sender* (a handler with a message) queues at most `TURN` bytes, and only while fewer than `HIGH_WATER` are queued;
  then others have their turn. Each message is a checkpoint even when nothing blocks, but for the first of a call, whose
  handler has only just had its turn;
* the *reader* stops while more than `CONTROL_LIMIT` bytes are queued: a peer that makes us answer (pings, settings)
  and does not take the answers stops itself;
* a *peer* is handed flow-control window only for bytes of unfinished messages and of messages that a handler has
  taken, so undelivered input stays below the window.

A peer that takes nothing for a while is given up by the watch.

`run` returns when the connection has ended (peer gone, protocol broken, `close_when_written`, given up), and every
stream still open is told.
"""

from __future__ import annotations

import logging
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, assert_never

import trio

from jobmaster.grpc.framing import MessageCompressed, MessageTooLarge
from jobmaster.http2 import frames
from jobmaster.http2.events import (
    DataReceived,
    Event,
    GoingAway,
    HeadersReceived,
    SettingsReceived,
    StreamReset,
    WindowOpened,
)
from jobmaster.http2.protocol import Http2, Side
from jobmaster.http2.streams import ProtocolViolation
from jobmaster.wire.lifetime import GiveUp, Lifetime, LifetimePolicy, SendFinalGoaway, SendPing, ShutDown, Wait
from jobmaster.wire.send_buffer import CONTROL_LIMIT, HIGH_WATER, TURN, Outbox

if TYPE_CHECKING:
    from jobmaster.grpc.call import GrpcStream
    from jobmaster.grpc.lazy_messages import AtHand, StoredMessages
    from jobmaster.http2.frames import ErrorCode

logger = logging.getLogger(__name__)

CLOSE_SECONDS: Final = 1.0
"""How long closing may take, which waits for nobody."""
WRITE_REST_SECONDS: Final = 1.0
LINGER_SECONDS: Final = 0.3
LINGER_READS: Final = 64
"""After a peer broke the protocol: how long it may take our last words, how long and how often it is still read."""
READ_SIZE: Final = 16 * 1024
"""Bytes read in one go, and applied in one turn or a few."""
EVENTS_A_TURN: Final = 32
"""What of it is applied before others have their turn: a read can hold hundreds of calls."""
_PING_PAYLOAD: Final = b"jobmastr"


@asynccontextmanager
async def closed_at_once(tls: trio.SSLStream[Any]) -> AsyncIterator[None]:
    """Closes a TLS stream without ceremony at the end of the block, and lets go of what it holds.

    trio's SSLStream refers to itself, so that its TLS state, some 60 KiB, would otherwise stay until a collection of
    cycles, which are far apart here: a flood of strangers would fill the memory meanwhile.

    Closing is no point of cancellation: a `Cancelled` from there would take the place of what ended the block, of a
    KeyboardInterrupt, for example.
    """
    try:
        yield
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_SECONDS):
            await trio.aclose_forcefully(tls)
        vars(tls).clear()


class Http2Connection(ABC):
    """The shared half of both sides: reader, writer, queue, windows. See the module's theory of operation."""

    def __init__(
        self, wire: trio.abc.Stream, side: Side[Any], policy: LifetimePolicy, *, read_size: int = READ_SIZE
    ) -> None:
        self._wire = wire
        self._read_size = read_size
        self._outbox = Outbox()
        self._http2 = Http2(side, self._outbox.put)
        self._policy = policy
        self._streams: dict[int, GrpcStream] = {}
        self._blocked: dict[int, GrpcStream] = {}
        self._has_settings = False
        self._closing = False
        self._next_watch = trio.CancelScope()

    # --- life -----------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves the connection until it ends; returns also when the peer vanished or broke the protocol."""
        now = trio.current_time()
        self._lifetime = Lifetime(self._policy, now=now, jitter=random.uniform(-0.1, 0.1))  # noqa: S311  # no secret
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._http2.start()
                nursery.start_soon(self._write)
                nursery.start_soon(self._watch)
                task_status.started()
                peer_is_gone = await self._read()
                self._end_streams()
                await self._write_rest()
                if not peer_is_gone:
                    await self._linger()
                nursery.cancel_scope.cancel()
        finally:
            self._closing = True
            self._end_streams()

    def close_when_written(self) -> None:
        """Ends the connection once what is queued has been sent."""
        self._closing = True
        self._outbox.wake()

    def _end_streams(self) -> None:
        for stream in list(self._streams.values()):
            stream.on_connection_lost()
        self._streams.clear()

    async def _watch(self) -> None:
        """Does what the connection's age and the peer's silence call for."""
        while True:
            now = trio.current_time()
            match self._lifetime.decide(now):
                case Wait(until):
                    self._next_watch = trio.CancelScope(deadline=until)
                    with self._next_watch:
                        await trio.sleep_forever()
                case SendPing():
                    self._outbox.put(frames.ping(_PING_PAYLOAD))
                case ShutDown(reason):
                    logger.info("connection is told to end: %s", reason)
                    self.shut_down()
                case SendFinalGoaway():
                    self._final_goaway()
                case GiveUp(reason):
                    logger.info("connection is given up: %s", reason)
                    self._nursery.cancel_scope.cancel()
                    await trio.sleep_forever()
                case unreachable:
                    assert_never(unreachable)

    def _rewatch(self) -> None:
        """Has the lifetime asked again, because something has become due earlier."""
        self._next_watch.cancel()

    @abstractmethod
    def shut_down(self) -> None:
        """Lets open calls finish, takes no more, and ends."""

    def _final_goaway(self) -> None:
        self._lifetime.on_final_goaway()

    async def _write_rest(self) -> None:
        """Gives the peer a moment to take what is queued (a GOAWAY says why it is being closed)."""
        with trio.move_on_after(WRITE_REST_SECONDS):
            await self._outbox.wait_below(0)

    async def _linger(self) -> None:
        """Ends our side and reads on for a moment: closing with bytes unread would reset what we sent last."""
        tcp = self._wire.transport_stream if isinstance(self._wire, trio.SSLStream) else self._wire
        with trio.move_on_after(LINGER_SECONDS), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            if isinstance(tcp, trio.abc.HalfCloseableStream):
                await tcp.send_eof()
            for _ in range(LINGER_READS):
                if not await tcp.receive_some(READ_SIZE):
                    return

    # --- reading --------------------------------------------------------------------------------------------------

    async def _read(self) -> bool:
        """Reads until the peer is gone (True) or has broken the protocol (False)."""
        while True:
            try:
                data = await self._wire.receive_some(self._read_size)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._on_broken_wire(error)
                return True
            if not data:
                return True
            now = trio.current_time()
            self._lifetime.on_bytes(now)
            try:
                await self._take(bytes(data), now)
            except ProtocolViolation as violation:
                logger.info("peer broke HTTP/2: %s", violation)
                self._outbox.put(frames.goaway(self._last_stream_of_peer(), violation.code, violation.reason))
                return False
            await self._outbox.wait_below(CONTROL_LIMIT)

    async def _take(self, data: bytes, now: float) -> None:
        """Applies received bytes; raises ProtocolViolation where the connection has to end."""
        for count, event in enumerate(self._http2.receive(data, now), 1):
            self._apply(event)
            if count % EVENTS_A_TURN == 0:
                await trio.lowlevel.checkpoint()

    def _last_stream_of_peer(self) -> int:
        """The last stream that the peer opened, for a GOAWAY."""
        return 0

    def _apply(self, event: Event) -> None:
        match event:
            case DataReceived():
                self._on_data(event)
            case HeadersReceived():
                self._on_headers(event)
            case WindowOpened(stream_id):
                self._window_opened(stream_id)
            case StreamReset(stream_id, code):
                if (stream := self._release(stream_id)) is not None:
                    stream.on_reset(code)
            case SettingsReceived():
                self._has_settings = True
                self._lifetime.on_settings()
                self._window_opened(0)
            case GoingAway(last_stream_id):
                self._on_goaway(last_stream_id)
            case unreachable:
                assert_never(unreachable)

    def _on_data(self, event: DataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:  # reset by us, with bytes still under way: hand the connection its window back
            self._http2.hand_back(0, event.length)
            return
        try:
            stream.on_data(event.data, event.length)
        except (MessageTooLarge, MessageCompressed) as error:
            self._http2.hand_back(0, event.length)
            stream.on_bad_message(error)
        if event.ended:
            stream.on_end()

    def _window_opened(self, stream_id: int) -> None:
        if stream_id:
            if (stream := self._streams.get(stream_id)) is not None:
                stream.wake()
        else:
            for stream in self._blocked.values():
                stream.wake()

    @abstractmethod
    def _on_headers(self, event: HeadersReceived) -> None:
        """The peer opens a message, or ends it with trailers."""

    def _on_goaway(self, last_stream_id: int) -> None:  # noqa: B027  # a hook: nothing is the right default
        """The peer is going away. The default lets open streams finish or fail with the connection."""

    def _on_broken_wire(self, error: Exception) -> None:  # noqa: B027  # a hook: nothing is the right default
        """The stream under the connection broke."""

    # --- writing --------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        try:
            while not (self._closing and self._outbox.is_empty):
                await self._outbox.wait_for_work()
                if self._streams and self._outbox.size < HIGH_WATER:
                    await trio.lowlevel.checkpoint()  # calls that end in this turn of the loop share a write
                await self._write_all()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._on_broken_wire(error)
        self._nursery.cancel_scope.cancel()

    async def _write_all(self) -> None:
        """Sends what is queued, and what is queued meanwhile."""
        while not self._outbox.is_empty:
            chunk = self._outbox.take()
            size = len(chunk)
            self._lifetime.on_write(trio.current_time())
            await self._wire.send_all(chunk)
            self._lifetime.on_written()
            self._outbox.gone(size)

    # --- what streams ask for -------------------------------------------------------------------------------------

    async def wait_for_room(self, *, at_once: bool) -> None:
        """Waits until a sender may queue a turn; see `Outbox.wait_for_room`."""
        await self._outbox.wait_for_room(at_once=at_once)

    async def wait_for_window(self, stream: GrpcStream) -> None:
        """Waits until the peer may take more on a stream, or there is other news on it."""
        self._blocked[stream.stream_id] = stream
        try:
            await stream.wait_for_news()
        finally:
            del self._blocked[stream.stream_id]

    def send_turn(self, stream_id: int, parts: Sequence[bytes | memoryview], offset: int, length: int) -> int:
        """Queues up to `TURN` of `length` bytes as DATA, as far as the peer's window goes: how many."""
        count = min(self._http2.send_window(stream_id), length, TURN)
        if count:
            self._http2.send_data(stream_id, parts, offset, count)
        return count

    def send_stored_turn(self, stream_id: int, messages: StoredMessages, offset: int, source: AtHand) -> int | None:
        """As `send_turn`, with content read from `source`; None where it is not at hand there."""
        count = min(self._http2.send_window(stream_id), messages.length - offset, TURN)
        if count and not self._http2.send_filled(
            stream_id, count, lambda payloads: messages.fill(payloads, offset, source)
        ):
            return None
        return count

    def send_headers(self, stream_id: int, block: bytes, *, end_stream: bool) -> None:
        """Queues an encoded header block."""
        self._http2.send_headers(stream_id, block, end_stream=end_stream)

    def end_request(self, stream_id: int) -> None:
        """Queues an empty DATA frame that ends this side of a stream."""
        self._http2.end_stream(stream_id)

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """Ends a stream in both directions at once; a stream that is already gone is left alone."""
        self._release(stream_id)
        if not self._closing:
            self._http2.reset(stream_id, code)

    def forget(self, stream_id: int) -> None:
        """Drops a stream that has ended in both directions."""
        self._release(stream_id)

    def _release(self, stream_id: int) -> GrpcStream | None:
        """Drops a stream from the table, and hands back the window that its untaken messages hold."""
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self.acknowledge(0, stream.take_unacknowledged())
        return stream

    def acknowledge(self, stream_id: int, length: int) -> None:
        """Hands `length` bytes of flow-control window back to the peer."""
        if length and not self._closing:
            self._http2.hand_back(stream_id, length)
