"""Threads that nobody waits for any more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from jobmaster import threads
from jobmaster.threads import (
    LAST_PAUSE,
    CountedThread,
    LeftThreads,
    NoThread,
    SpareThread,
    close_at_last,
    run_at_last,
    run_in_thread,
)

DEADLINE = 60.0


class Held:
    """A function that is held up in its thread, and what its job is told of that."""

    def __init__(self, limiter: trio.CapacityLimiter) -> None:
        self.told: list[str] = []
        self.left = LeftThreads(on_first=lambda: self.told.append("first"), on_none=lambda: self.told.append("none"))
        self.has_begun = threading.Event()
        self.may_end = threading.Event()
        self.thread: CountedThread | None = None
        self._limiter = limiter

    def hold_up(self) -> None:
        """Waits until it may end."""
        self.has_begun.set()
        assert self.may_end.wait(DEADLINE)

    async def wait(self) -> None:
        """Waits for it."""
        with self.left.counted(self._limiter) as self.thread:
            await run_in_thread(self._limiter, self.thread.run, self.hold_up, abandon=True)

    async def leave(self, *, when: Callable[[], object]) -> None:
        """Waits, until a thread finds something to be so."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.wait)  # noqa: ASYNC113  # the thread tells when it has begun
            await trio.to_thread.run_sync(when)
            nursery.cancel_scope.cancel()

    async def until_out(self) -> None:
        """Has it end."""
        self.may_end.set()
        with trio.fail_after(DEADLINE):
            while self.left.count or self._limiter.borrowed_tokens:
                await trio.lowlevel.checkpoint()


async def test_a_thread_that_is_left() -> None:
    """It counts until it comes out, and meanwhile takes no place of its limiter; the job is told of the first and the last."""
    limiter = trio.CapacityLimiter(1)
    held = Held(limiter)
    await held.leave(when=held.has_begun.wait)
    assert (held.left.count, held.told, limiter.available_tokens) == (1, ["first"], 1)
    held.has_begun.clear()
    await held.leave(when=held.has_begun.wait)
    assert (held.left.count, held.told, limiter.available_tokens) == (2, ["first"], 1)
    await held.until_out()
    assert (held.told, limiter.total_tokens) == (["first", "none"], 1)


async def test_a_thread_that_is_waited_for() -> None:
    """It does not count."""
    limiter = trio.CapacityLimiter(1)
    held = Held(limiter)
    held.may_end.set()
    await held.wait()
    assert (held.told, limiter.total_tokens) == ([], 1)


async def test_what_no_thread_has_begun() -> None:
    """A wait for a thread that is cancelled leaves none; one that begins all the same counts from then on."""
    limiter = trio.CapacityLimiter(1)
    held = Held(limiter)
    with trio.CancelScope() as scope:
        scope.cancel()
        await held.wait()
    assert (held.left.count, held.has_begun.is_set()) == (0, False)
    assert held.thread is not None
    threading.Thread(target=held.thread.run, args=(held.hold_up,)).start()
    with trio.fail_after(DEADLINE):
        while not held.left.count:
            await trio.lowlevel.checkpoint()
    assert limiter.total_tokens == 2
    await held.until_out()
    assert (held.told, limiter.total_tokens) == (["first", "none"], 1)


async def test_a_thread_that_is_excused() -> None:
    """It counts no more, though it goes on; nor does it later, when it is left."""
    limiter = trio.CapacityLimiter(1)
    held = Held(limiter)
    await held.leave(when=held.has_begun.wait)
    assert held.thread is not None
    held.thread.excuse()
    assert (held.told, limiter.total_tokens) == (["first", "none"], 1)
    held.thread.leave()
    await held.until_out()
    assert (held.told, limiter.total_tokens) == (["first", "none"], 1)


