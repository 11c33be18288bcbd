"""When a call is made again, on a clock that is given."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.client.patience import FIRST_PAUSE, LAST_PAUSE, SERVED_SECONDS, TOLD_AFTER, Patience


def pauses_of(patience: Patience, now: float = 0.0, jitter: float = 1.0) -> list[float]:
    """The pauses between calls that all break at once."""
    pauses = []
    while (pause := patience.next_pause(now, jitter)) is not None:
        pauses.append(pause)
        now += pause
    return pauses


@given(seconds=st.floats(0.0, 1000.0), jitter=st.floats(0.5, 1.5))
def test_pauses_grow_to_their_bound_and_end_with_patience(seconds: float, jitter: float) -> None:
    """Pauses double up to the last one, scaled by the jitter; the last call is made when patience is over."""
    pauses = pauses_of(Patience(seconds), jitter=jitter)
    assert sum(pauses) == pytest.approx(seconds)
    assert all(later <= min(2 * earlier, LAST_PAUSE * jitter) + 1e-9 for earlier, later in pairwise(pauses))
    assert seconds < FIRST_PAUSE * 0.5 or pauses[0] == pytest.approx(min(seconds, FIRST_PAUSE * jitter))


def test_progress_makes_a_fresh_start() -> None:
    """After something has come, pauses are short again and patience is as long as at the beginning."""
    patience = Patience(20.0)
    first = pauses_of(patience)
    patience.progress()
    assert pauses_of(patience, now=100.0) == pytest.approx(first)


@pytest.mark.parametrize(("open_for", "is_fresh"), [(SERVED_SECONDS, True), (SERVED_SECONDS - 1, False)])
def test_a_call_that_was_open_for_long_was_served(open_for: float, is_fresh: bool) -> None:
    """A quiet call that breaks after some time is no call in vain; one that breaks soon is."""
    patience = Patience(20.0)
    assert patience.next_pause(0.0, 1.0) == FIRST_PAUSE
    patience.call_begins(1.0)
    assert patience.next_pause(1.0 + open_for, 1.0) == (FIRST_PAUSE if is_fresh else 2 * FIRST_PAUSE)


def test_calls_that_break_one_after_the_other_are_no_news() -> None:
    """Who waits is told where no call was open for some time, not where each was, until a server was replaced again."""
    patience = Patience(20.0)
    now = 0.0
    for _ in range(5):
        patience.call_begins(now)
        now += TOLD_AFTER + 1
        patience.next_pause(now, 1.0)
        assert not patience.is_to_be_told(now)
        now += 1
    patience.call_begins(now)
    now += TOLD_AFTER - 1
    patience.next_pause(now, 1.0)
    assert patience.is_to_be_told(now)


def test_a_call_that_was_in_vain_however_long() -> None:
    """A call that is known not to have been served is one in vain also where it was open for long."""
    patience = Patience(20.0)
    assert patience.next_pause(0.0, 1.0) == FIRST_PAUSE
    patience.call_begins(1.0)
    assert patience.next_pause(1.0 + SERVED_SECONDS, 1.0, was_in_vain=True) == 2 * FIRST_PAUSE


def test_connecting_for_long_is_not_being_served() -> None:
    """Time that passes before a server has taken the connection is time in vain."""
    patience = Patience(20.0)
    patience.call_begins(0.0)
    assert patience.next_pause(1.0, 1.0) == FIRST_PAUSE
    assert patience.next_pause(15.0, 1.0) == 2 * FIRST_PAUSE
    assert patience.next_pause(21.0, 1.0) is None
