"""The output of a job that has ended is brought to the disk, so that a disk that fails to keep it says so.

The kernel writes back what it has taken when it likes, and tells of a failure whoever syncs the file next. Nobody waits for
that here: the thread that has closed the log does it when all who wait for that have left, some bytes at a time, so that it
holds up no end of the server for longer than a disk takes for these. A small output is not worth that: most jobs have one,
and a sync costs the disk more than its bytes do.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import threading
from functools import cache
from pathlib import Path
from typing import Any, Final

logger = logging.getLogger(__name__)

SYNCED_FROM: Final = 1024 * 1024
"""Bytes of an output that is synced, at least."""
MOST_AT_ONCE: Final = 16
"""Outputs that are synced at a time; what comes meanwhile is not."""
STEP: Final = 16 * 1024 * 1024
"""Bytes that are waited for at a time."""
_WAIT_WRITE_WAIT: Final = 1 | 2 | 4  # SYNC_FILE_RANGE_*
_NOT_OFFERED: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.ESPIPE})

_syncers: Final = threading.BoundedSemaphore(MOST_AT_ONCE)


def write_back(fd: int, path: Path, size: int) -> None:
    """Has the disk take a file, logs where it does not, and closes the descriptor. To be called in a thread.

    Args:
        fd: of the file, by which the kernel tells of failures since it was opened.
        path: of the file, to be logged.
        size: bytes of it.
    """
    try:
        if not _syncers.acquire(blocking=False):
            logger.warning("nobody waits for the disk to keep %s, since it has not kept others yet", path)
            return
        try:
            _sync(fd, size)
        finally:
            _syncers.release()
    except OSError as error:
        logger.error(
            "the disk has failed to keep what it had taken of %s: some of the bytes 0 to %d may be damaged: %s",
            path,
            size,
            error.strerror,
        )
    finally:
        os.close(fd)


def _sync(fd: int, size: int) -> None:
    for start in range(0, size, STEP):
        if _sync_file_range()(fd, start, STEP, _WAIT_WRITE_WAIT) != 0:
            number = ctypes.get_errno()
            if number not in _NOT_OFFERED:
                raise OSError(number, os.strerror(number))
            break
    os.fdatasync(fd)


@cache
def _sync_file_range() -> Any:
    function = ctypes.CDLL(None, use_errno=True).sync_file_range
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function
