"""A step of the wall clock is no age."""

from __future__ import annotations

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from jobmaster.journal.age import CATCH_UP, STORE_EVERY, AgeClock
from tests.journal.jobs import NOON

DAYS = timedelta(days=40)
HOUR = 3600.0


def clock(reached: datetime | None = NOON) -> AgeClock:
    """One that begins at 0."""
    return AgeClock(reached, reached, 0.0)


def test_a_clock_that_goes_right() -> None:
    """It is the wall clock."""
    age = clock()
    for minutes in (1, 2, 60, 60 * 24 * 100):
        wall = NOON + timedelta(minutes=minutes)
        assert age.time(wall, 60.0 * minutes) == wall


def test_a_clock_of_which_nothing_is_known() -> None:
    """Nothing is older than it says."""
    assert clock(None).time(NOON, 0.0) == NOON


def test_a_step_ahead() -> None:
    """It is made up for a day in an hour; what passes meanwhile, at once."""
    age = clock()
    assert age.time(NOON + DAYS, 0.0) == NOON
    assert age.time(NOON + DAYS, HOUR) == NOON + timedelta(hours=CATCH_UP)
    assert age.time(NOON + DAYS, 1000 * HOUR) == NOON + DAYS


def test_a_step_ahead_that_is_set_right() -> None:
    """It has cost no more than was made up for, and once that has passed the next step costs no more either."""
    age = clock()
    age.time(NOON + DAYS, HOUR)
    right = NOON + timedelta(hours=1)
    assert age.time(right, HOUR) == right
    assert age.time(right + DAYS, HOUR) == NOON + timedelta(hours=CATCH_UP)


def test_a_clock_that_begins_in_the_past() -> None:
    """A host that has the right time only when a network tells it removes nothing later than another."""
    age = clock()
    assert age.time(datetime(1970, 1, 1, tzinfo=NOON.tzinfo), 0.0).year == 1970
    wall = NOON + timedelta(minutes=1)
    assert age.time(wall, 60.0) == wall


def test_what_is_stored() -> None:
    """How far it has come, from time to time, and where nothing is stored at once."""
    age = clock(None)
    age.time(NOON, 0.0)
    assert age.to_store() == NOON
    assert age.to_store() is None
    age.time(NOON + STORE_EVERY, STORE_EVERY.total_seconds())
    assert age.to_store() == NOON + STORE_EVERY
    assert age.to_store() is None


@given(st.lists(st.tuples(st.floats(0, 10**6), st.integers(-(10**7), 10**7)), max_size=30))
def test_no_steps_make_anything_old(moves: list[tuple[float, int]]) -> None:
    """Whatever the wall clock does, it is not passed, and age does not come faster than it may."""
    age, now, step = clock(), 0.0, timedelta(0)
    for seconds, jump in moves:
        now += seconds
        step += timedelta(seconds=jump)
        wall = NOON + timedelta(seconds=now) + step
        assert age.time(wall, now) <= min(wall, NOON + timedelta(seconds=CATCH_UP * now + 1))
