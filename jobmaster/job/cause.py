"""Why a job ended: a sum type, and the one function that decides it from what was observed."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import assert_never

from jobmaster.job.memory import OomLimit


@dataclass(frozen=True, slots=True)
class Exited:
    """The main process returned `code`."""

    code: int


@dataclass(frozen=True, slots=True)
class Signalled:
    """A signal that is no stop's ended the main process.

    Attributes:
        by: the client who had ordered that signal before; empty where none had.
    """

    signal: int
    core_dumped: bool = False
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """The client `by` asked for the stop, and the stop's signal reached the main process; or the server did, without one.

    Attributes:
        signal: what ended the main process; the stop's signal, SIGTERM mostly, where it handled that and returned.
        exit_code: what it then returned; None where a signal ended it.
        killed: the grace period had passed, or there was none, and the whole cgroup was killed.
        reason: why, in the client's words; empty where none were given.
    """

    by: str
    requested_at: datetime
    signal: int
    exit_code: int | None = None
    killed: bool
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OomKilled:
    """The kernel killed the main process for memory.

    Attributes:
        memory_max: the job's own limit in bytes, if it had one.
        processes_killed: of the job, in its whole life.
        memory_peak: the most memory that was charged to the job, in bytes; None where the kernel does not tell.
        whole_job: the kernel killed all of the job's processes at once (memory.oom.group); None where it does not tell.
        limit_of: whose limit was met; None where that is not known.
    """

    memory_max: int | None
    processes_killed: int
    memory_peak: int | None = None
    whole_job: bool | None = None
    limit_of: OomLimit | None = None


@dataclass(frozen=True, slots=True)
class FailedToStart:
    """The command's program was never executed."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerShutdown:
    """The server shut down and ended the job; `signal` and `exit_code` as in :class:`Stopped`."""

    signal: int
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class ServerLost:
    """The server could not see the job to its end, so how its main process ended is not known."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputCapped:
    """The job was to end when its output had `output_max` bytes; `signal` as in :class:`Stopped`."""

    output_max: int
    signal: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedOut:
    """The job had run for `max_run_ms` milliseconds, as long as it may; `signal`, `exit_code` and `killed` as in :class:`Stopped`.

    `signal` is that of the warning where the main process died of it before its time was over.
    """

    max_run_ms: int
    signal: int
    exit_code: int | None = None
    killed: bool


Cause = Exited | Signalled | Stopped | OomKilled | FailedToStart | ServerShutdown | ServerLost | OutputCapped | TimedOut

Death = Exited | Signalled
"""What wait(2) tells of a process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopOrder:
    """Somebody wants the job to end; `reason` is in the words of who does.

    `by` is a client; None where the server shuts down; empty where the server gives the job up and goes on itself.

    Attributes:
        for_output: the server wants it because the job's output is as large as it may be, not because it shuts down.
        for_run_time: likewise, because the job has run for as long as it may.
        signal: what the job gets first.
    """

    by: str | None
    requested_at: datetime
    reason: str = ""
    for_output: bool = False
    for_run_time: bool = False
    signal: int = signal.SIGTERM


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was observed of a job's end.

    Attributes:
        death: how the main process died; None where that could not be learned.
        never_executed: why the command was not executed, if it was not.
        order: the first stop order, where its signal was sent before the main process died.
        killed: the server killed the cgroup before the main process died.
        killed_for_memory: the kernel's OOM killer was seen at work when the main process died.
        signalled_by: the client who has ordered a signal last, by the signal's number.
        oom_kills: processes of the job that the kernel has killed for memory in its whole life.
        oom_limit, memory_peak, whole_job: as in :class:`OomKilled`.
        memory_max: the job's own memory limit in bytes, if it had one.
        output_max: bytes of output that are kept of it.
        max_run_ms: how long it may run.
        died_of_warning: the main process died of the signal that warns it of the end of that time, which the server had sent.
        lost_because: why the death is not known; for people.
    """

    death: Death | None
    never_executed: str | None = None
    order: StopOrder | None = None
    killed: bool = False
    killed_for_memory: bool = False
    signalled_by: Mapping[int, str] = field(default_factory=dict)
    oom_kills: int = 0
    oom_limit: OomLimit | None = None
    memory_peak: int | None = None
    whole_job: bool | None = None
    memory_max: int | None = None
    output_max: int = 0
    max_run_ms: int = 0
    died_of_warning: bool = False
    lost_because: str = "its main process did not die when it was killed"


def cause_of(evidence: Evidence) -> Cause:
    """Decides why the job ended.

    SIGKILL comes from the kernel's OOM killer, from the server after the grace period, or from somebody else; which of
    them it was is told by `killed_for_memory` and by whether the server had sent it yet.
    """
    match evidence:
        case Evidence(never_executed=str(reason)):
            return FailedToStart(reason)
        case Evidence(death=None):
            return ServerLost(evidence.lost_because)
        case Evidence(death=Signalled(signal.SIGKILL), killed=False, killed_for_memory=True):
            return OomKilled(
                memory_max=evidence.memory_max,
                processes_killed=evidence.oom_kills,
                memory_peak=evidence.memory_peak,
                whole_job=evidence.whole_job,
                limit_of=evidence.oom_limit,
            )
        case Evidence(death=Signalled(number), order=None, died_of_warning=True):
            return TimedOut(max_run_ms=evidence.max_run_ms, signal=number, killed=False)
        case Evidence(death=Exited() as death, order=None):
            return death
        case Evidence(death=Signalled(number) as death, order=None):
            return replace(death, by=evidence.signalled_by.get(number, ""))
        case Evidence(death=Exited() | Signalled() as death, order=StopOrder(by=str(client)) as order):
            return Stopped(
                by=client,
                requested_at=order.requested_at,
                reason=order.reason,
                signal=_final_signal(death, order),
                exit_code=_exit_code(death),
                killed=evidence.killed,
            )
        case Evidence(death=Exited() | Signalled() as death, order=StopOrder(for_output=True) as order):
            return OutputCapped(output_max=evidence.output_max, signal=_final_signal(death, order))
        case Evidence(death=Exited() | Signalled() as death, order=StopOrder(for_run_time=True) as order):
            return TimedOut(
                max_run_ms=evidence.max_run_ms,
                signal=_final_signal(death, order),
                exit_code=_exit_code(death),
                killed=evidence.killed,
            )
        case Evidence(death=Exited() | Signalled() as death, order=StopOrder() as order):
            return ServerShutdown(signal=_final_signal(death, order), exit_code=_exit_code(death))
        case _:
            raise AssertionError(f"no cause for {evidence}")


def _exit_code(death: Death) -> int | None:
    return death.code if isinstance(death, Exited) else None


def _final_signal(death: Death, order: StopOrder) -> int:
    match death:
        case Signalled(number):
            return number
        case Exited():
            return order.signal
        case unreachable:
            assert_never(unreachable)


def signal_words(number: int) -> str:
    """A signal in words, in lower case, for example "killed" or "segmentation fault"."""
    return (signal.strsignal(number) or f"signal {number}").lower()


def describe(cause: Cause) -> str:
    """One sentence for people."""
    match cause:
        case Exited(code):
            return f"exited with code {code}"
        case Signalled(number, core_dumped, by):
            sent = f", sent by {by}" if by else ""
            return f"ended by signal {number} ({signal_words(number)}){', core dumped' if core_dumped else ''}{sent}"
        case Stopped(by="", reason=reason):
            return f"stopped by the server: {reason}"
        case Stopped(by=by) as stopped:
            return f"stopped by {by} ({_how_stopped(stopped)})"
        case OomKilled(processes_killed=count) as killed:
            return (
                f"out of memory: killed by the kernel, {count} process{'es' if count != 1 else ''} ({_limit(killed)})"
            )
        case FailedToStart(reason):
            return f"failed to start: {reason}"
        case ServerShutdown(signal=number, exit_code=code):
            return f"ended by the server's shutdown ({signal_words(number)}{_returned(code)})"
        case ServerLost(reason):
            return f"lost by the server: {reason}"
        case OutputCapped(output_max=limit, signal=number):
            return f"ended because its output had {limit} bytes, as many as are kept ({signal_words(number)})"
        case TimedOut(max_run_ms=milliseconds) as timed_out:
            return f"timed out: it may run for {milliseconds / 1000:g} s ({_how_stopped(timed_out)})"
        case unreachable:
            assert_never(unreachable)


def _limit(killed: OomKilled) -> str:
    has_none = killed.memory_max is None
    own = "it had no limit of its own" if has_none else f"its limit is {killed.memory_max} bytes"
    match killed.limit_of:
        case OomLimit.JOB | None:
            return own
        case OomLimit.CLIENT:
            return f"for the limit of all its client's jobs; {own}"
        case OomLimit.JOBS:
            return f"for the limit of all jobs of the server; {own}"
        case OomLimit.HOST:
            return f"for no limit of jobmaster's: memory was short on its host; {own}"
        case unreachable:
            assert_never(unreachable)


def _how_stopped(stopped: Stopped | TimedOut) -> str:
    if stopped.killed:
        return "killed with all of its processes"
    return f"{signal_words(stopped.signal)}{_returned(stopped.exit_code)}"


def _returned(code: int | None) -> str:
    return f", exited with code {code}" if code is not None else ""
