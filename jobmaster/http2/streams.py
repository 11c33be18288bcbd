"""The streams of an HTTP/2 connection and the windows of its flow control (RFC 9113, 5.1 and 5.2), as plain accounts.

Streams are what their owner keeps open; of those that have ended, the last `REMEMBERED_ENDS` are known by how they
did, so that a frame which was under way then is told from one that is out of order.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Final, NoReturn

from jobmaster.errors import TransportError
from jobmaster.http2 import frames
from jobmaster.http2.frames import ErrorCode

REMEMBERED_ENDS: Final = 1024


class ProtocolViolation(TransportError):
    """The peer broke HTTP/2 or a bound: the connection ends. `reason` is short ASCII text, fit for a GOAWAY."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def fail(code: ErrorCode, reason: str) -> NoReturn:
    """Ends the connection."""
    raise ProtocolViolation(code, reason)


class End(Enum):
    """How a stream ended."""

    BY_BOTH = auto()
    BY_US = auto()
    BY_PEER = auto()


class Stream:
    """A stream that has not ended in both directions.

    Attributes:
        send_left: bytes of DATA that the peer takes; negative where it took back some (RFC 9113, 6.9.2).
        receive_left: bytes of DATA that it may send.
        unreturned: bytes taken of what it sent, not yet given back to `receive_left`.
        content_left: bytes of the announced content-length to come; None where none was announced.
        has_headers: the peer's message has begun.
    """

    __slots__ = (
        "content_left",
        "has_headers",
        "local_ended",
        "receive_left",
        "remote_ended",
        "send_left",
        "unreturned",
    )

    def __init__(self, *, send_left: int, receive_left: int) -> None:
        self.send_left = send_left
        self.receive_left = receive_left
        self.unreturned = 0
        self.content_left: int | None = None
        self.has_headers = False
        self.remote_ended = False
        self.local_ended = False


class StreamTable:
    """All streams of one connection. `send` is handed the window updates that become due.

    Attributes:
        open: the streams that have not ended in both directions.
        highest: the last one that was opened, by whichever side opens them.
    """

    def __init__(self, *, stream_window: int, connection_window: int, send: Callable[[bytes], None]) -> None:
        self.open: dict[int, Stream] = {}
        self.highest = 0
        self._ends: dict[int, End] = {}
        self._stream_window = stream_window
        self._connection_window = connection_window
        self._send = send
        self._receive_left = connection_window
        self._unreturned = 0
        self._send_left = frames.DEFAULT_WINDOW
        self._initial_send_window = frames.DEFAULT_WINDOW

    # --- streams --------------------------------------------------------------------------------------------------

    def add(self, stream_id: int) -> Stream:
        """Opens a stream, the highest from now on."""
        self.highest = stream_id
        stream = self.open[stream_id] = Stream(send_left=self._initial_send_window, receive_left=self._stream_window)
        return stream

    def remote_end(self, stream_id: int, stream: Stream) -> None:
        """The peer has sent its last byte."""
        stream.remote_ended = True
        if stream.local_ended:
            self._end(stream_id, End.BY_BOTH)

    def local_end(self, stream_id: int, stream: Stream) -> None:
        """We have."""
        stream.local_ended = True
        if stream.remote_ended:
            self._end(stream_id, End.BY_BOTH)

    def reset(self, stream_id: int, end: End) -> bool:
        """Ends a stream in both directions; False for one that was not open."""
        is_open = stream_id in self.open
        if is_open:
            self._end(stream_id, end)
        elif end is End.BY_PEER and stream_id in self._ends:  # what follows cannot have been under way as we ended it
            self._ends[stream_id] = end
        return is_open

    def end_of(self, stream_id: int) -> End | None:
        """How a stream ended that is not open; None where that is forgotten, or it never was opened.

        Raises:
            ProtocolViolation: it is still to come.
        """
        if stream_id % 2 == 0 or stream_id > self.highest:
            fail(ErrorCode.PROTOCOL_ERROR, "a frame for a stream that was never opened")
        return self._ends.get(stream_id)

    def _end(self, stream_id: int, end: End) -> None:
        del self.open[stream_id]
        self._ends[stream_id] = end
        if len(self._ends) > REMEMBERED_ENDS:
            del self._ends[next(iter(self._ends))]

    # --- windows of what is received ------------------------------------------------------------------------------

    def received(self, length: int) -> None:
        """A DATA frame has come, of whatever stream; raises ProtocolViolation where the window is too small for it."""
        self._receive_left -= length
        if self._receive_left < 0:
            fail(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window")

    def hand_back(self, stream_id: int, length: int) -> None:
        """Gives `length` bytes of window back to the peer, in halves of the whole; stream 0 is the connection alone."""
        self._unreturned += length
        if self._unreturned >= self._connection_window // 2:
            self._send(frames.window_update(0, self._unreturned))
            self._receive_left += self._unreturned
            self._unreturned = 0
        stream = self.open.get(stream_id)
        if stream is not None and not stream.remote_ended:
            stream.unreturned += length
            if stream.unreturned >= self._stream_window // 2:
                self._send(frames.window_update(stream_id, stream.unreturned))
                stream.receive_left += stream.unreturned
                stream.unreturned = 0

    # --- windows of what is sent ----------------------------------------------------------------------------------

    def send_window(self, stream_id: int) -> int:
        """How many bytes of DATA the peer takes on a stream now; 0 for one that is over."""
        stream = self.open.get(stream_id)
        return max(0, min(self._send_left, stream.send_left)) if stream is not None else 0

    def sent(self, stream_id: int, length: int) -> None:
        """DATA is sent, at most `send_window`."""
        self.open[stream_id].send_left -= length
        self._send_left -= length

    def widen(self, increment: int) -> None:
        """The peer takes more on the connection; raises ProtocolViolation where that is too much."""
        self._send_left += increment
        if self._send_left > frames.LARGEST_WINDOW:
            fail(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond its largest size")

    def begin_with(self, window: int) -> None:
        """The peer sets what streams begin with, those that are open included.

        Raises:
            ProtocolViolation: no window may be so large.
        """
        change, self._initial_send_window = window - self._initial_send_window, window
        for stream in self.open.values():
            stream.send_left += change
        if window > frames.LARGEST_WINDOW or any(
            stream.send_left > frames.LARGEST_WINDOW for stream in self.open.values()
        ):
            fail(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond its largest size")
