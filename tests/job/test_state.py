"""Every state of a job meets every event."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Final, get_args

import pytest

from jobmaster.job.cause import Death, Exited, FailedToStart, Signalled, StopOrder
from jobmaster.job.state import (
    TRANSITIONS,
    Closing,
    Ended,
    Event,
    Executed,
    Finished,
    Held,
    InvalidTransition,
    KillSent,
    MainProcessDied,
    Running,
    RunTimeWarned,
    State,
    StopOrdered,
    Stopping,
    StopSignalled,
    describe_state,
    transition,
)

START: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
END: Final = START + timedelta(minutes=1)
FIRST: Final = StopOrder(by="client1", requested_at=START)
SECOND: Final = StopOrder(by="superuser", requested_at=END)
DEATH: Final = Exited(3)


def stopping(*, signalled: bool = False, killed: bool = False, unsent: bool = False) -> Stopping:
    """A job that the first order stops."""
    return Stopping(pid=7, started_at=START, order=FIRST, signalled=signalled, killed=killed, unsent=unsent)


def closing(death: Death = DEATH, *, order: StopOrder | None = None, killed: bool = False) -> Closing:
    """A job whose main process has died."""
    return Closing(pid=7, started_at=START, death=death, order=order, killed=killed)


ENDED: Final = Ended(pid=7, started_at=START, ended_at=END, cause=DEATH)
STATES: Final[dict[type[State], State]] = {
    Held: Held(pid=7, started_at=START),
    Running: Running(pid=7, started_at=START),
    Stopping: stopping(),
    Closing: closing(),
    Ended: ENDED,
}
EVENTS: Final[dict[type[Event], Event]] = {
    Executed: Executed(),
    RunTimeWarned: RunTimeWarned(signal=signal.SIGUSR1),
    StopOrdered: StopOrdered(order=SECOND),
    StopSignalled: StopSignalled(),
    KillSent: KillSent(),
    MainProcessDied: MainProcessDied(death=DEATH),
    Finished: Finished(cause=DEATH, at=END, output_bytes=5, output_bytes_lost=1),
}
EXPECTED: Final[dict[tuple[type[State], type[Event]], State]] = {
    (Held, Executed): STATES[Running],
    (Held, KillSent): STATES[Held],
    (Held, MainProcessDied): closing(),
    (Held, Finished): ENDED,
    (Running, RunTimeWarned): Running(pid=7, started_at=START, warned_by=signal.SIGUSR1),
    (Running, StopOrdered): Stopping(pid=7, started_at=START, order=SECOND),
    (Running, MainProcessDied): closing(),
    (Running, Finished): ENDED,
    (Stopping, StopOrdered): stopping(),
    (Stopping, StopSignalled): stopping(signalled=True),
    (Stopping, KillSent): stopping(signalled=True, killed=True),
    (Stopping, MainProcessDied): closing(),
    (Stopping, Finished): ENDED,
    (Closing, StopOrdered): closing(),
    (Closing, Finished): ENDED,
    (Ended, StopOrdered): ENDED,
}


@pytest.mark.parametrize(("state", "event"), list(product(get_args(State), get_args(Event))))
def test_every_state_with_every_event(state: type[State], event: type[Event]) -> None:
    """A pair of the table leads to its state with all its data; any other pair is refused by name."""
    if (state, event) in EXPECTED:
        assert transition(STATES[state], EVENTS[event]) == EXPECTED[state, event]
    else:
        with pytest.raises(InvalidTransition, match=f"{event.__name__} .* {state.__name__}"):
            transition(STATES[state], EVENTS[event])


def test_the_table_has_nothing_else() -> None:
    """The table names states and events of the unions alone, and no pair that is not expected."""
    assert TRANSITIONS.keys() == EXPECTED.keys()


@pytest.mark.parametrize(
    ("before", "death", "after"),
    [
        (stopping(), Exited(0), closing(Exited(0))),
        (stopping(), Signalled(signal.SIGKILL), closing(Signalled(signal.SIGKILL))),
        (stopping(), Signalled(signal.SIGTERM), closing(Signalled(signal.SIGTERM), order=FIRST)),
        (stopping(unsent=True), Signalled(signal.SIGTERM), closing(Signalled(signal.SIGTERM))),
        (stopping(unsent=True, signalled=True), Exited(7), closing(Exited(7), order=FIRST)),
        (stopping(signalled=True), Exited(7), closing(Exited(7), order=FIRST)),
        (stopping(signalled=True), Signalled(signal.SIGSEGV), closing(Signalled(signal.SIGSEGV), order=FIRST)),
        (
            stopping(signalled=True, killed=True),
            Signalled(signal.SIGKILL),
            closing(Signalled(signal.SIGKILL), order=FIRST, killed=True),
        ),
    ],
)
def test_which_deaths_an_order_brought_about(before: Stopping, death: Death, after: Closing) -> None:
    """An order has reached a main process that lived when its signal was sent, and one that died of that signal.

    Where the host failed to send it, a death by that signal is of another one.
    """
    assert transition(before, MainProcessDied(death=death)) == after


WARNED: Final = Running(pid=7, started_at=START, warned_by=signal.SIGUSR1)


@pytest.mark.parametrize(
    ("before", "death", "died_of_warning"),
    [
        (WARNED, Signalled(signal.SIGUSR1), True),
        (WARNED, Signalled(signal.SIGUSR2), False),
        (WARNED, Exited(0), False),
        (STATES[Running], Signalled(signal.SIGUSR1), False),
        (transition(WARNED, StopOrdered(order=FIRST)), Signalled(signal.SIGUSR1), True),
        (transition(STATES[Running], StopOrdered(order=FIRST)), Signalled(signal.SIGUSR1), False),
    ],
)
def test_which_deaths_a_warning_brought_about(before: State, death: Death, died_of_warning: bool) -> None:
    """A main process has died of its warning where it had been warned, by that signal, and no order had reached it."""
    after = transition(before, MainProcessDied(death=death))
    assert isinstance(after, Closing)
    assert (after.died_of_warning, after.order) == (died_of_warning, None)


def test_a_death_after_a_warning_and_a_stop_is_of_the_stop() -> None:
    """Where a stop's signal had reached it too, the stop has ended it."""
    stopped = transition(transition(WARNED, StopOrdered(order=FIRST)), StopSignalled())
    after = transition(stopped, MainProcessDied(death=Signalled(signal.SIGUSR1)))
    assert after == closing(Signalled(signal.SIGUSR1), order=FIRST)


