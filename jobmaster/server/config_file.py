"""Reading the configuration file, which says who may have commands run here and as whom, so that it is its owner's alone.

Theory of operation
-------------------
As sshd(8) reads its files: what was opened is judged, by its descriptor. It is a regular file of root's or of the server's own
user, and neither group nor others may write it or the folder it is in. It may be reached by symbolic links, as tools that manage
configurations make them: then the folder in which the last one ends is judged, and the one in which the first one stands.

What the folders above those allow is not looked at, as it is not for certificates.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jobmaster.errors import ConfigurationError
from jobmaster.server.schema import LARGEST_FILE
from jobmaster.server.toml_text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH
KEPT_NAME: Final = "configuration-in-force.toml"
"""In the state folder: what a server runs with."""
LARGEST_KEPT: Final = 4 * LARGEST_FILE
"""Bytes of it: a client takes more of them than it may in a file of people's."""


def read_file(path: Path) -> str | None:
    """The text of the file; None where there is none. Blocks as long as its disk does.

    Raises:
        ConfigurationError: it cannot be read, others could have written it, or it is empty, too large, or no text.
    """
    try:
        _require_sound_folder(path.parent)
        descriptor = os.open(path, _FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigurationError(f"it cannot be opened: {error.strerror}") from None
    try:
        _require_sound(os.fstat(descriptor))
        with suppress(OSError):  # no /proc, or a name that is gone by now
            _require_sound_folder(Path(os.readlink(f"/proc/self/fd/{descriptor}")).parent)  # noqa: PTH115  # no path of ours
        return _text(_read(descriptor, LARGEST_FILE), LARGEST_FILE)
    except OSError as error:
        raise ConfigurationError(f"it cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)


def _require_sound(details: os.stat_result) -> None:
    if not stat.S_ISREG(details.st_mode):
        raise ConfigurationError("it is not a regular file")
    _require_own("it", details)


def _require_sound_folder(folder: Path) -> None:
    _require_own(f"its folder {printable(folder)}", folder.stat())


def _require_own(what: str, details: os.stat_result) -> None:
    if details.st_uid not in {0, os.geteuid()}:
        raise ConfigurationError(
            f"{what} belongs to another user (uid {details.st_uid}): chown root it, or name another"
        )
    if details.st_mode & _OTHERS:
        mode = stat.S_IMODE(details.st_mode)
        raise ConfigurationError(f"{what} can be written by others (mode {mode:04o}): chmod go-w it")


def _read(descriptor: int, most: int) -> bytes:
    """All of it, and a byte too much where it is too large."""
    data = bytearray()
    while len(data) <= most and (more := os.read(descriptor, most + 1 - len(data))):
        data += more
    return bytes(data)


def _text(data: bytes, most: int) -> str:
    if len(data) > most:
        raise ConfigurationError(f"it has more than {most // 1024} KiB")
    if not data.strip():
        raise ConfigurationError("it is empty: whoever writes it may not have finished")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigurationError(f"it is not UTF-8 (at line {line})") from None


# --- what is in force, for the next server ------------------------------------------------------------------------------


def keep_text(folder: Path, text: str, *, sync: Callable[[int], None] = os.fsync) -> None:
    """Writes what is in force to the state folder, 0600, in one step: whoever reads it reads all of it, or what was before.

    Raises:
        OSError: it cannot be written.
    """
    place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    new = f".{KEPT_NAME}"
    try:
        descriptor = os.open(
            new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=place
        )
        try:
            _write(descriptor, text.encode())
            sync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(new, KEPT_NAME, src_dir_fd=place, dst_dir_fd=place)
    finally:
        os.close(place)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def kept_text(folder: int) -> str | None:
    """What `keep_text` wrote to the folder of this descriptor; None where it did not.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        descriptor = os.open(KEPT_NAME, _FLAGS | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{KEPT_NAME} cannot be opened: {error.strerror}") from None
    try:
        _require_sound(os.fstat(descriptor))
        return _text(_read(descriptor, LARGEST_KEPT), LARGEST_KEPT)
    except OSError as error:
        raise ConfigurationError(f"{KEPT_NAME} cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
