"""Executions that follow a script on Trio's clock, and the host that makes them.

What a script says is what truly happens: the execution notes it in `Truth`, against which a test holds what the engine
made of it. Output is written through a real pipe, so that the real pump and log are at work.
"""

from __future__ import annotations

import errno
import math
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from hashlib import shake_128
from itertools import count
from pathlib import Path
from typing import Final

import trio

from jobmaster.errors import HostError, KilledBeforeExecution
from jobmaster.job.cause import Death, Exited, Signalled, StopOrder
from jobmaster.job.identifier import JobId
from jobmaster.job.memory import LimitsMet, OomLimit
from jobmaster.job.record import JobRecord
from jobmaster.job.specification import JobSpecification
from jobmaster.job.usage import Sample, Usage
from jobmaster.output.cap import Cap
from jobmaster.output.log import OutputLog
from jobmaster.output.pump import Pump, open_pipe
from jobmaster.output.terminal import bytes_in
from jobmaster.run.execution import KnownEnd, Spawned
from jobmaster.run.job_files import empty_outputs, reopened_log
from jobmaster.run.start_errors import host_errors_translated
from tests.run.faults import Faults

NEVER: Final = math.inf
TERMINATED: Final = Signalled(signal.SIGTERM)
SUCCESS: Final = Exited(0)
BLOCKED_SECONDS: Final = 0.01
"""How long a job waits before it tries again to write into a pipe that is full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnTerm:
    """What the main process does `after` seconds when it gets SIGTERM: it ends so."""

    death: Death = TERMINATED
    after: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What a command does; times are seconds from its execution.

    Attributes:
        spawn_seconds: how long the host takes to hold it.
        execute_checkpoints: how many rounds of the event loop the kernel takes to execute it,
        execute_seconds: and how long; NEVER: it does not answer.
        execute_error: why it is not executed.
        is_executed_unheard: it is executed at once; only the answer takes that long.
        ends_at: when it ends by itself, by `death`.
        on_term: None where it ignores SIGTERM.
        on_warning: what it does on another signal that it gets; None: nothing.
        is_stopped: it acts on SIGTERM at the next SIGCONT only.
        dies_before_signal: it ends by itself in the instant before the first signal of a stop.
        others_end_at: when its other processes end by themselves; 0: it has none.
        others_ignore_term: they end by SIGKILL only.
        children_killed_for_memory: when the kernel kills a child for memory.
        killed_for_memory_at: when the kernel kills the main process for memory.
        death_seconds: how long processes take to die of SIGKILL; NEVER: uninterruptible sleep.
        status_is_withheld: nobody can learn how it died.
        told_died_at: when it died, as the one says who tells how.
        status_never_comes: nobody is told how it died, nor that nobody will be.
        lost_at: when it is known that nobody will learn how it dies.
        busy_seconds: how long the kernel finds its empty cgroup busy.
        signalling_hangs: signals to the other processes are never sent.
        freeze_seconds: how long the kernel takes to freeze it.
        lifting_hangs: its limits are never lifted.
        limit_of_kills: whose limit the kernel kills for; None: it does not tell.
        usage: what it has used, and how long the kernel takes to tell.
        bug: raised by `wait_death` instead of an answer.
        writes: when it writes how many bytes.
    """

    spawn_seconds: float = 0.0
    execute_checkpoints: int = 0
    execute_seconds: float = 0.0
    execute_error: Exception | None = None
    is_executed_unheard: bool = False
    ends_at: float = NEVER
    death: Death = SUCCESS
    on_term: OnTerm | None = OnTerm()
    on_warning: OnTerm | None = None
    is_stopped: bool = False
    dies_before_signal: bool = False
    others_end_at: float = 0.0
    others_ignore_term: bool = False
    children_killed_for_memory: tuple[float, ...] = ()
    killed_for_memory_at: float = NEVER
    death_seconds: float = 0.0
    status_is_withheld: bool = False
    told_died_at: datetime | None = None
    status_never_comes: bool = False
    lost_at: float = NEVER
    busy_seconds: float = 0.0
    signalling_hangs: bool = False
    freeze_seconds: float = 0.0
    lifting_hangs: bool = False
    limit_of_kills: OomLimit | None = None
    usage: Usage | None = None
    usage_seconds: float = 0.0
    bug: Exception | None = None
    writes: tuple[tuple[float, int], ...] = ()


