"""The entries of a trail, read back in their order: from complete files, from the one that is written, and what is added.

The file that is written may be completed at any moment. So it is opened before the complete ones are listed, and what is
open is told from what is listed by its inode. Lines that are no entries are passed over, and counted: a disk that was
full, or a host that lost its power, leaves some.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

from jobmaster.audit.entry import VERSION
from jobmaster.audit.names import complete_files, current_file
from jobmaster.audit.scan import document_of
from jobmaster.errors import ConfigurationError

ALWAYS_TOLD: Final = frozenset({"gap"})
"""Kinds of entries that are told whoever and whatever is asked for: what is missing may be about that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which entries are wanted; None: whatever it is.

    Attributes:
        client: of this client.
        job: about this job.
        since, until: from then on, and before then.
    """

    client: str | None = None
    job: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def takes(self, entry: dict[str, Any]) -> bool:
        """Whether an entry is wanted."""
        at = time_of(entry)
        if at is not None and ((self.since and at < self.since) or (self.until and at >= self.until)):
            return False
        if entry["kind"] in ALWAYS_TOLD or (entry["kind"] == "opened" and entry.get("before") == "cut off"):
            return True
        return all(
            value is None or entry.get(name) == value for name, value in (("client", self.client), ("job", self.job))
        )


class TrailReader:
    """Reads a trail. Its methods block."""

    def __init__(self, folder: Path, trail: str, wanted: Wanted) -> None:
        self._folder = folder
        self._trail = trail
        self._wanted = wanted
        self._file: IO[bytes] | None = None
        self._last = 0
        self._known = 0
        """The number up to which entries have been told, where files are read again."""
        self.unreadable = 0
        """Lines that are no entries, or of a later version of this program."""

    def entries(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """The wanted entries, each with its line; called again, those that were added since.

        Raises:
            ConfigurationError: the files cannot be read.
        """
        try:
            if self._file is not None:
                yield from self._rest_of(self._file)
                if _is_file(current_file(self._folder, self._trail), self._file):
                    return
                yield from self._rest_of(self._file)  # what was added before it was completed
            yield from self._all()
        except OSError as error:
            remedy = "; it is for the server's user: try as root" if isinstance(error, PermissionError) else ""
            raise ConfigurationError(f"the audit in {self._folder} cannot be read: {error.strerror}{remedy}") from error

    def close(self) -> None:
        """Closes the file that is open."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _all(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """All entries that have not been read."""
        self.close()
        self._known = self._last
        current = current_file(self._folder, self._trail)
        with suppress(FileNotFoundError):
            self._file = _open(current)
        for path in self._files_wanted(complete_files(self._folder, self._trail)):
            if self._file is None or not _is_file(path, self._file):
                with suppress(FileNotFoundError), _open(path) as file:  # the oldest is removed at any moment
                    yield from self._rest_of(file)
        if self._file is not None:
            yield from self._rest_of(self._file)

    def _files_wanted(self, files: list[Path]) -> list[Path]:
        """Without the oldest files, where those that follow begin before the time that is wanted, or were read already."""
        first = 0
        for number, path in enumerate(files):
            with suppress(FileNotFoundError), _open(path) as file:
                head = document_of(file.readline()) or {}
                begins = time_of(head)
                is_read = head.get("sequence", self._known + 1) <= self._known
                if is_read or (begins is not None and self._wanted.since and begins < self._wanted.since):
                    first = number
        return files[first:]

    def _rest_of(self, file: IO[bytes]) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """The entries from a file's position on; a last line that does not end yet is left for later."""
        while line := file.readline():
            entry = document_of(line)
            if entry is None and not line.endswith(b"\n"):
                file.seek(-len(line), os.SEEK_CUR)
                return
            if entry is None or entry.get("version") != VERSION:
                self.unreadable += line != b"\n"
                continue
            if entry["sequence"] <= self._known:
                continue
            self._last = entry["sequence"]
            if self._wanted.takes(entry):
                yield line.rstrip(b"\n"), entry


def time_of(entry: dict[str, Any]) -> datetime | None:
    """When an entry happened; None where it does not say."""
    try:
        return datetime.fromisoformat(entry["time"]).astimezone(UTC)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _open(path: Path) -> IO[bytes]:
    """Opens a file; raises FileNotFoundError for what is none, such as a FIFO, which would have its reader wait."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return file


def _is_file(path: Path, file: IO[bytes]) -> bool:
    """Whether this file has this name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
