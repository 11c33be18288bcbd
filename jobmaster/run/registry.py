"""The set of jobs: who may start one, who may see one, what is kept of the ended ones, and in which order they end.

The registry owns a nursery for its jobs that outlives every connection: a job belongs to the server, not to the call
that started it. A running job is a supervisor; an ended one is a record in the journal and a file.

A Start that its caller gives up leaves nothing: until the command is executed, its task is the caller's to cancel; the
instant after, the registry ends the job and forgets it.

Where the whole server is cancelled, another one goes on with the jobs: nobody's Start is undone then, and supervisors
hand over. Who is cancelled learns which of both it is one round of the event loop later, from the registry's own task
that is cancelled with everybody else.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

import trio

from jobmaster.errors import (
    ExecutionUnknown,
    HandedOver,
    HostError,
    JobmasterError,
    JobNotFound,
    JournalUnavailable,
    ServerBusy,
    ServerDraining,
)
from jobmaster.identity.policy import Identity, may_touch
from jobmaster.job.cause import FailedToStart
from jobmaster.job.identifier import JobId, new_job_id, parse_job_id
from jobmaster.job.record import JobRecord, Launched, record_of
from jobmaster.job.request import RequestKey
from jobmaster.job.specification import CommandLine, JobSpecification
from jobmaster.job.state import Ended, Held
from jobmaster.journal.stored import Retention
from jobmaster.output.log import StoredOutput
from jobmaster.run.execution import Execution, ExecutionHost, Spawned
from jobmaster.run.history import History
from jobmaster.run.live_record import RECORD_SECONDS
from jobmaster.run.recorder import Records
from jobmaster.run.recovery import Recovered, recover
from jobmaster.run.removal import LAST_SECONDS, FileRemover
from jobmaster.run.requests import Requests
from jobmaster.run.retention import forget_expired
from jobmaster.run.supervisor import GONE_ON, Supervisor, Terms
from jobmaster.run.teardown import MOST_SECONDS

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.2
"""Between two looks at the counters of OOM kills of all jobs together."""
RETENTION_SECONDS: Final = 60.0
"""Between two looks for jobs that are not to be kept any longer, where none has ended meanwhile."""
START_SECONDS: Final = 5.0
"""How long, when the jobs are handed over, Starts under way may take to come to an end."""
_NO_SUCH_JOB: Final = "no such job"
LEFTOVER_SECONDS: Final = 5.0
"""Between two tries to remove what a job left that could not be killed."""
RECENT: Final = 1_000
"""Records of ended jobs that are kept in memory, too: those that ended, or were asked for, last."""
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_SHARES: Final = 4
"""A client may have one of so many shares of each bound, so that none takes another's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How many jobs there may be.

    Attributes:
        running: jobs that have not ended, those that are being started and the leftovers of stuck ones included.
        ended: ended ones whose record and output are kept; of the client that has most, the oldest is forgotten first.
        age: how long after its end a job is kept; None: until others take its place.
    """

    running: int = 1_000
    ended: int = 10_000
    age: timedelta | None = None

    @property
    def running_of_client(self) -> int:
        """Of `running`, those of one client."""
        return max(1, self.running // _SHARES)

    @property
    def ended_of_client(self) -> int:
        """Of `ended`, those of one client."""
        return max(1, self.ended // _SHARES)

    @property
    def retention(self) -> Retention:
        """What is kept of the ended ones."""
        return Retention(ended=self.ended, ended_of_client=self.ended_of_client, age=self.age)


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
        is_given_up: its caller has left, and does not have its id.
    """

    owner: str
    specification: JobSpecification | None
    scope: trio.CancelScope
    supervisor: Supervisor | None = None
    is_given_up: bool = False


