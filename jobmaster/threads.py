"""Worker threads: every purpose has a limiter of its own, so that what stalls one never delays another.

Trio's default limiter of 40 threads is shared by all who name none; in this package everybody names one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import trio

from jobmaster.errors import ServerBusy

T = TypeVar("T")


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
        self._has_begun = False
        self._is_left = False
        self._is_out = False

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """Calls a function; in the thread."""
        with self._lock:
            self._has_begun = True
            is_left = self._is_left
        if is_left:
            self._tell(self._count)
        try:
            return function(*args)
        finally:
            if self._came_out():
                self._tell(self._uncount)

    def _tell(self, what: Callable[[], None]) -> None:
        with suppress(trio.RunFinishedError):
            self._loop.run_sync_soon(what)

    def leave(self) -> None:
        """Nobody waits for it any more."""
        with self._lock:
            if self._is_out:
                return
            self._is_left = True
            has_begun = self._has_begun
        if has_begun:
            self._count()

    def excuse(self) -> None:
        """What may hold it up is behind it: it counts no more, though it goes on."""
        if self._came_out():
            self._uncount()

    def _came_out(self) -> bool:
        """Whether it counts until now."""
        with self._lock:
            counts = self._is_left and not self._is_out
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
