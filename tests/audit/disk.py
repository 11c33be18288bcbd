"""A disk that does as it is told, under the audit's writes."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

_WRITE: Final = os.write


class Disk:
    """What happens to each write.

    Attributes:
        error: the number of the error that it gives; None where it takes what it is given.
        space: bytes that it takes before it is full; None for as many as there are.
        answers: cleared, it takes nothing and gives no error.
    """

    def __init__(self) -> None:
        self.error: int | None = None
        self.space: int | None = None
        self.answers = threading.Event()
        self.answers.set()
        self.writes = 0

    def write(self, descriptor: int, data: bytes) -> int:
        """As os.write."""
        self.writes += 1
        self.answers.wait(30)
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        if self.space is None:
            return _WRITE(descriptor, data)
        if not self.space:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = _WRITE(descriptor, data[: self.space])
        self.space -= written
        return written


@contextmanager
def faulty_disk() -> Iterator[Disk]:
    """A disk for the block."""
    disk = Disk()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobmaster.audit.file.os.write", disk.write)
        try:
            yield disk
        finally:
            disk.answers.set()
