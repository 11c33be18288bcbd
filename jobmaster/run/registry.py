"""The set of jobs: who may start one, who may see one, and in which order they end.

The keeper owns a nursery for its jobs that outlives every connection: a job belongs to the server, not to the call
that started it. What it keeps is bounded: `MAX_RUNNING` running jobs, and the records and output of the last
`MAX_ENDED` ended ones.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import trio

from jobmaster.errors import JobNotFound, ServerBusy, ServerDraining
from jobmaster.identity.policy import Identity, may_touch
from jobmaster.job.identifier import JobId, new_job_id, parse_job_id
from jobmaster.job.record import JobRecord
from jobmaster.job.specification import JobSpecification
from jobmaster.run.supervisor import WIND_DOWN_SECONDS, Job, JobTerms

logger = logging.getLogger(__name__)

MAX_RUNNING: Final = 1_000
MAX_ENDED: Final = 10_000
CLEARING_SECONDS: Final = 5.0
"""How long the jobs of an earlier server may take to die at start."""


class Keeper:
    """Every job of this server. Made by `keep_jobs`."""

    def __init__(self, terms: JobTerms, nursery: trio.Nursery) -> None:
        self._terms = terms
        self._nursery = nursery
        self._running: dict[JobId, Job] = {}
        self._ended: dict[JobId, Job] = {}
        self._draining = False

    @property
    def running(self) -> int:
        """How many jobs have not ended."""
        return len(self._running)

    async def start(self, caller: Identity, specification: JobSpecification) -> JobId:
        """Starts a job for `caller`; returns once its process is in its cgroup.

        A caller that leaves meanwhile (cancellation) leaves no job behind.

        Raises:
            ServerDraining, ServerBusy: no job is taken now.
            JobError, RequestError, HostError: this one cannot be started.
        """
        if self._draining:
            raise ServerDraining("the server is shutting down")
        if len(self._running) >= MAX_RUNNING:
            raise ServerBusy(f"the server runs {MAX_RUNNING} jobs, as many as it may; try again when one has ended")
        job = Job(id=new_job_id(), owner=caller.name, specification=specification, terms=self._terms)
        self._running[job.id] = job
        try:
            await self._nursery.start(self._run, job)
        finally:
            if not job.was_launched:
                del self._running[job.id]
        logger.info("job %s started by %s: %r", job.id, caller.name, specification)
        return job.id

    async def _run(self, job: Job, *, task_status: trio.TaskStatus[None]) -> None:
        """Runs a job to its end. A bug in one job's tasks is logged and ends that job, never the others."""
        try:
            await job.run(task_status=task_status)
        except Exception:
            if not job.was_launched:
                raise
            logger.exception("%r: a bug in the server ended this job", job)
        finally:
            if job.was_launched:
                self._retire(job)

    def _retire(self, job: Job) -> None:
        del self._running[job.id]
        self._ended[job.id] = job
        logger.info("job %s of %s has ended: %s", job.id, job.owner, job.summary())
        while len(self._ended) > MAX_ENDED:
            oldest = self._ended.pop(next(iter(self._ended)))
            oldest.output.discard()

    def find(self, caller: Identity, job_id: str) -> Job:
        """The job called `job_id`, if `caller` may touch it.

        Raises:
            JobNotFound: there is none, or it is somebody else's: both answer the same.
        """
        key = parse_job_id(job_id)
        job = (self._running.get(key) or self._ended.get(key)) if key is not None else None
        if job is None or not may_touch(caller, job.owner):
            raise JobNotFound("no such job")
        return job

    async def stop(self, caller: Identity, job_id: str) -> JobRecord:
        """Stops a job and returns its record once it has ended; for an ended job, at once.

        A caller that leaves meanwhile does not undo the order.

        Raises:
            JobNotFound: as `find`.
        """
        job = self.find(caller, job_id)
        job.order_stop(caller.name)
        await job.wait_ended()
        return job.record()

    async def drain(self) -> None:
        """Takes no more jobs, stops those there are, and returns when all have ended."""
        self._draining = True
        jobs = tuple(self._running.values())
        for job in jobs:
            if job.was_launched:
                job.order_stop(None)
        for job in jobs:
            if job.was_launched:
                await job.wait_ended()

    def hurry(self) -> None:
        """Ends the grace period of every job that is being stopped, now and from now on."""
        self._terms = replace(self._terms, grace_seconds=0.0)
        for job in self._running.values():
            job.hurry()


@asynccontextmanager
async def keep_jobs(terms: JobTerms) -> AsyncIterator[Keeper]:
    """A keeper for the block; at its end every job is stopped, with grace, and gone.

    First clears what an earlier server left in the cgroup tree.
    """
    await _clear(terms)
    async with trio.open_nursery() as nursery:
        keeper = Keeper(terms, nursery)
        try:
            yield keeper
        finally:
            with trio.CancelScope(shield=True) as scope:
                scope.deadline = trio.current_time() + terms.grace_seconds + WIND_DOWN_SECONDS + 5.0
                await keeper.drain()
            nursery.cancel_scope.cancel()


async def _clear(terms: JobTerms) -> None:
    left: tuple[object, ...] = ()
    with trio.move_on_after(CLEARING_SECONDS):
        while left := await trio.to_thread.run_sync(terms.tree.sweep):  # noqa: ASYNC110  # the kernel has no event for it
            await trio.sleep(0.02)
    for path in left:
        logger.error("a process of an earlier server is stuck in %s, which is left behind", path)
