"""Reading the files of the certificate folder so that a private key is never anyone else's.

Theory of operation
-------------------
A file is opened first and judged by its descriptor, so that what was judged is what is used: never a symbolic link, a
FIFO that would block or a file swapped in between. Its folder is judged in the same way, and the file opened relative to
it: whoever may write the folder can exchange any file in it, whatever that file's mode. OpenSSL, which takes paths only,
is given the descriptor's path under ``/proc/self/fd``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from jobmaster.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LARGEST_FILE: Final = 1 << 20
"""Bytes of the largest file read; a chain of certificates has a few thousand."""

MAKE_THEM: Final = (
    "`python -m jobmaster.certs init` makes the certificates, `python -m jobmaster.certs issue NAME` one client's"
)
"""The remedy when a file is not there."""

REPLACE_THEM: Final = "put the right file there, or make all anew with `python -m jobmaster.certs init --force`"
"""The remedy when a file is there and wrong."""


@contextlib.contextmanager
def opened(path: Path, *, secret: bool = False) -> Iterator[int]:
    """Open `path` for reading and yield its descriptor, once it and its folder are known to be sound.

    Raises:
        ConfigurationError: It is missing, unreadable, no regular file, larger than :data:`LARGEST_FILE`, writable by
            everyone, or `secret` and open to group or world; or its folder is unsound (:func:`require_sound_folder`).
    """
    descriptor = _open_file(path)
    try:
        _require_sound(path, os.fstat(descriptor), secret=secret)
        yield descriptor
    finally:
        os.close(descriptor)


def require_sound_folder(folder: Path) -> None:
    """Refuse a certificate folder that others could exchange files in.

    Raises:
        ConfigurationError: It belongs to a user who is neither this one nor root, group or world may write it, or it
            cannot be opened.
    """
    with _translated(folder), _opened_folder(folder):
        pass


def read(path: Path, *, secret: bool = False) -> bytes:
    """Return the content of `path`; judged and refused as by :func:`opened`."""
    with opened(path, secret=secret) as descriptor:
        return content_of(descriptor)


def content_of(descriptor: int) -> bytes:
    """Return the content of a file just opened, :data:`LARGEST_FILE` bytes of it at most."""
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read(LARGEST_FILE)


def path_of(descriptor: int) -> str:
    """Return a path by which a library opens the very file that `descriptor` has open (proc(5), /proc/pid/fd)."""
    return f"/proc/self/fd/{descriptor}"


def _open_file(path: Path) -> int:
    with _translated(path), _opened_folder(path.parent) as directory:
        # O_NONBLOCK: opening a FIFO must not wait for its writer; a regular file ignores it.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        return os.open(path.name, flags, dir_fd=directory)


@contextlib.contextmanager
def _opened_folder(folder: Path) -> Iterator[int]:
    """A descriptor of `folder`, which is sound; may be a symbolic link to such a one. Raises OSError, too."""
    directory = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        status = os.fstat(directory)
        require_own(folder, status)
        _require_unwritable(folder, status)
        yield directory
    finally:
        os.close(directory)


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn the kernel's refusal to open `path` into words with a remedy."""
    try:
        yield
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path} is missing: {MAKE_THEM}") from error
    except PermissionError as error:
        raise ConfigurationError(f"{path} cannot be read by this user: run as its owner") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ConfigurationError(f"{path} is a symbolic link: put the file itself there") from error
        raise ConfigurationError(f"{path} cannot be opened: {error.strerror}") from error


def require_own(folder: Path, status: os.stat_result) -> None:
    """Refuse a folder that somebody who is neither this user nor root owns: the owner can exchange what is in it."""
    if status.st_uid not in {0, os.geteuid()}:
        raise ConfigurationError(
            f"{folder} belongs to another user (uid {status.st_uid}), who can exchange the keys in it: "
            f"chown {os.geteuid()} {folder}, or name a folder of your own"
        )


def _require_unwritable(folder: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigurationError(
            f"{folder} can be written by others (mode {mode:04o}), who can exchange the keys in it: chmod go-w {folder}"
        )


def _require_sound(path: Path, status: os.stat_result, *, secret: bool) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(f"{path} is not a regular file: {REPLACE_THEM}")
    if status.st_size > LARGEST_FILE:
        raise ConfigurationError(f"{path} has {status.st_size} bytes, more than {LARGEST_FILE}: {REPLACE_THEM}")
    if secret and mode & 0o077:
        raise ConfigurationError(f"{path} is a private key and open to others (mode {mode:04o}): chmod 600 {path}")
    if mode & stat.S_IWOTH:
        raise ConfigurationError(f"{path} can be written by everyone (mode {mode:04o}): chmod 644 {path}")
