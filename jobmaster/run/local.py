"""Executions on this host: a cgroup, and in it a child of the launcher.

`LocalHost.spawn` acquires everything a job needs of the host, or nothing: the cgroup with its limits, the log, the pipe,
the open files of the cgroup, and a child that is held before it executes the command. What blocks (the disk of the logs,
the kernel's locks) is done in a thread of its own purpose, under a deadline; a thread that comes too late undoes what it
did. The command itself is looked up by the child, as the job's user.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import trio

from jobmaster.errors import (
    CgroupError,
    CommandNotRunnableNow,
    ExecutionUnknown,
    InvalidRequest,
    KilledBeforeExecution,
    ServerBusy,
)
from jobmaster.host.account import Account
from jobmaster.host.cgroup.devices import disk_of
from jobmaster.host.cgroup.interface import read_if_offered
from jobmaster.host.cgroup.opened import DESCRIPTORS, OpenedCgroup, kept_number
from jobmaster.host.cgroup.tree import CgroupTree
from jobmaster.host.process import is_dying
from jobmaster.job.cause import Death, Exited, Signalled, StopOrder
from jobmaster.job.identifier import JobId
from jobmaster.job.limits import LimitRequest
from jobmaster.job.memory import LimitsMet
from jobmaster.job.record import JobRecord
from jobmaster.job.specification import JobSpecification
from jobmaster.job.usage import Sample, Usage
from jobmaster.launcher.packets import close_all
from jobmaster.launcher.protocol import KILL
from jobmaster.output.cap import Cap
from jobmaster.output.closing import CLOSERS
from jobmaster.output.source import Source
from jobmaster.run.accounts import AccountPolicy, Accounts
from jobmaster.run.bounds import NOTHING_FREE, FreeSpace
from jobmaster.run.child import (
    Child,
    ChildAccount,
    ChildStatus,
    ExecFailed,
    Executed,
    Launch,
    LauncherLost,
    NeverExecuted,
    Order,
)
from jobmaster.run.execution import KnownEnd, Spawned
from jobmaster.run.job_files import (
    STARTERS,
    UNDO_SECONDS,
    AdoptedFiles,
    JobFiles,
    acquire,
    discard,
    empty_outputs,
    output_path,
)
from jobmaster.run.job_streams import DESCRIPTORS as STREAM_DESCRIPTORS
from jobmaster.run.job_streams import STDIN, TERMINAL, adopted_streams, given_and_kept, outputs_of, streams_of
from jobmaster.run.launcher import Launcher
from jobmaster.run.lifting import Lifting
from jobmaster.run.limits import JobLimits, LimitPolicy, default_limits, resolve
from jobmaster.run.oom_limits import CountsAbove
from jobmaster.run.start_errors import SERVERS_PLACE, Place, host_errors_translated, why_not_executed
from jobmaster.run.stdin import Stdin
from jobmaster.run.usages import end_and_read, sample_of, usage_of
from jobmaster.run.work_folders import WorkFolders
from jobmaster.threads import LeftThreads, NoThread, run_in_thread

T = TypeVar("T")

logger = logging.getLogger(__name__)

WORKING_FOLDER: Final = "/"
OOM_SCORE_ADJ: Final = 200
"""Of every job: where the host itself has no memory left, it takes a job before the server, and before most others (proc(5))."""
UMASK: Final = 0o077
"""Of every job: what it makes is for its user alone, unless it says otherwise."""
SWEEPERS: Final = trio.CapacityLimiter(1)
"""The thread that kills what nobody has adopted; the disk that holds up adoptions is none of its. It is waited for: one
that went on beside the server would kill new jobs."""
CLEARING_SECONDS: Final = 5.0
"""How long the jobs of an earlier server may take to die at start."""
LAUNCH_SECONDS: Final = 10.0
"""How long the launcher may take to make a process; only one that somebody has stopped takes so long."""
SIGNALLERS: Final = trio.CapacityLimiter(4)
"""Threads that signal the processes of a cgroup one by one, as clients order it."""
STOP_SIGNALLERS: Final = trio.CapacityLimiter(8)
"""The same for stops: what clients order as often as they like is not to delay what ends a job."""
WRITERS_OF_TOTALS: Final = trio.CapacityLimiter(1)
"""The thread that writes limits of clients' cgroups while jobs run."""
TOTALS_SECONDS: Final = 5.0
"""How long a reload, or a server's start, waits for it."""
DESCRIPTORS_OF_JOB: Final = DESCRIPTORS + 3 + STREAM_DESCRIPTORS
"""Descriptors of a running job: its cgroup's, its pidfd, its log and the log's index, and its streams'."""
_STOP: Final = "stop"
"""The kind of a stop order, as the launcher keeps it."""
_EARLY_STOP: Final = "stop when executed"
"""The same of one that was given while the job was held."""
_FOR_OUTPUT: Final = "output_max"
"""The reason of one that nobody asked for and that is no shutdown, as the launcher keeps it."""
_GIVEN_UP: Final = "given up"
"""The reason of one to kill, which nobody asked for, where nobody was told of the job, as the launcher keeps it."""
_FOR_RUN_TIME: Final = "max_run_ms"
"""Likewise."""
OOM_KILLS: Final = "oom_kills"
"""The name of the attribute of a job's cgroup that has the OOM kills which its main process has outlived."""
_CORE_DUMPED: Final = 0x80
"""The bit of a wait status beside the signal (wait(2))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTerms:
    """What is the same for every job of this host.

    Attributes:
        tree: where the jobs' cgroups are made.
        limits: what the limits of a job are decided by.
        limits_of_clients: the same for clients that have ceilings of their own, by their names.
        output_folder: where the logs are made.
        accounts: whom the jobs run as.
        drops_privileges: the server is root, so that jobs have to be turned into their account.
        open_files: soft RLIMIT_NOFILE of the jobs.
        output_max: bytes that are kept of a job's output, at most; None: all.
        work_folder: where each job has a folder of its own; None: jobs have none.
        work_free: how much of its disk is free where a job is started.
    """

    tree: CgroupTree
    limits: LimitPolicy
    output_folder: Path
    accounts: AccountPolicy
    drops_privileges: bool
    open_files: int
    output_max: int | None = None
    limits_of_clients: Mapping[str, LimitPolicy] = field(default_factory=dict)
    work_folder: Path | None = None
    work_free: FreeSpace = NOTHING_FREE

    def cap(self, specification: JobSpecification) -> Cap | None:
        """How much of a job's output is kept.

        Raises:
            InvalidRequest: it asks for more than the server keeps.
        """
        most = self.output_max
        if most is not None and specification.output_max > most:
            raise InvalidRequest(f"output_max is {most} bytes at most on this server", field="output_max")
        size = specification.output_max or most
        return None if size is None else Cap(size, ends_job=specification.ends_when_full)

    def limits_of(self, owner: str, request: LimitRequest) -> JobLimits:
        """The limits of a client's job.

        Raises:
            InvalidRequest, LimitNotEnforceable: it cannot have these; as `resolve`.
        """
        return resolve(
            request,
            self.limits_of_clients.get(owner, self.limits),
            {each.device: disk_of(each.device) for each in request.io if each.device},
        )

    def launch(self, job_id: JobId, owner: str, specification: JobSpecification, account: Account) -> Launch:
        """What the launcher is told of a job."""
        terminal = specification.terminal
        given = {name: _as_bytes(value) for name, value in specification.environment}
        folder = None if self.work_folder is None else self.work_folder / job_id
        becomes = ChildAccount(
            uid=account.uid, gid=account.gid, groups=account.groups, keeps_capabilities=account.is_root
        )
        return Launch(
            id=job_id,
            argv=specification.argv,
            environment=account.environment(job_id=job_id, client=owner, folder=folder)
            | ({} if terminal is None else {"TERM": terminal.term})
            | given,
            working_folder=_as_bytes(specification.working_folder) or str(folder or WORKING_FOLDER),
            account=becomes if self.drops_privileges else None,
            open_files=self.open_files,
            oom_score_adj=OOM_SCORE_ADJ,
            umask=UMASK,
        )


def _nothing_told(*, at_once: bool = False) -> tuple[None, None]:  # noqa: ARG001  # as `CountsAbove.of`
    return None, None


def _as_bytes(text: str) -> str:
    """What os.fsencode turns into the UTF-8 that a client has sent, whatever the encoding of this host."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


