"""One HTTP/2 connection on a Trio stream: what the server's and the client's side have in common.

Theory of operation
-------------------
Two tasks own the socket. The *reader* takes bytes, lets h2 turn them into events and applies each event without
awaiting, so that a reset, a window update or a ping is never stuck behind a slow handler. The *writer* sends what
has been queued, `WRITE_SIZE` at a time. Everything else is synchronous state changed by whoever runs.

Back-pressure has three parts, all bounded:

* a *sender* (a handler with a message) queues at most one DATA frame, and only while fewer than `HIGH_WATER` bytes
  are queued; then it waits for the writer. Each `send_bytes` is a checkpoint even when nothing blocks;
* a *reader* stops reading while more than `CONTROL_LIMIT` bytes are queued: a peer that makes us answer (pings,
  settings) and does not take the answers stops itself;
* a *peer* is handed flow-control window only for bytes of unfinished messages and of messages that a handler has
  taken, so undelivered input stays below the window.

The writer closes the connection when the peer takes nothing for `STALL_SECONDS`.

The connection ends by one way: `run` returns (peer gone, protocol broken, or `close_when_written`) and every stream
still open is told by `_on_end`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import trio

from jobmaster.transport.framing import MessageCompressed, MessageTooLarge

if TYPE_CHECKING:
    from jobmaster.transport.headers import Header
    from jobmaster.transport.stream import GrpcStream

logger = logging.getLogger(__name__)

HIGH_WATER: Final = 256 * 1024
"""Bytes queued for the peer above which senders wait."""
CONTROL_LIMIT: Final = 1024 * 1024
"""Bytes queued for the peer above which nothing more is read from it."""
WRITE_SIZE: Final = 64 * 1024
"""Bytes handed to TLS in one go."""
STALL_SECONDS: Final = 30.0
"""How long a peer may take none of `WRITE_SIZE` bytes before it is given up."""
READ_SIZE: Final = 64 * 1024
MAX_FRAME_SIZE: Final = 16 * 1024
MAX_HEADER_LIST_SIZE: Final = 16 * 1024
MAX_CONCURRENT_STREAMS: Final = 100
PREFACE_SECONDS: Final = 10.0
"""How long a peer may take for its preface and its first SETTINGS."""


class PatientH2Connection(h2.connection.H2Connection):  # type: ignore[misc]  # h2 ships no types
    """h2 3.2 without two habits that end calls which could go on.

    A WINDOW_UPDATE for a finished stream, which a fast reader sends rightly, is a connection error to h2; and a GOAWAY
    makes it refuse every later frame, though open streams may finish (RFC 9113, 6.8).
    """

    def _receive_window_update_frame(self, frame: Any) -> tuple[list[Any], list[Any]]:
        try:
            result: tuple[list[Any], list[Any]] = super()._receive_window_update_frame(frame)
        except h2.exceptions.StreamClosedError:
            return [], []
        return result

    def _receive_goaway_frame(self, frame: Any) -> tuple[list[Any], list[Any]]:
        event = h2.events.ConnectionTerminated()
        event.error_code = frame.error_code
        event.last_stream_id = frame.last_stream_id
        event.additional_data = frame.additional_data or None
        return [], [event]


class Http2Connection(ABC):
    """The shared half of both sides: reader, writer, queue, windows. See the module's theory of operation."""

    def __init__(self, wire: trio.abc.Stream, *, client_side: bool, stream_window: int, connection_window: int) -> None:
        self._wire = wire
        self._h2 = PatientH2Connection(h2.config.H2Configuration(client_side=client_side, header_encoding=None))
        self._connection_window = connection_window
        self._configure(client_side=client_side, stream_window=stream_window)
        self._streams: dict[int, GrpcStream] = {}
        self._queue = bytearray()
        self._queued_or_sending = 0
        self._work_for_writer = trio.Event()
        self._room = trio.lowlevel.ParkingLot()
        self._settings_received = trio.Event()
        self._closing = False

    def _configure(self, *, client_side: bool, stream_window: int) -> None:
        codes = h2.settings.SettingCodes
        self._h2.local_settings = h2.settings.Settings(
            client=client_side,
            initial_values={
                codes.MAX_CONCURRENT_STREAMS: MAX_CONCURRENT_STREAMS,
                codes.INITIAL_WINDOW_SIZE: stream_window,
                codes.MAX_FRAME_SIZE: MAX_FRAME_SIZE,
                codes.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST_SIZE,
                codes.ENABLE_PUSH: 0,
            },
        )
        self._h2.max_inbound_frame_size = MAX_FRAME_SIZE
        self._h2.decoder.max_header_list_size = MAX_HEADER_LIST_SIZE

    # --- life -----------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves the connection until it ends; returns also when the peer vanished or broke the protocol."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._h2.initiate_connection()
                default_window = 65_535  # RFC 9113, 6.9.2
                self._h2.increment_flow_control_window(self._connection_window - default_window)
                self._flush()
                nursery.start_soon(self._write)
                nursery.start_soon(self._expect_settings)
                task_status.started()
                await self._read()
                self._end_streams()
                await self._write_rest()
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

    async def _expect_settings(self) -> None:
        with trio.move_on_after(PREFACE_SECONDS) as scope:
            await self._settings_received.wait()
        if scope.cancelled_caught:
            logger.info("peer sent no HTTP/2 settings within %d s", PREFACE_SECONDS)
            self._nursery.cancel_scope.cancel()

    async def _write_rest(self) -> None:
        """Gives the peer a moment to take what is queued (a GOAWAY says why it is being closed)."""
        with trio.move_on_after(1.0):
            while self._queued_or_sending:
                await self._room.park()

    # --- reading --------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            try:
                data = await self._wire.receive_some(READ_SIZE)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._on_broken_wire(error)
                return
            if not data:
                return
            if not self._receive(bytes(data)):
                return
            while self._queued_or_sending > CONTROL_LIMIT:
                await self._room.park()

    def _receive(self, data: bytes) -> bool:
        """Applies received bytes; False when the peer broke the protocol and the connection has to end."""
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            logger.info("peer broke HTTP/2: %s", type(error).__name__)
            self._flush()
            return False
        except Exception:  # h2 3.2 lets IndexError and others out on malformed header blocks
            logger.info("peer sent what h2 cannot parse", exc_info=True)
            self._h2.close_connection(h2.errors.ErrorCodes.PROTOCOL_ERROR)
            self._flush()
            return False
        for event in events:
            self._apply(event)
        self._flush()
        return True

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
                if (stream := self._streams.pop(event.stream_id, None)) is not None:
                    stream.on_reset(event.error_code)
            case h2.events.RemoteSettingsChanged():
                self._settings_received.set()
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
        except trio.TooSlowError:
            logger.info("peer took nothing for %d s", STALL_SECONDS)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._on_broken_wire(error)
        self._nursery.cancel_scope.cancel()

    async def _write_once(self) -> None:
        chunk = bytes(self._queue[:WRITE_SIZE])
        del self._queue[:WRITE_SIZE]
        with trio.fail_after(STALL_SECONDS):
            await self._wire.send_all(chunk)
        self._queued_or_sending -= len(chunk)
        self._room.unpark_all()

    def _flush(self) -> None:
        """Moves what h2 has produced into the queue and wakes the writer."""
        data = self._h2.data_to_send()
        if data:
            self._queue_bytes(data)

    def _queue_bytes(self, data: bytes) -> None:
        self._queue += data
        self._queued_or_sending += len(data)
        self._work_for_writer.set()

    # --- what streams ask for -------------------------------------------------------------------------------------

    async def wait_for_room(self) -> None:
        """Waits until a sender may queue a frame. Always a checkpoint."""
        await trio.lowlevel.checkpoint()
        while self._queued_or_sending >= HIGH_WATER:
            await self._room.park()

    def send_window(self, stream_id: int) -> int:
        """How many bytes of DATA the peer takes on the stream in one frame now."""
        try:
            window: int = self._h2.local_flow_control_window(stream_id)
        except h2.exceptions.ProtocolError:
            return 0
        frame: int = self._h2.max_outbound_frame_size
        return min(window, frame, MAX_FRAME_SIZE)

    def send_headers(self, stream_id: int, headers: Iterable[Header], *, end_stream: bool) -> None:
        """Queues a header block."""
        self._h2.send_headers(stream_id, list(headers), end_stream=end_stream)
        self._flush()

    def send_data(self, stream_id: int, data: bytes, *, end_stream: bool = False) -> None:
        """Queues one DATA frame; `data` must fit `send_window`."""
        self._h2.send_data(stream_id, data, end_stream=end_stream)
        self._flush()

    def reset(self, stream_id: int, code: h2.errors.ErrorCodes) -> None:
        """Ends a stream in both directions at once; a stream that is already gone is left alone."""
        self._streams.pop(stream_id, None)
        if self._closing:
            return
        try:
            self._h2.reset_stream(stream_id, code)
        except h2.exceptions.ProtocolError:
            return
        self._flush()

    def forget(self, stream_id: int) -> None:
        """Drops a stream that has ended in both directions."""
        self._streams.pop(stream_id, None)

    def acknowledge(self, stream_id: int, length: int) -> None:
        """Hands `length` bytes of flow-control window back to the peer."""
        if not length or self._closing:
            return
        try:
            self._h2.acknowledge_received_data(length, stream_id)
        except h2.exceptions.ProtocolError:
            return
        self._flush()
