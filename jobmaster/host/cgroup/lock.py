"""The lock of a folder: whoever holds it is the one server of that folder.

flock(2) belongs to the open file, so it lasts as long as any process holds the descriptor: the launcher holds it too, and
a new server on the same folder begins when the old one's jobs are gone. An old server removes its folder at its end, and
a lock of a folder that was removed keeps nobody out: so what was locked is compared with what has the name then.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def take_lock(folder: Path) -> int | None:
    """A descriptor that has the exclusive lock of this folder; None where somebody else has it or may have it, or it is removed.

    Who may read a folder can lock it: one of a server that runs as another user may not be opened.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return None
    try:
        if _try_lock(descriptor) and _is_at(folder, descriptor):
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def is_lock_of(folder: Path, descriptor: int) -> bool:
    """Whether this descriptor, which has a lock, is of this folder."""
    return _is_at(folder, descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(folder.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
