"""An HTTP/2 connection on a Trio stream: one reader, one writer, and back-pressure between them.

Theory of operation
-------------------
Three tasks own the connection. The *reader* receives bytes, has `Http2Protocol` turn them into events and passes each
to the `StreamHandler` without awaiting, so that a reset, a window update or a ping never waits behind a slow call. The
*writer* sends what is in the `SendBuffer`. The *watchdog* sleeps until the `Lifetime` has something due. All other
state is changed synchronously, by whichever task runs.

Back-pressure has three parts:

* a *sender* queues at most `QUANTUM` bytes, and only below the high-water mark; then it yields to other tasks;
* the *reader* pauses while more than `CONTROL_LIMIT` bytes are pending: a peer that makes us answer (pings, settings)
  and does not read the answers stops itself;
* the *peer* gets flow-control window back only for what the handler acknowledges.

A peer that takes nothing for a while is given up by the watchdog.

`run` returns when the connection has ended: the peer is gone, violated the protocol, was given up, or the connection
was closed by `close_when_written`: then the peer is left a moment to take what was sent last.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol, assert_never, cast

import trio

from jobmaster.http2 import frames
from jobmaster.http2.errors import ProtocolViolation
from jobmaster.http2.events import (
    DataReceived,
    Event,
    GoawayReceived,
    HeadersReceived,
    SettingsReceived,
    StreamReset,
    WindowUpdated,
)
from jobmaster.http2.frames import ErrorCode
from jobmaster.http2.protocol import Configuration, Http2Protocol
from jobmaster.wire.lifetime import GiveUp, Lifetime, LifetimePolicy, SendFinalGoaway, SendPing, ShutDown, Wait
from jobmaster.wire.send_buffer import CONTROL_LIMIT, HIGH_WATER, QUANTUM, SendBuffer
from jobmaster.wire.tcp import BULK_RECEIVE_SIZE, end_sending, linger, receive_bulk
from jobmaster.wire.tls import alert_in

logger = logging.getLogger(__name__)

FLUSH_SECONDS: Final = 1.0
"""How long the peer may take to read what is pending when the connection ends; a GOAWAY says why."""
ALERT_SECONDS: Final = 1.0
"""How long is read on when sending failed: what the peer sent before it closed may say why."""
CLOSE_SECONDS: Final = 5.0
"""How long the peer may take, at a normal end, to read what was sent and to close the connection from its side."""
READ_SIZE: Final = 64 * 1024
"""Bytes read and handled in one go."""
BULK_READ_SIZE: Final = BULK_RECEIVE_SIZE
"""The same where there is very much to read: all that is received in one go, and decrypted where it is."""
EVENTS_IN_A_ROW: Final = 32
"""Events that are handled before other tasks run: a read can hold hundreds of calls."""
_PING_PAYLOAD: Final = b"jobmastr"


class StreamHandler(Protocol):
    """What the owner of a connection is told, one event after another. No method awaits."""

    def on_headers(self, event: HeadersReceived) -> None:
        """The peer opens a message, or ends it with trailers."""

    def on_data(self, event: DataReceived) -> None:
        """A part of a body, to be acknowledged when it has been consumed."""

    def on_reset(self, stream_id: int, code: int) -> None:
        """A stream was closed by the peer, or because of what the peer sent on it."""

    def on_settings(self) -> None:
        """The peer's settings have changed."""

    def on_goaway(self, event: GoawayReceived) -> None:
        """The peer takes no more streams."""

    def on_closed(self) -> None:
        """Nothing more will come or be sent, on any stream. May be called twice."""

    def on_read_handled(self) -> None:
        """All events of what was read have been handled; the next read may have to wait."""

    def should_yield(self) -> bool:
        """Whether handling the last events took so long that other tasks should run before the next one."""


class DataSource(Protocol):
    """DATA that is read when it can be sent, straight into the frames."""

    length: int

    def fill(self, offset: int, payloads: Sequence[memoryview]) -> bool:
        """Writes what begins at byte `offset` into the payloads; False where it has to be loaded first."""

    async def load(self, offset: int, count: int) -> None:
        """Has the `count` bytes from `offset` ready for the next `fill`. Raises its own error where they cannot be read."""


