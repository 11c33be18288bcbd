"""Removes files that nobody needs any more, in a thread of its own: unlinking a large file takes a disk long."""

from __future__ import annotations

import logging
from collections import deque
from pathlib import Path
from typing import Final, NoReturn

import trio

from jobmaster.threads import NoThread, run_in_thread

logger = logging.getLogger(__name__)

REMOVERS: Final = trio.CapacityLimiter(2)
"""Threads that unlink files."""
TRIES: Final = 5
RETRY_SECONDS: Final = 60.0


class FileRemover:
    """A bounded queue of paths and the task that unlinks them; what it cannot remove it names in the log and leaves."""

    def __init__(self, capacity: int) -> None:
        self._pending: deque[tuple[Path, int]] = deque()
        self._capacity = capacity
        self._added = trio.Event()

    def remove(self, path: Path) -> None:
        """Has a file removed soon."""
        if len(self._pending) >= self._capacity:
            logger.error(
                "%s is left: %d files wait to be removed, and their disk does not answer", path, self._capacity
            )
            return
        self._pending.append((path, TRIES))
        self._added.set()

    async def run(self) -> NoReturn:
        """Removes files until cancelled."""
        while True:
            await self._added.wait()
            self._added = trio.Event()
            failed = [entry for entry in await self._remove_pending() if entry[1] > 0]
            if failed:
                self._pending.extend(failed)
                self._added.set()
                await trio.sleep(RETRY_SECONDS)

    async def _remove_pending(self) -> list[tuple[Path, int]]:
        failed = []
        while self._pending:
            path, tries = self._pending.popleft()
            try:
                await run_in_thread(REMOVERS, path.unlink, True, abandon=True)  # missing_ok, by position
            except (OSError, NoThread) as error:
                log = logger.error if tries == 1 else logger.warning
                log("%s cannot be removed: %s%s", path, error, "; it is left" if tries == 1 else "")
                failed.append((path, tries - 1))
        return failed
