"""The clock of the server's deadlines: time in which the server did not run does not count.

A server may be suspended for any time: by SIGSTOP, by the pause of its virtual machine, by a host that swaps. When it
goes on, what it waited for may have come long ago, and nobody has looked; a clock that had gone on would let deadlines
pass first, and the server would tell that something did not happen which did. So the clock stands still while the
event loop is late, and whatever has come is received before a deadline is taken for missed.

The loop is late where more real time has passed since the clock was last read than the loop was to sleep. It never
sleeps for more than half of the time to its next deadline, so that a suspension that ends shortly before that is seen
as well; and of a sleep that ended late, half of the time to the deadline counts all the same. Deadlines pass on a host
that is always late too: of two delays in a row the second counts, for `LATE_SECONDS`.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Final

import trio.abc

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

LATE_SECONDS: Final = 0.5
"""A delay of the loop that counts as time; ordinary ones on a busy host are shorter."""
SHORT_SECONDS: Final = 1.0
"""To a deadline that is no further away the loop sleeps at once."""
TOLD_SECONDS: Final = 5.0
"""A delay that the operator is told of."""


class RunningTimeClock(trio.abc.Clock):
    """A clock for `trio.run`, in seconds since it was started."""

    def __init__(self, real_time: Callable[[], float] = time.monotonic) -> None:
        """`real_time` tells seconds, of which differences alone count."""
        self._real_time = real_time
        self._read_at = self._not_counted = real_time()
        self._planned = 0.0
        """Until when the loop was to sleep, in seconds since the last reading."""
        self._asleep = 0.0
        """What of that counts however late the loop is: no deadline passes by it."""
        self._stood_still_at = -math.inf

    def start_clock(self) -> None:
        """Begins at zero."""
        self._read_at = self._not_counted = self._real_time()

    def current_time(self) -> float:
        """Seconds in which the loop ran, or slept as it was to."""
        now = self._real_time()
        elapsed, self._read_at = now - self._read_at, now
        planned, self._planned = self._planned, 0.0
        if elapsed > planned + LATE_SECONDS:
            asleep = min(planned, self._asleep)
            self._not_counted += elapsed - asleep - self._counted(now - elapsed - self._not_counted)
            if elapsed - planned >= TOLD_SECONDS:
                logger.warning("the server did not run for %.1f s, which delays its deadlines", elapsed - planned)
        return now - self._not_counted

    def _counted(self, before: float) -> float:
        """What a delay counts for that began at this time."""
        if before - self._stood_still_at < LATE_SECONDS:
            return LATE_SECONDS
        self._stood_still_at = before
        return 0.0

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Seconds until the deadline, or half of them."""
        left = max(0.0, deadline - self.current_time())
        self._asleep = left / 2
        self._planned = min(left, max(SHORT_SECONDS, left / 2))
        return self._planned
