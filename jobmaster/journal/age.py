"""The time by which things grow old: the wall clock's, of which a step is no age. Pure.

A clock that is set ahead, by mistake or to mend one that was behind, makes everything look old at once, and a server that
was off for long cannot tell that from it. So age comes no faster than `CATCH_UP` times the time that is seen to pass, until
it has come up to the wall clock. A clock that is set back makes things young at once, which removes nothing.

How far it has come outlives the server; what is not stored when that dies is made up for again.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

CATCH_UP: Final = 24
"""A day in an hour: a clock that is set right within hours has cost at most days of what is kept; and after a time without a
server, or a suspended host, what is kept lags behind for a twenty-fourth of that."""
STORE_EVERY: Final = timedelta(minutes=20)
"""Less than what is made up for in a minute, so that servers that live no longer get on; one write of a page each."""


class AgeClock:
    """Tells the time by which things are old.

    Attributes:
        stored: how far the stored time is; None where there is none.
    """

    def __init__(self, reached: datetime | None, stored: datetime | None, now: float) -> None:
        """Goes on from where an earlier one was.

        Args:
            reached: how far that had come; None: what there is is as old as the wall clock says.
            stored: what is stored.
            now: a monotonic clock, in seconds.
        """
        self._reached = reached
        self._seen = now
        self.stored = stored

    def time(self, wall: datetime, now: float) -> datetime:
        """The time; never later than the wall clock's.

        Args:
            wall: the wall clock.
            now: the monotonic one.
        """
        passed, self._seen = timedelta(seconds=CATCH_UP * (now - self._seen)), now
        reached = wall if self._reached is None else self._reached
        self._reached = max(reached, min(wall, reached + passed))
        return min(wall, self._reached)

    def to_store(self) -> datetime | None:
        """How far it has come, where that is to be stored again; it counts as stored then, whether the disk takes it or not."""
        if self._reached is None or (self.stored is not None and self._reached - self.stored < STORE_EVERY):
            return None
        self.stored = self._reached
        return self._reached
