"""How much is measured: of everything, or little of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

ROOM: Final = 64 * 1024 * 1024
"""Bytes wanted beside the output that is streamed and the jobs that are kept."""
BYTES_OF_KEPT_JOB: Final = 5_000
"""Of the journal, twice, and a copy; a job has 1.4 kB in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured. `starters` and `calls_in_flight` are how many do it at once."""

    rounds: int
    starts: int
    jobs: int
    starters: int
    output_bytes: int
    calls_in_turn: int
    calls_at_once: int
    calls_in_flight: int
    followers: int
    live_bytes: int
    live_lines: int
    """One each millisecond."""
    short_lines: int
    lines: int
    other_jobs: int
    idle_jobs: tuple[int, ...]
    """None: a thousand, and as many as this host allows."""
    idle_seconds: float
    settle_seconds: float
    """Between the last start of an idle job and the first look at what they cost."""
    commands: int
    kept_jobs: int
    kept_calls: int
    adopted_jobs: int
    upgrades: int
    upgraded_jobs: int
    """Each has one follower."""
    upgrade_pauses: tuple[float, ...]
    """Seconds before and after each upgrade."""

    def needed_bytes(self, names: Collection[str]) -> int:
        """What these measurements keep on the disk while they last."""
        outputs = {"stream": 1, "input": 1, "following": 2}
        output = self.output_bytes * sum(outputs.get(name, 0) for name in names)
        kept = self.kept_jobs * BYTES_OF_KEPT_JOB if "journal" in names else 0
        return output + kept + ROOM


FULL: Final = Size(
    rounds=7,
    starts=200,
    jobs=300,
    starters=8,
    output_bytes=1024 * 1024 * 1024,
    calls_in_turn=2000,
    calls_at_once=5000,
    calls_in_flight=50,
    followers=100,
    live_bytes=8 * 1024 * 1024,
    live_lines=5_000,
    short_lines=1_000_000,
    lines=300,
    other_jobs=100,
    idle_jobs=(),
    idle_seconds=20,
    settle_seconds=2,
    commands=5,
    kept_jobs=100_000,
    kept_calls=200,
    adopted_jobs=200,
    upgrades=10,
    upgraded_jobs=20,
    upgrade_pauses=(2.0, 0.0),
)
QUICK: Final = replace(
    FULL,
    rounds=1,
    starts=10,
    jobs=16,
    output_bytes=4 * 1024 * 1024,
    calls_in_turn=100,
    calls_at_once=200,
    followers=5,
    live_bytes=1024 * 1024,
    live_lines=200,
    short_lines=10_000,
    lines=10,
    other_jobs=3,
    idle_jobs=(8,),
    idle_seconds=1,
    settle_seconds=0,
    commands=1,
    kept_jobs=500,
    kept_calls=5,
    adopted_jobs=4,
    upgrades=1,
    upgraded_jobs=2,
    upgrade_pauses=(0.0,),
)
