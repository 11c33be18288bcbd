"""Worker threads: every purpose has a limiter of its own, so that what stalls one never delays another.

Trio's default limiter of 40 threads is shared by all who name none; in this package everybody names one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import trio

from jobmaster.errors import ServerBusy

T = TypeVar("T")


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
