"""One HTTP/2 connection on a Trio stream: what the server's and the client's side have in common.

Theory of operation
-------------------
Three tasks own the connection. The *reader* takes bytes, lets h2 turn them into events and applies each event without
awaiting, so that a reset, a window update or a ping is never stuck behind a slow handler. The *writer* sends what has
been queued, up to `WRITE_SIZE` at a time. The *watch* sleeps until the connection's `Lifetime` has something due.
Everything else is synchronous state changed by whoever runs.

Back-pressure has three parts, all bounded:

* a *sender* (a handler with a message) queues at most `TURN` bytes, and only while fewer than `HIGH_WATER` are queued;
  then others have their turn. Each message is a checkpoint even when nothing blocks;
* the *reader* stops while more than `CONTROL_LIMIT` bytes are queued: a peer that makes us answer (pings, settings)
  and does not take the answers stops itself;
* a *peer* is handed flow-control window only for bytes of unfinished messages and of messages that a handler has
  taken, so undelivered input stays below the window.

The writer ends the connection when the peer takes nothing for `STALL_SECONDS`.

`run` returns when the connection has ended (peer gone, protocol broken, `close_when_written`, given up), and every
stream still open is told.
"""

from __future__ import annotations

import logging
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, assert_never

import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import trio

from jobmaster.transport import frames
from jobmaster.transport.framing import MessageCompressed, MessageTooLarge
from jobmaster.transport.lifetime import GiveUp, Lifetime, LifetimePolicy, SendFinalGoaway, SendPing, ShutDown, Wait
from jobmaster.transport.patient_h2 import PatientH2Connection

if TYPE_CHECKING:
    from jobmaster.transport.headers import Header
    from jobmaster.transport.stream import GrpcStream

logger = logging.getLogger(__name__)

HIGH_WATER: Final = 192 * 1024
"""Bytes queued for the peer above which senders wait; with one `TURN` on top, a slow peer costs 256 KiB."""
TURN: Final = 64 * 1024
"""Bytes that a sender may queue before the others have their turn."""
CONTROL_LIMIT: Final = 1024 * 1024
"""Bytes queued for the peer above which nothing more is read from it."""
WRITE_SIZE: Final = 128 * 1024
"""Bytes handed to TLS in one go, about."""
STALL_SECONDS: Final = 30.0
"""How long a peer may take none of what is handed to TLS in one go before it is given up."""
WRITE_REST_SECONDS: Final = 1.0
LINGER_SECONDS: Final = 0.3
LINGER_READS: Final = 64
"""After a peer broke the protocol: how long it may take our last words, how long and how often it is still read."""
READ_SIZE: Final = 16 * 1024
"""Bytes read in one go; a TLS record has no more."""
MAX_FRAME_SIZE: Final = 16 * 1024
"""Of frames received."""
MAX_SENT_FRAME: Final = 64 * 1024
"""Of frames sent, where the peer takes larger ones than the 16 KiB that all take."""
MAX_HEADER_LIST_SIZE: Final = 16 * 1024
MAX_CONCURRENT_STREAMS: Final = 100
_PING_PAYLOAD: Final = b"jobmastr"


