"""Why a job ended: a sum type, and the one function that decides it from what was observed."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never


@dataclass(frozen=True, slots=True)
class Exited:
    """The main process returned `code`."""

    code: int


@dataclass(frozen=True, slots=True)
class Signalled:
    """A signal that the server did not send ended the main process."""

    signal: int
    core_dumped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """The client `by` asked for the stop; `signal` ended the main process (SIGTERM where it handled that and returned).

    `killed` says that the grace period had passed and the whole cgroup was killed.
    """

    by: str
    requested_at: datetime
    signal: int
    killed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OomKilled:
    """The kernel killed the job for memory; `memory_max` is the job's own limit in bytes, if it had one."""

    memory_max: int | None
    processes_killed: int


@dataclass(frozen=True, slots=True)
class FailedToStart:
    """The command's program never ran."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerShutdown:
    """The server shut down and ended the job."""

    signal: int


Cause = Exited | Signalled | Stopped | OomKilled | FailedToStart | ServerShutdown

Death = Exited | Signalled
"""What waitid(2) tells of a process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopOrder:
    """Somebody wants the job to end: the client `by`, or the server itself (None)."""

    by: str | None
    requested_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was observed of a job's end.

    Attributes:
        death: how the main process died.
        never_ran: why the program was never executed, if so.
        order: the first stop order, if there was one before the main process died.
        killed: the server killed the cgroup before the main process died.
        oom_kills: processes of the job that the kernel killed for memory.
        memory_max: the job's own memory limit in bytes, if it had one.
    """

    death: Death
    never_ran: str | None = None
    order: StopOrder | None = None
    killed: bool = False
    oom_kills: int = 0
    memory_max: int | None = None


def cause_of(evidence: Evidence) -> Cause:
    """Decides why the job ended.

    The kernel's OOM killer sends SIGKILL, and so does the server after the grace period; which of them it was is
    told by the count of OOM kills and by whether the server had sent it yet.
    """
    match evidence:
        case Evidence(order=None, never_ran=str(reason)):
            return FailedToStart(reason)
        case Evidence(death=Signalled(signal.SIGKILL), killed=False, oom_kills=kills) if kills > 0:
            return OomKilled(memory_max=evidence.memory_max, processes_killed=kills)
        case Evidence(order=None):
            return evidence.death
        case Evidence(order=StopOrder(by=str(client), requested_at=requested_at)):
            return Stopped(by=client, requested_at=requested_at, signal=_final_signal(evidence), killed=evidence.killed)
        case _:
            return ServerShutdown(signal=_final_signal(evidence))


def _final_signal(evidence: Evidence) -> int:
    match evidence.death:
        case Signalled(number):
            return number
        case Exited():
            return signal.SIGTERM
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
        case Signalled(number, core_dumped):
            return f"ended by signal {number} ({signal_words(number)}){', core dumped' if core_dumped else ''}"
        case Stopped(by=by, signal=number, killed=killed):
            how = "killed after the grace period" if killed else f"{signal_words(number)}"
            return f"stopped by {by} ({how})"
        case OomKilled(memory_max=limit, processes_killed=count):
            of = f"its limit is {limit} bytes" if limit is not None else "it had no limit of its own"
            return f"out of memory: killed by the kernel, {count} process{'es' if count != 1 else ''} ({of})"
        case FailedToStart(reason):
            return f"failed to start: {reason}"
        case ServerShutdown(signal=number):
            return f"ended by the server's shutdown ({signal_words(number)})"
        case unreachable:
            assert_never(unreachable)
