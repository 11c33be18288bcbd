"""How much of the server one client may take: running jobs, and Starts in a minute. Pure.

A client's Starts are counted by a token bucket: it holds `burst` tokens at most and gains `per_minute` of them in a minute, and
a Start takes one. A server that begins has all buckets full.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jobmaster.errors import StartRateExceeded

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_STARTS: Final = 1_000_000
"""In a minute, and at once."""
_MINUTE: Final = 60.0
_DEFAULT_BURSTS: Final = 6
"""In a minute: what a rate gives in ten seconds may come at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRate:
    """How often a client may start a job.

    Attributes:
        per_minute: Starts, in the long run.
        burst: Starts at once, after a time without any.

    Raises:
        ValueError: one of them is out of bounds.
    """

    per_minute: int
    burst: int

    def __post_init__(self) -> None:
        for name in ("per_minute", "burst"):
            if not 1 <= getattr(self, name) <= MOST_STARTS:
                raise ValueError(f"{name} must be from 1 to {MOST_STARTS}, not {getattr(self, name)}")


def default_burst(per_minute: int) -> int:
    """Starts at once where nothing else is said: those of ten seconds."""
    return max(1, per_minute // _DEFAULT_BURSTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What one client may take; None: what every client may.

    Attributes:
        running: jobs that have not ended.
        starts: how often it may start one.
    """

    running: int | None = None
    starts: StartRate | None = None


NO_QUOTA: Final = Quota()


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class StartRates:
    """The Starts of each client that has a rate.

    Attributes:
        quotas: by client.
    """

    def __init__(self, quotas: Mapping[str, Quota]) -> None:
        self.quotas = quotas
        self._buckets: dict[str, _Bucket] = {}

    def take_up(self, quotas: Mapping[str, Quota]) -> None:
        """Has other rates from now on; a client that has one keeps the tokens it has, as far as its new burst goes."""
        self.quotas = quotas
        self._buckets = {owner: bucket for owner, bucket in self._buckets.items() if self._rate_of(owner) is not None}

    def take(self, owner: str, now: float) -> None:
        """Counts a Start.

        Args:
            owner: the client.
            now: seconds of a clock that is never set back.

        Raises:
            StartRateExceeded: there were too many; this one is not counted.
        """
        rate = self._rate_of(owner)
        if rate is None:
            return
        bucket = self._buckets.setdefault(owner, _Bucket(rate.burst, now))
        bucket.tokens = min(rate.burst, bucket.tokens + (now - bucket.at) * rate.per_minute / _MINUTE)
        bucket.at = now
        if bucket.tokens < 1:
            seconds = (1 - bucket.tokens) * _MINUTE / rate.per_minute
            raise StartRateExceeded(
                f"{owner} may start {rate.per_minute} jobs a minute, {rate.burst} of them at once; "
                f"try again in {math.ceil(seconds)} s",
                retry_seconds=seconds,
            )
        bucket.tokens -= 1

    def give_back(self, owner: str) -> None:
        """One that was counted has started nothing: there is a job of its request."""
        if (bucket := self._buckets.get(owner)) is not None:
            bucket.tokens += 1  # the next look bounds it

    def _rate_of(self, owner: str) -> StartRate | None:
        return self.quotas.get(owner, NO_QUOTA).starts
