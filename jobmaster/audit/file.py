"""The files of one trail: appended to, exchanged for a new one at a size, the oldest removed.

No entry that was written is ever changed: files are opened with O_APPEND. A line that a full disk cut short is taken out, so
that whoever reads the file finds lines of JSON; where that cannot be done, or a host has lost its power, it stays as it is, with
the next one in a line of its own. An entry gets its number when it is written, so that the numbers in the
files have no holes: where one is missing, a line was removed. Where somebody moves or removes the file that is written, the
next entries are in another one of its name, which repeats what the files before it say.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import threading
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jobmaster.audit.entry import Begun, Call, Entry, JobChange, Opened, Rotated, body_of, cost_of, encode
from jobmaster.audit.names import BALLAST, complete_file, complete_files, current_file
from jobmaster.audit.scan import Position, scan
from jobmaster.audit.spool import Spool
from jobmaster.errors import ConfigurationError

if TYPE_CHECKING:
    import trio

logger = logging.getLogger(__name__)

NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NOT_NOW: Final = frozenset({*NO_SPACE, errno.EIO, errno.ENFILE, errno.EMFILE, errno.ENOMEM})
"""Errors of opening that may pass, and keep no server from starting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileBounds:
    """How large a file becomes, and how many complete ones are kept beside it; 0: all."""

    size: int
    kept: int


class Line:
    """An entry on its way into the file. Not a dataclass: one is made for every call.

    Attributes:
        begun: of a call's end, its beginning: another line, or the number of one that an earlier server wrote.
        done: set when it has been written or will never be; None where nobody waits for that.
        sequence: its number once it is written.
        number: the one that it is being written with; for the file alone.
        place: in the spool; None where it is not there.
        missing: how many entries the spool counts as missing until this one is written.
        is_queued: it may still be written; for the trail alone.
        body: of its line.
        cost: bytes of memory that it holds.
    """

    __slots__ = ("begun", "body", "cost", "done", "entry", "is_queued", "missing", "number", "place", "sequence")

    def __init__(
        self,
        entry: Entry,
        begun: Line | int | None = None,
        *,
        done: trio.Event | None = None,
        place: int | None = None,
        missing: int = 0,
    ) -> None:
        self.entry = entry
        self.begun = begun
        self.done = done
        self.sequence: int | None = None
        self.number: int | None = None
        self.place = place
        self.missing = missing
        self.is_queued = False
        self.body = body_of(entry)
        self.cost = cost_of(entry, self.body)

    @property
    def is_urgent(self) -> bool:
        """Whether it is to be written at once: somebody waits for it, or its call changes something, or lasts."""
        return self.done is not None or self.begun is not None or isinstance(self.entry, Begun)

    @property
    def begun_number(self) -> int | None:
        """The number of the beginning; None where there is none, or it was never written."""
        return self.begun.number if isinstance(self.begun, Line) else self.begun


