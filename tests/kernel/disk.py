"""The guest's disk: a block device with a file system that has all that hostfs and tmpfs lack."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

DISK: Final = Path(os.environ.get("JOBMASTER_DISK", "/nonexistent"))
"""Where it is mounted; machine.py says so."""


def device_number(path: Path) -> str:
    """The disk under a path as the io controller names it, ``98:0``."""
    number = path.stat().st_dev
    return f"{os.major(number)}:{os.minor(number)}"