@lru_cache
def output(size: int) -> bytes:
    """The first bytes of what every scripted job writes: without a pattern, so that a gap or a repetition shows."""
    return shake_128(b"").digest(size)


@dataclass(slots=True, kw_only=True)
class Truth:
    """What happened to an execution; numbers are of the order in which things happened.

    Attributes:
        made: when it was made.
        executed: when the command was executed, None where it never was.
        terms: signals of a stop, SIGTERM mostly, that the main process got while it lived.
        warnings: other signals that it got while it lived.
        timed_out: when the engine ordered its end because its time was over, and no order was before that.
        timed_out_at: the time of that.
        killed: when the server's first SIGKILL was sent while the main process lived.
        died: when the main process died, None where it never did.
        killed_for_memory: when the kernel's SIGKILL for memory was sent to the main process.
        child_killed_at: the time of the last OOM kill of a child.
        executed_at, died_at: the time of the execution, and of the death.
        frozen: the times when it was frozen and when it was let go on, in turns.
        written: bytes that the pipe has taken.
    """

    made: int
    executed: int | None = None
    terms: list[int] = field(default_factory=list)
    warnings: list[int] = field(default_factory=list)
    timed_out: int | None = None
    timed_out_at: float = math.inf
    killed: int | None = None
    died: int | None = None
    death: Death | None = None
    killed_for_memory: int | None = None
    child_killed_at: float = -math.inf
    executed_at: float = math.inf
    died_at: float = math.inf
    frozen: list[float] = field(default_factory=list)
    written: int = 0

    def frozen_seconds(self, until: float) -> float:
        """How long it was frozen before then."""
        moments = [min(each, until) for each in (*self.frozen, until)]
        return sum(end - begin for begin, end in zip(moments[::2], moments[1::2], strict=False))


def _as_kept(order: StopOrder) -> StopOrder:
    """What the launcher has of it: no signal."""
    return replace(order, signal=signal.SIGTERM)


