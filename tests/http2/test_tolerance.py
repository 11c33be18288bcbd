"""How often a peer may do what: the allowance itself, and how it is earned."""

from __future__ import annotations

from contextlib import suppress

import pytest

from jobmaster.http2.allowance import Allowance
from jobmaster.http2.frames import ErrorCode
from jobmaster.http2.streams import ProtocolViolation
from jobmaster.http2.tolerance import Limit, Tolerance

LIMITS = {"settings": 32, "settings_acks": 10, "pings": 60, "resets": 100, "window_updates": 1000}
LIMITS |= {"empty_data": 10, "large_lists": 10, "talk": 100}


class Overdrawn(Exception):
    """A limit took one no more."""


def spend_one(limit: Limit, now: float) -> None:
    """Raises Overdrawn where the limit ends the connection, with the right code."""
    try:
        limit.spend(now)
    except ProtocolViolation as violation:
        if violation.code is ErrorCode.ENHANCE_YOUR_CALM:
            raise Overdrawn from violation
        raise


def overdrawn(tolerance: Tolerance, name: str, now: float = 0.0) -> int:
    """How many are taken before one is too many."""
    limit = getattr(tolerance, name)
    count = 0
    with suppress(Overdrawn):
        while True:
            spend_one(limit, now)
            count += 1
    return count


@pytest.mark.parametrize(("name", "at_once"), LIMITS.items())
def test_at_once(name: str, at_once: int) -> None:
    """So many are taken at once, and one more ends the connection."""
    assert overdrawn(Tolerance(), name) == at_once


@pytest.mark.parametrize(
    ("name", "seconds"),
    [("pings", 1), ("resets", 0.3), ("empty_data", 6), ("talk", 0.01), ("settings", 6), ("window_updates", 0.001)],
)
def test_an_allowance_comes_back_with_time(name: str, seconds: float) -> None:
    """After the burst, one more is taken each time its share of time has passed, and not a second one."""
    tolerance = Tolerance()
    overdrawn(tolerance, name, now=0.0)
    for turn in range(1, 4):
        assert overdrawn(tolerance, name, now=turn * seconds * 1.01) == 1


@pytest.mark.parametrize(("name", "for_each"), [("pings", 1), ("window_updates", 4)])
def test_data_sent_earns_probes_and_windows(name: str, for_each: int) -> None:
    """A peer that answers each DATA frame with a probe and windows is honest at any speed; one more is not."""
    tolerance = Tolerance()
    for _ in range(5000):
        tolerance.data_sent(1)
        for _ in range(for_each):
            getattr(tolerance, name).spend(0.0)
    assert overdrawn(tolerance, name) == LIMITS[name]


def test_finished_streams_earn_resets() -> None:
    """A client may reset as many calls as were answered to their end, beyond those that were not."""
    tolerance = Tolerance()
    for _ in range(500):
        tolerance.stream_finished()
        tolerance.resets.spend(0.0)
    assert overdrawn(tolerance, "resets") == LIMITS["resets"]


def test_what_is_earned_cannot_be_saved_up_for_a_flood() -> None:
    """However much was sent, so many are taken at once beyond the burst, and no more."""
    tolerance = Tolerance()
    tolerance.data_sent(10**6)
    assert overdrawn(tolerance, "pings") == 1060
    assert overdrawn(tolerance, "window_updates") == 11_000


def test_too_many_pings_is_said_in_grpcs_words() -> None:
    """The reason is the text that makes a gRPC client lengthen its keepalive."""
    tolerance = Tolerance()
    overdrawn(tolerance, "pings")
    with pytest.raises(ProtocolViolation, match=r"\Atoo_many_pings\Z"):
        tolerance.pings.spend(0.0)


def test_an_allowance_is_never_more_than_its_burst() -> None:
    """A long silence does not add up, and a clock that stands still or goes back grants nothing."""
    allowance = Allowance(burst=3, per_second=1)
    assert [allowance.take(1000.0) for _ in range(4)] == [True, True, True, False]
    assert [allowance.take(1e9) for _ in range(4)] == [True, True, True, False]
    assert not allowance.take(0.0)
