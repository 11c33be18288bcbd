"""When a server that has ended is followed by another one, and when its jobs are ended instead. Pure.

A server that was ready and has died is a crash: the next one is started at once, and `max_crashes` of them within
`CRASH_WINDOW` are too many. One that ended before it was ready is tried again after pauses that grow; only the time
without a server that is ready bounds that. One that was ready and handed its jobs over did so because somebody asked for
it: it is followed at once, and is no crash, however many there are. Who asks is what bounds them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

CRASH_WINDOW: Final = 300.0
FIRST_PAUSE: Final = 0.1
LAST_PAUSE: Final = 10.0
MOST_GRACE: Final = 10
"""Of a longer grace period, what jobs get where no server ends them: with the 55 s that such a server may take to fail
(`launcher.servers`) less than the 90 s that a service manager waits."""


class Next(NamedTuple):
    """Another server is to be started, after this many seconds."""

    pause: float


class GiveUp(NamedTuple):
    """The jobs are to be ended; why, for people."""

    why: str


class Succession:
    """Decides; is told what happens, with the time (monotonic, seconds) at which it did.

    Attributes:
        has_begun: a server has been ready, so that jobs outlive servers from now on.
        is_stopping: a server was told to end the jobs, so that no more than that is asked of the next.
        gap_since: since when no server is ready; None while one is.
        grace: seconds that the jobs have between SIGTERM and SIGKILL where no server ends them.
    """

    def __init__(self) -> None:
        self.has_begun = False
        self.is_stopping = False
        self.gap_since: float | None = None
        self.max_gap = 0
        self.max_crashes = 0
        self.grace = MOST_GRACE
        self.crashes: list[float] = []
        self.pause = FIRST_PAUSE
        self.ready_since = 0.0  # for earlier programs that replace this one, which want it of a snapshot

    def on_ready(self, now: float, *, max_gap: int, max_crashes: int, grace: int = MOST_GRACE) -> None:
        """A server is ready, and has these bounds."""
        self.has_begun = True
        self.gap_since = None
        self.ready_since = now
        self.max_gap = max_gap
        self.max_crashes = max_crashes
        self.grace = min(grace, MOST_GRACE)

    def on_silence(self, now: float) -> float:
        """Nobody serves any more; returns when the jobs are ended if that stays so."""
        if self.gap_since is None:
            self.gap_since = now
        return self.gap_since + self.max_gap

    def on_suspended(self, seconds: float) -> None:
        """Nothing ran on this host for so long: a gap has not lasted for that time."""
        if self.gap_since is not None:
            self.gap_since += seconds

    def is_gap_too_long(self, now: float) -> bool:
        """Whether there has been no server for too long."""
        return self.gap_since is not None and now >= self.gap_since + self.max_gap

    def on_end(self, now: float, *, was_ready: bool, handed_over: bool, was_to_stop: bool = False) -> Next | GiveUp:
        """A server has ended without farewell; `has_begun` by then.

        Args:
            now: the time.
            was_ready: it has said that it was ready.
            handed_over: it has said that it ends on purpose.
            was_to_stop: it was started to end the jobs.
        """
        self.on_silence(now)
        if was_ready and handed_over:
            self.pause = FIRST_PAUSE
            return Next(0.0)
        if was_ready:
            self.crashes = [at for at in self.crashes if at > now - CRASH_WINDOW] + [now]
            self.pause = FIRST_PAUSE
            if len(self.crashes) >= self.max_crashes:
                return GiveUp(f"the server has died {len(self.crashes)} times in {CRASH_WINDOW:g} s (--max-crashes)")
            return Next(0.0)
        if self.is_stopping:
            return GiveUp("the server that was to end the jobs has failed") if was_to_stop else Next(0.0)
        if self.is_gap_too_long(now):
            return GiveUp(self.gap_text())
        pause, self.pause = self.pause, min(2 * self.pause, LAST_PAUSE)
        return Next(pause)

    def gap_text(self) -> str:
        """What is said when the gap is too long."""
        return f"no server has been ready for {self.max_gap} s (--max-gap)"
