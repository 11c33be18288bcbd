"""Where an earlier server stopped writing, read from what it wrote.

The first line of each file that follows another repeats what the files before it say, so that as a rule one file is
read. Lines that are no entries are passed over: a disk that was full leaves the beginning of one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

_HEAD: Final = re.compile(
    rb'\{"version":\d+,"sequence":(\d{1,18}),"kind":"(\w+)"(?:,"(?:begun|journal_sequence)":(\d{1,18}|null))?,'
)


@dataclass(slots=True)
class Position:
    """How far a trail has come.

    Attributes:
        sequence: of its last entry; 0 where there is none.
        journal_sequence: of the last job event that is in it.
        begun: the lines of the calls that have begun and not ended, by their numbers; None for one that was not looked at.
        is_closed: its last entry says that all was written.
    """

    sequence: int = 0
    journal_sequence: int = 0
    begun: dict[int, bytes | None] = field(default_factory=dict)
    is_closed: bool = False

    def take(self, line: bytes) -> bool:
        """Goes on by a line; False for one that is no entry."""
        head = _HEAD.match(line)
        if head is None or not line.rstrip().endswith(b"}"):
            return False
        sequence, kind, number = int(head[1]), head[2], head[3]
        self.is_closed = kind == b"closed"
        match kind:
            case b"begun":
                self.begun[sequence] = line
            case b"call" if number is not None and number != b"null":
                self.begun.pop(int(number), None)
            case b"job" | b"opened" if number is not None:
                self.journal_sequence = int(number)
            case b"rotated":
                try:
                    document = json.loads(line)
                    begun = {int(each): self.begun.get(int(each)) for each in document["open"]}
                    self.journal_sequence, self.begun = int(document["journal_sequence"]), begun
                except (ValueError, LookupError, TypeError, RecursionError):
                    return False  # a disk has changed it
            case _:
                pass
        self.sequence = sequence
        return True


@dataclass(frozen=True, slots=True)
class FileEnd:
    """Of the last file that was read.

    Attributes:
        first: the number of its first entry; None where there is none.
        is_torn: its last line does not end.
    """

    first: int | None
    is_torn: bool


def document_of(line: bytes) -> dict[str, Any] | None:
    """The entry of a line; None where it is none."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_entry = isinstance(document, dict) and type(document.get("sequence")) is int and "kind" in document
    return document if is_entry else None


def scan(files: Sequence[Path]) -> tuple[Position, FileEnd]:
    """The position after these files, the oldest first, and how the last one ends.

    Raises:
        OSError: one cannot be read.
    """
    position, end = Position(), FileEnd(None, is_torn=False)
    begin = next((number for number in reversed(range(len(files))) if _repeats_the_past(files[number])), 0)
    for path in files[begin:]:
        end = _read(path, position)
    for path in reversed(files[:begin]):
        wanted = {number for number, line in position.begun.items() if line is None}
        if not wanted:
            break
        _look_for(wanted, path, position)
    return position, end


def _repeats_the_past(path: Path) -> bool:
    with path.open("rb") as file:
        document = document_of(file.readline())
    return document is not None and document["kind"] == "rotated"


def _read(path: Path, position: Position) -> FileEnd:
    first, line = None, b"\n"
    with path.open("rb") as file:
        for line in file:
            is_whole = line.endswith(b"\n") or document_of(line) is not None
            if is_whole and position.take(line) and first is None:
                first = position.sequence
    return FileEnd(first, is_torn=not line.endswith(b"\n"))


def _look_for(wanted: set[int], path: Path, position: Position) -> None:
    """Finds the beginnings of calls in a file that was complete before."""
    with suppress(OSError), path.open("rb") as file:  # what is not found is told by its number alone
        for line in file:
            head = _HEAD.match(line)
            if head is not None and head[2] == b"begun" and int(head[1]) in wanted:
                position.begun[int(head[1])] = line