class Host:
    """Gives threads, or does not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.has_threads = False
        self.asked = 0
        self._start = trio.to_thread.run_sync
        monkeypatch.setattr(trio.to_thread, "run_sync", self._run_sync)

    async def _run_sync(self, *args: Any, **keywords: Any) -> Any:
        self.asked += 1
        if self.has_threads:
            return await self._start(*args, **keywords)
        await trio.lowlevel.checkpoint()
        raise RuntimeError("can't start new thread")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    """One without threads."""
    return Host(monkeypatch)


async def test_waiting_for_a_thread(host: Host, mock_clock: MockClock) -> None:
    """Where there is none, it is asked for again after a pause, and the result is that of the function."""
    results: list[int] = []

    async def run() -> None:
        results.append(await run_at_last(trio.CapacityLimiter(1), threading.get_ident))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        for asked in range(1, 10):
            await wait_all_tasks_blocked()
            assert (host.asked, results) == (asked, [])
            mock_clock.jump(LAST_PAUSE)
        host.has_threads = True
    assert threading.get_ident() not in results


async def test_closing_for_want_of_a_thread(host: Host, mock_clock: MockClock) -> None:
    """Whoever has waited long enough leaves it, and it counts as a thread that is left until it is closed, in a thread."""
    limiter, left, closed_by = trio.CapacityLimiter(1), LeftThreads(), list[int]()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(close_at_last, limiter, left, lambda _: closed_by.append(threading.get_ident()))
            await wait_all_tasks_blocked()
            scope.cancel()
    assert (left.count, limiter.available_tokens, closed_by) == (1, 2, [])
    await wait_all_tasks_blocked()
    host.has_threads = True
    mock_clock.jump(LAST_PAUSE)
    with trio.fail_after(DEADLINE):
        while left.count:
            await trio.lowlevel.checkpoint()
    assert len(closed_by) == 1
    assert threading.get_ident() not in closed_by
    assert limiter.total_tokens == 1


async def test_closing_that_fails_when_nobody_waits(
    host: Host, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in it is logged, and the event loop goes on."""
    left = LeftThreads()
    with trio.CancelScope() as scope:
        scope.cancel()
        await close_at_last(trio.CapacityLimiter(1), left, lambda _: 1 // 0)
    host.has_threads = True
    await wait_all_tasks_blocked()
    mock_clock.jump(LAST_PAUSE)
    while "ZeroDivisionError" not in caplog.text:
        await trio.lowlevel.checkpoint()
    assert left.count == 0


def test_closing_that_the_end_comes_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the event loop ends first, nothing is closed, and nothing counts any more."""
    limiter, left, closed = trio.CapacityLimiter(1), LeftThreads(), list[object]()

    async def leave() -> None:
        Host(monkeypatch)
        with trio.move_on_after(0):
            await close_at_last(limiter, left, closed.append)
        assert left.count == 1

    trio.run(leave)
    assert (left.count, limiter.total_tokens, closed) == (0, 1, [])


@pytest.mark.usefixtures("host")
async def test_a_spare_thread() -> None:
    """It runs what is given to it, with its errors, one after the other, and is refused while it is held up."""
    spare, held = SpareThread(), Held(trio.CapacityLimiter(1))
    spare.renew()
    with pytest.raises(NoThread):  # it is not kept
        await spare.run(int)
    spare.keep()
    for number in range(3):
        with pytest.raises(ValueError, match=str(number)):
            await waiting(spare, int, f"x{number}")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiting, spare, held.hold_up)
        while not held.has_begun.is_set():
            await trio.lowlevel.checkpoint()
        with pytest.raises(NoThread):
            await spare.run(int)
        spare.renew()
        assert await waiting(spare, int, "7") == 7
        held.may_end.set()


async def waiting(spare: SpareThread, function: Callable[..., Any], *args: Any) -> Any:
    """Runs something when a thread waits, which it may not do at once."""
    with trio.fail_after(DEADLINE):
        while True:
            try:
                return await spare.run(function, *args)
            except NoThread:
                await trio.lowlevel.checkpoint()


@pytest.mark.usefixtures("host")
async def test_the_spare_thread_of_a_host_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is used where no other can be had."""
    spare = SpareThread()
    spare.keep()
    monkeypatch.setattr(threads, "SPARE", spare)
    with trio.fail_after(DEADLINE):
        assert await run_at_last(trio.CapacityLimiter(1), threading.current_thread) is not threading.main_thread()


def test_no_spare_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is no error."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    SpareThread().keep()
