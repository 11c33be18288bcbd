"""A job as a value, and the one way it changes: `apply` an event, in life and in replay."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import assert_never

from jobmaster.job.cause import Evidence, OomKilled
from jobmaster.job.identifier import JobId
from jobmaster.job.labels import Labels
from jobmaster.job.request import RequestKey
from jobmaster.job.run_time import RunTime
from jobmaster.job.specification import CommandLine
from jobmaster.job.state import (
    Closing,
    Ended,
    Event,
    Finished,
    Held,
    InvalidTransition,
    MainProcessDied,
    Running,
    State,
    StopOrdered,
    Stopping,
    describe_state,
    transition,
)
from jobmaster.job.stop_terms import DEFAULT_SIGNAL, StopTerms
from jobmaster.job.usage import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitReport:
    """A limit set for a job and whether the host enforces it.

    Attributes:
        name: "cpu", "memory", "pids" or "io".
        value: as the kernel takes it, for example "memory.max 52428800".
        not_enforced_because: the reason, or None where it is enforced.
        requested: the job asked for it; else it is the server's default.
    """

    name: str
    value: str
    not_enforced_because: str | None = None
    requested: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """The first event of every job: its main process is there, held.

    Attributes:
        start_time: field 22 of /proc/PID/stat, in clock ticks since boot: with `pid` and `boot_id`, this process alone.
        boot_id: of the kernel that runs it (/proc/sys/kernel/random/boot_id).
        request: the caller's own name for this Start, if there was one.
        output_max: bytes of output that are kept; 0: all.
        ends_when_full: the job is ended when there are more.
        terminal: its standard streams are a terminal.
        user: as whom it runs: a name, or a number that has none; empty where an older server did not say.
        run_time: how long it may run; None: for ever.
        stop: how it is stopped; None: as the server stops any job.
        name, labels: what its caller calls it; empty: nothing.
        variables: the names of the environment variables that its caller gives it; nothing keeps their values.
        working_folder: where it begins; empty: as the server has it.
    """

    id: JobId
    owner: str
    command: CommandLine
    pid: int
    start_time: int
    boot_id: str
    at: datetime
    limits: tuple[LimitReport, ...] = ()
    request: RequestKey | None = None
    output_max: int = 0
    ends_when_full: bool = False
    terminal: bool = False
    user: str = ""
    run_time: RunTime | None = None
    stop: StopTerms | None = None
    name: str = ""
    labels: Labels = ()
    variables: tuple[str, ...] = ()
    working_folder: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputLost:
    """So many bytes of output could not be kept until now, and so many were too many to be kept."""

    count: int
    dropped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputPruned:
    """The output of an ended job is removed to make room; its record stays.

    Attributes:
        reason: which bound was reached, for the client.
    """

    at: datetime
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OomKillsCounted:
    """The kernel has killed so many processes of the job for memory, in its whole life so far."""

    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """Its processes are frozen, as the client `by` asked.

    Attributes:
        age: of the main process then, in microseconds by the clock of the time since boot, which nobody sets; None where an
            older server did not say.
    """

    by: str
    at: datetime
    age: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """They go on, as the client `by` asked; `age` as of `Paused`."""

    by: str
    at: datetime
    age: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalOrdered:
    """The client `by` wants a signal sent to the main process, or to all processes of the job.

    It is recorded before the signal is sent. Of those of one number and one client the first one alone is an event.
    """

    signal: int
    by: str
    at: datetime
    to_all: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job as of one moment.

    Attributes:
        oom_kills: processes of the job that the kernel has killed for memory, also where the job went on.
        output_bytes: bytes of output kept; those that were, where the output is pruned.
        output_bytes_lost: bytes of output that could not be kept.
        output_bytes_dropped: bytes of output that were too many to be kept.
        output_max, ends_when_full, terminal, user: as in `Launched`.
        run_time, stop, name, labels, variables, working_folder: likewise.
        output_pruned: when and why the output was removed; None where it was not.
        usage: what it has used, of one that has ended; None where nobody could tell.
        paused: its processes are frozen; a stop has them go on, to end.
        paused_at_age: of the main process, as of `Paused`; None where it is not paused, or nobody knows.
        paused_for: how long it was paused, in microseconds, without the pause that goes on.
        pauses: how often it was paused.
        signals: the last order of each signal that clients have ordered.
    """

    id: JobId
    owner: str
    command: CommandLine
    state: State
    limits: tuple[LimitReport, ...] = ()
    oom_kills: int = 0
    output_bytes: int = 0
    output_bytes_lost: int = 0
    output_bytes_dropped: int = 0
    output_max: int = 0
    ends_when_full: bool = False
    terminal: bool = False
    user: str = ""
    run_time: RunTime | None = None
    stop: StopTerms | None = None
    name: str = ""
    labels: Labels = ()
    variables: tuple[str, ...] = ()
    working_folder: str = ""
    output_pruned: OutputPruned | None = None
    usage: Usage | None = None
    paused: bool = False
    paused_at_age: int | None = None
    paused_for: int = 0
    pauses: int = 0
    signals: tuple[SignalOrdered, ...] = ()

    def run_seconds(self, age: float) -> float:
        """For how long it has run when its main process is so many seconds old: without its pauses."""
        if self.paused_at_age is not None:
            age = min(age, self.paused_at_age / 1e6)
        return age - self.paused_for / 1e6

    @property
    def stop_signal(self) -> int:
        """What its processes get first when it is stopped."""
        return DEFAULT_SIGNAL if self.stop is None else self.stop.signal

    @property
    def memory_max(self) -> int | None:
        """The memory limit that is enforced, bytes."""
        for limit in self.limits:
            file, _, value = limit.value.partition(" ")
            if file == "memory.max" and limit.not_enforced_because is None and value.isdecimal():
                return int(value)
        return None


