"""Every state of a job meets every event."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Final, get_args

import pytest

from jobmaster.job.cause import Exited, FailedToStart, StopOrder
from jobmaster.job.state import (
    TRANSITIONS,
    Ended,
    Event,
    Finished,
    InvalidTransition,
    Launched,
    Running,
    Starting,
    State,
    StopOrdered,
    Stopping,
    describe_state,
    transition,
)

START: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
END: Final = START + timedelta(minutes=1)
FIRST: Final = StopOrder(by="client1", requested_at=START)
SECOND: Final = StopOrder(by="superuser", requested_at=END)

STATES: Final[dict[type[State], State]] = {
    Starting: Starting(),
    Running: Running(pid=7, started_at=START),
    Stopping: Stopping(pid=7, started_at=START, order=FIRST),
    Ended: Ended(pid=7, started_at=START, ended_at=START, cause=Exited(0)),
}
EVENTS: Final[dict[type[Event], Event]] = {
    Launched: Launched(pid=9, at=END),
    StopOrdered: StopOrdered(order=SECOND),
    Finished: Finished(cause=Exited(3), at=END),
}
EXPECTED: Final[dict[tuple[type[State], type[Event]], State]] = {
    (Starting, Launched): Running(pid=9, started_at=END),
    (Starting, Finished): Ended(pid=0, started_at=END, ended_at=END, cause=Exited(3)),
    (Running, StopOrdered): Stopping(pid=7, started_at=START, order=SECOND),
    (Running, Finished): Ended(pid=7, started_at=START, ended_at=END, cause=Exited(3)),
    (Stopping, StopOrdered): STATES[Stopping],
    (Stopping, Finished): Ended(pid=7, started_at=START, ended_at=END, cause=Exited(3)),
    (Ended, StopOrdered): STATES[Ended],
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


def test_the_first_stop_order_counts() -> None:
    """Orders after the first one, of whoever, leave the job stopping as the first one asked."""
    stopping = transition(STATES[Running], StopOrdered(order=FIRST))
    again = transition(stopping, StopOrdered(order=SECOND))
    assert isinstance(again, Stopping)
    assert again.order == FIRST


def test_a_transition_leaves_the_old_state_as_it_was() -> None:
    """States are values: a transition makes a new one."""
    before = replace(STATES[Running])
    transition(STATES[Running], EVENTS[StopOrdered])
    assert STATES[Running] == before


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (Starting(), "starting"),
        (STATES[Running], "running"),
        (STATES[Stopping], "stopping, as client1 asked"),
        (
            Stopping(pid=7, started_at=START, order=StopOrder(by=None, requested_at=END)),
            "stopping, as the shutting-down server asked",
        ),
        (STATES[Ended], "exited with code 0"),
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