class ScriptedExecution:
    """A main process and its others, as `Execution` has them."""

    def __init__(
        self, script: Script, host: ScriptedHost, ends: tuple[int, int], *, job_id: JobId, owner: str, command: str
    ) -> None:
        self.script = script
        self.command = command
        self.job_id = job_id
        self.owner = owner
        self.truth = Truth(made=host.step())
        self.pid = 1000 + next(host.pids)
        self.made_at = trio.current_time()
        self.stop_signal = int(signal.SIGTERM)
        self.order: StopOrder | None = None
        self.order_is_early = False
        self.kill_is_noted = False
        self.is_given_up = False
        self.is_frozen = False
        self.signals: list[int] = []
        self.is_left = False
        self.is_adopted = False
        self.is_removed = False
        self.is_closed = False
        self.said_stuck: list[int] = []
        self.lifted = 0
        self.samples = 0
        self.written_up = trio.Event()
        self._host = host
        self._kept_read_end = os.dup(ends[0])
        self._write_end: int | None = ends[1]
        self._descriptor = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)  # as a pidfd and a cgroup's files
        self._may_execute = False
        self._answered = trio.Event()
        """Set when the command is executed, or never will be."""
        self._main_lives = True
        self._others_live = False
        self._kill_is_pending = False
        self._term_is_pending = False
        self._oom_kills = 0
        self._limits_met: Counter[OomLimit | None] = Counter()
        self._kept_oom_kills = 0
        self._empty_since = NEVER
        self._is_known = trio.Event()
        self._is_lost = False
        self._why_lost: HostError | OSError = HostError("nobody can tell how it died")

    def __repr__(self) -> str:
        return f"<scripted {self.job_id}: {self.script}>"

    # --- what the engine calls ----------------------------------------------------------------------------------------

    def age(self) -> float:
        """By Trio's clock."""
        return min(trio.current_time(), self.truth.died_at) - self.made_at

    async def execute(self) -> None:
        """Executes the command when the script says, whoever leaves meanwhile; another server waits for the same."""
        self._meet("execute")
        if not (self._may_execute or self.is_adopted):
            self._may_execute = True
            if self.script.is_executed_unheard:
                self._begin()
            self._host.nursery.start_soon(self._answer, self._answered)
        await self._answered.wait()
        if self.script.execute_error is not None:
            raise self.script.execute_error
        if self.truth.executed is None:
            raise KilledBeforeExecution("it died before it executed its command")

    def was_executed(self) -> bool:
        """Whether the command was executed."""
        return self.truth.executed is not None

    async def _answer(self, answered: trio.Event) -> None:
        for _ in range(self.script.execute_checkpoints):
            await trio.lowlevel.checkpoint()
        await trio.sleep(self.script.execute_seconds)
        if self.script.execute_error is not None:
            self._die(Exited(127))
        elif self.truth.executed is None and self._main_lives and not self._kill_is_pending:
            self._begin()
        answered.set()

    def has_died(self) -> bool:
        """Whether the main process is a zombie."""
        self._meet("has_died")
        return not self._main_lives

    def is_dying(self) -> bool:
        """Whether it has died or has a SIGKILL pending."""
        self._meet("is_dying")
        return not self._main_lives or self._kill_is_pending

    async def wait_death(self) -> Death:
        """Waits for the script's death."""
        try:
            self._meet("wait_death")
        except (HostError, OSError) as error:
            self._is_lost, self._why_lost = True, error  # from now on for good
        await trio.lowlevel.checkpoint()
        if not self._is_lost:
            await self._is_known.wait()
        if self.script.status_never_comes:
            await trio.sleep_forever()
        if self.script.bug is not None:
            raise self.script.bug
        if self._is_lost or self.truth.death is None or self.script.status_is_withheld:
            raise self._why_lost
        return self.truth.death

    def died_at(self) -> datetime | None:
        """What the script tells of it."""
        return self.script.told_died_at

    def signal_main(self, number: int) -> bool:
        """Lets the script act on the signal of the stop, and on SIGCONT where it is stopped."""
        self._meet("signal_main")
        if self.script.dies_before_signal:
            self.end(self.script.death)
        if not self._main_lives:
            return False
        self.signals.append(number)
        if number == self.stop_signal:
            self.truth.terms.append(self._host.step())
            self._term_is_pending = True
        elif number != signal.SIGCONT:
            self.truth.warnings.append(number)
            if (answer := self.script.on_warning) is not None:
                self._host.after(answer.after, lambda: self.end(answer.death))
        if self._term_is_pending and (number == signal.SIGCONT or not self.script.is_stopped):
            self._term_is_pending = False
            self._act_on_term()
        return True

    async def signal_others(self, number: int, *, is_stop: bool = False) -> None:  # noqa: ARG002  # as `Execution.signal_others`
        """Ends the other processes by the signal of the stop, unless they ignore it."""
        if self.script.signalling_hangs:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        self._meet("signal_others")
        if number == self.stop_signal and not self.script.others_ignore_term:
            self._end_others()

    def freeze(self, is_frozen: bool) -> None:
        """Notes it; what the script says happens all the same."""
        self._meet("freeze")
        if is_frozen != self.is_frozen:
            self.truth.frozen.append(trio.current_time())
        self.is_frozen = is_frozen

    def has_frozen(self) -> bool:
        """When the script says."""
        self._meet("has_frozen")
        return self.is_frozen and trio.current_time() >= self.truth.frozen[-1] + self.script.freeze_seconds

    def kill(self) -> None:
        """Sends SIGKILL to all; they die when the script says."""
        self._meet("kill")
        if self._main_lives and self.truth.killed is None:
            self.truth.killed = self._host.step()
        self._host.after(self.script.death_seconds, self._end_others)
        self._kill_main()

    def is_populated(self) -> bool:
        """Whether a process lives; a zombie does not."""
        self._meet("is_populated")
        return self._lives

    def oom_kills(self) -> int:
        """The counter of memory.events."""
        self._meet("oom_kills")
        return self._oom_kills

    def keep_oom_kills(self, count: int) -> None:
        """As an attribute of the cgroup."""
        self._kept_oom_kills = count

    def free_stuck(self, times: int) -> None:
        """Cannot be."""
        self.said_stuck.append(times)

    def kept_oom_kills(self) -> int:
        """That attribute."""
        return self._kept_oom_kills

    def limits_met(self, *, at_once: bool = False) -> LimitsMet:
        """As the script says whose limit each kill is for."""
        del at_once
        self._meet("limits_met")
        if self.script.limit_of_kills is None:
            return LimitsMet()
        met = self._limits_met
        return LimitsMet(job=met[OomLimit.JOB], client=met[OomLimit.CLIENT], jobs=met[OomLimit.JOBS])

    def limits_met_at_first(self) -> LimitsMet | None:
        """None was met then."""
        return LimitsMet() if self.script.limit_of_kills is None else LimitsMet(job=0, client=0, jobs=0)

    async def usage(self) -> Usage | None:
        """As the script says."""
        self._meet("usage")
        await trio.sleep(self.script.usage_seconds)
        return self.script.usage

    async def sample(self) -> Sample | None:
        """As the script says; takes as long."""
        self._meet("sample")
        self.samples += 1
        await trio.sleep(self.script.usage_seconds)
        return None if self.script.usage is None else Sample(usage=self.script.usage, pids=self.samples)

    async def lift_limits(self) -> None:
        """It has none; who is cancelled is so here."""
        if self.script.lifting_hangs:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        self._meet("lift_limits")
        self.lifted += 1

    def remove(self) -> bool:
        """Removes the cgroup when it is empty and no longer busy."""
        self._meet("remove")
        if not self._lives and trio.current_time() >= self._empty_since + self.script.busy_seconds:
            self.is_removed = True
        return self.is_removed

    async def close(self) -> None:
        """Closes the descriptors; an error is told when they are closed."""
        self._close()
        self._meet("close")

    def note_order(self, order: StopOrder, *, is_early: bool = False) -> None:
        """Keeps the first order for another server."""
        self._meet("note_order")
        if order.for_run_time and self.order is None:
            self.truth.timed_out, self.truth.timed_out_at = self._host.step(), trio.current_time()
        if self.order is None:
            self.order, self.order_is_early = _as_kept(order), is_early

    def note_kill(self, order: StopOrder) -> None:
        """Keeps that, too."""
        self._meet("note_kill")
        self.order, self.order_is_early = _as_kept(order), False
        self.kill_is_noted = True

    def note_given_up(self) -> None:
        """Keeps that, too."""
        self._meet("note_given_up")
        self.is_given_up = True

    def leave(self) -> None:
        """Leaves the processes to another server; one that may not execute its command never will."""
        self.is_left = True
        if not self._may_execute:
            self._die(Exited(127))

    def sweep(self) -> None:
        """Kills and removes what nobody has adopted, as a new server does; nobody waits for it."""
        self._kill_main()
        self._end_others()
        self.is_removed = True
        self._close()

    def left_in_pipe(self) -> int:
        """Bytes of its output that nobody has taken."""
        return bytes_in(self._kept_read_end)

    def take_read_end(self) -> int:
        """A read end of the output pipe for another server."""
        return os.dup(self._kept_read_end)

    def _close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            os.close(self._descriptor)
            os.close(self._kept_read_end)

    # --- what happens -------------------------------------------------------------------------------------------------

    @property
    def memory_counter(self) -> int:
        """What the counters above the job's cgroup sum up."""
        return self._oom_kills

    def abandon(self) -> None:
        """Closes what the processes hold; for the end of a test."""
        if self._write_end is not None:
            os.close(self._write_end)
            self._write_end = None
        self._close()

    def tell_late(self, seconds: float) -> None:
        """What became of its execution is told so late."""
        self._answered = trio.Event()
        self._host.after(seconds, self._answered.set)

    @property
    def _lives(self) -> bool:
        return self._main_lives or self._others_live

    def _meet(self, point: str) -> None:
        self._host.faults.meet(point, self.job_id)

    def _begin(self) -> None:
        script, after = self.script, self._host.after
        self.truth.executed, self.truth.executed_at = self._host.step(), trio.current_time()
        self._others_live = script.others_end_at > 0
        if script.writes:
            self._host.nursery.start_soon(self._write_all)
        after(script.ends_at, lambda: self.end(script.death))
        after(script.others_end_at, self._end_others)
        after(script.killed_for_memory_at, self._kill_for_memory)
        after(script.lost_at, self._lose)
        for at in script.children_killed_for_memory:
            after(at, self._kill_child_for_memory)

    async def _write_all(self) -> None:
        begin = trio.current_time()
        whole = output(sum(size for _, size in self.script.writes))
        due = 0
        for at, size in self.script.writes:
            await trio.sleep_until(begin + at)
            due += size
            while self.truth.written < due and self._write_end is not None:
                try:
                    self.truth.written += os.write(self._write_end, whole[self.truth.written : due])
                except BrokenPipeError:
                    return  # the engine has given it up
                except BlockingIOError:
                    pass
                if self.truth.written < due:
                    await trio.sleep(BLOCKED_SECONDS)
        self.written_up.set()

    def _act_on_term(self) -> None:
        answer = self.script.on_term
        if answer is not None:
            self._host.after(answer.after, lambda: self.end(answer.death))

    def _kill_for_memory(self) -> None:
        if self._main_lives and not self._kill_is_pending:
            self._count_oom_kill()
            self.truth.killed_for_memory = self._host.step()
            self._kill_main()

    def _count_oom_kill(self) -> None:
        self._oom_kills += 1
        self._limits_met[self.script.limit_of_kills] += 1

    def _kill_child_for_memory(self) -> None:
        if self._lives:
            self._count_oom_kill()
            self.truth.child_killed_at = trio.current_time()

    def _kill_main(self) -> None:
        if self._main_lives and not self._kill_is_pending:
            self._kill_is_pending = True
            self._host.after(self.script.death_seconds, lambda: self._die(Signalled(signal.SIGKILL)))

    def _lose(self) -> None:
        if self._main_lives:
            self._is_lost = True
            self._is_known.set()

    @property
    def is_lost(self) -> bool:
        """Whether nobody was told how it died."""
        return self._is_lost or self.script.status_is_withheld or self.script.bug is not None

    def end(self, death: Death) -> None:
        """Ends the main process by itself, unless a SIGKILL is pending."""
        if not self._kill_is_pending:  # no other code of it is executed then
            self._die(death)

    def _die(self, death: Death) -> None:
        if not self._main_lives:
            return
        self._main_lives = False
        self.truth.died, self.truth.death, self.truth.died_at = self._host.step(), death, trio.current_time()
        self._is_known.set()
        if self.truth.executed is None:
            self._answered.set()
        self._note_empty()

    def _end_others(self) -> None:
        self._others_live = False
        self._note_empty()

    def _note_empty(self) -> None:
        if self._lives or self._write_end is None:
            return
        self._empty_since = trio.current_time()
        os.close(self._write_end)
        self._write_end = None
        self.written_up.set()


