"""fallocate(2), as far as Python does not have it: room ahead, and holes."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from typing import Any, Final

BLOCK: Final = 4096
"""What holes are aligned to: blocks of the common file systems. Of a larger block nothing is freed before all of it is
in a hole."""
NOT_OFFERED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV})
"""What a file system answers that has no fallocate(2), or not this kind of it."""
_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02


@cache
def _fallocate() -> Any:
    function = ctypes.CDLL(None, use_errno=True).fallocate64
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return function


def punch(fd: int, start: int, end: int) -> None:
    """Gives the blocks of a range back; its bytes read as zeros. Blocks as long as the disk does.

    Raises:
        OSError: EOPNOTSUPP where the file system can't; or the disk fails.
    """
    if end > start:
        _call(fd, _PUNCH_HOLE | _KEEP_SIZE, start, end - start)


def can_punch(fd: int) -> bool:
    """Whether a file's file system makes holes; asked far behind the file's end, where there is nothing to lose."""
    try:
        punch(fd, 1 << 40, (1 << 40) + BLOCK)
    except OSError as error:
        return error.errno not in NOT_OFFERED
    return True


def allocate(fd: int, start: int, end: int) -> None:
    """Makes sure that a range can be written on a disk that is full by then; the file's size stays.

    Raises:
        OSError: there is no room, or the file system can't promise any.
    """
    _call(fd, _KEEP_SIZE, start, end - start)


def _call(fd: int, mode: int, start: int, count: int) -> None:
    while _fallocate()(fd, mode, start, count) != 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
