"""Worker threads: every purpose has a limiter of its own, so that what stalls one never delays another.

Trio's default limiter of 40 threads is shared by all who name none; in this package everybody names one.

Where the host has no thread left, nothing that may block is done on the event loop instead: what cannot wait, since it closes
or counts what an ended job has left, is given to a spare thread, or waits for one.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, TypeVar

import outcome
import trio

from jobmaster.errors import ServerBusy

logger = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE: Final = 0.05
LAST_PAUSE: Final = 1.0
"""Between tries to have a thread: the first, and the longest of those that follow."""


def _nothing() -> None:
    pass


class LeftThreads:
    """The threads of one job that nobody waits for any more, since something holds them up in the kernel.

    Attributes:
        count: how many they are.
    """

    def __init__(self, *, on_first: Callable[[], None] = _nothing, on_none: Callable[[], None] = _nothing) -> None:
        """Tells when there is one, and when there is none any more."""
        self.count = 0
        self._on_first = on_first
        self._on_none = on_none

    def add(self) -> None:
        """A thread is left."""
        self.count += 1
        if self.count == 1:
            self._on_first()

    def remove(self) -> None:
        """It has come out."""
        self.count -= 1
        if self.count == 0:
            self._on_none()

    @contextmanager
    def counted(self, limiter: trio.CapacityLimiter) -> Iterator[CountedThread]:
        """For the wait for one thread: where the block is cancelled, the thread is left, and counts until it comes out.

        Args:
            limiter: of the thread; while that is left, the limiter allows one more.
        """
        thread = CountedThread(self, limiter)
        try:
            yield thread
        except trio.Cancelled:
            thread.leave()
            raise


class CountedThread:
    """One thread that may be left."""

    def __init__(self, left: LeftThreads, limiter: trio.CapacityLimiter) -> None:
        self._left = left
        self._limiter = limiter
        self._loop = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        self._is_left = False
        self._counts = False
        self._is_out = False
        self.has_begun = False

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """Calls a function; in the thread."""
        if self._comes_to_count(has_begun=True):
            self._tell(self._count)
        try:
            return function(*args)
        finally:
            if self._came_out():
                self._tell(self._uncount)

    def run_once(self, function: Callable[..., object], *args: Any) -> None:
        """As `run`, in the first thread that comes; others do nothing."""
        with self._lock:
            has_begun, self.has_begun = self.has_begun, True
        if not has_begun:
            self.run(function, *args)

    def _tell(self, what: Callable[[], None]) -> None:
        with suppress(trio.RunFinishedError):
            self._loop.run_sync_soon(what)

    def leave(self, *, is_awaited: bool = False) -> None:
        """Nobody waits for it any more.

        Args:
            is_awaited: it will come, and counts until then as well.
        """
        if self._comes_to_count(is_left=True, is_awaited=is_awaited):
            self._count()

    def _comes_to_count(self, *, has_begun: bool = False, is_left: bool = False, is_awaited: bool = False) -> bool:
        with self._lock:
            self.has_begun |= has_begun
            self._is_left |= is_left
            comes = self._is_left and (self.has_begun or is_awaited) and not (self._counts or self._is_out)
            self._counts |= comes
            return comes

    def excuse(self) -> None:
        """What may hold it up is behind it: it counts no more, though it goes on."""
        if self._came_out():
            self._uncount()

    def _came_out(self) -> bool:
        """Whether it counts until now."""
        with self._lock:
            counts = self._counts and not self._is_out
            self._is_out = True
            return counts

    def _count(self) -> None:
        self._limiter.total_tokens += 1
        self._left.add()

    def _uncount(self) -> None:
        self._limiter.total_tokens -= 1
        self._left.remove()


class NoThread(ServerBusy):
    """The kernel gives this process no more threads (pthread_create(3), EAGAIN: TasksMax or RLIMIT_NPROC)."""


async def run_in_thread(
    limiter: trio.CapacityLimiter, function: Callable[..., T], *args: Any, abandon: bool = False
) -> T:
    """Runs a blocking function in a worker thread.

    Args:
        limiter: bounds the threads of one purpose.
        function: what to run.
        args: its arguments.
        abandon: whether a cancelled caller leaves the thread to itself instead of waiting for it.

    Raises:
        NoThread: none can be started; the function has not run.
    """
    with thread_needed():
        return await trio.to_thread.run_sync(function, *args, limiter=limiter, abandon_on_cancel=abandon)


@contextmanager
def thread_needed() -> Iterator[None]:
    """Raises NoThread for what Python raises where it can start none."""
    try:
        yield
    except RuntimeError as error:
        if "start new thread" not in str(error):
            raise
        raise NoThread("the server's host has no thread left; try again later") from error


Calls = queue.SimpleQueue[tuple[Callable[[], Any], Callable[[outcome.Outcome[Any]], None]]]


class SpareThread:
    """A thread that waits for when the host gives no other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: Calls | None = None
        self._is_kept = False

    def keep(self) -> None:
        """Has one wait, from now on."""
        self._is_kept = True
        self.renew()

    def renew(self) -> None:
        """Has another one wait where the last one is held up, if one is to be kept and the host gives one."""
        if self._is_kept and self._waiting is None:
            with suppress(NoThread), thread_needed():
                threading.Thread(target=self._serve, args=(queue.SimpleQueue(),), name="spare", daemon=True).start()

    def _serve(self, calls: Calls) -> None:
        is_needed = self._offer(calls)
        while is_needed:
            call, tell = calls.get()
            result = outcome.capture(call)
            is_needed = self._offer(calls)
            tell(result)

    def _offer(self, calls: Calls) -> bool:
        with self._lock:
            is_needed = self._waiting is None
            if is_needed:
                self._waiting = calls
            return is_needed

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Runs a function in it; a caller that is cancelled leaves the thread to itself.

        Raises:
            NoThread: none waits; the function has not run.
        """
        with self._lock:
            waiting, self._waiting = self._waiting, None
        if waiting is None:
            raise NoThread("the server's host has no thread left; try again later")
        loop, done = trio.lowlevel.current_trio_token(), trio.Event()
        results: list[outcome.Outcome[T]] = []

        def tell(result: outcome.Outcome[T]) -> None:
            results.append(result)
            with suppress(trio.RunFinishedError):
                loop.run_sync_soon(done.set)

        waiting.put((partial(function, *args), tell))
        await done.wait()
        return results[0].unwrap()


SPARE: Final = SpareThread()
"""Kept by a server alone."""


async def run_at_last(limiter: trio.CapacityLimiter, function: Callable[..., T], *args: Any) -> T:
    """As `run_in_thread`, for a caller who abandons it and has a deadline; where there is no thread, waits for one."""
    SPARE.renew()
    pause = FIRST_PAUSE
    while True:
        with suppress(NoThread):
            return await run_in_thread(limiter, function, *args, abandon=True)
        with suppress(NoThread):
            return await SPARE.run(function, *args)
        await trio.sleep(pause)
        pause = min(pause * 2, LAST_PAUSE)


async def close_at_last(
    limiter: trio.CapacityLimiter, left: LeftThreads, close: Callable[[CountedThread], object]
) -> None:
    """Closes something in a thread, which is left where the caller is cancelled.

    Where no thread has begun it by then, that is tried again as long as the event loop runs, and counts as one that is left:
    what is to be closed is bounded as such threads are.

    Args:
        limiter: of the thread.
        left: counts it where it is left.
        close: given its thread, which it may excuse.
    """
    thread = CountedThread(left, limiter)
    run = partial(run_at_last, limiter, thread.run_once, close, thread)
    try:
        await run()
    except trio.Cancelled:
        thread.leave(is_awaited=True)
        if not thread.has_begun:
            trio.lowlevel.spawn_system_task(_close_later, thread, run)
        raise


async def _close_later(thread: CountedThread, run: Callable[[], Awaitable[None]]) -> None:
    try:
        await run()
    except Exception:  # a system task's would end the server
        logger.exception("a bug in what was to be closed when there is a thread")
    finally:
        if not thread.has_begun:  # the event loop has ended
            thread.excuse()
