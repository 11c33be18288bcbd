"""The lock of the jobs' folder: whoever holds it is the one server of that folder.

flock(2) belongs to the open file, so it lasts as long as any process holds the descriptor: the launcher holds it too, and
a new server on the same folder begins when the old one's jobs are gone.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def open_lock(folder: Path) -> int:
    """A descriptor of the folder, for `try_lock`."""
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def try_lock(descriptor: int) -> bool:
    """Takes the exclusive lock, if nobody has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
