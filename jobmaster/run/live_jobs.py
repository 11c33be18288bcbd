"""The jobs that have not ended, and who may start one more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from jobmaster.run.quotas import StartRates

if TYPE_CHECKING:
    from jobmaster.job.identifier import JobId
    from jobmaster.job.specification import JobSpecification
    from jobmaster.run.bounds import Bounds
    from jobmaster.run.leftovers import Leftovers
    from jobmaster.run.supervisor import Supervisor
    from jobmaster.threads import LeftThreads


@dataclass(slots=True, eq=False)
class LiveJob:
    """A job that has not ended.

    Attributes:
        specification: until the command is on its way: its arguments may be large, and the job may run for days.
        scope: of its task; cancelled to give it up.
        admitted: awaited before its launch is recorded; until then. None where there is nothing to await.
        supervisor: None until its execution is there.
        is_to_be_found: its caller has its id, or finds it by its request id.
        is_given_up: its caller has left, and neither has its id nor can find it.
    """

    owner: str
    specification: JobSpecification | None
    scope: trio.CancelScope
    admitted: Callable[[], Awaitable[None]] | None = None
    supervisor: Supervisor | None = None
    is_to_be_found: bool = False
    is_given_up: bool = False

    async def wait_admitted(self) -> None:
        """Awaits what is to be awaited before its launch is recorded; raises whatever that does."""
        admitted, self.admitted = self.admitted, None
        if admitted is not None:
            await admitted()

    def give_up(self) -> None:
        """Its caller has left: nobody was told of it, nor will be."""
        self.is_given_up = True
        if self.supervisor is not None:
            self.supervisor.give_up()
        self.scope.cancel()

    def leave(self) -> None:
        """Leaves it to the next server; where nobody would find it there, it is given up."""
        if self.is_to_be_found:
            self.scope.cancel()
        else:
            self.give_up()


class LiveJobs:
    """Those jobs by id, within the bounds on their number."""

    def __init__(self, bounds: Bounds, leftovers: Leftovers) -> None:
        self._bounds = bounds
        self._rates = StartRates(bounds.quotas)
        self._leftovers = leftovers
        self._jobs: dict[JobId, LiveJob] = {}
        self._of_client: Counter[str] = Counter()
        self._starts = 0
        self._change = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job_id: JobId) -> bool:
        return job_id in self._jobs

    def get(self, job_id: JobId) -> LiveJob | None:
        """The job called so, where it has not ended."""
        return self._jobs.get(job_id)

    def count_of(self, owner: str) -> int:
        """How many one client has."""
        return self._of_client[owner]

    def all(self) -> tuple[LiveJob, ...]:
        """All of them now."""
        return tuple(self._jobs.values())

    def admit(self, owner: str) -> None:
        """Returns where `owner` may start one more.

        Raises:
            ServerBusy: there are as many as may be.
        """
        left = self._leftovers.of_clients(self._jobs)
        self._bounds.admit(
            owner,
            running=len(self._jobs),
            of_owner=self._of_client[owner],
            left=left.total(),
            left_of_owner=left[owner],
        )

    def most_of(self, owner: str) -> int:
        """How many one client may have."""
        return self._bounds.running_of(owner)

    def count_start(self, owner: str) -> None:
        """Counts a Start of `owner` towards its rate.

        Raises:
            StartRateExceeded: there were too many.
        """
        self._rates.take(owner, trio.current_time())

    def uncount_start(self, owner: str) -> None:
        """One that was counted has found the job of its request."""
        self._rates.give_back(owner)

    def take_up(self, bounds: Bounds) -> None:
        """Has other bounds from now on; no job ends of it."""
        self._bounds = bounds
        self._rates.take_up(bounds.quotas)

    def add(self, job_id: JobId, live: LiveJob) -> None:
        """A job is started or adopted."""
        self._jobs[job_id] = live
        self._of_client[live.owner] += 1

    def left_threads(self, job_id: JobId, owner: str) -> LeftThreads:
        """For the threads of a job that are left when it has ended: as long as there is one, the job has its place."""
        return self._leftovers.threads_of(job_id, owner)

    def retire(self, job_id: JobId) -> LiveJob | None:
        """The job called so has ended, or another server goes on with it. None where that is known already."""
        live = self._jobs.pop(job_id, None)
        if live is None:
            return None
        self._of_client[live.owner] -= 1
        supervisor = live.supervisor
        if supervisor is not None and not supervisor.is_handed_over and not supervisor.leaves_nothing:
            is_settled = supervisor.is_end_settled
            self._leftovers.add(job_id, live.owner, supervisor.execution, is_end_settled=is_settled)
        self._change.unpark_all()
        return live

    @contextmanager
    def start_under_way(self) -> Iterator[None]:
        """For the time in which a caller of Start waits."""
        self._starts += 1
        try:
            yield
        finally:
            self._starts -= 1
            self._change.unpark_all()

    async def wait_no_start_under_way(self) -> None:
        """Returns when every Start has come to its end."""
        while self._starts:
            await self._change.park()

    async def wait_none(self) -> None:
        """Returns when there is no such job any more."""
        while self._jobs:
            await self._change.park()
