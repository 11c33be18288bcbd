"""The files of a trail, by name: `audit.jsonl` is written; `audit-0000000000000001.jsonl` is complete, from its number on.

A complete file is never renamed again, so that a reader who has its name has the file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

AUDIT: Final = "audit"
"""The trail of calls and jobs."""
HANDSHAKES: Final = "handshakes"
"""The trail of refused connections."""
FOLDER: Final = "audit"
"""The folder's name in the output folder, unless another is named."""
BALLAST: Final = "audit.ballast"

_NUMBER: Final = re.compile(r"-([0-9]{16})\.jsonl")


def current_file(folder: Path, trail: str) -> Path:
    """The file that is written."""
    return folder / f"{trail}.jsonl"


def complete_file(folder: Path, trail: str, first: int) -> Path:
    """The complete file whose first entry has this number."""
    return folder / f"{trail}-{first:016d}.jsonl"


def complete_files(folder: Path, trail: str) -> list[Path]:
    """The complete files that are there, the oldest first.

    Raises:
        OSError: the folder cannot be read.
    """
    found = [path for path in folder.iterdir() if path.name.startswith(f"{trail}-")]
    return sorted(path for path in found if _NUMBER.fullmatch(path.name.removeprefix(trail)))
