"""The set of jobs: who may start, see and stop one, and in which order they end.

The registry owns a nursery for its jobs that outlives every connection (`job_tasks`). A running job is a supervisor in
`live_jobs`; an ended one is a record in the journal and a file (`ended_jobs`). What a cancellation means for all of them
is in `shutdown`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import Final

import trio

from jobmaster.errors import HandedOver, JobNotEnded, JobNotFound, JobNotRunning, JournalUnavailable, PermissionRefused
from jobmaster.identity.policy import Identity, Role, may_touch
from jobmaster.job.identifier import JobId, new_job_id, parse_job_id
from jobmaster.job.record import JobRecord
from jobmaster.job.request import RequestKey
from jobmaster.job.specification import JobSpecification
from jobmaster.job.state import Ended, Held
from jobmaster.run.bounds import DEFAULT_BOUNDS, Bounds
from jobmaster.run.control import GONE_ON
from jobmaster.run.draining import Drain, Draining
from jobmaster.run.ended_jobs import EndedJob, EndedJobs
from jobmaster.run.execution import ExecutionHost
from jobmaster.run.history import History
from jobmaster.run.job_tasks import JobTasks
from jobmaster.run.leftovers import Leftovers
from jobmaster.run.live_jobs import LiveJobs
from jobmaster.run.live_record import RECORD_SECONDS
from jobmaster.run.oom_counters import OomCounters
from jobmaster.run.pruning import Pruner
from jobmaster.run.recorder import Records
from jobmaster.run.recovery import Recovered, recover, remove_half_made
from jobmaster.run.removal import LAST_SECONDS, FileRemover
from jobmaster.run.requests import Requests
from jobmaster.run.rooms import Rooms
from jobmaster.run.shutdown import Shutdown
from jobmaster.run.supervisor import Supervisor, Terms
from jobmaster.run.teardown import MOST_SECONDS
from jobmaster.run.turns import Turns

START_SECONDS: Final = 1.0
"""How long, when the jobs are handed over, Starts under way may take to come to an end; as long nobody else is served."""
_NO_SUCH_JOB: Final = "no such job"
_NOT_ENDED: Final = "the job has not ended, and only an ended one can be removed: stop it first"
_HAS_ENDED: Final = "the job has ended"
_END_UNWRITTEN: Final = "the server's journal does not have the end of the job yet; try again later"

Job = Supervisor | EndedJob


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
        self._remover = remover
        self._draining = Draining(host.output_folder)
        self._shutdown = Shutdown(may_hand_over=hands_over)
        self._leftovers = Leftovers()
        self._live = LiveJobs(bounds, self._leftovers)
        self._bounds_outputs = bounds.output.are_any
        self._ended = EndedJobs(host, records, remover, bounds.retention, bounds_outputs=self._bounds_outputs)
        rooms = Rooms()
        self._pruner = Pruner(
            host, records, bounds.output, live=self._live, ended=self._ended, remover=remover, rooms=rooms
        )
        self._tasks = JobTasks(
            host,
            records,
            nursery,
            live=self._live,
            ended=self._ended,
            shutdown=self._shutdown,
            terms=Terms(grace_seconds=grace_seconds),
            rooms=rooms,
            has_room=self._pruner.admit,
            draining=self._draining,
        )
        self._requests = Requests(records, self._runs)
        self._signal_turns = Turns()
        self.history = History(records, self._as_of_now)
        """What there is to tell of all jobs."""

    @property
    def running(self) -> int:
        """How many jobs have not ended."""
        return len(self._live)

    @property
    def starts_refused(self) -> Drain | None:
        """Why no new jobs are taken, where an admin has said so."""
        return self._draining.now

    async def refuse_starts(self, caller: Identity, note: str, timeout_ms: int) -> Drain:
        """Takes no new jobs for so many milliseconds (0: for ever), or until `accept_starts`; those that run go on.

        A Start whose request id has a job finds it all the same.

        Raises:
            PermissionRefused: the caller is not an admin.
            InvalidRequest: the note or the time is none.
            NotRemembered: it holds, and is not durable.
        """
        _require_admin(caller)
        drain = Drain.asked(note, caller.name, timeout_ms)
        await self._draining.say(drain, caller.name)
        return drain

    async def accept_starts(self, caller: Identity) -> None:
        """Takes new jobs again. Raises as `refuse_starts`."""
        _require_admin(caller)
        await self._draining.say(None, caller.name)

    def running_of(self, caller: Identity) -> int:
        """How many of the caller's own jobs have not ended."""
        return self._live.count_of(caller.name)

    def most_running_of(self, caller: Identity) -> int:
        """How many of them there may be."""
        return self._live.most_of(caller.name)

    @property
    def unrecorded(self) -> int:
        """How many jobs have ended without the journal having recorded it; it may still do so until its own end."""
        return self._tasks.unrecorded

    # --- Start --------------------------------------------------------------------------------------------------------

    async def start(
        self,
        caller: Identity,
        specification: JobSpecification,
        request_id: str = "",
        *,
        admitted: Callable[[], Awaitable[None]] | None = None,
    ) -> JobId:
        """Starts a job for `caller`; returns once the kernel has executed its command.

        A caller that leaves meanwhile (cancellation) leaves no job behind; with a request id it does where the command may
        be executed by then: a Start that comes again finds that job.

        Args:
            caller: whose job it is.
            specification: what to run.
            request_id: the caller's own name for this request: one that comes again finds the job of the first. Empty:
                each call is a request of its own.
            admitted: awaited before the launch is recorded, when all is prepared for it; raises where it is not to be. It may
                be awaited twice.

        Raises:
            ServerDraining, StartsRefused, ServerBusy, JournalUnavailable: no job is taken now.
            RequestIdReused: the request id is that of another request.
            JobError, RequestError, HostError: this one cannot be started.
        """
        start = partial(self._tasks.start, caller.name, specification, admitted=admitted)
        if not request_id:
            return await start(None, new_job_id())
        key = RequestKey.of(request_id, specification)
        job_id = await self._requests.once(caller.name, key, partial(start, key))
        if admitted is not None:
            await admitted()  # where the job was found, perhaps nobody has yet
        return job_id

    async def _runs(self, job_id: JobId) -> bool:
        """Whether a job has not ended; one that is being started, when its command is executed."""
        live = self._live.get(job_id)
        if live is None or live.supervisor is None:
            return False
        await live.supervisor.executed.wait()  # that of an earlier server may turn out to be never executed
        return not live.supervisor.was_never_executed

    # --- what clients ask ---------------------------------------------------------------------------------------------

    def known(self, caller: Identity, job_id: str) -> Job | None:
        """The job called `job_id` if it is in memory; None where the journal has to be asked.

        Raises:
            JobNotFound: it is somebody else's.
        """
        live = self._live.get(JobId(job_id))
        job = self._ended.get(JobId(job_id)) if live is None else live.supervisor
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
        forgotten, file = self._ended.forgotten, self._ended.file_of(job_id)
        stored = None if self._ended.is_given_up(job_id) else await self._records.find(job_id)
        if stored is None:
            raise JobNotFound(_NO_SUCH_JOB)
        _check(caller, stored.record)
        if isinstance(stored.record.state, Ended):
            return self._ended.recall(stored.record, file, forgotten=forgotten)
        job = self.known(caller, job_id)  # it may have ended, or been adopted, while the journal was asked
        if job is not None:
            return job
        if self._shutdown.has_begun:
            raise HandedOver(GONE_ON)
        raise JournalUnavailable(_END_UNWRITTEN)

    def _as_of_now(self, record: JobRecord) -> JobRecord | None:
        """A record of the journal, with what is newer; None for a job that nobody was told of, nor will be."""
        live = self._live.get(record.id)
        if live is None:
            return None if self._ended.is_given_up(record.id) else record
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
            job.order_stop(caller.name, reason, force=force)
        await job.wait_ended()
        return job.record

    async def pause(self, caller: Identity, job_id: str) -> JobRecord:
        """Freezes the processes of a running job; returns its record. Idempotent.

        Raises:
            JobNotFound: as `find`.
            JobNotRunning, PauseUnavailable, NotFrozenYet, ServerBusy, HandedOver, JournalUnavailable: as `Control.pause`.
        """
        job = await self._find_running(caller, job_id)
        await job.control.pause(caller.name)
        return job.record

    async def resume(self, caller: Identity, job_id: str) -> JobRecord:
        """Lets the processes of a paused job go on; returns its record. Idempotent. Raises as `pause`."""
        job = await self._find_running(caller, job_id)
        await job.control.resume(caller.name)
        return job.record

    async def signal(self, caller: Identity, job_id: str, number: int, *, to_all: bool = False) -> JobRecord:
        """Sends a signal to the main process of a running job, or to all of its processes; returns its record.

        Raises:
            JobNotFound: as `find`.
            JobNotRunning, HandedOver, JournalUnavailable, HostError: as `Control.signal`.
            ServerBusy: it is for all processes, and the caller's other such signals take too long.
        """
        job = await self._find_running(caller, job_id)
        async with self._signal_turns.of(caller.name) if to_all else nullcontext():  # thousands take the host long
            await job.control.signal(caller.name, number, to_all=to_all)
        return job.record

    async def _find_running(self, caller: Identity, job_id: str) -> Supervisor:
        job = await self.find(caller, job_id)
        if not isinstance(job, Supervisor):
            raise JobNotRunning(_HAS_ENDED)
        return job

    async def remove(self, caller: Identity, job_id: str) -> None:
        """Removes an ended job: its output, then its record. Who follows the output at that moment reads on.

        Raises:
            JobNotFound, HandedOver: as `find`.
            JobNotEnded: it runs.
            HostError, ServerBusy: its output cannot be removed.
            JournalUnavailable: its end is not recorded yet; or its record cannot be removed now.
        """
        job = await self.find(caller, job_id)
        if isinstance(job, Supervisor):
            raise JobNotEnded(_NOT_ENDED)
        stored = await self._records.find(job.record.id)
        if stored is None:
            raise JobNotFound(_NO_SUCH_JOB)
        if not isinstance(stored.record.state, Ended):  # with its end, the record would be there again
            raise JournalUnavailable(_END_UNWRITTEN)
        await self._ended.remove(job.record.id)

    # --- the server's begin and end -----------------------------------------------------------------------------------

    async def recover(self) -> Recovered:
        """Goes on with the jobs of an earlier server, and ends what of them cannot be gone on with."""
        recovered = await recover(self._host, self._records)
        for record, spawned in recovered.adopted:
            self._tasks.adopt(record, spawned)
        for record in recovered.lost:
            self._ended.add_lost(record)
        await self._host.find_left_folders(self._live.__contains__)
        return recovered

    async def drain(self) -> None:
        """Takes no more jobs, gives up those that are being started, stops the others; returns when all have ended."""
        self._shutdown.begin_drain()
        for live in self._live.all():
            if live.supervisor is not None:
                live.supervisor.end_with_server()
            if live.supervisor is None or isinstance(live.supervisor.record.state, Held):
                live.scope.cancel()
        await self._live.wait_none()

    async def hand_over(self) -> None:
        """Takes no more jobs and leaves all to the next server; returns when they are left.

        Starts under way have START_SECONDS to come to an end; then their callers are refused. The command of one that has a
        request id may be executed all the same, by which its caller finds the job; that of another one is not, or is ended.
        """
        self._shutdown.begin_hand_over()
        with trio.move_on_after(START_SECONDS):
            await self._live.wait_no_start_under_way()
        self._shutdown.hand_over()
        for live in self._live.all():
            live.leave()
        await self._live.wait_none()

    def take_up(self, bounds: Bounds) -> None:
        """Has other quotas of clients, and other bounds of the ended jobs and of all outputs, from now on."""
        self._live.take_up(bounds)
        self._ended.retention = bounds.retention
        self._pruner.bounds = bounds.output

    def hurry(self) -> None:
        """Ends the grace period of every job that is being stopped, now and from now on."""
        self._tasks.hurry()

    async def forget_given_up(self) -> None:
        """Forgets the jobs that nobody was told of."""
        await self._ended.forget_expired()

    async def watch(self) -> None:
        """Removes files of forgotten jobs, looks for OOM kills, and tries to remove leftovers, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._shutdown.notice_cancellation)
            nursery.start_soon(self._remover.run)
            nursery.start_soon(self._host.keep_removing_folders)
            nursery.start_soon(self._ended.keep_within_bounds)
            if self._bounds_outputs:
                nursery.start_soon(self._pruner.keep_within_bounds)
            nursery.start_soon(remove_half_made, self._host, self._records, self._remover, self._live.__contains__)
            nursery.start_soon(OomCounters(self._host, self._live).watch)
            nursery.start_soon(self._leftovers.keep_removing)


def _require_admin(caller: Identity) -> None:
    if caller.role is not Role.ADMIN:
        raise PermissionRefused("only an admin may have the server take no new jobs, or take them again")


def _check(caller: Identity, record: JobRecord) -> None:
    if not may_touch(caller, record.owner):
        raise JobNotFound(_NO_SUCH_JOB)


@asynccontextmanager
async def open_registry(
    host: ExecutionHost,
    records: Records,
    *,
    grace_seconds: float,
    bounds: Bounds = DEFAULT_BOUNDS,
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
        await host.remove_last_folders()  # noqa: ASYNC102  # it has a shield and a deadline
        if registry is not None:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_SECONDS):
                await registry.forget_given_up()
