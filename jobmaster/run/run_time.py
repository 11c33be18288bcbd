"""How a job is kept from running for longer than it may: a warning, where it is asked for, and then a stop order.

The time is that since the main process was started, by the kernel's clock of the time since boot: it goes on while no
server is there and while the host is suspended, and nobody sets it. A server that comes late does late what was due.
While the job is paused its time stands still, also where no server is there: the events of a pause have the main process's
age. A pause whose age nobody knows, of an older server's, counts as any time.

Of a warning the journal is told before it is sent, so that a job that dies of it is not told to have died of a stranger's
signal; and it is sent once at most, whatever becomes of the server. A journal whose disk does not answer delays it for a
moment.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import trio

from jobmaster.job.state import Running, RunTimeWarned

if TYPE_CHECKING:
    from jobmaster.job.run_time import RunTime
    from jobmaster.run.execution import Execution
    from jobmaster.run.live_record import LiveRecord
    from jobmaster.run.termination import Termination

LOOK_SECONDS: Final = 60.0
"""Between two looks at the time since boot: Trio's clock stands still while the host is suspended. So late is a job ended
after that, at most; and a thousand jobs wake the server seventeen times a second."""
PRECISION_SECONDS: Final = 0.001
"""Of what is asked for; sleeping for less may be no time at all on Trio's clock."""
WARNING_SECONDS: Final = 1.0
"""How long the journal may take to know of a warning before it is sent all the same."""


class RunTimeLimit:
    """The run time of one job."""

    def __init__(self, run_time: RunTime, record: LiveRecord, execution: Execution, termination: Termination) -> None:
        self._run_time = run_time
        self._record = record
        self._execution = execution
        self._termination = termination

    async def enforce(self) -> None:
        """Warns the job, and orders its end, when it is time; returns then."""
        warn_after = self._run_time.warn_after_seconds
        if warn_after is not None:
            await self._wait(warn_after)
            if not self._is_over():
                await self._warn()
        await self._wait(self._run_time.seconds)
        self._termination.order(None, for_run_time=True)

    def _is_over(self) -> bool:
        return self._run_seconds() >= self._run_time.seconds

    def _run_seconds(self) -> float:
        return self._record.now.run_seconds(self._execution.age())

    async def _wait(self, seconds: float) -> None:
        """Returns when the job has run for as long as that."""
        while (left := seconds - self._run_seconds()) > 0:
            stands_still = self._record.now.paused_at_age is not None
            with trio.move_on_after(math.inf if stands_still else min(max(left, PRECISION_SECONDS), LOOK_SECONDS)):
                await self._record.pausing_changes.wait()

    async def _warn(self) -> None:
        state, number = self._record.state, self._run_time.warn_signal
        if not isinstance(state, Running) or state.warned_by:
            return
        self._record.apply(RunTimeWarned(signal=number))
        try:
            with trio.move_on_after(WARNING_SECONDS):
                await self._record.settle()
        finally:  # also where the job is handed over meanwhile: the next server finds that it is warned
            if isinstance(self._record.state, Running):
                with self._record.failures_logged("warning it"):
                    self._execution.signal_main(number)
