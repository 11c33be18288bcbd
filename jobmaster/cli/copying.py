"""`backup`: a copy of the server's journal in a file, which is whole or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import trio

from jobmaster.client import Jobs
from jobmaster.errors import ConfigurationError


async def save_backup(jobs: Jobs, file: Path) -> None:
    """Replaces a file by a backup when that is whole; it is for its owner alone.

    What a link points to is replaced, not the link; what is no regular file, a device for instance, never is.

    Raises:
        ConfigurationError: the file cannot be written; says why.
    """
    try:
        file = file.resolve()
        if file.exists() and not file.is_file():
            raise ConfigurationError(f"cannot write {file}: it is there, and no regular file: name another one")
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    except OSError as error:
        raise _refusal(file, error) from error
    part = Path(name)
    try:
        await _copy(jobs, descriptor)
        part.replace(file)
    except OSError as error:
        raise _refusal(file, error) from error
    finally:
        part.unlink(missing_ok=True)
        os.close(descriptor)


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
