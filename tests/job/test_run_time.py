"""How long a job may run."""

from __future__ import annotations

import pytest

from jobmaster.errors import InvalidRequest
from jobmaster.job.request import RequestKey
from jobmaster.job.run_time import MOST_MS, RunTime
from jobmaster.job.specification import JobSpecification


def test_its_times_in_seconds() -> None:
    """They count from the start; without a warning there is no time for one."""
    run_time = RunTime(max_ms=10_500, warn_before_ms=500, warn_signal=10)
    assert (run_time.seconds, run_time.warn_after_seconds) == (10.5, 10.0)
    assert RunTime(max_ms=1).warn_after_seconds is None


@pytest.mark.parametrize("max_ms", [-1, 0, MOST_MS + 1])
def test_times_that_are_none(max_ms: int) -> None:
    """A run time is longer than nothing, and not so long that nothing can be reckoned with."""
    with pytest.raises(InvalidRequest):
        RunTime(max_ms=max_ms)


def test_another_run_time_is_another_request() -> None:
    """A request id stands for its run time and its warning too, and for none as it did before there were any."""

    def digest(run_time: RunTime | None) -> bytes:
        return RequestKey.of("r", JobSpecification(command="ls", run_time=run_time)).digest

    given = (
        None,
        RunTime(max_ms=5),
        RunTime(max_ms=6),
        RunTime(max_ms=5, warn_before_ms=1, warn_signal=10),
        RunTime(max_ms=5, warn_before_ms=1, warn_signal=12),
    )
    assert len({digest(each) for each in given}) == len(given)
