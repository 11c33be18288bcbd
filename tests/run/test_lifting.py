"""The lifting of limits where the kernel holds it up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final, cast

import pytest
import trio

from jobmaster.host.cgroup.opened import OpenedCgroup
from jobmaster.run import lifting
from jobmaster.run.lifting import Lifting

REAL_SECONDS: Final = 30.0


class StalledCgroup:
    """A cgroup of which the kernel lifts the limits when the disk moves on."""

    def __init__(self) -> None:
        self.moves = threading.Event()
        self.begun = threading.Semaphore(0)
        self.under_way = self.most_under_way = self.lifted = 0

    def lift_limits(self) -> None:
        """As `OpenedCgroup.lift_limits`."""
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.begun.release()
        assert self.moves.wait(REAL_SECONDS)
        self.under_way -= 1
        self.lifted += 1


@pytest.fixture(autouse=True)
def lifters(monkeypatch: pytest.MonkeyPatch) -> trio.CapacityLimiter:
    """One thread alone."""
    limiter = trio.CapacityLimiter(1)
    monkeypatch.setattr(lifting, "LIFTERS", limiter)
    return limiter


@pytest.fixture
def stalled() -> Iterator[StalledCgroup]:
    """One that moves on at the end of the test, at the latest."""
    cgroup = StalledCgroup()
    yield cgroup
    cgroup.moves.set()


async def leave(lifting_of_it: Lifting, cgroup: StalledCgroup) -> None:
    """Has the limits lifted, and leaves the thread that is held up."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lifting_of_it.lift)
        await trio.to_thread.run_sync(cgroup.begun.acquire)
        nursery.cancel_scope.cancel()


async def test_another_job_is_not_held_up(stalled: StalledCgroup) -> None:
    """A thread that is left takes no other job's."""
    with trio.fail_after(REAL_SECONDS):
        await leave(Lifting(cast(OpenedCgroup, stalled)), stalled)
        other = StalledCgroup()
        other.moves.set()
        await Lifting(cast(OpenedCgroup, other)).lift()
    assert (stalled.lifted, other.lifted) == (0, 1)


async def test_one_thread_for_a_cgroup(stalled: StalledCgroup, lifters: trio.CapacityLimiter) -> None:
    """Whoever asks again waits for the thread that was left, and lifts the limits after it."""
    lift = Lifting(cast(OpenedCgroup, stalled))
    with trio.fail_after(REAL_SECONDS):
        await leave(lift, stalled)
        for _ in range(3):
            with trio.move_on_after(0.01):
                await lift.lift()
        assert (stalled.most_under_way, lifters.total_tokens) == (1, 2)
        stalled.moves.set()
        await lift.lift()
    assert (stalled.most_under_way, stalled.lifted, lifters.total_tokens) == (1, 2, 1)
