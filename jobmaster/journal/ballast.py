"""Space on a disk that is given up when the disk is full, so that what has happened can still be written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

BALLAST_BYTES: Final = 1024 * 1024


class Ballast:
    """A file that only takes space. Its methods block."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fill(self) -> None:
        """Takes the space, where it is not taken.

        Raises:
            OSError: there is none; nothing is taken.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        try:
            if os.fstat(descriptor).st_blocks * 512 < BALLAST_BYTES:
                os.posix_fallocate(descriptor, 0, BALLAST_BYTES)
        except OSError:
            os.ftruncate(descriptor, 0)
            raise
        finally:
            os.close(descriptor)

    def free(self) -> bool:
        """Gives the space back; returns whether there was any.

        The file stays, without content: the journal's also tells that there is a journal.
        """
        try:
            if self._path.stat().st_size == 0:
                return False
            os.truncate(self._path, 0)
        except OSError:
            return False
        return True
