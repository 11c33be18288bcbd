"""The cgroup in which an earlier server had the jobs of this output folder, where it is not this server's.

Where launcher and server are killed at once, the next server ends what is left in its own cgroup. That can be another one:
another --cgroup-root, or a unit's own cgroup after a start by hand. So each server leaves the name of its jobs' folder
beside the journal, before it starts a job. What is there and locked belongs to a server that lives, and is left alone.

What is left may also have taken the port that this server is to have. So where that is in use, it is ended at once; unless
another server has the lock of the output folder: then that one has the port, and is about to have the cgroup.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from jobmaster.errors import HostError
from jobmaster.host.cgroup.lock import take_lock
from jobmaster.host.cgroup.tree import JOBS, CgroupTree, JobCgroup
from jobmaster.threads import run_in_thread

logger = logging.getLogger(__name__)

NAME: Final = "cgroup"
"""The file's name in the output folder."""
MAX_BYTES: Final = 4096
"""Of a path (PATH_MAX)."""
CLEARING_SECONDS: Final = 4.0
"""How long processes of an earlier server may take to die: less than a server that starts at the same time waits for the locks
(`succession.LOCK_SECONDS`)."""
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""The folder may be another user's, who has put a FIFO there."""
_POLL_SECONDS: Final = 0.02
_THREADS: Final = trio.CapacityLimiter(1)


async def end_earlier_jobs(output_folder: Path, tree: CgroupTree) -> str | None:
    """Ends what is left in the cgroup of an earlier server, and leaves the name of this one's; to be called with its lock.

    Returns what the operator is to be told; what fails is logged.
    """
    file = output_folder / NAME
    earlier = await run_in_thread(_THREADS, jobs_named_in, file)
    if earlier == tree.jobs:
        return None
    ended = False
    try:
        ended = earlier is not None and await _end(earlier)
    except (HostError, OSError) as error:
        logger.error("what an earlier server left in %s cannot be ended: %s", earlier, error)
    try:
        await run_in_thread(_THREADS, _write, file, tree.jobs)
    except OSError as error:  # a full disk does not keep the server from serving
        logger.warning("%s cannot be written: %s", file, error.strerror)
    return f"what an earlier server had left in {earlier} is ended" if ended else None


async def end_what_is_left(output_folder: Path, *, check: Callable[[], None]) -> bool:
    """Ends what a server that lives no more has left, before another one has a lock; whether there were processes.

    Such a process may have what the next server needs, as its port.

    Args:
        output_folder: beside which journal the cgroup is named.
        check: called where one is; raises where the folder is not to be trusted.
    """
    earlier = await run_in_thread(_THREADS, jobs_named_in, output_folder / NAME)
    if earlier is None:
        return False
    check()
    try:
        lock = await run_in_thread(_THREADS, take_lock, output_folder)
        if lock is None:
            return False
        try:
            return await _end(earlier)
        finally:
            os.close(lock)
    except (HostError, OSError) as error:
        logger.error("what an earlier server left in %s cannot be ended: %s", earlier, error)
        return False


def jobs_named_in(file: Path) -> Path | None:
    """The folder that is named there, if it is one of jobs; None where the file can't be read."""
    try:
        with open(os.open(file, _READ), "rb") as opened:  # noqa: PTH123  # pathlib opens no descriptor
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                return None
            path = Path(os.fsdecode(opened.read(MAX_BYTES)))
        is_of_jobs = path.is_absolute() and path.name == JOBS and (path / "cgroup.procs").exists()
    except (OSError, ValueError):  # ValueError: a NUL in a path
        return None
    return path if is_of_jobs else None


async def _end(jobs: Path) -> bool:
    """Kills and removes what is there; whether there were processes, which are gone."""
    lock = take_lock(jobs)
    if lock is None:
        return False
    tree = CgroupTree(root=jobs.parent)
    try:
        had_processes = JobCgroup(path=jobs, folders=tree.folders).populated()
        with trio.move_on_after(CLEARING_SECONDS):
            while await run_in_thread(_THREADS, tree.sweep):  # noqa: ASYNC110  # the kernel has no event for it
                await trio.sleep(_POLL_SECONDS)
            tree.dispose()
            return had_processes
    finally:
        os.close(lock)
    logger.error("a process of an earlier server is stuck in %s, which is left behind", jobs)
    return False


def _write(file: Path, jobs: Path) -> None:
    """Replaces the file, durably."""
    new = file.with_name(f"{file.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, os.fsencode(jobs))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    new.replace(file)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
