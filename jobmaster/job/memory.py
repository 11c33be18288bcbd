"""Whose memory limit the kernel killed for. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class OomLimit(enum.StrEnum):
    """Whose limit was met, or that of the whole host."""

    JOB = "job"
    CLIENT = "client"
    """Of all the client's jobs together."""
    JOBS = "jobs"
    """Of all jobs of the server together."""
    HOST = "host"
    """None of jobmaster's: that of a service or container it runs in, or the host's memory itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsMet:
    """How often an allocation has met the limit of each cgroup itself since that was made; None: not told here."""

    job: int | None = None
    client: int | None = None
    jobs: int | None = None


def limit_killed_for(before: LimitsMet | None, now: LimitsMet) -> OomLimit | None:
    """Whose limit an OOM kill came of, the innermost of those that were met meanwhile; None where nobody can tell.

    Args:
        before: when the job was last seen without this kill; None: nobody has looked. A job's own cgroup has counted from the
            job's beginning, those above it for other jobs, too.
        now: after the kill.
    """
    own = _has_risen(0 if before is None else before.job, now.job)
    if own is not False:
        return OomLimit.JOB if own else None
    for limit, earlier, count in (
        (OomLimit.CLIENT, None if before is None else before.client, now.client),
        (OomLimit.JOBS, None if before is None else before.jobs, now.jobs),
    ):
        has_risen = _has_risen(earlier, count)
        if has_risen is not False:
            return limit if has_risen else None
    return OomLimit.HOST


def _has_risen(before: int | None, now: int | None) -> bool | None:
    """Whether a count has; None where that is not known."""
    if now == 0:
        return False
    if before is None or now is None:
        return None
    return now > before
