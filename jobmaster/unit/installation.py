"""Where the unit goes, and that it can be started from there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from jobmaster.errors import ConfigurationError, HostError
from jobmaster.unit.text import NAME

FOLDER: Final = Path("/etc/systemd/system")
_SECONDS: Final = 30.0


def require_importable(interpreter: str) -> None:
    """Refuses an interpreter that finds jobmaster only in the folder or the environment of whoever asks.

    Raises:
        ConfigurationError: it is such a one.
    """
    try:
        done = subprocess.run(
            [interpreter, "-P", "-c", "import jobmaster.serve"],
            cwd="/",
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(f"{interpreter} cannot be run: {error}") from None
    if done.returncode != 0:
        raise ConfigurationError(
            f"{interpreter}, which is to run the server, does not find jobmaster from elsewhere: install the package "
            "(`pip install .`), and run its own jobmaster"
        )


def install(text: str, folder: Path, *, may_replace: bool) -> bool:
    """Puts the unit there, whole or not at all; whether it was not there already as it is.

    Raises:
        ConfigurationError: another one is there and may not be replaced, or there is no such folder.
        HostError: it cannot be written.
    """
    file = folder / NAME
    if not folder.is_dir():
        raise ConfigurationError(
            f"{folder} is no folder: is systemd there? --print shows the unit; --directory names another"
        )
    if os.path.lexists(file) and not may_replace:
        if _is(file, text):
            return False
        raise ConfigurationError(f"{file} is there and differs: --print shows the new one, --force replaces it")
    new = folder / f".{NAME}.{os.getpid()}"
    try:
        _write(new, text)
        new.replace(file)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise HostError(f"{file} cannot be written: {error.strerror}; run as root, or see --print") from None
    return True


def _is(file: Path, text: str) -> bool:
    """Whether it is a file of that text; a link, as of a unit that is masked, is none."""
    try:
        return not file.is_symlink() and file.read_bytes() == text.encode()
    except OSError:
        return False


def _write(file: Path, text: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "wb") as opened:
        os.fchmod(descriptor, 0o644)  # whatever the umask
        opened.write(text.encode())
        opened.flush()
        os.fsync(descriptor)
