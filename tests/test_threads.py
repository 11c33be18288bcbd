"""Threads that nobody waits for any more."""

from __future__ import annotations

import threading
from collections.abc import Callable

import trio

from jobmaster.threads import CountedThread, LeftThreads, run_in_thread

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