@dataclass(slots=True, kw_only=True)
class ScriptedHost:
    """Makes scripted executions: that of a command is named by it.

    Attributes:
        nursery: what happens on the host, which outlives the engine.
        spawned: of each command, the execution that was made last.
        made: every execution.
        before_sweep: called before what nobody has adopted is ended.
    """

    folder: Path
    nursery: trio.Nursery
    scripts: Mapping[str, Script]
    faults: Faults = field(default_factory=Faults)
    pids: count[int] = field(default_factory=count)
    spawned: dict[str, ScriptedExecution] = field(default_factory=dict)
    made: list[ScriptedExecution] = field(default_factory=list)
    before_sweep: Callable[[], None] = lambda: None
    _steps: count[int] = field(default_factory=count)

    def step(self) -> int:
        """The number of what happens now."""
        return next(self._steps)

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Has something happen; at once where that is after no time, never after NEVER."""
        if seconds == 0:
            action()
        elif seconds != NEVER:
            self.nursery.start_soon(self._later, seconds, action)

    async def _later(self, seconds: float, action: Callable[[], None]) -> None:
        await trio.sleep(seconds)
        action()

    async def spawn(self, job_id: JobId, owner: str, specification: JobSpecification) -> Spawned:
        """A held execution with the script of its command."""
        script = self.scripts[specification.command]
        await trio.sleep(script.spawn_seconds)
        self.faults.meet("spawn", job_id)
        cap = Cap(specification.output_max, ends_job=specification.ends_when_full) if specification.output_max else None
        log = OutputLog(self.folder / f"{job_id}.log", cap)
        read_end, write_end = open_pipe()
        os.set_blocking(write_end, False)
        execution = ScriptedExecution(
            script, self, (read_end, write_end), job_id=job_id, owner=owner, command=specification.command
        )
        if specification.stop is not None:
            execution.stop_signal = specification.stop.signal
        self.spawned[specification.command] = execution
        self.made.append(execution)
        return Spawned(execution=execution, log=log, pump=Pump(read_end, log))

    @property
    def output_folder(self) -> Path:
        """Where all outputs are kept."""
        return self.folder

    def output_path(self, job_id: JobId) -> Path:
        """Where the output of a job is kept."""
        return self.folder / f"{job_id}.log"

    async def adopt(self, record: JobRecord) -> Spawned | None:
        """The execution of a job that was handed over; None where there is none any more."""
        await trio.lowlevel.checkpoint()
        with host_errors_translated():  # as LocalHost
            self.faults.meet("adopt", record.id)
        execution = next((each for each in self.made if each.job_id == record.id), None)
        if execution is None or execution.is_closed or not execution.is_left:
            return None
        execution.is_left, execution.is_adopted = False, True
        log = reopened_log(self.output_path(record.id), record)
        pump = Pump(execution.take_read_end(), log)
        return Spawned(
            execution=execution,
            log=log,
            pump=pump,
            order=execution.order,
            is_killed=execution.kill_is_noted,
            is_early=execution.order_is_early,
            is_given_up=execution.is_given_up,
        )

    def outlived_oom_kills(self, record: JobRecord) -> int:
        """By the attribute of its cgroup."""
        return next((each.kept_oom_kills() for each in self.made if each.job_id == record.id), 0)

    async def known_end(self, job_id: JobId) -> KnownEnd | None:
        """How its main process has died."""
        await trio.lowlevel.checkpoint()
        execution = next((each for each in self.made if each.job_id == job_id), None)
        if execution is not None and execution.is_given_up and not execution.is_closed:
            return KnownEnd(death=None, is_given_up=True)
        if execution is None or execution.is_closed or execution.truth.death is None:
            return None
        if execution.truth.executed is None:
            return KnownEnd(death=None)
        return KnownEnd(
            death=execution.truth.death,
            order=execution.order,
            left_in_pipe=execution.left_in_pipe(),
            died_at=execution.died_at(),
        )

    async def usages(self, records: Sequence[JobRecord]) -> Mapping[JobId, Usage]:
        """As their scripts say."""
        await trio.lowlevel.checkpoint()
        wanted = {record.id for record in records}
        return {
            each.job_id: each.script.usage
            for each in self.made
            if each.job_id in wanted and each.script.usage is not None
        }

    async def end_others(self) -> Sequence[JobId]:
        """Kills and removes those that nobody has adopted."""
        await trio.lowlevel.checkpoint()
        self.before_sweep()
        others = [each for each in self.made if not each.is_adopted and not each.is_closed]
        running = [each.job_id for each in others if each.is_left and each.truth.death is None]
        for each in others:
            each.sweep()
        return running

    async def empty_outputs(self) -> Sequence[JobId]:
        """The jobs whose file of output is empty."""
        await trio.lowlevel.checkpoint()
        return empty_outputs(self.folder)

    async def find_left_folders(self, is_live: Callable[[JobId], bool]) -> None:
        """Finds none."""

    async def keep_removing_folders(self) -> None:
        """Has none to remove."""

    async def remove_last_folders(self) -> None:
        """Has none to remove."""

    def memory_events(self, owner: str | None) -> bytes | None:
        """The sum of the counters of an owner's jobs, or of all."""
        self.faults.meet("memory_events")
        return b"%d" % sum(each.memory_counter for each in self.made if owner in {None, each.owner})


ERRNOS: Final = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENOMEM, errno.EROFS, errno.EBUSY)
"""What a host answers when it fails."""
