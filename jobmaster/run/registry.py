"""The set of jobs: who may start one, who may see one, what is kept of the ended ones, and in which order they end.

The registry owns a nursery for its jobs that outlives every connection: a job belongs to the server, not to the call
that started it. A running job is a supervisor; an ended one is a record and a file.

A Start that its caller gives up leaves nothing: until the command is executed, its task is the caller's to cancel; the
instant after, the registry ends the job and forgets it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

import trio

from jobmaster.errors import HostError, JobNotFound, ServerBusy, ServerDraining
from jobmaster.identity.policy import Identity, may_touch
from jobmaster.job.cause import FailedToStart
from jobmaster.job.identifier import JobId, new_job_id, parse_job_id
from jobmaster.job.record import JobRecord
from jobmaster.job.specification import CommandLine, JobSpecification
from jobmaster.job.state import Ended, Held
from jobmaster.output.log import StoredOutput
from jobmaster.run.execution import Execution, ExecutionHost
from jobmaster.run.removal import LAST_SECONDS, FileRemover
from jobmaster.run.supervisor import MOST_SECONDS, Supervisor, Terms

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.2
"""Between two looks at the counters of OOM kills of all jobs together."""
LEFTOVER_SECONDS: Final = 5.0
"""Between two tries to remove what a job left that could not be killed."""
_SHARES: Final = 4
"""A client may have one of so many shares of each bound, so that none takes another's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How many jobs there may be.

    Attributes:
        running: jobs that have not ended, those that are being started and the leftovers of stuck ones included.
        ended: ended ones whose record and output are kept; of the client that has most, the oldest is forgotten first.
    """

    running: int = 1_000
    ended: int = 10_000

    @property
    def running_of_client(self) -> int:
        """Of `running`, those of one client."""
        return max(1, self.running // _SHARES)

    @property
    def ended_of_client(self) -> int:
        """Of `ended`, those of one client."""
        return max(1, self.ended // _SHARES)


@dataclass(frozen=True, slots=True)
class EndedJob:
    """What is kept of a job that has ended."""

    record: JobRecord
    output: StoredOutput

    async def wait_ended(self) -> None:
        """Returns at once."""


Job = Supervisor | EndedJob


@dataclass(slots=True, eq=False)
class _Live:
    """A job that has not ended.

    Attributes:
        specification: until the command is on its way: its arguments may be large, and the job may run for days.
        scope: of its task; cancelled to give it up.
        supervisor: None until its execution is there.
        is_delivered: its caller has its id; until then nobody can ask for it.
        ended: what is left of it, when it has ended.
    """

    owner: str
    specification: JobSpecification | None
    scope: trio.CancelScope
    supervisor: Supervisor | None = None
    is_given_up: bool = False
    is_delivered: bool = False
    ended: EndedJob | None = None


class Registry:
    """Every job of this server. Made by `open_registry`."""

    def __init__(
        self,
        host: ExecutionHost,
        nursery: trio.Nursery,
        remover: FileRemover,
        *,
        grace_seconds: float,
        bounds: Bounds,
    ) -> None:
        self._host = host
        self._nursery = nursery
        self._terms = Terms(grace_seconds=grace_seconds, memory_max=host.memory_max)
        self._bounds = bounds
        self._live: dict[JobId, _Live] = {}
        self._live_of: Counter[str] = Counter()
        self._ended: dict[str, dict[JobId, EndedJob]] = {}
        self._leftovers: list[tuple[str, Execution]] = []
        self._remover = remover
        self._is_draining = False
        self._change = trio.lowlevel.ParkingLot()

    @property
    def running(self) -> int:
        """How many jobs have not ended."""
        return len(self._live)

    # --- Start --------------------------------------------------------------------------------------------------------

    async def start(self, caller: Identity, specification: JobSpecification) -> JobId:
        """Starts a job for `caller`; returns once the kernel has executed its command.

        A caller that leaves meanwhile (cancellation) leaves no job behind.

        Raises:
            ServerDraining, ServerBusy: no job is taken now.
            JobError, RequestError, HostError: this one cannot be started.
        """
        self._admit(caller.name)
        job_id = new_job_id()
        live = _Live(caller.name, specification, trio.CancelScope())
        self._live[job_id] = live
        self._live_of[caller.name] += 1
        try:
            await self._nursery.start(self._run, job_id, live)
            await trio.lowlevel.checkpoint_if_cancelled()
        except BaseException:  # where the command was being executed, a group of Cancelled
            self._give_up(live)
            raise
        live.is_delivered = True
        if live.ended is not None:
            self._keep(live.ended)
        logger.info("job %s started by %s: %r", job_id, caller.name, specification)
        return job_id

    def _give_up(self, live: _Live) -> None:
        live.is_given_up = True
        live.scope.cancel()
        # Trio leaves a task that calls started() when its caller is already cancelled to the caller: it has ended.
        if live.ended is not None:
            self._remover.remove(live.ended.output.path)

    def _admit(self, owner: str) -> None:
        if self._is_draining:
            raise ServerDraining("the server is shutting down")
        stuck = Counter(owner for owner, _ in self._leftovers)
        if len(self._live) + stuck.total() >= self._bounds.running:
            raise ServerBusy(
                f"the server runs {self._bounds.running} jobs, as many as it may; try again when one has ended"
            )
        own = stuck[owner] + self._live_of[owner]
        if own >= self._bounds.running_of_client:
            raise ServerBusy(f"{owner} runs {own} jobs, as many as one client may; try again when one has ended")

    async def _run(self, job_id: JobId, live: _Live, *, task_status: trio.TaskStatus[Supervisor]) -> None:
        """Runs a job to its end. A bug in one job's tasks is logged and ends that job, never the others.

        Raises:
            ServerDraining: the server is shutting down.
            JobError, RequestError, HostError: it could not be started.
        """
        try:
            with live.scope:
                await self._spawn(job_id, live)
                if live.supervisor is not None:
                    await live.supervisor.run(task_status=task_status)
        except Exception:
            if live.supervisor is None or _was_never_executed(live.supervisor):
                raise
            logger.exception("%r: a bug in the server ended this job", live.supervisor)
        finally:
            self._retire(job_id, live)  # where it never had a supervisor
        if self._is_draining and (live.supervisor is None or _was_never_executed(live.supervisor)):
            raise ServerDraining("the server is shutting down")

    async def _spawn(self, job_id: JobId, live: _Live) -> None:
        specification, live.specification = live.specification, None
        assert specification is not None  # noqa: S101  # for the type checker: it is taken once
        spawned = await self._host.spawn(job_id, live.owner, specification)
        record = JobRecord(
            id=job_id,
            owner=live.owner,
            command=CommandLine.of(specification),
            state=Held(pid=spawned.execution.pid, started_at=datetime.now(UTC)),
            limits=self._host.limits,
        )
        live.supervisor = Supervisor(
            record,
            spawned.execution,
            spawned.log,
            spawned.pump,
            self._terms,
            on_end=partial(self._retire, job_id, live),
        )

    def _retire(self, job_id: JobId, live: _Live) -> None:
        if self._live.pop(job_id, None) is None:
            return
        self._live_of[live.owner] -= 1
        self._change.unpark_all()
        supervisor = live.supervisor
        if supervisor is None:
            return
        if not supervisor.is_removed:
            self._leftovers.append((live.owner, supervisor.execution))
        if live.is_given_up or _was_never_executed(supervisor):
            self._remover.remove(supervisor.output.path)
        else:
            live.ended = EndedJob(supervisor.record, supervisor.output.stored())
            if live.is_delivered:
                self._keep(live.ended)

    def _keep(self, job: EndedJob) -> None:
        logger.info("job %s of %s has ended: %r", job.record.id, job.record.owner, job.record.state)
        of_client = self._ended.setdefault(job.record.owner, {})
        of_client[job.record.id] = job
        if len(of_client) > self._bounds.ended_of_client:
            self._forget_oldest(of_client)
        elif sum(map(len, self._ended.values())) > self._bounds.ended:
            self._forget_oldest(max(self._ended.values(), key=len))

    def _forget_oldest(self, of_client: dict[JobId, EndedJob]) -> None:
        oldest = of_client.pop(next(iter(of_client)))
        self._remover.remove(oldest.output.path)

    # --- what clients ask ---------------------------------------------------------------------------------------------

    def find(self, caller: Identity, job_id: str) -> Job:
        """The job called `job_id`, if `caller` may touch it.

        Raises:
            JobNotFound: there is none, or it is somebody else's: both answer the same.
        """
        key = parse_job_id(job_id)
        job = self._job(key) if key is not None else None
        if job is None or not may_touch(caller, job.record.owner):
            raise JobNotFound("no such job")
        return job

    def _job(self, job_id: JobId) -> Job | None:
        if (live := self._live.get(job_id)) is not None:
            return live.supervisor
        return next((jobs[job_id] for jobs in self._ended.values() if job_id in jobs), None)

    async def stop(self, caller: Identity, job_id: str) -> JobRecord:
        """Stops a job and returns its record once it has ended; for an ended job, at once.

        A caller that leaves meanwhile does not undo the order.

        Raises:
            JobNotFound: as `find`.
        """
        job = self.find(caller, job_id)
        if isinstance(job, Supervisor):
            job.order_stop(caller.name)
        await job.wait_ended()
        return job.record

    # --- the end ------------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Takes no more jobs, gives up those that are being started, stops the others; returns when all have ended."""
        self._is_draining = True
        for live in tuple(self._live.values()):
            if live.supervisor is None or isinstance(live.supervisor.record.state, Held):
                live.scope.cancel()
            else:
                live.supervisor.order_stop(None)
        while self._live:
            await self._change.park()

    def hurry(self) -> None:
        """Ends the grace period of every job that is being stopped, now and from now on."""
        self._terms = replace(self._terms, grace_seconds=0.0)
        for live in self._live.values():
            if live.supervisor is not None:
                live.supervisor.hurry()

    # --- what is always there -----------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Removes files of forgotten jobs, looks for OOM kills, and tries to remove leftovers, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._remover.run)
            nursery.start_soon(self._look_for_oom_kills)
            nursery.start_soon(self._remove_leftovers)

    async def _look_for_oom_kills(self) -> None:
        seen: dict[str | None, bytes | None] = {}
        while True:
            if self._has_changed(seen, None):
                owners = {live.owner for live in self._live.values()}
                changed = {owner for owner in owners if self._has_changed(seen, owner)}
                for live in self._live.values():
                    if live.owner in changed and live.supervisor is not None:
                        live.supervisor.memory_has_changed()
                for gone in seen.keys() - owners - {None}:
                    del seen[gone]
            await trio.sleep(LOOK_SECONDS)

    def _has_changed(self, seen: dict[str | None, bytes | None], owner: str | None) -> bool:
        try:
            now = self._host.memory_events(owner)
        except (HostError, OSError):
            return True  # each job then looks at its own
        before = seen.get(owner)
        seen[owner] = now
        return now != before

    async def _remove_leftovers(self) -> None:
        while True:
            await trio.sleep(LEFTOVER_SECONDS)
            for leftover in tuple(self._leftovers):
                execution = leftover[1]
                try:
                    execution.kill()
                    if not execution.remove():
                        continue
                    await execution.close()
                except (HostError, OSError) as error:
                    logger.warning("a job that has ended cannot be removed: %s", error)
                else:
                    self._leftovers.remove(leftover)


def _was_never_executed(supervisor: Supervisor) -> bool:
    match supervisor.record.state:
        case Held() | Ended(cause=FailedToStart()):
            return True
        case _:
            return False


@asynccontextmanager
async def open_registry(
    host: ExecutionHost,
    *,
    grace_seconds: float,
    bounds: Bounds = Bounds(),  # a frozen value
) -> AsyncIterator[Registry]:
    """A registry for the block; at its end every job is stopped, with grace, and gone."""
    remover = FileRemover(bounds.ended)
    try:
        async with trio.open_nursery() as nursery:
            registry = Registry(host, nursery, remover, grace_seconds=grace_seconds, bounds=bounds)
            nursery.start_soon(registry.watch)
            try:
                yield registry
            finally:
                with trio.CancelScope(shield=True) as scope:
                    scope.deadline = trio.current_time() + grace_seconds + MOST_SECONDS + 5.0
                    await registry.drain()
                nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_SECONDS):
            await remover.finish()
