"""Whether systemd is the host's first process, and jobmaster a unit of it."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jobmaster.server.findings import Finding, Verdict

UNIT: Final = "jobmaster.service"
_RUNNING: Final = Path("/run/systemd/system")
"""There where systemd is the first process (sd_booted(3))."""
_UNITS: Final = tuple(
    map(Path, ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"))
)
_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Systemd:
    """What was seen of it.

    Attributes:
        version: as `systemctl` tells it; None where that cannot be asked.
        unit: jobmaster's file, if any.
    """

    version: str | None
    unit: Path | None


def look_at_systemd() -> Systemd | None:
    """None where the host has another first process."""
    if not _RUNNING.is_dir():
        return None
    files = (folder / UNIT for folder in _UNITS)
    return Systemd(version=_version(), unit=next((file for file in files if os.path.lexists(file)), None))


def of_systemd(systemd: Systemd | None) -> Finding:
    """What starts a server, and starts it again."""
    if systemd is None:
        text = "systemd is not the first process here: something else has to start the server, and start it again"
        return Finding(topic="systemd", verdict=Verdict.OK, text=text)
    known = f"systemd {systemd.version}" if systemd.version else "systemd"
    if systemd.unit is None:
        text, remedy = f"{known} has no {UNIT}", "`jobmaster install-unit` makes it"
        return Finding(topic="systemd", verdict=Verdict.WARNING, text=text, remedy=remedy)
    return Finding(topic="systemd", verdict=Verdict.OK, text=f"{known} has {systemd.unit}")


def _version() -> str | None:
    try:
        done = subprocess.run(["systemctl", "--version"], capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.match(rb"systemd (\d+)", done.stdout)
    return found[1].decode() if found else None
