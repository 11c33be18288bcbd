"""A disk that fails as it is told: SQLite's way to the real one, with errors between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import apsw

NAME: Final = "faulty"


def full(_name: str) -> None:
    """The disk is full."""
    raise apsw.FullError("database or disk is full")


def takes_nothing(_name: str) -> None:
    """A write fails otherwise: a quota, a limit of the file's size, a broken disk."""
    raise _io_error(apsw.SQLITE_IOERR_WRITE)


def does_not_sync(_name: str) -> None:
    """fsync(2) fails."""
    raise _io_error(apsw.SQLITE_IOERR_FSYNC)


def _io_error(code: int) -> apsw.IOError:
    error = apsw.IOError("disk I/O error")
    error.extendedresult = code  # type: ignore[attr-defined]
    return error


Fault = Callable[[str], None]
"""Is given the name of the file, and raises or returns."""


class FaultyDisk(apsw.VFS):
    """What its attributes say happens before each write and each sync, and at each opening, of a file."""

    def __init__(self) -> None:
        self.on_open: Fault | None = None
        self.on_write: Fault | None = None
        self.on_sync: Fault | None = None
        super().__init__(NAME, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        """As the base class."""
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        if self.on_open is not None:
            self.on_open(path)
        return _File(self, path, name, flags)

    def works(self) -> None:
        """From now on, nothing fails."""
        self.on_open = self.on_write = self.on_sync = None


class _File(apsw.VFSFile):
    def __init__(self, disk: FaultyDisk, path: str, name: Any, flags: list[int]) -> None:
        self._disk = disk
        self._path = path
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        if self._disk.on_write is not None:
            self._disk.on_write(self._path)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802
        super().xSync(flags)
        if self._disk.on_sync is not None:
            self._disk.on_sync(self._path)


@contextmanager
def faulty_disk() -> Iterator[FaultyDisk]:
    """The disk by its name `NAME`, for the block."""
    disk = FaultyDisk()
    try:
        yield disk
    finally:
        disk.unregister()


def times(count: int, fault: Fault) -> Fault:
    """The fault so many times, then none."""
    left = count

    def happen(name: str) -> None:
        nonlocal left
        if left:
            left -= 1
            fault(name)

    return happen
