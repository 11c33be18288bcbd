"""The files of one follower, and the stretches of it that the follower is handed.

Reading does not hold up the event loop: bytes that are in the page cache are read at once (`RWF_NOWAIT`), others in a worker
thread. Nobody has to wait for that thread: a follower that leaves while a disk holds it up leaves the file to it as well.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import trio

from jobmaster.errors import OutputCutOff, OutputUnreadable
from jobmaster.output.found_gaps import FoundGaps, find_gaps
from jobmaster.output.index import Header
from jobmaster.threads import NoThread, run_in_thread

logger = logging.getLogger(__name__)

T = TypeVar("T")

READERS: Final = trio.CapacityLimiter(16)
"""Threads that open and read the files of followers; a disk that stalls delays followers alone."""
CLOSERS: Final = trio.CapacityLimiter(math.inf)
"""Threads that close these files, one for each follower at most."""
CLOSE_SECONDS: Final = 1.0
"""How long a follower waits for that: the last descriptor of a large file that was removed frees its blocks, and a file
system in user space may not answer."""

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_NO_FILE: Final = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EISDIR})
"""What is opened is a link, a socket, or something else that is no file."""
_NOT_AT_ONCE: Final = frozenset({errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file that is being written.

    Attributes:
        fd: of whoever writes it, who closes it at any moment; negative where that has been closed.
        details: of the file itself.
    """

    fd: int
    details: os.stat_result


class Stretch:
    """Bytes of a log that are in its file, to be read while its follower lives.

    Both ways of reading raise OutputUnreadable where the file cannot be read (any more), OutputCutOff where it has less than was
    written to it.
    """

    __slots__ = ("_file", "length", "offset")

    def __init__(self, file: FollowedFile, offset: int, length: int) -> None:
        self._file = file
        self.offset = offset
        self.length = length

    def read_at_once(self, buffers: Sequence[memoryview], start: int) -> bool:
        """Fills the buffers from byte `start` on, at most to the end; False when that would have to wait for a disk."""
        try:
            count = os.preadv(self._file.fd, buffers, self.offset + start, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in _NOT_AT_ONCE:
                raise unreadable(self._file.path, error) from error
            return False
        return count == sum(map(len, buffers))

    async def read(self, start: int, count: int) -> bytes:
        """`count` bytes from byte `start` on, less where it ends."""
        count = min(count, self.length - start)
        with unreadable_named(self._file.path):
            data = await run_in_thread(READERS, self._file.pread, count, self.offset + start, abandon=True)
        if len(data) < count:
            end = self.offset + start + len(data)
            logger.error(
                "%s was cut off by somebody: it ends at byte %d, behind which more was written", self._file.path, end
            )
            raise OutputCutOff(
                f"the output of this job was cut off on the server's host: of what the job had written by then, all from byte {end} "
                "on is gone"
            )
        return data


@contextmanager
def unreadable_named(path: Path) -> Iterator[None]:
    """Raises OutputUnreadable for what the disk says in the block."""
    try:
        yield
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> OutputUnreadable:
    """Says that a file cannot be read, and why."""
    return OutputUnreadable(f"the output in {path} cannot be read: {error.strerror}")


class FollowedFile:
    """A file that is read: closed after `leave`, or by the last thread in it where that comes later."""

    def __init__(self, path: Path) -> None:
        self.fd = -1
        self.path = path
        self._lock = threading.Lock()
        self._threads = 0
        self._is_closed = False

    def open(self, written: WrittenFile | None = None) -> int:
        """To be called in a thread; returns the size of the file.

        Args:
            written: the file, where somebody writes it: then no other is taken for it, and it is found also where something
                else is in its place.

        Raises:
            FileNotFoundError: there is no such file (any more), but maybe something else.
            OSError: it cannot be opened.
        """
        with self._used():
            self.fd = _open_file(self.path) if written is None else _open_written(self.path, written)
            return os.fstat(self.fd).st_size

    def pread(self, count: int, offset: int) -> bytes:
        """To be called in a thread; raises OSError where the disk fails."""
        with self._used():
            return os.pread(self.fd, count, offset)

    def use(self, function: Callable[[int], T]) -> T | None:
        """Calls a function with the descriptor, opened if need be, in a thread; None where there is no such file.

        Raises:
            OSError: it cannot be opened, or the function raises it.
        """
        with self._used():
            if self.fd < 0:
                try:
                    self._keep(os.open(self.path, _READ))
                except FileNotFoundError:
                    return None
            return function(self.fd)

    def duplicate(self, fd: int) -> None:
        """Opens it, if it is not open, as a duplicate of a descriptor that is about to be closed. From any thread.

        Raises:
            OSError: it has been left, or there are too many open files.
        """
        with self._used():
            if self.fd < 0:
                self._keep(os.dup(fd))

    def _keep(self, fd: int) -> None:
        """Takes over a descriptor, unless another thread came first."""
        with self._lock:
            if self.fd < 0:
                self.fd, fd = fd, -1
        if fd >= 0:
            os.close(fd)

    def find_gaps(self, size: int, lost: int, dropped: int, header: Header | None) -> FoundGaps:
        """As that function, to be called in a thread; without a file there are none."""
        if self.fd < 0:
            return FoundGaps(())
        with self._used():
            return find_gaps(self.fd, size, lost=lost, dropped=dropped, header=header)

    def leave(self) -> int | None:
        """Its descriptor, now the caller's to close, or None where there is none or a thread will close it.

        A thread that comes later gets EBADF.
        """
        with self._lock:
            self._is_closed = True
            return self._take_unused()

    @contextmanager
    def _used(self) -> Iterator[None]:
        with self._lock:
            if self._is_closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self._threads += 1
        try:
            yield
        finally:
            with self._lock:
                self._threads -= 1
                unused = self._take_unused()
            if unused is not None:
                _close(unused)

    def _take_unused(self) -> int | None:
        if not self._is_closed or self._threads or self.fd < 0:
            return None
        fd, self.fd = self.fd, -1
        return fd


def _open_file(path: Path) -> int:
    try:
        fd = os.open(path, _READ)
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
    else:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
    logger.warning("%s is no file: something else was put in its place", path)
    raise _not_there(path)


def _open_written(path: Path, written: WrittenFile) -> int:
    with suppress(FileNotFoundError):
        fd = _open_file(path)
        if os.path.samestat(os.fstat(fd), written.details):
            return fd
        os.close(fd)
        logger.warning("%s is another file than the one that was put there", path)
    if written.fd < 0:
        raise _not_there(path)
    fd = os.open(f"/proc/self/fd/{written.fd}", _READ & ~os.O_NOFOLLOW)
    if not os.path.samestat(os.fstat(fd), written.details):  # it was closed, and its number is another one's
        os.close(fd)
        raise _not_there(path)
    return fd


def _not_there(path: Path) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


async def leave_and_close(*files: FollowedFile) -> None:
    """Closes the files of a follower in a thread; shielded, and bounded by CLOSE_SECONDS."""
    fds = [fd for file in files if (fd := file.leave()) is not None]
    if fds:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_SECONDS):
            try:
                await run_in_thread(CLOSERS, _close, *fds, abandon=True)
            except NoThread:
                _close(*fds)


def _close(*fds: int) -> None:
    for fd in fds:
        with suppress(OSError):  # nothing was written by it
            os.close(fd)