class AuditFile:
    """A trail's files. The methods block; one is called at a time, but for `sync`, which may be called beside any."""

    def __init__(self, folder: Path, trail: str, bounds: FileBounds, position: Position) -> None:
        self._folder = folder
        self._trail = trail
        self._bounds = bounds
        self.position = position
        """How far it has come."""
        self.spool: Spool | None = None
        """Where a later server finds what is not in the file."""
        self._descriptor: int | None = None
        self._swap = threading.Lock()
        """Held by whoever exchanges the descriptor, or takes a copy of it."""
        self._size = 0
        self._first: int | None = None
        self._is_torn = False
        self._synced = position.sequence
        self._doubtful = 0

    @classmethod
    def open(cls, folder: Path, trail: str, bounds: FileBounds) -> AuditFile:
        """Goes on where an earlier server has stopped.

        Raises:
            ConfigurationError: the files cannot be read or written, whatever space there is.
        """
        current = current_file(folder, trail)
        try:
            files = complete_files(folder, trail)
            position, end = scan([*files, current] if current.exists() else files)
        except OSError as error:
            raise ConfigurationError(f"the audit in {folder} cannot be read: {error.strerror}") from error
        opened = cls(folder, trail, bounds, position)
        if current.exists():
            opened._first, opened._is_torn = end.first, end.is_torn
        try:
            opened._open_current()
        except OSError as error:
            if error.errno not in _NOT_NOW:
                raise ConfigurationError(f"the audit in {folder} cannot be written: {error.strerror}") from error
        return opened

    def append(self, lines: Sequence[Line]) -> None:
        """Writes entries, and gives each one that is written its number.

        Raises:
            OSError: those after the last one that has a number are not written.
        """
        try:
            text = self._prepare(lines)
        except OSError:
            self._take_back(lines)
            raise
        self._write(lines, text)

    def probe(self) -> None:
        """Looks whether the disk is there. Raises OSError where it is not."""
        self._open_current()
        self.sync()

    def sync(self) -> None:
        """Has the disk take what was written. Raises OSError where it does not."""
        with self._swap:
            copy = None if self._descriptor is None else os.dup(self._descriptor)
            written = self.position.sequence
        if copy is None:
            return
        try:
            os.fdatasync(copy)
        except OSError:
            with self._swap:  # the kernel says so once, of all that it had taken
                self._doubtful += self.position.sequence - self._synced
                self._synced = self.position.sequence
            raise
        finally:
            os.close(copy)
        with self._swap:
            self._synced = max(self._synced, written)

    def take_doubtful(self) -> int:
        """How many entries were written that the disk may not have after all, as it has said since the last call."""
        with self._swap:
            doubtful, self._doubtful = self._doubtful, 0
        return doubtful

    def close(self) -> None:
        """Closes the file. Idempotent."""
        with self._swap:
            descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    # --- writing ------------------------------------------------------------------------------------------------------

    def _prepare(self, lines: Sequence[Line]) -> list[bytes]:
        """The lines of entries, with the file open that has room for them."""
        self._open_current()
        text = self._encode(lines)
        if self._has_entries and self._size + sum(map(len, text)) > self._bounds.size:
            self._complete()
            self._open_current()
            text = self._encode(lines)
        return text

    def _encode(self, lines: Sequence[Line]) -> list[bytes]:
        text = []
        for sequence, line in enumerate(lines, self.position.sequence + 1):
            line.number = sequence  # an end in the same batch refers to it
            text.append(encode(line.entry, sequence, line.begun_number, line.body))
        return text

    def _write(self, lines: Sequence[Line], text: Sequence[bytes]) -> None:
        """Writes lines that are encoded. Raises OSError where not all of them were."""
        self._tell_spool(lines)
        data = b"".join(text)
        prefix = b"\n" if self._is_torn else b""
        written, failure = self._write_bytes(prefix + data)
        if written:
            self._is_torn = False
        written = max(0, written - len(prefix))
        ends = []
        end = 0
        for each in text:
            end += len(each)
            ends.append(end - 1)  # without its line feed an entry is complete
        whole = bisect_right(ends, written)
        kept = ends[whole - 1] + 1 if whole else 0
        if written > kept and self._cut_off(written - kept):
            written = kept
        self._is_torn = self._is_torn or (0 < written < len(data) and not data[:written].endswith(b"\n"))
        for line in lines[:whole]:
            self._note(line)
        self._take_back(lines[whole:])
        if failure is not None:
            raise failure

    def _write_bytes(self, data: bytes) -> tuple[int, OSError | None]:
        assert self._descriptor is not None  # noqa: S101  # it was opened
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            return len(data) - len(view), error
        finally:
            self._size += len(data) - len(view)
        return len(data), None

    def _cut_off(self, count: int) -> bool:
        """Takes the last bytes out of the file, where they are this server's and the file is not for appending alone."""
        assert self._descriptor is not None  # noqa: S101  # it was opened
        try:
            if os.fstat(self._descriptor).st_size != self._size:
                return False
            os.ftruncate(self._descriptor, self._size - count)
        except OSError:
            return False
        self._size -= count
        return True

    def _note(self, line: Line) -> None:
        """An entry is written."""
        assert line.number is not None  # noqa: S101  # it was encoded
        if self._first is None:
            self._first = line.number
        self.position.sequence = line.sequence = line.number
        match line.entry:
            case Begun():
                self.position.begun[line.number] = None
            case Call() if line.begun_number is not None:
                self.position.begun.pop(line.begun_number, None)
            case JobChange(journal_sequence=number) | Opened(journal_sequence=number):
                self.position.journal_sequence = number
            case _:
                pass
        if line.place is not None and self.spool is not None:
            self.spool.done(line.place)

    def _take_back(self, lines: Sequence[Line]) -> None:
        """Takes the numbers of entries back that have not been written."""
        for line in lines:
            line.number = None
        self._tell_spool(lines)

    def _tell_spool(self, lines: Sequence[Line]) -> None:
        if self.spool is not None:
            for line in lines:
                if line.place is not None:
                    self.spool.being_written(line.place, line.number or 0)

    # --- files --------------------------------------------------------------------------------------------------------

    def _open_current(self) -> None:
        path = current_file(self._folder, self._trail)
        if self._descriptor is not None:
            if _has_name(self._descriptor, path):
                return
            logger.error("%s was moved or removed, with what is in it; another one is begun", path)
            self.close()
            self._first, self._is_torn = None, True  # as far as is known of what may be in its place
        descriptor = os.open(path, _FLAGS, 0o600)
        try:
            details = os.fstat(descriptor)
            if not stat.S_ISREG(details.st_mode):
                raise OSError(errno.EINVAL, f"{path.name} is no file")
            if details.st_mode & 0o177:
                os.fchmod(descriptor, 0o600)
        except BaseException:
            os.close(descriptor)
            raise
        with self._swap:
            self._descriptor = descriptor
        self._size = details.st_size
        if not self._size and self.position.sequence:
            self._begin_file()

    def _begin_file(self) -> None:
        """Repeats what the files before say, and removes the oldest of them."""
        self._first, self._is_torn = None, False
        now, position = datetime.now(UTC), self.position
        head = Line(Rotated(journal_sequence=position.journal_sequence, at=now, begun=tuple(position.begun)))
        self._write([head], self._encode([head]))
        _sync_folder(self._folder)
        if self._bounds.kept:
            for path in complete_files(self._folder, self._trail)[: -self._bounds.kept]:
                path.unlink(missing_ok=True)

    @property
    def _has_entries(self) -> bool:
        """Whether the file has more than its first entry: a disk that fails does not have one file follow another."""
        return self._first is not None and self.position.sequence > self._first

    def _complete(self) -> None:
        """Gives the file its last name, which no other has: the number of its first entry."""
        assert self._first is not None  # noqa: S101  # it has entries
        self.sync()
        current_file(self._folder, self._trail).rename(complete_file(self._folder, self._trail, self._first))
        self.close()


def _has_name(descriptor: int, path: Path) -> bool:
    """Whether an open file has this name still. Raises OSError where the disk does not say."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_folder(folder: Path) -> int | None:
    """A descriptor that has the lock of an audit folder; None where another server has it.

    It is that of the ballast's file: the folder itself may be one that has another lock.

    Raises:
        OSError: the file cannot be opened.
    """
    descriptor = os.open(folder / BALLAST, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    os.close(descriptor)
    return None
