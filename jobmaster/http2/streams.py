"""The streams of an HTTP/2 connection and the flow-control windows of both directions (RFC 9113, 5.1 and 5.2).

Open streams are kept by their id. Of closed ones the last `REMEMBERED_CLOSED` are known by who closed them, so that a
frame that was under way at the time is told from one that violates the protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from jobmaster.http2 import frames
from jobmaster.http2.errors import connection_error
from jobmaster.http2.frames import ErrorCode

REMEMBERED_CLOSED: Final = 1024


class ClosedBy(Enum):
    """How a stream was closed: by END_STREAM of both sides, or by a RST_STREAM."""

    BOTH_ENDS = auto()
    OUR_RESET = auto()
    PEER_RESET = auto()


class Stream:
    """An open stream, or one that is half-closed.

    Attributes:
        send_window: bytes of DATA that the peer takes; negative where it took back some (RFC 9113, 6.9.2).
        receive_window: bytes of DATA that it may send.
        window: bytes of DATA that it may send before any are acknowledged.
        unacknowledged: bytes consumed of what it sent and not yet returned to `receive_window`.
        content_left: bytes of the announced content-length to come; None where none was announced.
        has_headers: the peer's message has begun.
        has_sent: something was sent on the stream from this side.
        opened_at: the time of the `receive` that opened it; of no meaning for a stream opened from this side.
    """

    __slots__ = (
        "content_left",
        "has_headers",
        "has_sent",
        "local_ended",
        "opened_at",
        "receive_window",
        "remote_ended",
        "send_window",
        "unacknowledged",
        "window",
    )

    def __init__(self, *, send_window: int, receive_window: int, opened_at: float) -> None:
        self.send_window = send_window
        self.receive_window = self.window = receive_window
        self.opened_at = opened_at
        self.unacknowledged = 0
        self.content_left: int | None = None
        self.has_headers = False
        self.has_sent = False
        self.remote_ended = False
        self.local_ended = False


class StreamTable:
    """All streams of one connection. `send` is called with the WINDOW_UPDATE frames that become due.

    Attributes:
        open: the streams that are not closed.
        highest: the id of the last stream that was opened, by whichever side opens them.
    """

    def __init__(self, *, stream_window: int, connection_window: int, send: Callable[[bytes], None]) -> None:
        self.open: dict[int, Stream] = {}
        self.highest = 0
        self._closed: dict[int, ClosedBy] = {}
        self._stream_window = stream_window
        self._connection_window = connection_window
        self._send = send
        self._receive_window = connection_window
        self._unacknowledged = 0
        self._to_withhold = 0
        """Bytes by which the connection's window is to become smaller."""
        self._send_window = frames.DEFAULT_WINDOW
        self._initial_send_window = frames.DEFAULT_WINDOW

    # --- streams --------------------------------------------------------------------------------------------------

    def add(self, stream_id: int, now: float = 0.0) -> Stream:
        """Opens a stream; its id is higher than that of any before."""
        self.highest = stream_id
        stream = self.open[stream_id] = Stream(
            send_window=self._initial_send_window, receive_window=self._stream_window, opened_at=now
        )
        return stream

    def end_remote(self, stream_id: int, stream: Stream) -> None:
        """The peer has sent END_STREAM."""
        stream.remote_ended = True
        if stream.local_ended:
            self._close(stream_id, ClosedBy.BOTH_ENDS)

    def end_local(self, stream_id: int, stream: Stream) -> None:
        """END_STREAM has been sent."""
        stream.local_ended = True
        if stream.remote_ended:
            self._close(stream_id, ClosedBy.BOTH_ENDS)

    def reset(self, stream_id: int, closed_by: ClosedBy) -> bool:
        """Closes a stream at once; False for one that was not open."""
        is_open = stream_id in self.open
        if is_open:
            self._close(stream_id, closed_by)
        elif closed_by is ClosedBy.PEER_RESET and stream_id in self._closed:
            self._closed[stream_id] = closed_by  # what follows cannot have been under way when we closed it
        return is_open

    def closed_by(self, stream_id: int) -> ClosedBy | None:
        """Who closed a stream that is not open; None where that is forgotten.

        Raises:
            ProtocolViolation: the stream has never been opened.
        """
        if stream_id % 2 == 0 or stream_id > self.highest:
            connection_error(ErrorCode.PROTOCOL_ERROR, "a frame for a stream that was never opened")
        return self._closed.get(stream_id)

    def _close(self, stream_id: int, closed_by: ClosedBy) -> None:
        del self.open[stream_id]
        self._closed[stream_id] = closed_by
        if len(self._closed) > REMEMBERED_CLOSED:
            del self._closed[next(iter(self._closed))]

    # --- receive windows ------------------------------------------------------------------------------------------

    def count_received(self, length: int) -> None:
        """Counts a DATA frame of any stream; raises ProtocolViolation where it exceeds the connection's window."""
        self._receive_window -= length
        if self._receive_window < 0:
            connection_error(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window")

    def acknowledge(self, stream_id: int, length: int) -> None:
        """Returns `length` consumed bytes to the windows, of the connection alone for stream 0.

        A WINDOW_UPDATE is sent once half of a window has been consumed.
        """
        withheld = min(self._to_withhold, length)
        self._to_withhold -= withheld
        self._unacknowledged += length - withheld
        if self._unacknowledged >= self._connection_window // 2:
            self._send(frames.window_update(0, self._unacknowledged))
            self._receive_window += self._unacknowledged
            self._unacknowledged = 0
        stream = self.open.get(stream_id)
        if stream is not None and not stream.remote_ended:
            stream.unacknowledged += length
            if stream.unacknowledged >= stream.window // 2:
                self._send(frames.window_update(stream_id, stream.unacknowledged))
                stream.receive_window += stream.unacknowledged
                stream.unacknowledged = 0

    def set_window_apart(self, stream_id: int, more: int) -> int:
        """Adds to a stream's window, and to the connection's as much as the stream's is then; once for a stream.

        So what is held up on that stream takes nothing of the connection's window from the other streams.

        Returns:
            what was added to the connection's window, for `take_window_back`; 0 for a stream that is closed.
        """
        stream = self.open.get(stream_id)
        if stream is None or stream.remote_ended:
            return 0
        stream.window += more
        stream.receive_window += more
        if more:
            self._send(frames.window_update(stream_id, more))
        given_back = min(self._to_withhold, stream.window)  # else the window of a client that comes and goes would grow
        self._to_withhold -= given_back
        if added := stream.window - given_back:
            self._receive_window += added
            self._send(frames.window_update(0, added))
        return stream.window

    def take_window_back(self, added: int) -> None:
        """Makes the connection's window smaller again. HTTP/2 has no frame for that: of what comes, so much is kept back."""
        self._to_withhold += added

    # --- send windows ---------------------------------------------------------------------------------------------

    def send_window(self, stream_id: int) -> int:
        """How many bytes of DATA may be sent on a stream now; 0 for one that is closed."""
        stream = self.open.get(stream_id)
        return max(0, min(self._send_window, stream.send_window)) if stream is not None else 0

    def count_sent(self, stream_id: int, length: int) -> None:
        """Counts DATA that is sent, at most `send_window`."""
        self.open[stream_id].send_window -= length
        self._send_window -= length

    def increment_connection_window(self, increment: int) -> None:
        """The peer's WINDOW_UPDATE on stream 0; raises ProtocolViolation where the window becomes too large."""
        self._send_window += increment
        if self._send_window > frames.LARGEST_WINDOW:
            connection_error(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond its largest size")

    def set_initial_window(self, window: int) -> None:
        """The peer's SETTINGS_INITIAL_WINDOW_SIZE, which changes the windows of open streams too.

        Raises:
            ProtocolViolation: a window becomes too large.
        """
        change, self._initial_send_window = window - self._initial_send_window, window
        for stream in self.open.values():
            stream.send_window += change
        if window > frames.LARGEST_WINDOW or any(
            stream.send_window > frames.LARGEST_WINDOW for stream in self.open.values()
        ):
            connection_error(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond its largest size")
