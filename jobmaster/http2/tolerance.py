"""How often a peer may do what costs us and means little: the bounds that stop floods, written down in one place.

An honest peer never meets them. What it does more often the more we send (it answers our DATA with bandwidth probes
and window updates) is earned by what is sent.
"""

from __future__ import annotations

from typing import Final

from jobmaster.http2.allowance import Allowance
from jobmaster.http2.frames import ErrorCode
from jobmaster.http2.streams import fail

MAX_SETTINGS: Final = 32
"""Entries of one SETTINGS frame; HTTP/2 defines six, and peers add a few of their own."""
MAX_CONTINUATIONS: Final = 4
"""Frames that a header block goes on in."""
MAX_HEADER_BLOCK: Final = 32 * 1024
"""Bytes of a header block: twice the list that is announced, so that one too long is refused for itself alone."""


class Limit:
    """An allowance with what is said of a peer that overdraws it."""

    __slots__ = ("_allowance", "_reason")

    def __init__(self, reason: str, *, burst: int, per_second: float, earnable: int = 0) -> None:
        self._allowance = Allowance(burst=burst, per_second=per_second, earnable=earnable)
        self._reason = reason

    def spend(self, now: float) -> None:
        """Counts one frame; raises ProtocolViolation where it is one too many."""
        if not self._allowance.take(now):
            fail(ErrorCode.ENHANCE_YOUR_CALM, self._reason)

    def earn(self, count: int) -> None:
        """Grants `count` more."""
        self._allowance.earn(count)


class Tolerance:
    """What one peer may still do on one connection."""

    __slots__ = ("empty_data", "large_lists", "pings", "resets", "settings", "settings_acks", "talk", "window_updates")

    def __init__(self) -> None:
        # grpc-go adapts its window with up to twenty SETTINGS as it learns the bandwidth (seen: eight in a second).
        self.settings = Limit("too many SETTINGS frames", burst=32, per_second=10 / 60)
        self.settings_acks = Limit("too many SETTINGS acknowledgements", burst=10, per_second=10 / 60)
        # A keepalive PING comes every 10 s at most; a bandwidth probe at most once for each DATA frame received
        # (seen: grpc-go 2,600 a second while reading short messages). The text tells gRPC clients to ping less.
        self.pings = Limit("too_many_pings", burst=60, per_second=1, earnable=1000)
        # One for each stream that may be open at once, cancelled together, and each that ended well: a client whose
        # reset crosses our trailers does no harm.
        self.resets = Limit("too many streams reset or broken", burst=100, per_second=100 / 30, earnable=1000)
        # A reader gives window back for the stream and for the connection, at worst for every DATA frame and again
        # for every message. At 1 GB/s that is 61,000 frames of 16 KiB a second, each of which earns four.
        self.window_updates = Limit("too many WINDOW_UPDATE frames", burst=1000, per_second=1000, earnable=10_000)
        self.empty_data = Limit("too many empty DATA frames", burst=10, per_second=10 / 60)
        # Each is refused for itself; but all of it had to be decoded, which for Huffman code is 8 ms.
        self.large_lists = Limit("too many header lists that are too large", burst=10, per_second=10 / 60)
        self.talk = Limit("too many frames that say nothing", burst=100, per_second=100)

    def data_sent(self, frames: int) -> None:
        """DATA frames were sent: the peer may probe and give window back for each."""
        self.pings.earn(frames)
        self.window_updates.earn(4 * frames)

    def stream_finished(self) -> None:
        """A stream was ended in good order: a reset of it, under way, is not counted against the peer."""
        self.resets.earn(1)
