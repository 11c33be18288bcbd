"""How a job is to be stopped."""

from __future__ import annotations

import pytest

from jobmaster.errors import InvalidRequest
from jobmaster.job.request import RequestKey
from jobmaster.job.specification import JobSpecification
from jobmaster.job.stop_terms import MOST_GRACE_MS, StopTerms


def test_what_is_not_asked_for() -> None:
    """Without a signal it is SIGTERM, without a grace period that of the server; without both there are no terms."""
    assert StopTerms.asked(0, None) is None
    assert StopTerms.asked(0, 0) == StopTerms(signal=15, grace_ms=0)
    assert StopTerms(grace_ms=1500).grace_seconds(10.0) == 1.5
    assert StopTerms(signal=2).grace_seconds(10.0) == 10.0


@pytest.mark.parametrize("grace_ms", [-1, MOST_GRACE_MS + 1])
def test_grace_periods_that_are_none(grace_ms: int) -> None:
    """A grace period is an hour at most."""
    with pytest.raises(InvalidRequest):
        StopTerms(grace_ms=grace_ms)


def test_another_stop_is_another_request() -> None:
    """A request id stands for how its job is stopped too, and for no terms as it did before there were any."""

    def digest(stop: StopTerms | None) -> bytes:
        return RequestKey.of("r", JobSpecification(command="ls", stop=stop)).digest

    given = (None, StopTerms(), StopTerms(grace_ms=0), StopTerms(grace_ms=1), StopTerms(signal=2))
    assert len({digest(each) for each in given}) == len(given)
