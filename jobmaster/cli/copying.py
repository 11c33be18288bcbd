"""`backup`: a copy of the server's journal in a file, which is whole or not there."""

from __future__ import annotations

import errno
import os
import secrets
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import trio

from jobmaster.client import Jobs
from jobmaster.errors import ConfigurationError

_NO_UNNAMED_FILES: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL})


async def save_backup(jobs: Jobs, file: Path) -> None:
    """Replaces a file by a backup when that is whole; it is for its owner alone.

    What a link points to is replaced, not the link; what is no regular file, a device for instance, never is.

    Raises:
        ConfigurationError: the file cannot be written; says why.
    """
    try:
        file = _replaceable(file)
        with ExitStack() as stack:
            descriptor, name = _open_part(file, stack)
            await _copy(jobs, descriptor)
            part = name or _name_part(descriptor, file)
            stack.callback(part.unlink, missing_ok=True)
            part.replace(file)
    except OSError as error:
        raise _refusal(file, error) from error


def _replaceable(file: Path) -> Path:
    """What a name leads to.

    Raises:
        ConfigurationError: it is there, and no regular file.
    """
    place = Path(os.path.realpath(file))
    if place.is_symlink() or (file.exists() and not file.is_file()):
        raise ConfigurationError(f"cannot write {file}: it is there, and no regular file: name another one")
    return place


def _open_part(file: Path, stack: ExitStack) -> tuple[int, Path | None]:
    """A file for the part that has come: without a name, so that nothing is left whatever ends this program.

    Its name where the file system knows no such files (open(2), O_TMPFILE).
    """
    name = None
    try:
        descriptor = os.open(file.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _NO_UNNAMED_FILES:
            raise
        descriptor, path = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        name = Path(path)
        stack.callback(name.unlink, missing_ok=True)
    stack.callback(os.close, descriptor)
    return descriptor, name


def _name_part(descriptor: int, file: Path) -> Path:
    """Gives an unnamed file a name beside `file`: link(2) replaces nothing, rename(2) does."""
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    # Only with a folder's descriptor, which an absolute path has no need of, does Python have linkat(2) follow the link.
    os.link(f"/proc/self/fd/{descriptor}", part, src_dir_fd=descriptor, follow_symlinks=True)
    return part


async def _copy(jobs: Jobs, descriptor: int) -> None:
    async with jobs.backup() as chunks:
        async for chunk in chunks:
            await trio.to_thread.run_sync(_write_all, descriptor, chunk)
    await trio.to_thread.run_sync(os.fsync, descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _refusal(file: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"cannot write {file}: {error.strerror or error}")
