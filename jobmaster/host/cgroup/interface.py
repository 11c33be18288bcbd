"""One read or one write of a cgroup interface file, with errors that name folder, file and value."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from jobmaster.errors import CgroupError

if TYPE_CHECKING:
    from pathlib import Path

# ENOENT: the file or its folder is not there. ENODEV: the cgroup was removed after the open (kernfs answers so on
# a descriptor that outlived its cgroup). EOPNOTSUPP: the file is not for this kind of cgroup (cgroup.procs and
# cgroup.kill of a threaded one, *.pressure with psi=0).
NOT_OFFERED: Final = frozenset({errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP})
GONE: Final = frozenset({errno.ENOENT, errno.ENODEV})

_PAGE: Final = 4096
_READ_CHUNK: Final = 64 * 1024


class CgroupFileError(CgroupError):
    """A cgroup interface file refused a read or a write, or its folder a change."""

    def __init__(self, path: Path, cause: OSError, *, value: str | None = None) -> None:
        """Say what was tried on ``path``; ``value`` is the text written, None for any other operation."""
        self.path = path
        self.value = value
        self.cause = cause
        tried = "" if value is None else f" (writing {value!r})"
        super().__init__(f"{path.parent}: {path.name}{tried}: {cause.strerror}")

    @property
    def errno(self) -> int | None:
        """The kernel's error number."""
        return self.cause.errno


def read_interface(path: Path) -> str:
    """The whole text of an interface file.

    Raises:
        CgroupFileError: the file can't be opened or read.
    """
    try:
        return os.fsdecode(_read_all(path))
    except OSError as error:
        raise CgroupFileError(path, error) from error


def read_if_offered(path: Path) -> str | None:
    """Like :func:`read_interface`, None where the kernel does not offer the file or the cgroup is gone."""
    try:
        return read_interface(path)
    except CgroupFileError as error:
        if error.errno in NOT_OFFERED:
            return None
        raise


def read_from(folder: int, name: str) -> str:
    """The whole text of an interface file of the cgroup that a descriptor is of.

    Raises:
        OSError: as from open(2) and read(2).
    """
    return os.fsdecode(_read_all(name, folder))


def write_interface(path: Path, text: str) -> None:
    """Write ``text`` to an interface file that exists, in one write(2): the kernel takes each write as a whole.

    Raises:
        CgroupFileError: the file is missing (it is never created) or the kernel refuses the value.
    """
    try:
        _write_once(path, text.encode())
    except OSError as error:
        raise CgroupFileError(path, error, value=text) from error


def write_and_read(path: Path, text: str) -> str:
    """Like :func:`write_interface`, and what the file says then: a page of it (kernel: of one read(2)).

    Raises:
        CgroupFileError: as there.
    """
    try:
        return os.fsdecode(_write_once(path, text.encode(), reads=True))
    except OSError as error:
        raise CgroupFileError(path, error, value=text) from error


def _read_all(path: Path | str, folder: int | None = None) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        chunks = []
        while chunk := os.read(descriptor, _READ_CHUNK):
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        os.close(descriptor)


def _write_once(path: Path, text: bytes, *, reads: bool = False) -> bytes:
    # O_TRUNC means nothing to cgroupfs; it lets a plain file stand in for an interface file.
    mode = os.O_RDWR if reads else os.O_WRONLY
    descriptor = os.open(path, mode | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        written = os.write(descriptor, text)
        found = os.pread(descriptor, _PAGE, 0) if reads else b""
    finally:
        os.close(descriptor)
    if written != len(text):
        raise OSError(errno.EIO, f"{written} of {len(text)} bytes taken")
    return found