JobEvent = Launched | Event | OomKillsCounted | OutputLost | OutputPruned | Paused | Resumed | SignalOrdered


def record_of(launched: Launched) -> JobRecord:
    """The record that a job begins with."""
    return JobRecord(
        id=launched.id,
        owner=launched.owner,
        command=launched.command,
        state=Held(pid=launched.pid, started_at=launched.at),
        limits=launched.limits,
        output_max=launched.output_max,
        ends_when_full=launched.ends_when_full,
        terminal=launched.terminal,
        user=launched.user,
        run_time=launched.run_time,
        stop=launched.stop,
        name=launched.name,
        labels=launched.labels,
        variables=launched.variables,
        working_folder=launched.working_folder,
    )


def apply(record: JobRecord, event: JobEvent) -> JobRecord:
    """The record after `event`.

    Raises:
        InvalidTransition: the event cannot happen in this state.
    """
    match event:
        case Launched():
            raise InvalidTransition(record.state, event)
        case OomKillsCounted(count=count):
            return replace(record, oom_kills=max(record.oom_kills, count))
        case OutputLost(count=count, dropped=dropped):
            return replace(
                record,
                output_bytes_lost=max(record.output_bytes_lost, count),
                output_bytes_dropped=max(record.output_bytes_dropped, dropped),
            )
        case OutputPruned():
            if not isinstance(record.state, Ended):
                raise InvalidTransition(record.state, event)
            return replace(record, output_pruned=record.output_pruned or event)
        case Paused() | Resumed() | SignalOrdered():
            return _under_orders(record, event)
        case Finished():
            return replace(
                _going_on(record, event.age),
                state=transition(record.state, event),
                output_bytes=event.output_bytes,
                output_bytes_lost=event.output_bytes_lost,
                output_bytes_dropped=event.output_bytes_dropped,
                usage=event.usage,
            )
        case _:
            state = transition(record.state, event)
            if record.paused and not isinstance(state, Running):
                record = _going_on(record, event.age if isinstance(event, StopOrdered | MainProcessDied) else None)
            return replace(record, state=state)


def _under_orders(record: JobRecord, event: Paused | Resumed | SignalOrdered) -> JobRecord:
    if not isinstance(record.state, Running | Stopping if isinstance(event, SignalOrdered) else Running):
        raise InvalidTransition(record.state, event)
    match event:
        case Paused():
            return replace(record, paused=True, paused_at_age=event.age, pauses=record.pauses + 1)
        case Resumed():
            return _going_on(record, event.age)
        case SignalOrdered(signal=number):
            others = tuple(each for each in record.signals if each.signal != number)
            return replace(record, signals=(*others, event))
        case unreachable:
            assert_never(unreachable)


def _going_on(record: JobRecord, age: int | None) -> JobRecord:
    """That is not paused any more, since its main process was of this age."""
    since = record.paused_at_age
    paused_for = 0 if since is None or age is None else max(0, age - since)
    return replace(record, paused=False, paused_at_age=None, paused_for=record.paused_for + paused_for)


def describe_job(record: JobRecord) -> str:
    """One sentence for people: what it does or why it ended, and that processes of it were killed for memory."""
    text, count = "paused" if record.paused else describe_state(record.state), record.oom_kills
    is_told = isinstance(record.state, Ended) and isinstance(record.state.cause, OomKilled)
    if not count or is_told:
        return text
    return f"{text}; {count} of its processes {'was' if count == 1 else 'were'} killed by the kernel for memory"


def evidence_of(
    record: JobRecord,
    *,
    lost_because: str,
    usage: Usage | None = None,
    never_executed: str | None = None,
    is_death_known: bool = True,
) -> Evidence:
    """What a record tells of its job's end.

    Args:
        record: as of the end.
        lost_because: why the main process's death is not known, where it is not.
        usage: what the job has used, where that is known.
        never_executed: why the command was not executed, if it was not.
        is_death_known: false where the death that is recorded is not to be relied upon.
    """
    closing = record.state if isinstance(record.state, Closing) else None
    memory = usage.memory if usage is not None else None
    group_kills = memory.events.oom_group_kill if memory is not None and memory.events is not None else None
    return Evidence(
        death=closing.death if closing is not None and is_death_known else None,
        never_executed=never_executed,
        order=closing.order if closing is not None else None,
        killed=closing is not None and closing.killed,
        killed_for_memory=closing is not None and closing.killed_for_memory,
        signalled_by={each.signal: each.by for each in record.signals},
        oom_kills=record.oom_kills,
        oom_limit=closing.oom_limit if closing is not None else None,
        memory_peak=memory.peak if memory is not None else None,
        whole_job=group_kills > 0 if group_kills is not None else None,
        memory_max=record.memory_max,
        output_max=record.output_max,
        max_run_ms=record.run_time.max_ms if record.run_time is not None else 0,
        died_of_warning=closing is not None and closing.died_of_warning,
        lost_because=lost_because,
    )
