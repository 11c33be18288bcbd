"""What is left of jobs that have ended: processes that could not be killed or removed, which is tried again, and threads.

So is what the launcher knows of a job that nobody was told of, until the journal has its end.

A thread of this server is held up in the kernel by whoever has the lock of a job's pipe: by a writer that cannot be killed,
by a disk, or by another job, to which a pipe was passed on. A job that has ended can so cost a thread and its descriptors for
as long as that one lives. When the server dies, the next one is started after the last of its threads has come out
(`jobmaster.launcher`): none is left of those then.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from jobmaster.errors import HostError
from jobmaster.threads import LeftThreads, NoThread

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from jobmaster.job.identifier import JobId
    from jobmaster.run.execution import Execution

logger = logging.getLogger(__name__)

LEFTOVER_SECONDS: Final = 5.0
"""Between two tries to remove what a job left that could not be killed."""

LIFT_SECONDS: Final = 1.0
"""How long one may take to have its limits lifted, each time."""


@dataclass(frozen=True, slots=True, eq=False)
class _Leftover:
    job_id: JobId
    owner: str
    execution: Execution
    is_end_settled: Callable[[], bool]


class Leftovers:
    """Executions and threads of ended jobs, each with its owner.

    A job that has any takes the place of a running one, which bounds their number.
    """

    def __init__(self) -> None:
        self._executions: list[_Leftover] = []
        self._with_threads: dict[JobId, str] = {}
        """The owners of jobs with a thread that is left; a job that has not ended may be among them."""

    @property
    def executions(self) -> tuple[Execution, ...]:
        """Those that are left now."""
        return tuple(leftover.execution for leftover in self._executions)

    def of_clients(self, live: Container[JobId]) -> Counter[str]:
        """How many jobs of each client's there is something left of.

        Args:
            live: those that have not ended, which do not count.
        """
        owners = {leftover.job_id: leftover.owner for leftover in self._executions} | self._with_threads
        return Counter(owner for job_id, owner in owners.items() if job_id not in live)

    def threads_of(self, job_id: JobId, owner: str) -> LeftThreads:
        """Counts the threads that are left of a job."""
        return LeftThreads(
            on_first=partial(self._with_threads.__setitem__, job_id, owner),
            on_none=partial(self._with_threads.__delitem__, job_id),
        )

    def add(self, job_id: JobId, owner: str, execution: Execution, *, is_end_settled: Callable[[], bool]) -> None:
        """Takes over an execution whose supervisor could not remove or close it.

        Args:
            job_id: the job.
            owner: whose it was.
            execution: what is left of it.
            is_end_settled: whether the journal has its end by now; until then the launcher keeps what it knows, for a server
                that comes after this one.
        """
        self._executions.append(_Leftover(job_id, owner, execution, is_end_settled))

    async def keep_removing(self) -> NoReturn:
        """Tries again and again to kill, remove and close each, until cancelled."""
        while True:
            await trio.sleep(LEFTOVER_SECONDS)
            async with trio.open_nursery() as nursery:  # side by side: many may wait for a disk
                for leftover in tuple(self._executions):
                    nursery.start_soon(self._try_to_remove, leftover)

    async def _try_to_remove(self, leftover: _Leftover) -> None:
        if await _is_removed(leftover):
            self._executions.remove(leftover)


async def _is_removed(leftover: _Leftover) -> bool:
    execution = leftover.execution
    try:
        execution.kill()
        with trio.move_on_after(LIFT_SECONDS) as lifting:
            await execution.lift_limits()
        if lifting.cancelled_caught or not execution.remove() or not leftover.is_end_settled():
            return False
        await execution.close()
    except (HostError, OSError, NoThread) as error:
        logger.warning("a job that has ended cannot be removed: %s", error)
        return False
    return True
