"""Removes files that nobody needs any more, in a thread of its own: unlinking a large file takes a disk long."""

from __future__ import annotations

import logging
import math
from collections import deque
from pathlib import Path
from typing import Final, NoReturn

import trio

from jobmaster.output.files import unlink_output
from jobmaster.threads import NoThread, run_in_thread

logger = logging.getLogger(__name__)

REMOVERS: Final = trio.CapacityLimiter(2)
"""Threads that unlink files."""
TRIES: Final = 5
RETRY_SECONDS: Final = 60.0
LAST_SECONDS: Final = 2.0
"""How long the last try, at the server's end, may take."""


class FileRemover:
    """A bounded queue of paths and the task that unlinks them; what it cannot remove it names in the log and leaves."""

    def __init__(self, capacity: int) -> None:
        self._pending: deque[tuple[Path, int]] = deque()
        self._failed: list[tuple[Path, int]] = []
        self._capacity = capacity
        self._added = trio.Event()

    def remove(self, path: Path) -> None:
        """Has a file removed soon."""
        if len(self._pending) + len(self._failed) >= self._capacity:
            logger.error(
                "%s is left: %d files wait to be removed, and their disk does not answer", path, self._capacity
            )
            return
        self._pending.append((path, TRIES))
        self._added.set()

    async def run(self) -> NoReturn:
        """Removes files until cancelled."""
        retry_at = math.inf
        while True:
            with trio.CancelScope(deadline=retry_at):
                await self._added.wait()
            self._added = trio.Event()
            if trio.current_time() >= retry_at:
                retry_at = math.inf
                self._pending.extend(self._take_failed())
            await self._remove_pending()
            if self._failed:
                retry_at = min(retry_at, trio.current_time() + RETRY_SECONDS)

    async def finish(self) -> None:
        """Tries once to remove what is still there; to be called when `run` has ended. Bounded by its caller."""
        self._pending.extend(self._take_failed())
        await self._remove_pending()

    def _take_failed(self) -> list[tuple[Path, int]]:
        failed, self._failed = self._failed, []
        return failed

    async def _remove_pending(self) -> None:
        while self._pending:
            path, tries = self._pending[0]  # which stays there where this is cancelled
            try:
                await run_in_thread(REMOVERS, unlink_output, path, abandon=True)
            except (OSError, NoThread) as error:
                level = logging.ERROR if tries == 1 else logging.WARNING
                logger.log(level, "%s cannot be removed: %s%s", path, error, "; it is left" if tries == 1 else "")
                if tries > 1:
                    self._failed.append((path, tries - 1))
            self._pending.popleft()
