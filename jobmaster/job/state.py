r"""The states of a job and the transitions between them, as one table.

    Held --Executed--> Running --StopOrdered--> Stopping
      \                   |                        |
       \           MainProcessDied          MainProcessDied
        \                 |                        |
         `----------------+--------> Closing <-----'
                                        |
                                     Finished --> Ended

`Finished` also leads to Ended from Held, Running and Stopping: a job whose main process cannot be seen to its end.
A pair that is not in the table is a bug and raises :class:`InvalidTransition`. The first stop order is the one that
counts, and one that comes when the main process has died changes nothing.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, assert_never

from jobmaster.job.cause import Cause, Death, Signalled, StopOrder, describe
from jobmaster.job.memory import OomLimit
from jobmaster.job.usage import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Its main process is in its cgroup, and waits for leave to execute the command."""

    pid: int
    started_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """Its command is being executed.

    Attributes:
        warned_by: the signal by which it was warned that it may not run for much longer; 0: it was not.
    """

    pid: int
    started_at: datetime
    warned_by: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """It has been told to end.

    Attributes:
        signalled: the stop's signal was sent while the main process lived.
        killed: the whole cgroup was then killed.
        warned_by: as in `Running`.
        unsent: as of `StopOrdered`.
    """

    pid: int
    started_at: datetime
    order: StopOrder
    signalled: bool = False
    killed: bool = False
    warned_by: int = 0
    unsent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """Its main process has died; what is left of its processes and its output is being dealt with.

    Attributes:
        order: the stop order that reached the main process, if one did.
        killed: the server had killed the main process, which died of it.
        killed_for_memory: the kernel's OOM killer was seen at work when it died.
        died_of_warning: it died of the signal by which it was warned.
        oom_limit: whose limit that was for, where it is known.
    """

    pid: int
    started_at: datetime
    death: Death
    order: StopOrder | None = None
    killed: bool = False
    killed_for_memory: bool = False
    died_of_warning: bool = False
    oom_limit: OomLimit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """Its output is complete and its record is final."""

    pid: int
    started_at: datetime
    ended_at: datetime
    cause: Cause


State = Held | Running | Stopping | Closing | Ended


@dataclass(frozen=True, slots=True)
class Executed:
    """The kernel executed the command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTimeWarned:
    """The main process is about to get the signal which says that the job may not run for much longer."""

    signal: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StopOrdered:
    """Somebody wants the job to end, which has it go on where it is paused.

    Attributes:
        age: of the main process then, in microseconds since it was started; said of a paused job alone.
        unsent: the host failed to send the signal, so that no death before another try is of this order.
    """

    order: StopOrder
    age: int | None = None
    unsent: bool = False


@dataclass(frozen=True, slots=True)
class StopSignalled:
    """The stop's signal was sent to the main process, which lived."""


@dataclass(frozen=True, slots=True)
class KillSent:
    """SIGKILL was sent to the whole cgroup, and the main process lived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MainProcessDied:
    """The main process has died; `killed_for_memory` and `oom_limit` as in `Closing`, `age` as of `StopOrdered`."""

    death: Death
    killed_for_memory: bool = False
    oom_limit: OomLimit | None = None
    age: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The job is over.

    Attributes:
        output_bytes: bytes of its output that are kept.
        output_bytes_lost: bytes that could not be kept.
        output_bytes_dropped: bytes that were too many to be kept.
        usage: what it has used; None where nobody could tell.
        age: as of `StopOrdered`, where nobody was told how the main process of a paused job died.
    """

    cause: Cause
    at: datetime
    output_bytes: int
    output_bytes_lost: int
    output_bytes_dropped: int = 0
    usage: Usage | None = None
    age: int | None = None


Event = Executed | RunTimeWarned | StopOrdered | StopSignalled | KillSent | MainProcessDied | Finished