@pytest.mark.parametrize(
    ("death", "has_reached"),
    [
        (Signalled(signal.SIGQUIT, core_dumped=True), True),
        (Signalled(signal.SIGQUIT), True),
        (Signalled(signal.SIGTERM), False),
    ],
)
def test_a_stop_signal_of_its_own(death: Death, has_reached: bool) -> None:
    """A main process that died of the order's own signal was reached by it, though nobody saw it sent; of another, not."""
    order = StopOrder(by="client1", requested_at=START, signal=signal.SIGQUIT)
    after = transition(Stopping(pid=7, started_at=START, order=order), MainProcessDied(death=death))
    assert after == closing(death, order=order if has_reached else None)


def test_the_first_stop_order_counts() -> None:
    """Orders after the first one, of whoever, leave the job stopping as the first one asked."""
    first = transition(STATES[Running], StopOrdered(order=FIRST))
    assert transition(first, StopOrdered(order=SECOND)) == stopping()


def test_a_transition_leaves_the_old_state_as_it_was() -> None:
    """States are values: a transition makes a new one."""
    before = stopping()
    transition(before, KillSent())
    assert before == stopping()


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (STATES[Held], "starting"),
        (STATES[Running], "running"),
        (STATES[Stopping], "stopping, as client1 asked"),
        (
            Stopping(pid=7, started_at=START, order=StopOrder(by=None, requested_at=END)),
            "stopping, as the shutting-down server asked",
        ),
        (
            Stopping(pid=7, started_at=START, order=StopOrder(by=None, requested_at=END, for_run_time=True)),
            "stopping: it has run for as long as it may",
        ),
        (STATES[Closing], "ending: its main process has died"),
        (STATES[Ended], "exited with code 3"),
        (
            Ended(pid=0, started_at=START, ended_at=END, cause=FailedToStart("no such file")),
            "failed to start: no such file",
        ),
    ],
)
def test_each_state_in_words(state: State, sentence: str) -> None:
    """A sentence says what the job does, for whom it stops, or why it ended."""
    assert describe_state(state) == sentence


def test_every_state_has_words() -> None:
    """No state is without a sentence."""
    assert all(describe_state(STATES[kind]) for kind in get_args(State))
