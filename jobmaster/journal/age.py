"""The time by which things grow old: that in which servers of the journal ran. Pure.

The end of a job and the removal of one are stamped with it, and it is compared with itself alone. So a wall clock that is
wrong, in either direction and for however long, and one that is set right make nothing older or younger. The price: while
there is no server, or the host is suspended, nothing grows old, and is kept for so much longer.

In a journal of an older version, which stamped with the wall clock, it begins at the last event, or now where that is
earlier: where one of both is ahead, nothing is removed for it. It is stored from time to time; what a server that dies has
not stored is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

STORE_EVERY: Final = timedelta(minutes=5)
"""One write of a page each; servers that live no longer than this make nothing old, which `--keep-jobs` bounds all the same."""


class AgeClock:
    """Tells the time by which things are old. To be used by one thread at a time."""

    def __init__(self, begin: datetime, *, is_stored: bool, seconds: Callable[[], float] = time.monotonic) -> None:
        """Goes on from where an earlier one was.

        Args:
            begin: how far that had come.
            is_stored: whether `begin` is stored.
            seconds: a monotonic clock, which a suspended host stops.
        """
        self._begin = begin
        self._stored = begin if is_stored else None
        self._seconds = seconds
        self._began = seconds()

    def now(self) -> datetime:
        """The time; it never goes back."""
        return self._begin + timedelta(seconds=self._seconds() - self._began)

    def to_store(self) -> datetime | None:
        """The time, where it is to be stored again; it counts as stored then, whether the disk takes it or not."""
        now = self.now()
        if self._stored is not None and now - self._stored < STORE_EVERY:
            return None
        self._stored = now
        return now