class LocalExecution:
    """An `Execution`: a child of the launcher and its cgroup."""

    def __init__(
        self,
        launcher: Launcher,
        child: Child,
        cgroup: OpenedCgroup,
        command: str,
        user: str,
        *,
        place: Place = SERVERS_PLACE,
        stdin: Stdin | None = None,
        counts_above: Callable[..., tuple[int | None, int | None]] = _nothing_told,
        limits_met_at_first: LimitsMet | None = None,
        has_counted: bool = True,
        on_gone: Callable[[], None] = lambda: None,
    ) -> None:
        """Takes over the child and its open cgroup.

        Args:
            launcher: of the child.
            child: the main process.
            cgroup: it is in.
            command: for people.
            user: as whom it runs, for people.
            place: where it is executed.
            stdin: its input, if it has one.
            counts_above: as `CountsAbove.of`, of its client.
            limits_met_at_first: as of `Execution`.
            has_counted: whether its cgroup has counted what it used, from the beginning.
            on_gone: called when this is closed: its processes are gone.
        """
        self._launcher = launcher
        self._child = child
        self._cgroup = cgroup
        self._command = command
        self._user = user
        self._place = place
        self._stdin = stdin
        self._counts_above = counts_above
        self._limits_met_at_first = limits_met_at_first
        self._has_counted = has_counted
        self._on_gone = on_gone
        self._may_execute = False
        self._lifting = Lifting(cgroup)

    @property
    def pid(self) -> int:
        """The main process."""
        return self._child.pid

    def age(self) -> float:
        """As the kernel has it."""
        return self._child.age()

    async def execute(self) -> None:
        """Sends the go byte, and waits for what the launcher tells of execve(2)."""
        self._may_execute = True
        self._child.go()
        try:
            outcome = await self._child.wait_executed()
        except LauncherLost as error:
            raise ExecutionUnknown("the server is shutting down") from error
        match outcome:
            case Executed():
                return
            case ExecFailed() as failure:
                raise why_not_executed(failure, self._command, self._user, self._place)
            case NeverExecuted():
                if self.oom_kills():
                    raise CommandNotRunnableNow(
                        "the job's memory limit is too small: the kernel killed the job for memory before its command "
                        "was executed; ask for a larger memory_max, or the server's operator for a larger --memory-max"
                    )
                logger.warning("%s: process %d was killed before it executed its command", self._child.id, self.pid)
                raise KilledBeforeExecution(
                    "something on the server's host killed the job before its command was executed, and nothing of it has run; "
                    "try again"
                )

    def was_executed(self) -> bool:
        """By what the launcher has told; where that is nothing, by whether the go byte may have been sent."""
        outcome = self._child.outcome
        return self._may_execute if outcome is None else outcome == Executed()

    def has_died(self) -> bool:
        """By the pidfd."""
        return self._child.has_died()

    def is_dying(self) -> bool:
        """By the pidfd and /proc/PID/stat."""
        return self._child.has_died() or is_dying(self.pid)

    async def wait_death(self) -> Death:
        """Waits for the wait status from the launcher; a tracer may keep it from us for some seconds."""
        return death_of(await self._child.wait_status())

    def died_at(self) -> datetime | None:
        """As the launcher has seen it."""
        return self._child.died_at

    def note_order(self, order: StopOrder, *, is_early: bool = False) -> None:
        """Tells the launcher."""
        self._note(_EARLY_STOP if is_early else _STOP, order)

    def note_kill(self, order: StopOrder) -> None:
        """Tells the launcher."""
        self._note(KILL, order)

    def note_given_up(self) -> None:
        """Tells the launcher, in the place of any order that there is."""
        order = Order(kind=KILL, at=datetime.now(UTC), by=None, reason=_GIVEN_UP)
        self._launcher.order(self._child.id, order)

    def _note(self, kind: str, order: StopOrder) -> None:
        self._launcher.order(self._child.id, _order(kind, order))

    def signal_main(self, number: int) -> bool:
        """By the pidfd."""
        return self._child.send_signal(number)

    async def signal_others(self, number: int, *, is_stop: bool = False) -> None:
        """To each process of the cgroup, in a thread: there may be thousands."""
        threads = STOP_SIGNALLERS if is_stop else SIGNALLERS
        await run_in_thread(threads, self._cgroup.signal, number, self.pid, abandon=True)

    def freeze(self, is_frozen: bool) -> None:
        """By cgroup.freeze."""
        self._cgroup.freeze(is_frozen)

    def has_frozen(self) -> bool:
        """By cgroup.events."""
        return self._cgroup.frozen()

    def kill(self) -> None:
        """By the pidfd and by cgroup.kill."""
        self._child.send_signal(9)  # where the cgroup's file fails
        self._cgroup.kill()

    def free_stuck(self, times: int) -> None:
        """Tells the launcher, which aborts the connections of FUSE file systems of the job's own."""
        self._launcher.free_stuck(self._child.id, times)

    def is_populated(self) -> bool:
        """By cgroup.events."""
        return self._cgroup.populated()

    def oom_kills(self) -> int:
        """By memory.events; 0 where there is no memory controller."""
        events = self._cgroup.memory_events()
        return 0 if events is None else events.processes_killed

    def keep_oom_kills(self, count: int) -> None:
        """As an attribute of the cgroup, with which it goes."""
        self._cgroup.keep(OOM_KILLS, count)

    def kept_oom_kills(self) -> int:
        """As `keep_oom_kills` has kept it."""
        return self._cgroup.kept(OOM_KILLS)

    def limits_met(self, *, at_once: bool = False) -> LimitsMet:
        """By memory.events, and those of the cgroups above."""
        events = self._cgroup.memory_events()
        client, jobs = self._counts_above(at_once=at_once)
        return LimitsMet(job=None if events is None else events.oom, client=client, jobs=jobs)

    def limits_met_at_first(self) -> LimitsMet | None:
        """By those of the cgroups above."""
        return self._limits_met_at_first

    async def usage(self) -> Usage | None:
        """By the files of the cgroup, in a thread: for some the kernel needs a lock of all cgroups."""
        return await usage_of(self._cgroup.path) if self._has_counted else None

    async def sample(self) -> Sample | None:
        """As `usage`."""
        return await sample_of(self._cgroup.path) if self._has_counted else None

    async def lift_limits(self) -> None:
        """Lets what is left of it run and write freely; in a thread, where it has anything that may wait."""
        if self._cgroup.limits_disks or self._cgroup.populated():
            await self._lifting.lift()

    def remove(self) -> bool:
        """Removes the cgroup."""
        return self._cgroup.remove()

    async def close(self) -> None:
        """Has the launcher forget the child, and waits until it has closed what it holds."""
        self._cgroup.close()
        self._child.release()
        self._on_gone()
        try:
            await self._child.wait_forgotten()
        finally:
            if self._stdin is not None:
                await self._stdin.close()  # noqa: ASYNC102  # shields itself

    def leave(self) -> None:
        """Closes what this server has of the cgroup and of the child, which the launcher keeps."""
        self._cgroup.close()
        if self._stdin is not None:
            self._stdin.leave()
        self._child.leave()


