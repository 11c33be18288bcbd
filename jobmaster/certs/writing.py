"""Writing the files of the certificate folder: all of them or none, and no key readable by others at any moment.

Theory of operation
-------------------
All work is relative to one descriptor of the folder, which is locked (``flock``) for the time, this user's own, private
(mode 0700) and no symbolic link. Each file is first written whole under a temporary name, with its final mode from the
start, and synced. Only when all of them are there are they given their names: by ``link``, which never overwrites, or by
``rename`` when overwriting was asked for. A failure before the last name is given takes back those that are new.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from jobmaster.certs.key_files import require_own
from jobmaster.errors import ConfigurationError, HostError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_PRIVATE_FOLDER: Final = 0o700
_SECRET_FILE: Final = 0o600
_PUBLIC_FILE: Final = 0o644
_OF_A_CERTIFICATE_FOLDER: Final = re.compile(
    r"README\.md|\.gitignore|[a-z0-9_-]+_(cert|key)\.pem|\.[a-z0-9_-]+_(cert|key)\.pem\.[0-9a-f]+\.new"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A file to write: its name in the folder, its content and whether only its owner may read it."""

    name: str
    content: bytes = field(repr=False)  # may be a private key
    secret: bool

    def __post_init__(self) -> None:
        if _OF_A_CERTIFICATE_FOLDER.fullmatch(self.name) is None:
            raise ConfigurationError(f"{self.name!r} is no name of a file of a certificate folder")


def write_all(folder: Path, files: Sequence[NewFile], *, force: bool) -> tuple[Path, ...]:
    """Write all of `files` into `folder` or none; make the folder if it is missing; return the paths.

    With `force` existing files are replaced, one at a time and each at once.

    Raises:
        ConfigurationError: A file exists and `force` is not given, or the folder cannot be used.
        HostError: The host did not write a file.
    """
    with _locked_folder(folder) as directory:
        _require_room(folder, directory, files, force=force)
        try:
            _write_and_name(directory, files, force=force)
        except OSError as error:
            raise HostError(f"{folder}: its files cannot be written: {error}") from error
    return tuple(folder / file.name for file in files)


@contextlib.contextmanager
def _locked_folder(folder: Path) -> Iterator[int]:
    directory = _open_folder(folder)
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(f"{folder} is being written by another process: try again") from error
        _make_private(folder, directory)
        yield directory
    finally:
        os.close(directory)


def _open_folder(folder: Path) -> int:
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=_PRIVATE_FOLDER, parents=True)
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if folder.is_symlink():
            raise ConfigurationError(f"{folder} is a symbolic link: name the folder it leads to") from error
        raise ConfigurationError(f"{folder} cannot be used as the certificate folder: {error.strerror}") from error


def _make_private(folder: Path, directory: int) -> None:
    """Take group's and world's access away, but only from a folder that is ours alone: never from /etc or a home."""
    status = os.fstat(directory)
    require_own(folder, status)
    if stat.S_IMODE(status.st_mode) & 0o077 == 0:
        return
    strangers = sorted(name for name in os.listdir(directory) if _OF_A_CERTIFICATE_FOLDER.fullmatch(name) is None)
    if strangers:
        raise ConfigurationError(
            f"{folder} is open to others and holds other things ({strangers[0]!r}): name a folder for certificates alone"
        )
    try:
        os.fchmod(directory, _PRIVATE_FOLDER)
    except PermissionError as error:
        raise ConfigurationError(f"{folder} is open to others and not this user's: run as its owner") from error


def _require_room(folder: Path, directory: int, files: Sequence[NewFile], *, force: bool) -> None:
    present = set(os.listdir(directory))
    for path in (folder / file.name for file in files if file.name in present):
        if path.is_dir() and not path.is_symlink():
            raise ConfigurationError(f"{path} is a folder: move it away")
        if not force:
            raise ConfigurationError(f"{path} exists already: give --force to replace it")


def _write_and_name(directory: int, files: Sequence[NewFile], *, force: bool) -> None:
    with contextlib.ExitStack() as always, contextlib.ExitStack() as on_failure:
        written = [(_write_temporary(directory, file, always), file.name) for file in files]
        for temporary, name in written:
            if force:
                os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            else:
                os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
                on_failure.callback(_remove, directory, name)
        os.fsync(directory)
        on_failure.pop_all()


def _write_temporary(directory: int, file: NewFile, always: contextlib.ExitStack) -> str:
    """Write and sync `file` under a temporary name, which `always` removes in the end; return that name."""
    name = f".{file.name}.{secrets.token_hex(8)}.new"
    mode = _SECRET_FILE if file.secret else _PUBLIC_FILE
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, mode, dir_fd=directory)
    always.callback(_remove, directory, name)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(descriptor, mode)  # open's mode lost what the umask takes
        stream.write(file.content)
        stream.flush()
        os.fsync(descriptor)
    return name


def _remove(directory: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)
