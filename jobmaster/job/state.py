r"""The states of a job and the transitions between them, as one table.

    Starting --Launched--> Running --StopOrdered--> Stopping
        \                     |                        |
         `-----Finished-------+--------Finished-------'--> Ended

A pair that is not in the table is a bug and raises :class:`InvalidTransition`. Stop orders for a job that is
stopping or ended change nothing: the first order is the one that counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, assert_never

from jobmaster.job.cause import Cause, StopOrder, describe


@dataclass(frozen=True, slots=True)
class Starting:
    """Its cgroup, log and process are being made; nobody but the server knows of it yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """Its main process is in its cgroup."""

    pid: int
    started_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """Its processes have been told to end."""

    pid: int
    started_at: datetime
    order: StopOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """No process of it is left and its output is complete."""

    pid: int
    started_at: datetime
    ended_at: datetime
    cause: Cause


State = Starting | Running | Stopping | Ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """The main process has joined its cgroup."""

    pid: int
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StopOrdered:
    """Somebody wants the job to end."""

    order: StopOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The job is over."""

    cause: Cause
    at: datetime


Event = Launched | StopOrdered | Finished


class InvalidTransition(Exception):
    """An event that cannot happen in this state: a bug in the server."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"{type(event).__name__} cannot happen to a job that is {type(state).__name__}")


def _launch(_state: Starting, event: Launched) -> State:
    return Running(pid=event.pid, started_at=event.at)


def _order_stop(state: Running, event: StopOrdered) -> State:
    return Stopping(pid=state.pid, started_at=state.started_at, order=event.order)


def _finish(state: Running | Stopping, event: Finished) -> State:
    return Ended(pid=state.pid, started_at=state.started_at, ended_at=event.at, cause=event.cause)


def _never_started(_state: Starting, event: Finished) -> State:
    return Ended(pid=0, started_at=event.at, ended_at=event.at, cause=event.cause)


def _stay(state: State, _event: Event) -> State:
    return state


TRANSITIONS: Final[dict[tuple[type[State], type[Event]], Callable[[Any, Any], State]]] = {
    (Starting, Launched): _launch,
    (Starting, Finished): _never_started,
    (Running, StopOrdered): _order_stop,
    (Running, Finished): _finish,
    (Stopping, StopOrdered): _stay,
    (Stopping, Finished): _finish,
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
        case Starting():
            return "starting"
        case Running():
            return "running"
        case Stopping(order=order):
            return f"stopping, as {order.by or 'the shutting-down server'} asked"
        case Ended(cause=cause):
            return describe(cause)
        case unreachable:
            assert_never(unreachable)
