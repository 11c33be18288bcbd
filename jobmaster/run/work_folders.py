"""The jobs' own folders: made before the launch, removed after the end.

Removing is work that a job has made, a million files perhaps, so nobody waits for it. One folder is worked on at a time, for a
moment: what is left of it then comes behind all others that wait, and as long nothing is done, so that the disk has time for
others. The threads are of no limiter that anything else needs. A server that ends leaves what it has not removed to the next
one, which finds it by the names.

What a job writes to its folder is not bounded: that needs a quota of the file system. But no job is started where the disk has
less free than it is to have.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import trio

from jobmaster.errors import ServerBusy
from jobmaster.host import work_folder
from jobmaster.host.account import Account
from jobmaster.host.work_folder import NotInTime
from jobmaster.job.identifier import JobId, parse_job_id
from jobmaster.run.bounds import NOTHING_FREE, Disk, FreeSpace
from jobmaster.threads import NoThread, run_in_thread, thread_needed

logger = logging.getLogger(__name__)

SLICE_SECONDS: Final = 0.2
"""How long one folder is worked on at a time, and how long a pause comes then."""
MOST_SLICES: Final = 18_000
"""How often, before it is left to the next server: a job of the same user may fill a folder as fast as it is emptied."""
TRIES: Final = 5
RETRY_SECONDS: Final = 60.0
LAST_SECONDS: Final = 2.0
"""How long, at the server's end, what still waits may take."""
LIST_SECONDS: Final = 10.0
"""How long a start waits for the names of what is left; without them it is left to the next one."""
MOST_WAITING: Final = 100_000
"""Folders that wait to be removed; more are left to the next server."""
_LISTERS: Final = trio.CapacityLimiter(1)


@dataclass(frozen=True, slots=True)
class _Waiting:
    path: Path
    slices: int
    tries: int


class WorkFolders:
    """Folders in `root`, by the ids of their jobs; None: jobs have none."""

    def __init__(self, root: Path | None, to_be_free: FreeSpace = NOTHING_FREE) -> None:
        self._root = root
        self._to_be_free = to_be_free
        self._waiting: deque[_Waiting] = deque()
        self._failed: list[_Waiting] = []
        self._retry_at = float("inf")
        self._added = trio.Event()

    def path_of(self, job_id: JobId) -> Path | None:
        """Where the job's is."""
        return None if self._root is None else self._root / job_id

    def make(self, job_id: JobId, account: Account) -> None:
        """Makes it, in a thread.

        Raises:
            ServerBusy: too little of its disk is free.
            OSError: it is not made.
        """
        if self._root is None:
            return
        self._require_room(self._root)
        work_folder.make(self._root / job_id, account.uid, account.gid)

    def _require_room(self, root: Path) -> None:
        found = os.statvfs(root)
        disk = Disk(size=found.f_blocks * found.f_frsize, free=found.f_bavail * found.f_frsize)
        if disk.free < self._to_be_free.floor(disk):
            raise ServerBusy(
                f"the disk of the jobs' own folders has less than {self._to_be_free.text(disk)} free: try again when jobs have "
                "ended, whose folders are removed then"
            )

    def unmake(self, job_id: JobId) -> None:
        """Removes that of a job that was never executed, in a thread."""
        if (path := self.path_of(job_id)) is not None:
            with suppress(OSError):  # a later server finds it
                path.rmdir()

    def remove(self, job_id: JobId) -> None:
        """Has that of a job removed whose processes are gone."""
        if (path := self.path_of(job_id)) is not None:
            self._wait(path)

    def _wait(self, path: Path) -> None:
        if len(self._waiting) + len(self._failed) >= MOST_WAITING:
            logger.error("%s is left to the next server: %d folders wait to be removed", path, MOST_WAITING)
            return
        self._waiting.append(_Waiting(path, MOST_SLICES, TRIES))
        self._added.set()

    async def find_left(self, is_live: Callable[[JobId], bool]) -> None:
        """Has those of earlier servers' jobs removed; to be called while none of them is handed over."""
        if self._root is None:
            return
        try:
            with trio.fail_after(LIST_SECONDS):
                names = await run_in_thread(_LISTERS, _names_in, self._root, abandon=True)
        except (OSError, NoThread, trio.TooSlowError) as error:
            why = str(error) or "its disk does not answer"
            logger.warning("folders of ended jobs may be left in %s: %s", self._root, why)
            return
        for job_id in names:
            if not is_live(job_id):
                self.remove(job_id)

    async def keep_removing(self) -> NoReturn:
        """Removes what waits, until cancelled."""
        while True:
            with trio.CancelScope(deadline=self._retry_at):
                await self._added.wait()
            self._added = trio.Event()
            if trio.current_time() >= self._retry_at:
                self._waiting.extend(self._failed)
                self._failed.clear()
                self._retry_at = float("inf")
            await self._remove_waiting()

    async def finish(self) -> None:
        """Tries once more what waits, at the server's end; what stays is the next one's."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_SECONDS):
            await self._remove_waiting()

    async def _remove_waiting(self) -> None:
        while self._waiting:
            waiting = self._waiting[0]  # which stays there where this is cancelled
            after = await self._after_a_slice(waiting)
            self._waiting.popleft()
            if after is None:
                continue
            if after.tries == waiting.tries:
                self._waiting.append(after)
            else:
                self._failed.append(after)
                self._retry_at = min(self._retry_at, trio.current_time() + RETRY_SECONDS)
            await trio.sleep(SLICE_SECONDS)

    async def _after_a_slice(self, waiting: _Waiting) -> _Waiting | None:
        """Works on a folder; what is still to be done then."""
        try:
            await _in_a_thread_of_its_own(waiting.path)
        except NotInTime:
            if waiting.slices > 1:
                return _Waiting(waiting.path, waiting.slices - 1, waiting.tries)
            logger.error("%s is left to the next server: it is filled as fast as it is emptied", waiting.path)
        except (OSError, NoThread) as error:
            is_last = waiting.tries == 1
            text = "%s of an ended job cannot be removed: %s%s"
            logger.log(
                logging.ERROR if is_last else logging.WARNING, text, waiting.path, error, "; it is left" * is_last
            )
            if not is_last:
                return _Waiting(waiting.path, waiting.slices, waiting.tries - 1)
        return None


def _names_in(root: Path) -> Iterable[JobId]:
    return [job_id for path in root.iterdir() if (job_id := parse_job_id(path.name)) is not None]


async def _in_a_thread_of_its_own(path: Path) -> None:
    """Works on a folder for a slice, in a thread that is nobody else's before or after: it has a user's rights, and is nice.

    Who is cancelled leaves it; it ends with its slice, or when the disk answers.

    Raises:
        NotInTime, OSError: as of `work_folder.remove`.
        NoThread: there is none.
    """
    loop, done = trio.lowlevel.current_trio_token(), trio.Event()
    errors: list[Exception] = []
    is_wanted = threading.Event()
    is_wanted.set()
    deadline = time.monotonic() + SLICE_SECONDS

    def run() -> None:
        try:
            work_folder.remove(path, goes_on=lambda: is_wanted.is_set() and time.monotonic() < deadline)
        except Exception as error:  # noqa: BLE001  # raised where it is waited for
            errors.append(error)
        with suppress(trio.RunFinishedError):
            loop.run_sync_soon(done.set)

    with thread_needed():
        threading.Thread(target=run, name="remover", daemon=True).start()
    try:
        await done.wait()
    finally:
        is_wanted.clear()
    for error in errors:
        raise error
