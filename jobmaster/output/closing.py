"""The closing of what a job's output needed, which may wait for a disk or for a writer."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from jobmaster.output.written_back import SYNCED_FROM, write_back
from jobmaster.threads import close_at_last

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from jobmaster.output.log import OutputLog
    from jobmaster.threads import CountedThread, LeftThreads

logger = logging.getLogger(__name__)

CLOSERS: Final = trio.CapacityLimiter(1_000)
"""Threads that close what a job's output needed, one for each job at most: closing may wait for a disk or a writer."""
CLOSE_SECONDS: Final = 2.0
"""How long is waited for one."""


async def close_in_time(pipes: Iterable[int], log: OutputLog | None, left: LeftThreads) -> None:
    """Closes in a thread, which is waited for; also where the caller is cancelled, since nobody else will close them."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_SECONDS) as waiting:
        loop = trio.lowlevel.current_trio_token()

        def on_closed(thread: CountedThread) -> None:
            thread.excuse()
            waiting.cancel()

        def run(thread: CountedThread) -> None:
            _close_and_write_back(pipes, log, loop, partial(on_closed, thread))

        await close_at_last(CLOSERS, left, run)


def _close_and_write_back(
    pipes: Iterable[int], log: OutputLog | None, loop: trio.lowlevel.TrioToken, on_closed: Callable[[], None]
) -> None:
    fd = None
    if log is not None and log.sealed and log.kept >= SYNCED_FROM:
        with suppress(OSError):
            fd = os.dup(log.fd)
    close(pipes, log)
    if log is not None and fd is not None:
        with suppress(trio.RunFinishedError):
            loop.run_sync_soon(on_closed)
        write_back(fd, log.path, log.size)


def close(pipes: Iterable[int], log: OutputLog | None) -> None:
    """Closes descriptors and a log's files; in a thread."""
    for pipe in pipes:
        with suppress(OSError):
            os.close(pipe)
    try:
        if log is not None:
            log.close()
    except OSError as error:  # a network file system says so late that it did not keep what it had taken
        logger.error("the output of a job may be incomplete: %s", error.strerror)
