"""Limits on what a peer may send: fixed sizes, and rates of frames that cost us work and carry no request.

An honest peer never exceeds a rate. Frames that it sends in proportion to our own (window updates and bandwidth
probes for the DATA it receives, a reset that crosses our trailers) are credited by what was sent, or not counted.
Work that a peer causes by opening streams is bounded elsewhere, by the number of handlers that run.
"""

from __future__ import annotations

from typing import Final

from jobmaster.http2.errors import connection_error
from jobmaster.http2.frames import ErrorCode

MAX_SETTINGS: Final = 32
"""Entries of one SETTINGS frame; HTTP/2 defines six, and implementations add a few of their own."""
MAX_CONTINUATIONS: Final = 4
"""CONTINUATION frames of one header block."""
MAX_HEADER_BLOCK: Final = 32 * 1024
"""Bytes of a header block: twice the announced list size, so that a list that is too long fails its stream alone."""
RAPID_RESET_SECONDS: Final = 0.010
"""A stream that is reset by the peer within this time of its opening, before anything was sent on it, is counted."""


class RateLimit:
    """A token bucket: `burst` frames at once, `per_second` after that, and those that were credited.

    Credits do not expire, but at most `max_credit` of them are kept, so that a peer cannot save up a flood.
    """

    __slots__ = ("_burst", "_credit", "_level", "_max_credit", "_per_second", "_reason", "_updated")

    def __init__(self, reason: str, *, burst: int, per_second: float, max_credit: int = 0) -> None:
        """`reason` is the debug data of the GOAWAY."""
        self._reason = reason
        self._burst = burst
        self._per_second = per_second
        self._max_credit = max_credit
        self._credit = 0
        self._level = float(burst)
        self._updated: float | None = None

    def credit(self, count: int) -> None:
        """Allows `count` more frames."""
        self._credit = min(self._credit + count, self._max_credit)

    def count(self, now: float) -> None:
        """Counts one frame at `now` (seconds on any clock that does not go back).

        Raises:
            ProtocolViolation: ENHANCE_YOUR_CALM, where it exceeds the rate.
        """
        if self._credit:
            self._credit -= 1
            return
        elapsed = 0.0 if self._updated is None else max(0.0, now - self._updated)
        self._updated = now
        self._level = min(float(self._burst), self._level + elapsed * self._per_second)
        if self._level < 1.0:
            connection_error(ErrorCode.ENHANCE_YOUR_CALM, self._reason)
        self._level -= 1.0


class RateLimits:
    """The rate limits of one connection's peer."""

    __slots__ = (
        "empty_data",
        "ignored_frames",
        "oversized_lists",
        "pings",
        "resets",
        "settings",
        "settings_acks",
        "window_updates",
    )

    def __init__(self) -> None:
        # grpc-go adapts its window with up to twenty SETTINGS as it learns the bandwidth (seen: eight in a second).
        self.settings = RateLimit("too many SETTINGS frames", burst=32, per_second=10 / 60)
        self.settings_acks = RateLimit("too many SETTINGS acknowledgements", burst=10, per_second=10 / 60)
        # A keepalive PING comes every 10 s at most; a bandwidth probe at most once for each DATA frame received
        # (seen: grpc-go 2,600 a second while reading short messages). The text makes gRPC clients ping less.
        self.pings = RateLimit("too_many_pings", burst=60, per_second=1, max_credit=1000)
        # Counted: resets of streams just opened (rapid reset), and streams that the peer makes us reset. A peer that
        # cancels calls it has waited for, or has been sent something on, is not counted.
        self.resets = RateLimit("too many streams reset or broken", burst=100, per_second=100)
        # A reader returns window for the stream and for the connection, at worst for every DATA frame and again for
        # every message. At 1 GB/s that is 61,000 frames of 16 KiB a second, each of which credits four. grpcio also
        # sends up to four for each call, whatever its answer.
        self.window_updates = RateLimit("too many WINDOW_UPDATE frames", burst=1000, per_second=1000, max_credit=10_000)
        self.empty_data = RateLimit("too many empty DATA frames", burst=10, per_second=10 / 60)
        # Such a list fails its stream alone; but all of it had to be decoded, which for Huffman code takes 8 ms.
        self.oversized_lists = RateLimit("too many header lists that are too large", burst=10, per_second=10 / 60)
        # PRIORITY, GOAWAY, PING acknowledgements, extensions.
        self.ignored_frames = RateLimit("too many frames without effect", burst=100, per_second=100)

    def stream_opened(self) -> None:
        """By either side: the peer may adjust the stream's window and the connection's."""
        self.window_updates.credit(4)

    def data_sent(self, frames: int) -> None:
        """DATA frames were sent: the peer may probe the bandwidth and return window for each."""
        self.pings.credit(frames)
        self.window_updates.credit(4 * frames)

    def stream_ended(self) -> None:
        """END_STREAM was sent: the peer may probe and return window for that as well."""
        self.pings.credit(1)
        self.window_updates.credit(4)