class InvalidTransition(Exception):
    """An event that cannot happen in this state: a bug in the server."""

    def __init__(self, state: State, event: object) -> None:
        super().__init__(f"{type(event).__name__} cannot happen to a job that is {type(state).__name__}")


def _execute(state: Held, _event: Executed) -> State:
    return Running(pid=state.pid, started_at=state.started_at)


def _order_stop(state: Running, event: StopOrdered) -> State:
    return Stopping(
        pid=state.pid,
        started_at=state.started_at,
        order=event.order,
        warned_by=state.warned_by,
        unsent=event.unsent,
    )


def _warn(state: Running, event: RunTimeWarned) -> State:
    return replace(state, warned_by=event.signal)


def _signal_stop(state: Stopping, _event: StopSignalled) -> State:
    return replace(state, signalled=True)


def _send_kill(state: Stopping, _event: KillSent) -> State:
    return replace(state, signalled=True, killed=True)


def _die(state: Held | Running, event: MainProcessDied) -> State:
    return Closing(
        pid=state.pid,
        started_at=state.started_at,
        death=event.death,
        killed_for_memory=event.killed_for_memory,
        died_of_warning=isinstance(state, Running) and _is_of(event.death, state.warned_by),
        oom_limit=event.oom_limit,
    )


def _is_of(death: Death, number: int) -> bool:
    return isinstance(death, Signalled) and death.signal == number


def _die_stopping(state: Stopping, event: MainProcessDied) -> State:
    reached = state.signalled or (not state.unsent and _is_of(event.death, state.order.signal))
    return Closing(
        pid=state.pid,
        started_at=state.started_at,
        death=event.death,
        order=state.order if reached else None,
        killed=state.killed and event.death == Signalled(signal.SIGKILL),
        killed_for_memory=event.killed_for_memory,
        died_of_warning=not reached and _is_of(event.death, state.warned_by),
        oom_limit=event.oom_limit,
    )


def _finish(state: Held | Running | Stopping | Closing, event: Finished) -> State:
    return Ended(pid=state.pid, started_at=state.started_at, ended_at=event.at, cause=event.cause)


def _stay(state: State, _event: Event) -> State:
    return state


TRANSITIONS: Final[dict[tuple[type[State], type[Event]], Callable[[Any, Any], State]]] = {
    (Held, Executed): _execute,
    (Held, KillSent): _stay,
    (Held, MainProcessDied): _die,
    (Held, Finished): _finish,
    (Running, RunTimeWarned): _warn,
    (Running, StopOrdered): _order_stop,
    (Running, MainProcessDied): _die,
    (Running, Finished): _finish,
    (Stopping, StopOrdered): _stay,
    (Stopping, StopSignalled): _signal_stop,
    (Stopping, KillSent): _send_kill,
    (Stopping, MainProcessDied): _die_stopping,
    (Stopping, Finished): _finish,
    (Closing, StopOrdered): _stay,
    (Closing, Finished): _finish,
    (Ended, StopOrdered): _stay,
}


def transition(state: State, event: Event) -> State:
    """The state after `event`.

    Raises:
        InvalidTransition: the table has no such transition.
    """
    change = TRANSITIONS.get((type(state), type(event)))
    if change is None:
        raise InvalidTransition(state, event)
    return change(state, event)


def describe_state(state: State) -> str:
    """One sentence for people."""
    match state:
        case Held():
            return "starting"
        case Running():
            return "running"
        case Stopping(order=StopOrder(for_output=True)):
            return "stopping: its output is as large as it may be"
        case Stopping(order=StopOrder(for_run_time=True)):
            return "stopping: it has run for as long as it may"
        case Stopping(order=order):
            by = "the shutting-down server" if order.by is None else order.by or "the server"
            return f"stopping, as {by} asked"
        case Closing():
            return "ending: its main process has died"
        case Ended(cause=cause):
            return describe(cause)
        case unreachable:
            assert_never(unreachable)
