"""How often a peer may send what, and what is credited."""

from __future__ import annotations

from contextlib import suppress

import pytest

from jobmaster.http2.errors import ProtocolViolation
from jobmaster.http2.frames import ErrorCode
from jobmaster.http2.tolerance import RateLimit, RateLimits

LIMITS = {"settings": 32, "settings_acks": 10, "pings": 60, "resets": 100, "window_updates": 1000}
LIMITS |= {"empty_data": 10, "oversized_lists": 10, "ignored_frames": 100}


class Exceeded(Exception):
    """A limit took one no more."""


def spend_one(limit: RateLimit, now: float) -> None:
    """Raises Exceeded where the limit ends the connection, with the right code."""
    try:
        limit.count(now)
    except ProtocolViolation as violation:
        if violation.code is ErrorCode.ENHANCE_YOUR_CALM:
            raise Exceeded from violation
        raise


def exceeded_after(limits: RateLimits, name: str, now: float = 0.0) -> int:
    """How many are taken before one is too many."""
    limit = getattr(limits, name)
    count = 0
    with suppress(Exceeded):
        while True:
            spend_one(limit, now)
            count += 1
    return count


@pytest.mark.parametrize(("name", "at_once"), LIMITS.items())
def test_at_once(name: str, at_once: int) -> None:
    """So many are taken at once, and one more ends the connection."""
    assert exceeded_after(RateLimits(), name) == at_once


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("pings", 1),
        ("resets", 0.01),
        ("empty_data", 6),
        ("ignored_frames", 0.01),
        ("settings", 6),
        ("settings_acks", 6),
        ("oversized_lists", 6),
        ("window_updates", 0.001),
    ],
)
def test_an_allowance_comes_back_with_time(name: str, seconds: float) -> None:
    """After the burst, one more is taken each time its share of time has passed, not earlier, and not a second one."""
    limits = RateLimits()
    exceeded_after(limits, name, now=0.0)
    assert exceeded_after(limits, name, now=0.9995 * seconds) == 0
    for turn in range(1, 4):
        assert exceeded_after(limits, name, now=turn * seconds * 1.01) == 1


@pytest.mark.parametrize(("name", "for_each"), [("pings", 1), ("window_updates", 4)])
def test_data_sent_earns_probes_and_windows(name: str, for_each: int) -> None:
    """A peer that answers each DATA frame with a probe and windows is honest at any speed; one more is not."""
    limits = RateLimits()
    for _ in range(5000):
        limits.data_sent(1)
        for _ in range(for_each):
            getattr(limits, name).count(0.0)
    assert exceeded_after(limits, name) == LIMITS[name]


@pytest.mark.parametrize("what", ["stream_opened", "stream_ended"])
def test_each_call_credits_window_updates(what: str) -> None:
    """A peer that returns window for each call, whatever its answer, is honest at any speed; one more is not."""
    limits = RateLimits()
    for _ in range(5000):
        getattr(limits, what)()
        for _ in range(4):
            limits.window_updates.count(0.0)
    assert exceeded_after(limits, "window_updates") == LIMITS["window_updates"]


def test_what_is_earned_cannot_be_saved_up_for_a_flood() -> None:
    """However much was sent, so many are taken at once beyond the burst, and no more."""
    limits = RateLimits()
    limits.data_sent(10**6)
    assert exceeded_after(limits, "pings") == 1060
    assert exceeded_after(limits, "window_updates") == 11_000


def test_too_many_pings_is_said_in_grpcs_words() -> None:
    """The reason is the text that makes a gRPC client lengthen its keepalive."""
    limits = RateLimits()
    exceeded_after(limits, "pings")
    with pytest.raises(ProtocolViolation, match=r"\Atoo_many_pings\Z"):
        limits.pings.count(0.0)


def test_a_bucket_holds_no_more_than_its_burst() -> None:
    """A long silence does not add up, and a clock that stands still or goes back grants nothing."""
    limit = RateLimit("too many", burst=3, per_second=1)
    for now, allowed in ((1000.0, 3), (1e9, 3), (0.0, 0)):
        for _ in range(allowed):
            limit.count(now)
        with pytest.raises(ProtocolViolation, match="too many"):
            limit.count(now)
