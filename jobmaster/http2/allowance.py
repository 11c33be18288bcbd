"""How often a peer may do something: a token bucket on a clock that its owner passes in."""

from __future__ import annotations


class Allowance:
    """`burst` events at once, `per_second` of them after that, and those that were earned.

    Earned events never expire, but at most `earnable` of them are kept, so that a peer cannot save up a flood.
    """

    __slots__ = ("_burst", "_earnable", "_earned", "_level", "_per_second", "_updated")

    def __init__(self, *, burst: int, per_second: float, earnable: int = 0) -> None:
        self._burst = burst
        self._per_second = per_second
        self._earnable = earnable
        self._earned = 0
        self._level = float(burst)
        self._updated: float | None = None

    def earn(self, count: int) -> None:
        """Grants `count` more events."""
        self._earned = min(self._earned + count, self._earnable)

    def take(self, now: float) -> bool:
        """Counts one event at `now` (seconds on any clock that does not go back); False when it is one too many."""
        if self._earned:
            self._earned -= 1
            return True
        elapsed = 0.0 if self._updated is None else max(0.0, now - self._updated)
        self._updated = now
        self._level = min(float(self._burst), self._level + elapsed * self._per_second)
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True
