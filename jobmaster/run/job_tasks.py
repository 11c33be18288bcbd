"""The task of each job that has not ended: started or adopted, it lives in the registry's nursery until the end.

A job belongs to the server, not to the call that started it. A Start that its caller gives up leaves nothing: its task is
cancelled, and a job that was executed by then is ended and forgotten; a server that hands its jobs over leaves word for
the next one to do so. Where the Start has a request id, that is so until the command may be executed: then it goes on, to
be found by its id, since one that comes again must not run it twice.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from jobmaster.errors import ExecutionUnknown, JobmasterError, ServerDraining
from jobmaster.job.identifier import JobId
from jobmaster.job.record import JobRecord, Launched, record_of
from jobmaster.job.specification import CommandLine, JobSpecification
from jobmaster.journal.stored import RequestTaken
from jobmaster.output.moving import Shares
from jobmaster.run.live_jobs import LiveJob, LiveJobs
from jobmaster.run.live_record import RECORD_SECONDS
from jobmaster.run.supervisor import EXECUTE_SECONDS, Supervisor, Terms
from jobmaster.run.teardown import MOST_SECONDS
from jobmaster.run.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jobmaster.job.request import RequestKey
    from jobmaster.run.draining import Draining
    from jobmaster.run.ended_jobs import EndedJobs
    from jobmaster.run.execution import ExecutionHost, Spawned
    from jobmaster.run.recorder import Recorder
    from jobmaster.run.rooms import Rooms
    from jobmaster.run.shutdown import Shutdown

logger = logging.getLogger(__name__)

STARTS_OF_CLIENT: Final = 8
"""Starts of one client that are under way at a time; what others ask for does not come behind hundreds of them."""
START_WAIT_SECONDS: Final = 60.0
"""How long a Start waits for those before it: each takes at most half a minute, on a host that does not answer."""
LEAVE_SECONDS: Final = EXECUTE_SECONDS + MOST_SECONDS + RECORD_SECONDS
"""How long a Start that its caller has left counts as under way, until what becomes of it is known."""
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class _Outcome:
    """What became of a Start: its command is executed, or an error."""

    def __init__(self) -> None:
        self.is_known = trio.Event()
        self.error: Exception | None = None
        self._is_started = False

    def started(self, value: Supervisor | None = None) -> None:  # noqa: ARG002  # as trio.TaskStatus has it
        """The command is executed."""
        self._is_started = True
        self.is_known.set()

    async def wait(self) -> None:
        """Returns when the command is executed.

        Raises:
            ServerDraining: the task was cancelled before.
            JobError, RequestError, HostError: it was not executed.
        """
        await self.is_known.wait()
        error, self.error = self.error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # whose traceback has this frame
        if not self._is_started:
            raise ServerDraining("the server is shutting down")


class JobTasks:
    """Starts and adopts jobs, and moves each from the live to the ended ones when it has ended."""

    def __init__(
        self,
        host: ExecutionHost,
        recorder: Recorder,
        nursery: trio.Nursery,
        *,
        live: LiveJobs,
        ended: EndedJobs,
        shutdown: Shutdown,
        terms: Terms,
        rooms: Rooms,
        has_room: Callable[[str], None],
        draining: Draining,
    ) -> None:
        self._host = host
        self._recorder = recorder
        self._nursery = nursery
        self._live = live
        self._ended = ended
        self._shutdown = shutdown
        self._turns = Turns(STARTS_OF_CLIENT, wait_seconds=START_WAIT_SECONDS)
        self._boot_id = BOOT_ID.read_text().strip()
        self._terms = terms
        self._is_hurried = False
        self._rooms = rooms
        self._shares = Shares()
        self._has_room = has_room
        self._draining = draining
        self._unrecorded: dict[JobId, bool] = {}  # and whether the journal was given the end

    # --- start --------------------------------------------------------------------------------------------------------

    async def start(
        self,
        owner: str,
        specification: JobSpecification,
        request: RequestKey | None,
        job_id: JobId,
        *,
        admitted: Callable[[], Awaitable[None]] | None = None,
    ) -> JobId:
        """Starts a job; returns its id when its command is executed.

        Args:
            owner: the client whose job it is.
            specification: what to run.
            request: the client's own name for this Start, if there is one.
            job_id: the id, a new one.
            admitted: as of `Registry.start`.

        Raises:
            RequestTaken: there is a job of this request.
            ServerDraining, StartsRefused, ServerBusy, JournalUnavailable: no job is taken now.
            JobError, RequestError, HostError: this one cannot be started.
        """
        async with self._turns.of(owner):
            live = LiveJob(
                owner, specification, trio.CancelScope(), admitted=admitted, is_to_be_found=request is not None
            )
            try:
                return await self._start(live, request, job_id)
            except RequestTaken:
                self._live.uncount_start(owner)
                raise

    async def _start(self, live: LiveJob, request: RequestKey | None, job_id: JobId) -> JobId:
        if self._shutdown.has_begun:
            raise ServerDraining("the server is shutting down")
        self._draining.require_none()
        self._live.admit(live.owner)
        self._has_room(live.owner)
        self._live.count_start(live.owner)
        specification = live.specification
        self._live.add(job_id, live)
        with self._live.start_under_way():
            outcome = _Outcome()
            self._nursery.start_soon(self._run_to_outcome, job_id, live, request, outcome)
            try:
                await outcome.wait()
                await trio.lowlevel.checkpoint_if_cancelled()
                if live.is_given_up:  # at the last moment of a hand-over
                    raise ServerDraining("the server is shutting down")
                live.is_to_be_found = True
            except BaseException as error:
                if request is None:
                    self._give_up(job_id, live)  # before its task, cancelled with this one, asks for that
                await trio.lowlevel.cancel_shielded_checkpoint()
                is_to_be_found = self._shutdown.is_draining or _may_have_run(live, error)
                if live.is_given_up:
                    pass
                elif not self._shutdown.hands_over() and not is_to_be_found:
                    self._give_up(job_id, live)
                elif live.supervisor is not None and live.supervisor.has_failed:
                    live.scope.cancel()  # its end is given to the journal, and nobody waits for that
                with trio.CancelScope(shield=True, deadline=trio.current_time() + LEAVE_SECONDS):
                    await outcome.is_known.wait()
                raise
        logger.info("job %s started by %s: %r", job_id, live.owner, specification)
        return job_id

    async def _run_to_outcome(
        self, job_id: JobId, live: LiveJob, request: RequestKey | None, outcome: _Outcome
    ) -> None:
        try:
            await self._run(job_id, live, request, task_status=outcome)
        except Exception as error:  # noqa: BLE001  # raised where the job is started
            outcome.error = error
        finally:
            outcome.is_known.set()

    def _give_up(self, job_id: JobId, live: LiveJob) -> None:
        live.give_up()
        # It may have ended meanwhile, as a job that somebody was told of.
        supervisor = live.supervisor
        has_ended = job_id not in self._live and supervisor is not None and not supervisor.is_handed_over
        if has_ended and supervisor is not None and not supervisor.was_never_executed:
            self._ended.give_up(supervisor)

    async def _run(self, job_id: JobId, live: LiveJob, request: RequestKey | None, *, task_status: _Outcome) -> None:
        """Runs a job to its end. A bug in one job's tasks is logged and ends that job, never the others.

        Raises:
            ServerDraining: the server is shutting down.
            JobError, RequestError, HostError: it could not be started.
        """
        try:
            with live.scope:
                launched = await self._spawn(job_id, live, request)
                if live.supervisor is not None:
                    await live.supervisor.run(launched, admitted=live.wait_admitted, task_status=task_status)
        except Exception as error:
            if live.supervisor is None or live.supervisor.was_never_executed:
                raise
            if isinstance(error, JobmasterError) and not live.supervisor.is_told:  # executed too late, or who knows
                raise
            logger.exception("%r: a bug in the server ended this job", live.supervisor)
        finally:
            self._retire(job_id)  # where it never had a supervisor
        if self._shutdown.has_begun and (live.supervisor is None or not live.supervisor.is_told):
            raise ServerDraining("the server is shutting down")

    async def _spawn(self, job_id: JobId, live: LiveJob, request: RequestKey | None) -> Launched:
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
            limits=spawned.limits,
            request=request,
            output_max=spawned.log.cap.size if spawned.log.cap else 0,
            ends_when_full=spawned.log.cap is not None and spawned.log.cap.ends_job,
            terminal=specification.terminal is not None,
            user=spawned.user,
            run_time=specification.run_time,
            stop=specification.stop,
            name=specification.name,
            labels=specification.labels,
            variables=tuple(name for name, _ in specification.environment),
            working_folder=specification.working_folder,
        )
        self._supervise(live, record_of(launched), spawned)
        return launched

    # --- jobs of an earlier server ------------------------------------------------------------------------------------

    def adopt(self, record: JobRecord, spawned: Spawned) -> None:
        """Goes on with a job of an earlier server."""
        live = LiveJob(record.owner, None, trio.CancelScope(), is_to_be_found=not spawned.is_given_up)
        self._live.add(record.id, live)
        supervisor = self._supervise(live, record, spawned)
        if spawned.is_given_up:
            live.is_given_up = True
            supervisor.give_up()
        self._nursery.start_soon(self._resume, live, supervisor, spawned)

    async def _resume(self, live: LiveJob, supervisor: Supervisor, spawned: Spawned) -> None:
        try:
            with live.scope:
                await supervisor.resume(spawned.order, is_killed=spawned.is_killed, is_early=spawned.is_early)
        except ExecutionUnknown:
            pass  # that the launcher is lost is logged
        except Exception as error:
            if supervisor.was_never_executed:
                logger.warning("%r of an earlier server was not executed: %s", supervisor, error)
            elif isinstance(error, JobmasterError):  # executed while its start was being given up
                logger.warning("%r of an earlier server was executed too late: %s", supervisor, error)
            else:
                logger.exception("%r: a bug in the server ended this job", supervisor)
        finally:
            self._retire(supervisor.record.id)

    # --- supervisors --------------------------------------------------------------------------------------------------

    def hurry(self) -> None:
        """As `Registry.hurry`."""
        self._is_hurried = True
        for live in self._live.all():
            if live.supervisor is not None:
                live.supervisor.hurry()

    def _supervise(self, live: LiveJob, record: JobRecord, spawned: Spawned) -> Supervisor:
        spawned.log.room = self._rooms.of(record.owner)
        spawned.pump.share = self._shares.of(record.owner)
        spawned.pump.left_threads = self._live.left_threads(record.id, record.owner)
        if spawned.stdin is not None:
            spawned.stdin.left_threads = spawned.pump.left_threads
        live.supervisor = Supervisor(
            record,
            spawned.execution,
            spawned.log,
            spawned.pump,
            self._terms,
            self._recorder,
            stdin=spawned.stdin,
            hands_over=self._shutdown.hands_over,
            on_end=partial(self._retire, record.id),
        )
        if self._is_hurried:
            live.supervisor.hurry()
        return live.supervisor

    @property
    def unrecorded(self) -> int:
        """How many jobs have ended without the journal having recorded it until now."""
        return len(self._still_unrecorded())

    def _still_unrecorded(self) -> dict[JobId, bool]:
        unwritten = set(self._recorder.unwritten)
        return {
            job_id: is_given for job_id, is_given in self._unrecorded.items() if not is_given or job_id in unwritten
        }

    def _retire(self, job_id: JobId) -> None:
        live = self._live.retire(job_id)
        if live is None or live.supervisor is None:
            return
        supervisor = live.supervisor
        if supervisor.is_handed_over:
            if not self._shutdown.hands_over():
                self._unrecorded = {**self._still_unrecorded(), job_id: supervisor.is_end_given}
        elif live.is_given_up or supervisor.was_never_executed:
            self._ended.give_up(supervisor)
        else:
            logger.info("job %s of %s has ended: %r", job_id, live.owner, supervisor.record.state)
            self._ended.add(supervisor)


def _may_have_run(live: LiveJob, error: BaseException) -> bool:
    """Whether a Start that failed, or that its caller has left, may have had its command executed, or may have yet."""
    return isinstance(error, ExecutionUnknown) or (live.supervisor is not None and live.supervisor.is_executing)
