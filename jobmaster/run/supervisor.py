"""A running job: one Trio nursery that owns its main process, its output pump and its supervisor.

Theory of operation
-------------------
`Job.run` acquires outside the nursery (cgroup, log, pipe, process: all or nothing, in one worker thread) and owns
inside it. Three tasks run there:

* the *pump* moves output from the pipe to the log;
* the *supervisor* polls the cgroup's memory.events, so that a child killed for memory is told while the job runs;
* the body *outlives the main process*: it waits for its death and carries out a stop order.

When the main process has died, or the nursery is cancelled, the job is wound down, shielded and with a deadline:
what is left in the cgroup is killed, the cgroup is waited empty, the pipe is drained (never waiting for an
end-of-file that an escaped process could withhold), memory.events is read for the last time, which is the truth, and
the cgroup is removed. Then the cause is decided, the log is sealed and the state becomes `Ended`, in that order:
whoever sees the end finds everything in its final place.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import trio

from jobmaster.errors import CgroupError, HostError, LimitNotEnforceable, ServerBusy
from jobmaster.host import launch
from jobmaster.host.cgroup.limits import LimitWrite
from jobmaster.host.cgroup.tree import CgroupTree, JobCgroup, LimitWriteError
from jobmaster.host.executable import check_runnable
from jobmaster.host.launch import EXHAUSTED
from jobmaster.host.process import ChildProcess
from jobmaster.job.cause import Evidence, Signalled, StopOrder, cause_of
from jobmaster.job.identifier import JobId
from jobmaster.job.record import JobRecord, LimitReport
from jobmaster.job.specification import JobSpecification
from jobmaster.job.state import (
    Finished,
    Launched,
    Running,
    Starting,
    State,
    StopOrdered,
    Stopping,
    describe_state,
    transition,
)
from jobmaster.output.log import OutputLog
from jobmaster.output.pump import Pump, open_pipe

logger = logging.getLogger(__name__)

JOIN_SECONDS: Final = 10.0
"""How long a new process may take to join its cgroup (a global lock of the kernel can hold it up)."""
SUPERVISION_SECONDS: Final = 1.0
"""Between two looks at memory.events."""
WIND_DOWN_SECONDS: Final = 20.0
"""How long killed processes may take to leave the cgroup; only uninterruptible sleep takes so long."""
REMOVAL_SECONDS: Final = 1.0
"""How long the kernel may find an empty cgroup busy."""
DRAIN_SECONDS: Final = 2.0
"""How long a process outside the cgroup that holds the job's pipe is listened to after the job's end."""
_FIRST_POLL: Final = 0.0005
_LAST_POLL: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTerms:
    """What is the same for every job of a server.

    Attributes:
        tree: where the jobs' cgroups are made.
        limit_writes: what is written to each job's cgroup: the limits that this host enforces.
        limit_reports: every limit set, enforced or not.
        memory_max: the memory limit that is enforced, bytes.
        output_folder: where the logs are made.
        launcher: how processes are started.
        grace_seconds: between SIGTERM and SIGKILL of a stop.
    """

    tree: CgroupTree
    limit_writes: Sequence[LimitWrite]
    limit_reports: tuple[LimitReport, ...]
    memory_max: int | None
    output_folder: Path
    launcher: launch.Launcher
    grace_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Holdings:
    """What a started job holds of the host."""

    cgroup: JobCgroup
    log: OutputLog
    pump: Pump
    process: ChildProcess
    report: int


class Job:
    """One job from its launch to its end. `run` it in a nursery; everything else may be called from any task."""

    def __init__(self, *, id: JobId, owner: str, specification: JobSpecification, terms: JobTerms) -> None:  # noqa: A002  # the field's name
        self.id = id
        self.owner = owner
        self.specification = specification
        self._terms = terms
        self._state: State = Starting()
        self._stop_ordered = trio.Event()
        self._hurry = trio.Event()
        self._ended = trio.Event()
        self._launched = False
        self._kill_sent = False
        self._killed_by_server = False
        self._oom_kills = 0
        self._holdings: _Holdings | None = None
        self._log: OutputLog | None = None

    def __repr__(self) -> str:
        return f"<Job {self.id} of {self.owner}: {type(self._state).__name__}>"

    @property
    def was_launched(self) -> bool:
        """True once it became a job: its process was in its cgroup."""
        return self._launched

    def summary(self) -> str:
        """One sentence for people: what it does, or why it ended."""
        return describe_state(self._state)

    @property
    def output(self) -> OutputLog:
        """The job's log; there is one once `run` has started."""
        if self._log is None:
            raise AssertionError("a job has no output before it has started")
        return self._log

    def record(self) -> JobRecord:
        """The job as of now."""
        return JobRecord(
            id=self.id,
            owner=self.owner,
            specification=self.specification,
            state=self._state,
            limits=self._terms.limit_reports,
            oom_kills=self._oom_kills,
            output_bytes=self._log.size if self._log else 0,
            output_bytes_lost=self._log.lost if self._log else 0,
        )

    async def wait_ended(self) -> None:
        """Waits until the job has ended and its record is final."""
        await self._ended.wait()

    def order_stop(self, by: str | None) -> None:
        """Asks the job to end: SIGTERM, grace, SIGKILL. The first order counts; one that comes after the end, none.

        Args:
            by: the client who asks, or None for the server itself.
        """
        if self._holdings is not None and self._holdings.process.has_died():
            return
        self._state = transition(self._state, StopOrdered(order=StopOrder(by=by, requested_at=_now())))
        if isinstance(self._state, Stopping):
            self._stop_ordered.set()

    def hurry(self) -> None:
        """Ends the grace period of a stop now."""
        self._hurry.set()

    # --- the life -------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Starts the job, says so, and lives until it has ended.

        Raises:
            JobError, RequestError, HostError: it could not be started; nothing of it is left behind.
        """
        holdings = await trio.to_thread.run_sync(self._acquire)
        self._holdings, self._log = holdings, holdings.log
        try:
            await self._wait_joined(holdings)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(holdings.pump.run)
                nursery.start_soon(self._supervise, holdings.cgroup)
                self._state = transition(self._state, Launched(pid=holdings.process.pid, at=_now()))
                self._launched = True
                task_status.started()
                await self._outlive_main_process(holdings)
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):  # each wait inside has its own deadline
                await self._wind_down(holdings)

    def _acquire(self) -> _Holdings:
        """Makes all that the job needs, or nothing. Runs in a worker thread."""
        terms, launcher = self._terms, self._terms.launcher
        environment = launcher.account.environment(job_id=self.id, client=self.owner)
        check_runnable(self.specification.command, launcher.account, environment["PATH"], launch.WORKING_FOLDER)
        with ExitStack() as undo, ExitStack() as handed_on, _host_errors_translated():
            cgroup = terms.tree.create(self.owner, self.id, terms.limit_writes)
            undo.callback(cgroup.remove)
            log = OutputLog(terms.output_folder / f"{self.id}.log")
            undo.callback(log.discard)
            read_end, write_end = open_pipe()
            undo.callback(os.close, read_end)
            handed_on.callback(os.close, write_end)
            report, report_end = os.pipe2(os.O_CLOEXEC)
            undo.callback(os.close, report)
            handed_on.callback(os.close, report_end)
            command_line = launcher.command_line(cgroup.procs_path, self.specification.argv)
            process = launch.spawn(command_line, environment, output=write_end, report=report_end)
            undo.pop_all()
        return _Holdings(cgroup=cgroup, log=log, pump=Pump(read_end, log), process=process, report=report)

    async def _wait_joined(self, holdings: _Holdings) -> None:
        """Waits until the launcher has joined the cgroup.

        Raises:
            HostError: it could not, or not in time.
        """
        complaint = b""
        os.set_blocking(holdings.report, False)
        with trio.move_on_after(JOIN_SECONDS) as scope:
            while data := await _read_when_ready(holdings.report):
                complaint = (complaint + data)[:1024]
        if scope.cancelled_caught:
            raise HostError(f"job {self.id} did not join its cgroup within {JOIN_SECONDS:.0f} s")
        if complaint:
            raise HostError(f"job {self.id} did not join its cgroup: {complaint.decode(errors='replace').strip()}")

    async def _supervise(self, cgroup: JobCgroup) -> None:
        with _host_errors_logged(self):
            while True:
                self._look_for_oom_kills(cgroup)
                await trio.sleep(SUPERVISION_SECONDS)

    def _look_for_oom_kills(self, cgroup: JobCgroup) -> None:
        events = cgroup.memory_events()
        if events is not None:
            self._oom_kills = max(self._oom_kills, events.processes_killed)

    async def _outlive_main_process(self, holdings: _Holdings) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._carry_out_stop, holdings)
            await holdings.process.wait_died()
            if self._stop_ordered.is_set():  # its other processes have the rest of the grace period
                await _poll(lambda: self._kill_sent or not holdings.cgroup.populated())
            nursery.cancel_scope.cancel()

    async def _carry_out_stop(self, holdings: _Holdings) -> None:
        await self._stop_ordered.wait()
        with _host_errors_logged(self):
            await trio.to_thread.run_sync(holdings.cgroup.signal, signal.SIGTERM)
            await trio.to_thread.run_sync(
                holdings.cgroup.signal, signal.SIGCONT
            )  # one that is frozen handles no SIGTERM
        with trio.move_on_after(self._terms.grace_seconds):
            await self._hurry.wait()
        self._kill(holdings)

    def _kill(self, holdings: _Holdings) -> None:
        """Kills every process of the job; remembers it when the main process was still alive."""
        self._kill_sent = True
        self._killed_by_server = self._killed_by_server or not holdings.process.has_died()
        holdings.process.send_signal(signal.SIGKILL)  # it may not have joined the cgroup yet
        holdings.cgroup.kill()

    # --- the end --------------------------------------------------------------------------------------------------

    async def _wind_down(self, holdings: _Holdings) -> None:
        cgroup, process = holdings.cgroup, holdings.process
        if isinstance(self._state, Running) and not process.has_died():  # the server ends, without a word to the job
            self.order_stop(None)
        with _host_errors_logged(self):
            self._kill(holdings)
            with trio.move_on_after(WIND_DOWN_SECONDS):
                await process.wait_died()
                await _poll(lambda: not cgroup.populated())
        with trio.move_on_after(DRAIN_SECONDS):
            await holdings.pump.drain()
        with _host_errors_logged(self):
            self._look_for_oom_kills(cgroup)
            with trio.move_on_after(REMOVAL_SECONDS) as removal:
                await _poll(cgroup.remove)
            if removal.cancelled_caught:
                logger.error("job %s: a process is stuck in its cgroup %s, which is left behind", self.id, cgroup.path)
        self._finish(holdings)

    def _finish(self, holdings: _Holdings) -> None:
        process, launcher = holdings.process, self._terms.launcher
        name = process.program_name()
        death = process.reap() if process.has_died() else Signalled(signal.SIGKILL)
        process.close()
        holdings.pump.close()
        os.close(holdings.report)
        evidence = Evidence(
            death=death,
            never_ran=launcher.never_ran(death, name),
            order=self._state.order if isinstance(self._state, Stopping) else None,
            killed=self._killed_by_server,
            oom_kills=self._oom_kills,
            memory_max=self._terms.memory_max,
        )
        self._state = transition(self._state, Finished(cause=cause_of(evidence), at=_now()))
        self._holdings = None
        if self._launched:
            holdings.log.seal()
        else:  # it never became a job
            holdings.log.discard()
        self._ended.set()


async def _poll(condition: Callable[[], bool]) -> None:
    """Waits until a condition of the kernel holds that no event tells of."""
    pause = _FIRST_POLL
    while not condition():
        await trio.sleep(pause)
        pause = min(pause * 2, _LAST_POLL)


async def _read_when_ready(fd: int) -> bytes:
    while True:
        try:
            return os.read(fd, 1024)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(fd)


@contextmanager
def _host_errors_translated() -> Iterator[None]:
    """What a failing host means to the caller of Start."""
    try:
        yield
    except LimitWriteError as error:
        if not error.missing:
            raise
        raise LimitNotEnforceable(
            f"the server's host no longer offers the {error.controller} controller, which the jobs' limits need"
        ) from error
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise ServerBusy(f"the server's host is out of resources for a new job: {error.strerror}") from error
        raise HostError(f"cannot make a job: {error}") from error


@contextmanager
def _host_errors_logged(job: Job) -> Iterator[None]:
    """The job goes on to its end whatever the host says."""
    try:
        yield
    except CgroupError:
        logger.exception("%r: the host refused a step of its end", job)


def _now() -> datetime:
    return datetime.now(UTC)
