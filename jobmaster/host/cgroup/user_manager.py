"""Units of a user's own systemd, which marks none of them as delegated: only root may set the mark there, so it is asked."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_SECONDS: Final = 5.0
"""How long it may take to answer; ordinarily some milliseconds."""


def has_delegated(folder: Path) -> bool:
    """Whether this cgroup is a unit's of this user's systemd, with `Delegate=`. All cgroups there are writable to the user.

    Blocks until systemd has answered, or has had its time.
    """
    if f"user@{os.geteuid()}.service" not in folder.parent.parts or not os.access(folder / "cgroup.procs", os.W_OK):
        return False
    try:
        done = subprocess.run(
            ["systemctl", "--user", "show", "--value", "-p", "Delegate", "--", folder.name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.strip() == b"yes"