def _limits_met_at_first(counts_above: Callable[[], tuple[int | None, int | None]]) -> LimitsMet | None:
    try:
        client, jobs = counts_above()
    except CgroupError:
        return None
    return LimitsMet(job=0, client=client, jobs=jobs)


def death_of(status: ChildStatus) -> Death:
    """The death that a wait status tells of (wait(2))."""
    number = status.wait_status & 0x7F
    if number == 0:
        return Exited(status.wait_status >> 8 & 0xFF)
    return Signalled(number, core_dumped=bool(status.wait_status & _CORE_DUMPED))


async def _close_outputs(descriptors: Sequence[int]) -> None:
    """Closes the read ends of pipes whose writers are killed; one that a writer holds up is left to its thread."""
    with trio.move_on_after(CLEARING_SECONDS):
        async with trio.open_nursery() as nursery:
            for descriptor in descriptors:
                nursery.start_soon(_in_closer, os.close, descriptor)


async def _in_closer(function: Callable[..., T], *args: Any) -> T:
    """Runs what takes the lock of a pipe; a thread that is left in it is none of those that close what running jobs need."""
    with LeftThreads().counted(CLOSERS) as thread:
        return await run_in_thread(CLOSERS, thread.run, function, *args, abandon=True)


def _order(kind: str, order: StopOrder) -> Order:
    reason = _FOR_OUTPUT if order.for_output else _FOR_RUN_TIME if order.for_run_time else order.reason
    return Order(kind=kind, at=order.requested_at, by=order.by, reason=reason)


