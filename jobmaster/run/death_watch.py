"""How a job's main process dies, and whom the kernel's OOM killer hits meanwhile.

memory.events counts OOM kills, not whom they hit. A count that has risen is held against the main process only until
that is seen to live on: at the first look at which it neither has died nor is dying (by a SIGKILL of which it has not
died yet), the kill was another's. That is so for kills between two servers as well: of a job that is adopted, the counters are
looked at once, whether they have changed since or not.

Whose limit a kill was for is told by the counts of limits that were met: against those as of the last look at which no kill was
held against the main process.
"""

from __future__ import annotations

import math
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import trio

from jobmaster.errors import HostError
from jobmaster.job.cause import Death, Signalled, StopOrder
from jobmaster.job.memory import limit_killed_for
from jobmaster.job.state import KillSent, MainProcessDied, StopOrdered
from jobmaster.run.execution import age_of

if TYPE_CHECKING:
    from jobmaster.job.memory import LimitsMet, OomLimit
    from jobmaster.run.execution import Execution
    from jobmaster.run.live_record import LiveRecord

SETTLE_SECONDS: Final = 0.1
"""Between an OOM kill and the look whether the main process lives on."""
RECORD_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 60.0
"""Between two records of OOM kills that the main process lives on after: each pause is twice as long as the one before, up to
the longest, as between two records of lost output. The record has the count at once, and a server that adopts the job, too."""

_TOO_LATE: Final = "its command was executed too late for its start"


class DeathWatch:
    """Looks at the main process and at memory.events of one job, and applies what it sees to the record."""

    def __init__(self, record: LiveRecord, execution: Execution) -> None:
        self._record = record
        self._execution = execution
        self._memory_changed = trio.Event()
        self._others_oom_kills = record.oom_kills = max(record.oom_kills, execution.kept_oom_kills())
        self._limits_met_before = execution.limits_met_at_first()
        self._unknown_because = ""

    # --- the main process ---------------------------------------------------------------------------------------------

    def has_died(self) -> bool:
        """Whether the main process has died, as far as can be seen."""
        has_died = False
        with self._record.failures_logged("looking at its main process"):
            has_died = self._execution.has_died()
        return has_died  # noqa: RET504  # a failure that is logged leaves it as it was

    async def see_death(self) -> None:
        """Waits until the main process has died and applies how, or until it is sure that nobody will know."""
        try:
            death = await self._execution.wait_death()
        except (HostError, OSError) as error:
            self._unknown_because = str(error)
            if self._execution.was_executed():
                self._record.take_for_executed()
            return
        kills = self._oom_kills()
        is_for_memory = kills > self._others_oom_kills
        if not self._record.was_executed and self._execution.was_executed():
            self._note_late_execution(death, is_for_memory=is_for_memory)
        limit = self._limit_killed_for() if is_for_memory else None
        age = age_of(self._execution) if self._record.now.paused else None
        self._record.apply(MainProcessDied(death=death, killed_for_memory=is_for_memory, oom_limit=limit, age=age))
        self._record.oom_kills = kills
        self._record.note_oom_kills()

    def _note_late_execution(self, death: Death, *, is_for_memory: bool) -> None:
        """The command was executed while its start was being given up, and killed for that unless the kernel did it."""
        self._record.note_executed()
        if death == Signalled(signal.SIGKILL) and not is_for_memory:
            self._record.apply(StopOrdered(order=self._record.early_order or too_late()))
            self._record.apply(KillSent())

    def why_unknown(self) -> str:
        """Why it is not known how the main process died, where it is not."""
        if self._unknown_because:
            return self._unknown_because
        if self.has_died():
            return "its main process died, but nobody told how"
        return "its main process did not die when it was killed"

    # --- memory.events ------------------------------------------------------------------------------------------------

    def memory_has_changed(self) -> None:
        """Says that the counters of memory.events are not what they were."""
        self._memory_changed.set()

    async def watch_memory(self) -> None:
        """Counts OOM kills that the main process lives on after, each time that the counters have changed.

        The first is recorded at once, later ones together, ever more rarely.
        """
        pause, next_record = RECORD_PAUSE_SECONDS, -math.inf
        while True:
            with trio.CancelScope(deadline=next_record if self._record.has_oom_kills_to_note else math.inf):
                await self._memory_changed.wait()
            self._memory_changed = trio.Event()
            kills, met = self._oom_kills(), self._limits_met()
            await trio.sleep(SETTLE_SECONDS)
            with self._record.failures_logged("looking whether its main process is dying"):
                if kills > self._others_oom_kills and not self._execution.is_dying():
                    self._others_oom_kills = self._record.oom_kills = kills
                    self._execution.keep_oom_kills(kills)
                is_news = met is not None and met != self._limits_met_before
                if is_news and self._oom_kills() == self._others_oom_kills:
                    self._limits_met_before = met
            if self._record.has_oom_kills_to_note and trio.current_time() >= next_record:
                self._record.note_oom_kills()
                next_record = trio.current_time() + pause
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def note_oom_kills(self) -> None:
        """Records how many there have been until now."""
        self._record.oom_kills = self._oom_kills()
        self._record.note_oom_kills()

    def _limit_killed_for(self) -> OomLimit | None:
        met = self._limits_met(at_once=True)
        return None if met is None else limit_killed_for(self._limits_met_before, met)

    def _limits_met(self, *, at_once: bool = False) -> LimitsMet | None:
        met: LimitsMet | None = None
        with self._record.failures_logged("looking whose memory limit was met"):
            met = self._execution.limits_met(at_once=at_once)
        return met  # noqa: RET504  # a failure that is logged leaves it as it was

    def _oom_kills(self) -> int:
        kills = 0
        with self._record.failures_logged("reading memory.events"):
            kills = self._execution.oom_kills()
        return max(kills, self._record.oom_kills)


def too_late() -> StopOrder:
    """What ends a job whose command is executed when its start was given up."""
    return StopOrder(by="", requested_at=datetime.now(UTC), reason=_TOO_LATE)
