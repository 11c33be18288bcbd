"""When cycles are collected: on a clock of the test's, by a collector that says how long it took."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import trio
import trio.testing

from jobmaster.server.collector import FULL_SECONDS, FULL_SHARE, YOUNG_SECONDS, collect_cycles


@dataclass
class Collector:
    """Counts collections, each of which takes `takes` seconds."""

    takes: float
    seconds: float = 0.0
    times: dict[int, list[float]] = field(default_factory=lambda: {0: [], 2: []})

    def collect(self, generation: int) -> int:
        """One collection."""
        self.seconds += self.takes
        self.times[generation].append(trio.current_time())
        return 0

    def clock(self) -> float:
        """Seconds that have passed for it."""
        return self.seconds


@pytest.mark.parametrize("takes", [0.0, 0.01, 0.2])
async def test_full_collections_are_rare(takes: float, autojump_clock: trio.testing.MockClock) -> None:
    """The longer one takes, the longer it is to the next; the young objects are looked at all the time."""
    collector = Collector(takes)
    expected = max(FULL_SECONDS, FULL_SHARE * takes)
    lasting = 5 * expected
    with trio.move_on_after(lasting):
        await collect_cycles(collect=collector.collect, clock=collector.clock)
    full, young = collector.times[2], collector.times[0]
    pauses = [later - earlier for earlier, later in pairwise(full[1:])]
    assert len(pauses) > 1
    assert all(expected <= pause <= expected + 2 * YOUNG_SECONDS for pause in pauses)
    assert full[1] - full[0] == pytest.approx(FULL_SECONDS, abs=2 * YOUNG_SECONDS)
    assert len(young) > 0.95 * lasting / YOUNG_SECONDS


async def test_nothing_is_collected_automatically_meanwhile() -> None:
    """And everything is as before afterwards."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect_cycles)
        await trio.testing.wait_all_tasks_blocked()
        assert not gc.isenabled()
        assert gc.get_freeze_count()
        nursery.cancel_scope.cancel()
    assert gc.isenabled()
    assert not gc.get_freeze_count()