class Http2Connection(ABC):
    """The shared half of both sides: reader, writer, queue, windows. See the module's theory of operation."""

    def __init__(
        self,
        wire: trio.abc.Stream,
        *,
        client_side: bool,
        stream_window: int,
        connection_window: int,
        frame_size: int,
        policy: LifetimePolicy,
    ) -> None:
        self._wire = wire
        self._h2 = PatientH2Connection(client_side=client_side)
        self._connection_window = connection_window
        self._policy = policy
        self._configure(client_side=client_side, stream_window=stream_window, frame_size=frame_size)
        self._streams: dict[int, GrpcStream] = {}
        self._queue: deque[bytes] = deque()
        self._queued_or_sending = 0
        self._work_for_writer = trio.Event()
        self._room = trio.lowlevel.ParkingLot()
        self._has_settings = False
        self._closing = False
        self._next_watch = trio.CancelScope()

    def _configure(self, *, client_side: bool, stream_window: int, frame_size: int) -> None:
        codes = h2.settings.SettingCodes
        self._h2.local_settings = h2.settings.Settings(
            client=client_side,
            initial_values={
                codes.MAX_CONCURRENT_STREAMS: MAX_CONCURRENT_STREAMS,
                codes.INITIAL_WINDOW_SIZE: stream_window,
                codes.MAX_FRAME_SIZE: frame_size,
                codes.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST_SIZE,
                codes.ENABLE_PUSH: 0,
            },
        )
        self._h2.max_inbound_frame_size = frame_size
        self._h2.decoder.max_header_list_size = MAX_HEADER_LIST_SIZE

    # --- life -----------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves the connection until it ends; returns also when the peer vanished or broke the protocol."""
        now = trio.current_time()
        self._lifetime = Lifetime(self._policy, now=now, jitter=random.uniform(-0.1, 0.1))  # noqa: S311  # no secret
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._h2.initiate_connection()
                default_window = 65_535  # RFC 9113, 6.9.2
                self._h2.increment_flow_control_window(self._connection_window - default_window)
                self._flush()
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
        self._work_for_writer.set()

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
                    self._queue_bytes(frames.ping(_PING_PAYLOAD))
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
            while self._queued_or_sending:
                await self._room.park()

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
                data = await self._wire.receive_some(READ_SIZE)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._on_broken_wire(error)
                return True
            if not data:
                return True
            self._lifetime.on_bytes(trio.current_time())
            if not await self._receive(bytes(data)):
                return False
            while self._queued_or_sending > CONTROL_LIMIT:
                await self._room.park()

    async def _receive(self, data: bytes) -> bool:
        """Applies received bytes; False when the peer broke the protocol and the connection has to end."""
        return self._parse_and_apply(data)

    def _parse_and_apply(self, data: bytes) -> bool:
        events = self._parse(data)
        if events is None:
            return False
        self._apply_all(events)
        return True

    def _parse(self, data: bytes) -> list[Any] | None:
        """What h2 makes of received bytes; None, with a GOAWAY queued, when they break the protocol."""
        try:
            events: list[Any] = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            logger.info("peer broke HTTP/2: %s", type(error).__name__)
        except Exception:  # h2 3.2 lets IndexError and others out on malformed header blocks
            logger.info("peer sent what h2 cannot parse", exc_info=True)
            self._h2.close_connection(h2.errors.ErrorCodes.PROTOCOL_ERROR)
        else:
            return events
        self._flush()
        return None

    def _apply_all(self, events: Iterable[Any]) -> None:
        for event in events:
            self._apply(event)
        self._flush()

    def _apply(self, event: Any) -> None:
        match event:
            case h2.events.DataReceived():
                self._data_received(event)
            case h2.events.WindowUpdated():
                self._window_updated(event.stream_id)
            case h2.events.StreamEnded():
                if (stream := self._streams.get(event.stream_id)) is not None:
                    stream.on_end()
            case h2.events.StreamReset():
                self._h2.forget(event.stream_id)
                if (stream := self._release(event.stream_id)) is not None:
                    stream.on_reset(event.error_code)
            case h2.events.RemoteSettingsChanged():
                self._has_settings = True
                self._lifetime.on_settings()
                self._window_updated(0)
            case h2.events.ConnectionTerminated():
                self._on_goaway(event)
            case _:
                self._on_headers(event)

    def _data_received(self, event: Any) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:  # reset by us, with bytes still under way: hand the connection its window back
            self.acknowledge(event.stream_id, event.flow_controlled_length)
            return
        try:
            stream.on_data(event.data, event.flow_controlled_length)
        except (MessageTooLarge, MessageCompressed) as error:
            self.acknowledge(event.stream_id, event.flow_controlled_length)
            stream.on_bad_message(error)

    def _window_updated(self, stream_id: int) -> None:
        if stream_id:
            if (stream := self._streams.get(stream_id)) is not None:
                stream.window.unpark_all()
        else:
            for stream in self._streams.values():
                stream.window.unpark_all()

    @abstractmethod
    def _on_headers(self, event: Any) -> None:
        """Applies an event about headers, or one that this side ignores."""

    def _on_goaway(self, event: Any) -> None:  # noqa: B027  # a hook: nothing is the right default
        """The peer is going away. The default lets open streams finish or fail with the connection."""

    def _on_broken_wire(self, error: Exception) -> None:  # noqa: B027  # a hook: nothing is the right default
        """The stream under the connection broke."""

    # --- writing --------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        try:
            while True:
                while self._queue:
                    await self._write_once()
                if self._closing:
                    break
                await self._work_for_writer.wait()
                self._work_for_writer = trio.Event()
                await trio.lowlevel.checkpoint()  # calls that end in this turn of the loop share a write
        except trio.TooSlowError:
            logger.info("peer took nothing for %d s", STALL_SECONDS)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._on_broken_wire(error)
        self._nursery.cancel_scope.cancel()

    async def _write_once(self) -> None:
        chunk = self._next_chunk()
        with trio.fail_after(STALL_SECONDS):
            await self._wire.send_all(chunk)
        self._queued_or_sending -= len(chunk)
        self._room.unpark_all()

    def _next_chunk(self) -> bytes:
        """What is queued, as whole pieces, up to about `WRITE_SIZE`."""
        pieces = [self._queue.popleft()]
        size = len(pieces[0])
        while self._queue and size + len(self._queue[0]) <= WRITE_SIZE:
            size += len(self._queue[0])
            pieces.append(self._queue.popleft())
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _flush(self) -> None:
        """Moves what h2 has produced into the queue."""
        data = self._h2.data_to_send()
        if data:
            self._queue_bytes(data)

    def _queue_bytes(self, data: bytes) -> None:
        self._queue.append(data)
        self._queued_or_sending += len(data)
        self._work_for_writer.set()

    # --- what streams ask for -------------------------------------------------------------------------------------

    async def wait_for_room(self) -> None:
        """Waits until a sender may queue a turn."""
        while self._queued_or_sending >= HIGH_WATER:
            await self._room.park()

    def send_turn(self, stream_id: int, parts: Sequence[bytes | memoryview], offset: int, length: int) -> int:
        """Queues up to `TURN` of `length` bytes as DATA, as far as the peer's window goes: how many."""
        count = min(self._h2.stream_window(stream_id), length, TURN)
        if count > 0:
            self._queue_bytes(self._h2.data(stream_id, parts, offset, count, MAX_SENT_FRAME))
        return count

    def send_prepared_headers(self, stream_id: int, block: bytes, *, end_stream: bool) -> None:
        """Queues a header block that was encoded beforehand (see `headers`)."""
        self._queue_bytes(self._h2.prepared_headers(stream_id, block, end_stream=end_stream))

    def send_headers(self, stream_id: int, headers: Iterable[Header], *, end_stream: bool) -> None:
        """Queues a header block."""
        self._h2.send_headers(stream_id, list(headers), end_stream=end_stream)
        self._flush()

    def end_request(self, stream_id: int) -> None:
        """Queues an empty DATA frame that ends this side of a stream."""
        self._h2.end_stream(stream_id)
        self._flush()

    def reset(self, stream_id: int, code: h2.errors.ErrorCodes) -> None:
        """Ends a stream in both directions at once; a stream that is already gone is left alone."""
        self._release(stream_id)
        if self._closing:
            return
        try:
            self._h2.reset_stream(stream_id, code)
        except h2.exceptions.ProtocolError:
            return
        self._h2.forget(stream_id)
        self._flush()

    def forget(self, stream_id: int) -> None:
        """Drops a stream that has ended in both directions."""
        self._release(stream_id)
        self._h2.forget(stream_id)

    def _release(self, stream_id: int) -> GrpcStream | None:
        """Drops a stream from the table, and hands back the window that its untaken messages hold."""
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self.acknowledge(stream_id, stream.take_unacknowledged())
        return stream

    def acknowledge(self, stream_id: int, length: int) -> None:
        """Hands `length` bytes of flow-control window back to the peer."""
        if not length or self._closing:
            return
        try:
            self._h2.acknowledge_received_data(length, stream_id)
        except h2.exceptions.ProtocolError:
            return
        self._flush()