def _is_given_up(order: Order | None) -> bool:
    return order is not None and (order.kind, order.by, order.reason) == (KILL, None, _GIVEN_UP)


def _stop_order(order: Order) -> StopOrder:
    if order.by is None and order.reason == _FOR_OUTPUT:
        return StopOrder(by=None, requested_at=order.at, for_output=True)
    if order.by is None and order.reason == _FOR_RUN_TIME:
        return StopOrder(by=None, requested_at=order.at, for_run_time=True)
    return StopOrder(by=order.by, requested_at=order.at, reason=order.reason)


class LocalHost:
    """Makes executions."""

    def __init__(self, terms: LocalTerms, launcher: Launcher) -> None:
        self.terms = terms
        self._launcher = launcher
        self.accounts = Accounts(terms.accounts, terms.output_folder)
        self._work = WorkFolders(terms.work_folder, terms.work_free)
        self._adopted: set[Path] = set()
        self._counts_above = CountsAbove(terms.tree.jobs)
        self._default_limits = default_limits(terms.limits)

    @property
    def output_folder(self) -> Path:
        """Where all outputs are kept."""
        return self.terms.output_folder

    def output_path(self, job_id: JobId) -> Path:
        """Where the output of a job is kept."""
        return output_path(self.terms.output_folder, job_id)

    async def spawn(self, job_id: JobId, owner: str, specification: JobSpecification) -> Spawned:
        """A held execution of a command. A caller that is cancelled leaves nothing.

        Raises:
            JobError, RequestError, HostError: it cannot be made; nothing is left.
        """
        terms = self.terms
        cap = terms.cap(specification)
        limits = (
            terms.limits_of(owner, specification.limits)
            if specification.limits or owner in terms.limits_of_clients
            else self._default_limits
        )
        account = await self.accounts.of(owner)
        files = await acquire(
            lambda: JobFiles(
                terms.tree,
                limits.writes,
                terms.output_folder,
                job_id=job_id,
                owner=owner,
                cap=cap,
                has_stdin=specification.stdin,
                has_stderr=specification.separate_streams,
                terminal=specification.terminal,
                make_folder=partial(self._work.make, job_id, account),
                unmake_folder=partial(self._work.unmake, job_id),
            )
        )
        try:
            child = await self._hold(terms.launch(job_id, owner, specification, account), files)
        except BaseException:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + UNDO_SECONDS):
                await discard(files)
            raise
        files.cgroup.close_folder()
        stdin, pump = streams_of(files, self._close_kept(child))
        counts_above = partial(self._counts_above.of, owner)
        return Spawned(
            execution=LocalExecution(
                self._launcher,
                child,
                files.cgroup,
                specification.masked_argv[0],
                account.shown,
                place=Place.of(specification.working_folder, (name for name, _ in specification.environment)),
                stdin=stdin,
                counts_above=counts_above,
                limits_met_at_first=_limits_met_at_first(counts_above),
                on_gone=partial(self._work.remove, job_id),
            ),
            log=files.log,
            pump=pump,
            stdin=stdin,
            start_time=child.start_time,
            user=account.shown,
            limits=limits.reports,
        )

    async def adopt(self, record: JobRecord) -> Spawned | None:
        """The execution of a job whose main process the launcher has kept; None where it has not.

        Raises:
            ServerBusy: the disk of its output does not answer.
            HostError: its cgroup or its output cannot be opened. What the launcher has of it is then ended with what
                nobody has adopted.
        """
        inherited = self._launcher.inherited.children.get(record.id)
        if inherited is None:
            return None
        terms = self.terms
        terminal = inherited.keeps.get(TERMINAL)
        files = await acquire(lambda: AdoptedFiles(terms.tree, terms.output_folder, record, terminal=terminal))
        del self._launcher.inherited.children[record.id]
        self._adopted.add(files.cgroup.path)
        stdin, pump = adopted_streams(inherited, files, self._close_kept(inherited.child))
        return Spawned(
            execution=LocalExecution(
                self._launcher,
                inherited.child,
                files.cgroup,
                record.command.command,
                record.user,
                place=Place.of(record.working_folder, record.variables),
                stdin=stdin,
                counts_above=partial(self._counts_above.of, record.owner),
                has_counted=not files.is_anew,
                on_gone=partial(self._work.remove, record.id),
            ),
            log=files.log,
            pump=pump,
            stdin=stdin,
            start_time=inherited.child.start_time,
            order=None if inherited.order is None else _stop_order(inherited.order),
            is_killed=inherited.order is not None and inherited.order.kind == KILL,
            is_early=inherited.order is not None and inherited.order.kind == _EARLY_STOP,
            is_given_up=_is_given_up(inherited.order),
        )

    def _close_kept(self, child: Child) -> Callable[[], Awaitable[None]]:
        return partial(self._launcher.close_kept, child.id, STDIN)

    async def known_end(self, job_id: JobId) -> KnownEnd | None:
        """By the wait status that the launcher has kept, and by how far it got."""
        inherited = self._launcher.inherited.children.get(job_id)
        if inherited is not None and _is_given_up(inherited.order):
            return KnownEnd(death=None, is_given_up=True)
        if inherited is None or inherited.child.status is None:
            return None
        if inherited.child.outcome != Executed():
            return KnownEnd(death=None)
        order = None if inherited.order is None else _stop_order(inherited.order)
        left = 0
        with trio.move_on_after(CLEARING_SECONDS), suppress(OSError, NoThread):
            for source in map(Source.duplicate, outputs_of(inherited)):
                try:
                    left += sum(await _in_closer(source.take_left))
                finally:
                    close_all(source.give_up())
        return KnownEnd(
            death=death_of(inherited.child.status), order=order, left_in_pipe=left, died_at=inherited.child.died_at
        )

    def outlived_oom_kills(self, record: JobRecord) -> int:
        """By the attribute of its cgroup."""
        return kept_number(self.terms.tree.jobs / record.owner / record.id, OOM_KILLS)

    async def usages(self, records: Sequence[JobRecord]) -> Mapping[JobId, Usage]:
        """By the files of their cgroups, in one thread."""
        return await run_in_thread(SWEEPERS, end_and_read, self.terms.tree, records, CLEARING_SECONDS)

    async def end_others(self) -> Sequence[JobId]:
        """Ends children that were not adopted, and every other cgroup of jobs; what is stuck is logged."""
        children = self._launcher.inherited.children
        running = [
            JobId(name)
            for name, inherited in children.items()
            if isinstance(inherited.child.outcome, Executed) and not inherited.child.has_died()
        ]
        for inherited in children.values():
            inherited.child.release()
        left: tuple[Path, ...] = (self.terms.tree.jobs,)
        with trio.move_on_after(CLEARING_SECONDS):
            while left := await run_in_thread(SWEEPERS, self.terms.tree.sweep, tuple(self._adopted)):  # noqa: ASYNC110  # the kernel has no event for it
                await trio.sleep(0.02)
        with trio.move_on_after(CLEARING_SECONDS):
            for inherited in children.values():
                await inherited.child.wait_forgotten()
        await _close_outputs([fd for inherited in children.values() for fd in inherited.descriptors])
        children.clear()
        for path in left:
            logger.error("a process of an earlier server is stuck in %s, which is left behind", path)
        return running

    async def empty_outputs(self) -> Sequence[JobId]:
        """The jobs whose file of output is empty, `MOST_EMPTY` of them at most."""
        return await run_in_thread(STARTERS, empty_outputs, self.terms.output_folder, abandon=True)

    async def find_left_folders(self, is_live: Callable[[JobId], bool]) -> None:
        """By their names."""
        await self._work.find_left(is_live)

    async def keep_removing_folders(self) -> None:
        """One after the other, a moment each."""
        await self._work.keep_removing()

    async def remove_last_folders(self) -> None:
        """As long as the server's end may take for it."""
        await self._work.finish()

    async def _hold(self, launch: Launch, files: JobFiles) -> Child:
        try:
            with host_errors_translated(files.cgroup.path.parent), trio.fail_after(LAUNCH_SECONDS):
                streams, keeps = given_and_kept(files)
                return await self._launcher.start(
                    launch,
                    cgroup=files.cgroup.folder,
                    output_read=files.read_end,
                    output_write=files.write_end,
                    streams=streams,
                    keeps=keeps,
                )
        except trio.TooSlowError:
            logger.error("the launcher has not made a process within %.0f s: is it stopped?", LAUNCH_SECONDS)
            raise ServerBusy(
                f"the server's host did not make a process for a new job within {LAUNCH_SECONDS:.0f} s; try again later"
            ) from None

    async def write_totals(self) -> None:
        """Writes what the jobs of each client may have together to the cgroups that there are; the log says what it could not.

        In a thread, which is left where the kernel is longer at reclaiming memory than `TOTALS_SECONDS`.
        """
        with trio.move_on_after(TOTALS_SECONDS), suppress(NoThread):
            failures = await run_in_thread(WRITERS_OF_TOTALS, self.terms.tree.write_totals, abandon=True)
            for failure in failures:
                logger.error("what the jobs of a client may have together is not in force: %s", failure)
            return
        logger.error("what the jobs of clients may have together is not all written yet")

    def memory_events(self, owner: str | None) -> bytes | None:
        """The counters of all jobs, or of one client's: those of a cgroup sum up those below it (cgroup v2, memory.events).

        A client's folder goes with its last job. The inode number tells the next one, whose counters start anew and may
        come to the same numbers, from it.
        """
        folder = self.terms.tree.jobs if owner is None else self.terms.tree.jobs / owner
        text = read_if_offered(folder / "memory.events")
        return None if text is None else f"{folder.stat().st_ino} {text}".encode()
