"""Things grow old while servers run, whatever the wall clock shows."""

from __future__ import annotations

from datetime import timedelta

from jobmaster.journal.age import STORE_EVERY, AgeClock
from tests.journal.jobs import NOON, Seconds


def test_it_goes_on_with_the_monotonic_clock() -> None:
    """It begins where an earlier one was, whatever the monotonic clock shows by then."""
    seconds = Seconds(1_000.0)
    age = AgeClock(NOON, is_stored=True, seconds=seconds)
    assert age.now() == NOON
    seconds.now += 60
    assert age.now() == NOON + timedelta(minutes=1)


def test_what_is_stored() -> None:
    """How far it has come, from time to time, and where nothing is stored at once."""
    seconds = Seconds()
    age = AgeClock(NOON, is_stored=False, seconds=seconds)
    assert age.to_store() == NOON
    assert age.to_store() is None
    seconds.now += STORE_EVERY.total_seconds()
    assert age.to_store() == NOON + STORE_EVERY
    assert age.to_store() is None


def test_one_that_goes_on_from_what_is_stored() -> None:
    """It is not stored again at once."""
    assert AgeClock(NOON, is_stored=True, seconds=Seconds()).to_store() is None
