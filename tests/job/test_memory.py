"""Whose memory limit the kernel killed for."""

from __future__ import annotations

import pytest

from jobmaster.job.memory import LimitsMet, OomLimit, limit_killed_for

NONE = LimitsMet(job=0, client=0, jobs=0)


@pytest.mark.parametrize(
    ("before", "now", "limit"),
    [
        (NONE, LimitsMet(job=1, client=0, jobs=0), OomLimit.JOB),
        (NONE, LimitsMet(job=0, client=1, jobs=0), OomLimit.CLIENT),
        (NONE, LimitsMet(job=0, client=0, jobs=1), OomLimit.JOBS),
        (NONE, NONE, OomLimit.HOST),
        (NONE, LimitsMet(job=1, client=1, jobs=1), OomLimit.JOB),
        (LimitsMet(job=3, client=1, jobs=0), LimitsMet(job=3, client=2, jobs=1), OomLimit.CLIENT),
        (LimitsMet(job=3, client=2, jobs=1), LimitsMet(job=3, client=2, jobs=1), OomLimit.HOST),
    ],
)
def test_the_innermost_limit_that_was_met(before: LimitsMet, now: LimitsMet, limit: OomLimit) -> None:
    """It is the one whose count has risen since the job was last seen without the kill; where none has, the host's."""
    assert limit_killed_for(before, now) == limit


@pytest.mark.parametrize(
    ("before", "now", "limit"),
    [
        (None, LimitsMet(job=1, client=9, jobs=9), OomLimit.JOB),
        (None, LimitsMet(job=0, client=0, jobs=0), OomLimit.HOST),
        (None, LimitsMet(job=0, client=1, jobs=0), None),
        (None, LimitsMet(job=0, client=0, jobs=1), None),
        (NONE, LimitsMet(job=None, client=1, jobs=0), None),
        (NONE, LimitsMet(job=0, client=None, jobs=0), None),
        (LimitsMet(job=0, client=None, jobs=0), LimitsMet(job=0, client=1, jobs=0), None),
        (LimitsMet(), LimitsMet(), None),
    ],
)
def test_what_nobody_can_tell(before: LimitsMet | None, now: LimitsMet, limit: OomLimit | None) -> None:
    """Counts above a job may be of before it, and some kernels tell none: then nothing is said but what is sure."""
    assert limit_killed_for(before, now) == limit