class Connection:
    """One side of a connection. The stream is closed by its owner, after `run`.

    Attributes:
        alert: the TLS alert with which the peer ended the connection, as words; None where there was none.
        has_settings: the peer has sent its settings: it is served, or serves.
        goaway: the last GOAWAY of the peer.
        accepts_streams: no GOAWAY that is final has been sent or received.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        configuration: Configuration[Any],
        policy: LifetimePolicy,
        *,
        read_size: int = READ_SIZE,
    ) -> None:
        self._stream = stream
        self._read_size = self._usual_read_size = read_size
        self._wide_streams = 0
        self._send_buffer = SendBuffer()
        self._http2 = Http2Protocol(configuration, self._send_buffer.put)
        self._lifetime = Lifetime(policy, now=trio.current_time(), jitter=random.uniform(-0.1, 0.1))  # noqa: S311  # no secret
        self._window_waiters: dict[int, trio.Event] = {}
        self._watchdog_sleep = trio.CancelScope()
        self._unsent_to_ping = 0
        """Bytes that are to be sent up to the end of the last PING."""
        self._is_idle = True
        self._is_shutting_down = False
        self._closing = False
        self._half_closed = False
        self._ended = False
        self.alert: str | None = None
        self.has_settings = False
        self.goaway: GoawayReceived | None = None
        self.accepts_streams = True

    # --- life -----------------------------------------------------------------------------------------------------

    async def run(
        self, handler: StreamHandler, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serves the connection until it ends, also by the peer's fault."""
        self._handler = handler
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                self._http2.start()
                nursery.start_soon(self._write)
                nursery.start_soon(self._watch)
                task_status.started()
                peer_is_gone = await self._read()
                self._end()
                if not peer_is_gone:
                    with trio.move_on_after(FLUSH_SECONDS):
                        await self._send_buffer.wait_below(0)
                    await linger(self._stream)
                self._scope.cancel()
        finally:
            self._closing = True
            self._end()
            del self._handler

    def _end(self) -> None:
        self._ended = True
        self._send_buffer.end()
        for waiter in self._window_waiters.values():
            waiter.set()
        self._handler.on_closed()

    def close_when_written(self) -> None:
        """Ends the connection once what is pending has been sent."""
        self._closing = True
        self._send_buffer.wake()

    async def _watch(self) -> None:
        while True:
            now = trio.current_time()
            match self._lifetime.decide(now):
                case Wait(until):
                    self._watchdog_sleep = trio.CancelScope(deadline=until)
                    with self._watchdog_sleep:
                        await trio.sleep_forever()
                case SendPing():
                    self._send_buffer.put(frames.ping(_PING_PAYLOAD))
                    self._unsent_to_ping = self._send_buffer.pending
                case ShutDown(reason):
                    logger.info("connection is told to end: %s", reason)
                    self.shut_down()
                case SendFinalGoaway():
                    self.send_final_goaway()
                case GiveUp(reason):
                    logger.info("connection is given up: %s", reason)
                    self._scope.cancel()
                    await trio.sleep_forever()
                case unreachable:
                    assert_never(unreachable)

    def mark_busy(self) -> None:
        """There is a call: the connection is kept."""
        self._is_idle = False
        self._lifetime.on_busy()

    def mark_idle(self) -> None:
        """There is no call any more."""
        self._is_idle = True
        self._lifetime.on_idle(trio.current_time())
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._is_idle and not self.accepts_streams:
            self.close_when_written()

    def shut_down(self) -> None:
        """Sends GOAWAY in two steps, and ends the connection when the last call has ended. Idempotent.

        The first GOAWAY leaves time for calls that are under way from the client; the second, a moment later, names
        the last one that is accepted (RFC 9113, 6.8).
        """
        if self._is_shutting_down:
            return
        self._is_shutting_down = True
        self._lifetime.on_shut_down(trio.current_time())
        self._send_buffer.put(frames.goaway(frames.LAST_STREAM_ID, ErrorCode.NO_ERROR))
        self._watchdog_sleep.cancel()

    def send_final_goaway(self, code: ErrorCode = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """Accepts no further stream, and ends the connection when the last call has ended."""
        self._lifetime.on_final_goaway()
        self.accepts_streams = False
        self._send_buffer.put(frames.goaway(self._http2.last_stream_id, code, reason))
        self._close_if_unused()

    # --- reading --------------------------------------------------------------------------------------------------

    async def _read(self) -> bool:
        """Reads until the peer is gone (True) or has violated the protocol (False)."""
        while True:
            try:
                data = await self._stream.receive_some(self._read_size)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self.alert = alert_in(error)
                return True
            if not data:
                return True
            now = trio.current_time()
            self._lifetime.on_bytes(now)
            if self._half_closed:
                continue
            try:
                await self._handle(cast("bytes | memoryview", data), now)  # as `wire.tls` reads it
            except ProtocolViolation as violation:
                logger.info("peer violated HTTP/2: %s", violation)
                self._send_buffer.put(frames.goaway(self._http2.last_stream_id, violation.code, violation.reason))
                return False
            await self._send_buffer.wait_below(CONTROL_LIMIT)

    async def _handle(self, data: bytes | memoryview, now: float) -> None:
        for count, event in enumerate(self._http2.receive(data, now), 1):
            self._dispatch(event)
            if count % EVENTS_IN_A_ROW == 0 or self._handler.should_yield():
                await trio.lowlevel.checkpoint()
        self._handler.on_read_handled()

    def _dispatch(self, event: Event) -> None:
        match event:
            case HeadersReceived():
                self._handler.on_headers(event)
            case DataReceived():
                self._handler.on_data(event)
            case WindowUpdated(stream_id):
                self._wake_senders(stream_id)
            case StreamReset(stream_id, code):
                self._handler.on_reset(stream_id, code)
                self._wake_senders(stream_id)
            case SettingsReceived():
                self.has_settings = True
                self._lifetime.on_settings()
                self._wake_senders(0)
                self._handler.on_settings()
            case GoawayReceived():
                self.goaway = event
                self.accepts_streams = False
                self._handler.on_goaway(event)
                self._close_if_unused()
            case unreachable:
                assert_never(unreachable)

    def _wake_senders(self, stream_id: int) -> None:
        """Wakes the sender of a stream, or all for stream 0."""
        if stream_id == 0:
            for waiter in self._window_waiters.values():
                waiter.set()
        elif (waiter_of_one := self._window_waiters.get(stream_id)) is not None:
            waiter_of_one.set()

    # --- writing --------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        try:
            while not (self._closing and self._send_buffer.is_empty):
                await self._send_buffer.wait_for_data()
                if self._http2.open_streams and self._send_buffer.pending < HIGH_WATER:
                    await trio.lowlevel.checkpoint()  # calls that end in the same pass of the event loop share a write
                await self._send_pending()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._scope.deadline = min(self._scope.deadline, trio.current_time() + ALERT_SECONDS)
        else:
            await self._half_close()

    async def _half_close(self) -> None:
        """Ends our side and leaves the end of the connection to the peer, for so long.

        What the peer sends to a socket that is closed resets the connection, and with it what it has not received yet.
        """
        self._half_closed = True
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + CLOSE_SECONDS)
        await end_sending(self._stream)

    async def _send_pending(self) -> None:
        while not self._send_buffer.is_empty:
            data = self._send_buffer.take()
            size = len(data)
            self._lifetime.on_write(trio.current_time())
            await self._stream.send_all(data)
            self._lifetime.on_written()
            self._send_buffer.sent(size)
            if self._unsent_to_ping > 0:
                self._unsent_to_ping -= size
                if self._unsent_to_ping <= 0:
                    self._lifetime.on_ping_sent(trio.current_time())
                    self._watchdog_sleep.cancel()

    # --- what the owner asks for ----------------------------------------------------------------------------------

    @property
    def can_open_stream(self) -> bool:
        """Whether the server allows one more stream."""
        return self._http2.can_open_stream

    def open_stream(self) -> int:
        """Opens a stream of a client; its headers come next. Raises TooManyStreams."""
        return self._http2.open_stream()

    def is_sendable(self, stream_id: int) -> bool:
        """Whether anything can be sent on a stream: neither it nor the connection is closed."""
        return not self._ended and self._http2.is_sendable(stream_id)

    def send_headers(self, stream_id: int, block: bytes, *, end_stream: bool) -> None:
        """Queues an encoded header block."""
        self._http2.send_headers(stream_id, block, end_stream=end_stream)

    def send_window(self, stream_id: int) -> int:
        """How many bytes of DATA the peer takes on a stream now."""
        return self._http2.send_window(stream_id)

    def can_send_now(self, stream_id: int, length: int) -> bool:
        """Whether so many bytes of DATA can be queued without waiting for anything."""
        return (
            not self._send_buffer.is_full
            and length <= QUANTUM
            and length <= self._http2.send_window(stream_id)
            and self.is_sendable(stream_id)
        )

    def send_now(self, stream_id: int, parts: Sequence[bytes]) -> None:
        """Queues DATA, where `can_send_now`."""
        self._http2.send_data(stream_id, parts, 0, sum(map(len, parts)))

    async def send(self, stream_id: int, parts: Sequence[bytes]) -> bool:
        """Queues DATA as the windows and the send buffer permit; False where the stream was closed before the end.

        A checkpoint.
        """
        offset, length = 0, sum(map(len, parts))
        while offset < length:
            if (count := await self._wait_to_send(stream_id, length - offset)) == 0:
                return False
            self._http2.send_data(stream_id, parts, offset, count)
            offset += count
        return True

    async def send_from(self, stream_id: int, source: DataSource) -> bool:
        """As `send`, with DATA that is read when it can be sent."""
        offset = 0
        while offset < source.length:
            if (count := await self._wait_to_send(stream_id, source.length - offset)) == 0:
                return False
            if self._http2.send_data_from(stream_id, count, partial(source.fill, offset)):
                offset += count
            else:
                await source.load(offset, QUANTUM)
        return True

    async def _wait_to_send(self, stream_id: int, wanted: int) -> int:
        """Waits until DATA may be queued on a stream: how many bytes, at most `wanted`; 0 where it was closed."""
        while True:
            await self._send_buffer.wait_until_sendable()
            if not self.is_sendable(stream_id):
                return 0
            if count := min(self._http2.send_window(stream_id), wanted, QUANTUM):
                return count
            waiter = self._window_waiters[stream_id] = trio.Event()
            try:
                await waiter.wait()
            finally:
                del self._window_waiters[stream_id]

    def end_stream(self, stream_id: int) -> None:
        """Queues END_STREAM."""
        self._http2.end_stream(stream_id)

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """Closes a stream; one that is closed already is left alone."""
        if not self._closing:
            self._http2.reset(stream_id, code)
        self._wake_senders(stream_id)

    def acknowledge(self, stream_id: int, length: int) -> None:
        """Returns the window of consumed DATA to the peer; for a closed stream, 0, that of the connection alone."""
        if length and not self._closing:
            self._http2.acknowledge(stream_id, length)

    def set_window_apart(self, stream_id: int, more: int) -> int:
        """Lets the peer send `more` bytes more on a stream before any are acknowledged, and reads in larger pieces then.

        The window of the connection grows by that of the stream, so that this takes nothing of it from other streams.

        Returns:
            what `take_window_back` is to be called with; 0 where the stream is closed.
        """
        added = 0 if self._closing else self._http2.set_window_apart(stream_id, more)
        if added and more:
            self._wide_streams += 1
            self._read_in_bulk()
        return added

    def take_window_back(self, added: int, more: int) -> None:
        """Ends what `set_window_apart` has begun."""
        self._http2.take_window_back(added)
        if added and more:
            self._wide_streams -= 1
            self._read_in_bulk()

    def _read_in_bulk(self) -> None:
        """As long as there are streams with a wide window: the buffer of each connection costs memory."""
        is_bulk = self._wide_streams > 0
        self._read_size = max(self._usual_read_size, BULK_READ_SIZE) if is_bulk else self._usual_read_size
        receive_bulk(self._stream, is_bulk=is_bulk)


async def refuse(stream: trio.abc.Stream, reason: str) -> None:
    """Tells a client that its connection is not served, by a GOAWAY with that reason; bounded in time."""
    with trio.move_on_after(FLUSH_SECONDS), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.send_all(frames.settings(()) + frames.goaway(0, ErrorCode.ENHANCE_YOUR_CALM, reason))
        await linger(stream)