class Registry:
    """Every job of this server. Made by `open_registry`."""

    def __init__(
        self,
        host: ExecutionHost,
        records: Records,
        nursery: trio.Nursery,
        remover: FileRemover,
        *,
        grace_seconds: float,
        bounds: Bounds,
        hands_over: Callable[[], bool],
    ) -> None:
        self._host = host
        self._records = records
        self._nursery = nursery
        self._terms = Terms(grace_seconds=grace_seconds)
        self._bounds = bounds
        self._may_hand_over = hands_over
        self._boot_id = BOOT_ID.read_text().strip()
        self._requests = Requests(records, self._runs)
        self.history = History(records, self._as_of_now)
        """What there is to tell of all jobs."""
        self._live: dict[JobId, _Live] = {}
        self._live_of: Counter[str] = Counter()
        self._recent: OrderedDict[JobId, EndedJob] = OrderedDict()
        self._to_forget: set[JobId] = set()
        self._has_ended_jobs = trio.Event()
        self._leftovers: list[tuple[str, Execution]] = []
        self._remover = remover
        self._is_draining = False
        self._is_handing_over = False
        self._is_cancelled = False
        self._starts = 0
        self._unrecorded = 0
        self._change = trio.lowlevel.ParkingLot()

    @property
    def running(self) -> int:
        """How many jobs have not ended."""
        return len(self._live)

    @property
    def unrecorded(self) -> int:
        """How many jobs have ended without the journal having recorded it."""
        return self._unrecorded

    # --- Start --------------------------------------------------------------------------------------------------------

    async def start(self, caller: Identity, specification: JobSpecification, request_id: str = "") -> JobId:
        """Starts a job for `caller`; returns once the kernel has executed its command.

        A caller that leaves meanwhile (cancellation) leaves no job behind.

        Args:
            caller: whose job it is.
            specification: what to run.
            request_id: the caller's own name for this request: one that comes again finds the job of the first. Empty:
                each call is a request of its own.

        Raises:
            ServerDraining, ServerBusy, JournalUnavailable: no job is taken now.
            RequestIdReused: the request id is that of another request.
            JobError, RequestError, HostError: this one cannot be started.
        """
        if not request_id:
            return await self._start(caller, specification, None)
        key = RequestKey.of(request_id, specification)
        while True:
            job_id = await self._requests.once(caller.name, key, partial(self._start, caller, specification, key))
            if await self._is_kept(job_id):
                return job_id

    async def _runs(self, job_id: JobId) -> bool:
        """Whether a job has not ended; one that is being started, when its command is executed."""
        live = self._live.get(job_id)
        if live is None or live.supervisor is None:
            return False
        await live.supervisor.executed.wait()  # that of an earlier server may turn out to be never executed
        return not _was_never_executed(live.supervisor)

    async def _is_kept(self, job_id: JobId) -> bool:
        """Whether a request id may be answered with this job, which was executed.

        One that was given up is ended and forgotten when this returns.

        Raises:
            JournalUnavailable: it cannot be forgotten now.
        """
        live = self._live.get(job_id)
        if live is not None and live.supervisor is not None and live.is_given_up:
            await live.supervisor.ended.wait()
        if job_id not in self._to_forget:
            return True
        await self._requests.settle()  # the end has to be there before the job can go
        await self._records.remove((job_id,), with_requests=True)
        self._to_forget.discard(job_id)
        return False

    async def _start(self, caller: Identity, specification: JobSpecification, request: RequestKey | None) -> JobId:
        self._admit(caller.name)
        job_id = new_job_id()
        live = self._add(job_id, _Live(caller.name, specification, trio.CancelScope()))
        self._starts += 1
        try:
            await self._nursery.start(partial(self._run, job_id, live, request))
            await trio.lowlevel.checkpoint_if_cancelled()
        except BaseException as error:  # where the command was being executed, a group of Cancelled
            await trio.lowlevel.cancel_shielded_checkpoint()
            is_to_be_found = request is not None and (self._is_draining or isinstance(error, ExecutionUnknown))
            if not self._hands_over() and not is_to_be_found:
                self._give_up(job_id, live)
            raise
        finally:
            self._starts -= 1
            self._change.unpark_all()
        logger.info("job %s started by %s: %r", job_id, caller.name, specification)
        return job_id

    @property
    def _takes_no_more(self) -> bool:
        return self._is_draining or self._is_cancelled or self._is_handing_over

    def _hands_over(self) -> bool:
        return self._is_cancelled and self._may_hand_over() and not self._is_draining

    def _add(self, job_id: JobId, live: _Live) -> _Live:
        self._live[job_id] = live
        self._live_of[live.owner] += 1
        return live

    def _give_up(self, job_id: JobId, live: _Live) -> None:
        live.is_given_up = True
        if live.supervisor is not None:
            live.supervisor.give_up()
        live.scope.cancel()
        # Trio leaves a task that calls started() when its caller is already cancelled to the caller: it has ended.
        if job_id not in self._live and live.supervisor is not None:
            self._forget(job_id, live.supervisor)

    def _admit(self, owner: str) -> None:
        if self._takes_no_more:
            raise ServerDraining("the server is shutting down")
        stuck = Counter(owner for owner, _ in self._leftovers)
        if len(self._live) + stuck.total() >= self._bounds.running:
            raise ServerBusy(
                f"the server runs {self._bounds.running} jobs, as many as it may; try again when one has ended"
            )
        own = stuck[owner] + self._live_of[owner]
        if own >= self._bounds.running_of_client:
            raise ServerBusy(f"{owner} runs {own} jobs, as many as one client may; try again when one has ended")

    async def _run(
        self, job_id: JobId, live: _Live, request: RequestKey | None, *, task_status: trio.TaskStatus[Supervisor]
    ) -> None:
        """Runs a job to its end. A bug in one job's tasks is logged and ends that job, never the others.

        Raises:
            ServerDraining: the server is shutting down.
            JobError, RequestError, HostError: it could not be started.
        """
        try:
            with live.scope:
                launched = await self._spawn(job_id, live, request)
                if live.supervisor is not None:
                    await live.supervisor.run(launched, task_status=task_status)
        except ExecutionUnknown:
            raise
        except Exception:
            if live.supervisor is None or _was_never_executed(live.supervisor):
                raise
            logger.exception("%r: a bug in the server ended this job", live.supervisor)
        finally:
            self._retire(job_id, live)  # where it never had a supervisor
        if self._takes_no_more and (live.supervisor is None or not live.supervisor.is_told):
            raise ServerDraining("the server is shutting down")

    async def _spawn(self, job_id: JobId, live: _Live, request: RequestKey | None) -> Launched:
        specification, live.specification = live.specification, None
        assert specification is not None  # noqa: S101  # for the type checker: it is taken once
        spawned = await self._host.spawn(job_id, live.owner, specification)
        launched = Launched(
            id=job_id,
            owner=live.owner,
            command=CommandLine.of(specification),
            pid=spawned.execution.pid,
            start_time=spawned.start_time,
            boot_id=self._boot_id,
            at=datetime.now(UTC),
            limits=self._host.limits,
            request=request,
        )
        self._supervise(live, record_of(launched), spawned)
        return launched

    def _supervise(self, live: _Live, record: JobRecord, spawned: Spawned) -> Supervisor:
        live.supervisor = Supervisor(
            record,
            spawned.execution,
            spawned.log,
            spawned.pump,
            self._terms,
            self._records,
            stdin=spawned.stdin,
            hands_over=self._hands_over,
            on_end=partial(self._retire, record.id, live),
        )
        return live.supervisor

    def _retire(self, job_id: JobId, live: _Live) -> None:
        if self._live.pop(job_id, None) is None:
            return
        self._live_of[live.owner] -= 1
        self._change.unpark_all()
        supervisor = live.supervisor
        if supervisor is None:
            return
        if supervisor.is_handed_over:
            self._unrecorded += not self._hands_over()
            return
        if not supervisor.is_removed:
            self._leftovers.append((live.owner, supervisor.execution))
        if live.is_given_up or _was_never_executed(supervisor):
            self._forget(job_id, supervisor)
        else:
            logger.info("job %s of %s has ended: %r", job_id, live.owner, supervisor.record.state)
            self._remember(EndedJob(supervisor.record, supervisor.output.stored()))
            self._has_ended_jobs.set()

    def _forget(self, job_id: JobId, supervisor: Supervisor) -> None:
        self._recent.pop(job_id, None)
        self._remover.remove(supervisor.output.path)
        if not _was_never_executed(supervisor):  # of which the journal keeps nothing
            self._to_forget.add(job_id)
            self._has_ended_jobs.set()

    def _remember(self, job: EndedJob) -> None:
        self._recent[job.record.id] = job
        self._recent.move_to_end(job.record.id)
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)

    # --- jobs of an earlier server ------------------------------------------------------------------------------------

    async def recover(self) -> Recovered:
        """Goes on with the jobs of an earlier server, and ends what of them cannot be gone on with."""
        recovered = await recover(self._host, self._records)
        for record, spawned in recovered.adopted:
            live = self._add(record.id, _Live(record.owner, None, trio.CancelScope()))
            supervisor = self._supervise(live, record, spawned)
            self._nursery.start_soon(self._resume, live, supervisor, spawned)
        return recovered

    async def _resume(self, live: _Live, supervisor: Supervisor, spawned: Spawned) -> None:
        try:
            with live.scope:
                await supervisor.resume(spawned.order, is_killed=spawned.is_killed)
        except ExecutionUnknown:
            pass  # that the launcher is lost is logged
        except Exception as error:
            if not _was_never_executed(supervisor):
                logger.exception("%r: a bug in the server ended this job", supervisor)
            else:
                logger.warning("%r of an earlier server was not executed: %s", supervisor, error)
        finally:
            self._retire(supervisor.record.id, live)

    # --- what clients ask ---------------------------------------------------------------------------------------------

    def known(self, caller: Identity, job_id: str) -> Job | None:
        """The job called `job_id` if it is in memory; None where the journal has to be asked.

        Raises:
            JobNotFound: it is somebody else's.
        """
        live = self._live.get(JobId(job_id))
        job = self._recent.get(JobId(job_id)) if live is None else live.supervisor
        if job is not None:
            _check(caller, job.record)
        return job

    async def find(self, caller: Identity, job_id: str) -> Job:
        """The job called `job_id`, if `caller` may touch it.

        Raises:
            JobNotFound: there is none, or it is somebody else's: both answer the same.
            HandedOver: another server sees it to its end.
            JournalUnavailable: how it ended is not recorded yet; or the journal cannot be read.
        """
        key = parse_job_id(job_id)
        if key is None:
            raise JobNotFound(_NO_SUCH_JOB)
        return self.known(caller, key) or await self._find_recorded(caller, key)

    async def _find_recorded(self, caller: Identity, job_id: JobId) -> Job:
        stored = None if job_id in self._to_forget else await self._records.find(job_id)
        if stored is None:
            raise JobNotFound(_NO_SUCH_JOB)
        record = stored.record
        _check(caller, record)
        if isinstance(record.state, Ended):
            ended = self._ended(record)
            self._remember(ended)
            return ended
        job = self.known(caller, job_id)  # it may have ended, or been adopted, while the journal was asked
        if job is not None:
            return job
        if self._takes_no_more:
            raise HandedOver(GONE_ON)
        raise JournalUnavailable("the server's journal does not have the end of the job yet; try again later")

    def _ended(self, record: JobRecord) -> EndedJob:
        path = self._host.output_path(record.id)
        return EndedJob(record, StoredOutput(path=path, size=record.output_bytes, lost=record.output_bytes_lost))

    def _as_of_now(self, record: JobRecord) -> JobRecord | None:
        """A record of the journal, with what is newer; None for a job that nobody was told of, nor will be."""
        live = self._live.get(record.id)
        if live is None:
            return None if record.id in self._to_forget else record
        if live.is_given_up:
            return None
        return record if live.supervisor is None else live.supervisor.record

    async def stop(self, caller: Identity, job_id: str, reason: str = "", *, force: bool = False) -> JobRecord:
        """Stops a job and returns its record once it has ended; for an ended job, at once.

        A caller that leaves meanwhile does not undo the order.

        Args:
            caller: who asks.
            job_id: the job.
            reason: why, in the caller's words.
            force: without a grace period, or with no more of the one that has begun.

        Raises:
            JobNotFound: as `find`.
            HandedOver: another server sees the job to its end.
        """
        job = await self.find(caller, job_id)
        if isinstance(job, Supervisor):
            job.order_stop(caller.name, reason)
            if force:
                job.hurry()
        await job.wait_ended()
        return job.record

    # --- the end ------------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Takes no more jobs, gives up those that are being started, stops the others; returns when all have ended."""
        self._is_draining = True
        for live in tuple(self._live.values()):
            if live.supervisor is not None:
                live.supervisor.end_with_server()
            if live.supervisor is None or isinstance(live.supervisor.record.state, Held):
                live.scope.cancel()
        while self._live:
            await self._change.park()

    async def hand_over(self) -> None:
        """Takes no more jobs and leaves all to the next server; returns when they are left.

        Starts under way have START_SECONDS to come to an end, since a command may be executed already whose caller would
        be refused; then they are given up.
        """
        self._is_handing_over = True
        with trio.move_on_after(START_SECONDS):
            while self._starts:
                await self._change.park()
        self._is_cancelled = True
        for live in tuple(self._live.values()):
            live.scope.cancel()
        while self._live:
            await self._change.park()

    def hurry(self) -> None:
        """Ends the grace period of every job that is being stopped, now and from now on."""
        self._terms = replace(self._terms, grace_seconds=0.0)
        for live in self._live.values():
            if live.supervisor is not None:
                live.supervisor.hurry()

    # --- what is always there -----------------------------------------------------------------------------------------

    async def forget_given_up(self) -> None:
        """Forgets the jobs that nobody was told of."""
        await forget_expired(self._host, self._records, self._bounds.retention, tuple(self._to_forget))

    async def watch(self) -> None:
        """Removes files of forgotten jobs, looks for OOM kills, and tries to remove leftovers, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._notice_cancellation)
            nursery.start_soon(self._remover.run)
            nursery.start_soon(self._keep_within_bounds)
            nursery.start_soon(self._remove_half_made)
            nursery.start_soon(self._look_for_oom_kills)
            nursery.start_soon(self._remove_leftovers)

    async def _notice_cancellation(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._is_cancelled = True

    async def _remove_half_made(self) -> None:
        """Removes the files of jobs that an earlier server had not recorded when it died."""
        try:
            for job_id in await self._host.empty_outputs():
                if job_id not in self._live and await self._records.find(job_id) is None and job_id not in self._live:
                    self._remover.remove(self._host.output_path(job_id))
        except (JobmasterError, OSError) as error:
            logger.warning("files of jobs that were never recorded may be left: %s", error)

    async def _keep_within_bounds(self) -> None:
        while True:
            with trio.move_on_after(RETENTION_SECONDS):
                await self._has_ended_jobs.wait()
            self._has_ended_jobs = trio.Event()
            given_up = tuple(self._to_forget)
            forgotten = await forget_expired(self._host, self._records, self._bounds.retention, given_up)
            self._to_forget.difference_update(forgotten)
            for job_id in forgotten:
                self._recent.pop(job_id, None)

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


def _check(caller: Identity, record: JobRecord) -> None:
    if not may_touch(caller, record.owner):
        raise JobNotFound(_NO_SUCH_JOB)


def _was_never_executed(supervisor: Supervisor) -> bool:
    match supervisor.record.state:
        case Held() | Ended(cause=FailedToStart()):
            return True
        case _:
            return False


@asynccontextmanager
async def open_registry(
    host: ExecutionHost,
    records: Records,
    *,
    grace_seconds: float,
    bounds: Bounds = Bounds(),  # a frozen value
    hands_over: Callable[[], bool] = lambda: False,
) -> AsyncIterator[Registry]:
    """A registry for the block.

    After a block that ends by itself every job is stopped, with grace, and gone; after one that ends by an exception or a
    cancellation too, unless the registry `hands_over` then: another server goes on with the jobs.
    """
    remover = FileRemover(bounds.ended)
    registry: Registry | None = None
    try:
        async with trio.open_nursery() as nursery:
            registry = Registry(
                host,
                records,
                nursery,
                remover,
                grace_seconds=grace_seconds,
                bounds=bounds,
                hands_over=hands_over,
            )
            nursery.start_soon(registry.watch)
            is_over = False
            try:
                yield registry
                is_over = True
            finally:
                if is_over or not hands_over():
                    with trio.CancelScope(shield=True) as scope:
                        scope.deadline = trio.current_time() + grace_seconds + MOST_SECONDS + RECORD_SECONDS + 5.0
                        await registry.drain()
                nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_SECONDS):
            await remover.finish()
        if registry is not None:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_SECONDS):
                await registry.forget_given_up()
