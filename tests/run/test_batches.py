"""Calls that are made for many callers at once."""

from __future__ import annotations

import threading
from collections.abc import Collection

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from jobmaster.run.batches import Batches
from jobmaster.threads import NoThread
from tests.run.launching import DEADLINE


class Gate:
    """A function whose calls end when they may, and fail where they are to."""

    def __init__(self) -> None:
        self.calls: list[Collection[int]] = []
        self.errors: list[Exception] = []
        self.opened = threading.Event()

    def __call__(self, items: Collection[int]) -> int:
        """How many items have come until now."""
        self.calls.append(items)
        assert self.opened.wait(DEADLINE)
        if self.errors:
            raise self.errors.pop()
        return sum(map(len, self.calls))


async def test_who_comes_together() -> None:
    """Callers that come while a call is under way share the next one, and each has its result."""
    gate = Gate()
    batches: Batches[int, int] = Batches(gate)
    results: dict[int, int] = {}

    async def call(item: int) -> None:
        results[item] = await batches.call(item)

    async with trio.open_nursery() as nursery:
        for item in range(100):
            nursery.start_soon(call, item)
        await wait_all_tasks_blocked()
        assert set(batches.items) == set(range(100))
        gate.opened.set()
    assert [len(items) for items in gate.calls] == [1, 99]
    assert sorted(results.values()) == [1] + [100] * 99
    assert list(batches.items) == []
    assert await batches.call() == 100, "a later one is another call"


async def test_who_leaves(mock_clock: MockClock) -> None:
    """A caller is let go at once, also the one that a call was begun for; its item is not lost, nor are those who stay."""
    gate = Gate()
    batches: Batches[int, int] = Batches(gate)
    with trio.move_on_after(1) as first:
        mock_clock.autojump_threshold = 0
        await batches.call(1)
    with trio.move_on_after(1) as second:
        await batches.call(2)
    mock_clock.autojump_threshold = float("inf")
    assert first.cancelled_caught
    assert second.cancelled_caught
    mock_clock.rate = 1
    gate.opened.set()
    with trio.fail_after(DEADLINE):
        while batches.items:
            await trio.lowlevel.checkpoint()
    assert gate.calls == [(1,), (2,)]


async def test_nobody_is_left() -> None:
    """A call that nobody waits for any more, and that has no items, is not made."""
    gate = Gate()
    batches: Batches[int, int] = Batches(gate)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batches.call)
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as leaving:
            leaving.start_soon(batches.call)
            await wait_all_tasks_blocked()
            leaving.cancel_scope.cancel()
        gate.opened.set()
    assert gate.calls == [()]
    assert await batches.call() == 0


async def test_a_call_that_fails() -> None:
    """Each of its callers is told by an error of its own; the next call is another one."""
    gate = Gate()
    gate.errors = [OSError(28, "No space left on device", "uids.json")] * 2
    batches: Batches[int, int] = Batches(gate)
    raised: list[OSError] = []

    async def call() -> None:
        with pytest.raises(OSError, match="No space left") as info:
            await batches.call(1)
        raised.append(info.value)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(call)
        await wait_all_tasks_blocked()
        gate.opened.set()
    assert len({id(error) for error in raised}) == 3
    assert {(error.errno, error.filename) for error in raised} == {(28, "uids.json")}
    assert await batches.call(2) == 3


async def test_a_host_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told as such, nothing is called, and with a thread all goes on."""
    gate = Gate()
    gate.opened.set()
    batches: Batches[int, int] = Batches(gate)

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as without:
        without.setattr(trio.lowlevel, "start_thread_soon", refuse)
        with pytest.raises(NoThread):
            await batches.call(1)
    assert await batches.call(2) == 1
    assert gate.calls == [(2,)]
