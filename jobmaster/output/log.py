"""The output log of one job, and its followers.

Theory of operation: the log is a file that only grows while its job runs, so an offset means the same byte for ever.
One writer (the pump) puts bytes at `size` and then calls `advance`; followers hold an offset each and read the file,
never the pipe, so a slow one costs nobody anything. A follower that has read all there is parks until the log grows
or is sealed: an idle job costs no wake-up.

A follower is handed stretches of the log, not bytes: whoever sends them reads when the flow-control window allows it,
straight into the frames. So a follower whose client takes nothing holds nothing. Reading does not hold up the event
loop: bytes that are in the page cache are read at once (`RWF_NOWAIT`), others in a worker thread. Nobody has to wait
for that thread: a follower that leaves while a disk holds it up leaves the file to it as well.
"""

from __future__ import annotations

import errno
import math
import os
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from jobmaster.errors import OutputCut, OutputUnreadable
from jobmaster.threads import NoThread, run_in_thread

STRETCH_SIZE: Final = 192 * 1024 - 32
"""Bytes of a stretch, at most; with the messages' own bytes, two of which carry it, a round number of TLS records."""
READERS: Final = trio.CapacityLimiter(16)
"""Threads that open and read the files of followers; a disk that stalls delays followers alone."""
CLOSERS: Final = trio.CapacityLimiter(math.inf)
"""Threads that close these files, one for each at most."""
CLOSE_SECONDS: Final = 1.0
"""How long a follower waits for that: the last descriptor of a large file that was removed frees its blocks, and a file
system in user space may not answer."""

_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CONTINUE: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_AT_ONCE: Final = frozenset({errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


class Stretch:
    """Bytes of a log that are in its file, to be read while its follower lives.

    Both ways of reading raise OutputUnreadable where the file cannot be read (any more).
    """

    __slots__ = ("_file", "_offset", "length")

    def __init__(self, file: _FollowedFile, offset: int, length: int) -> None:
        self._file = file
        self._offset = offset
        self.length = length

    def read_at_once(self, buffers: Sequence[memoryview], start: int) -> bool:
        """Fills the buffers from byte `start` on, at most to the end; False when that would have to wait for a disk."""
        try:
            count = os.preadv(self._file.fd, buffers, self._offset + start, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in _NOT_AT_ONCE:
                raise _unreadable(self._file.path, error) from error
            return False
        return count == sum(map(len, buffers))

    async def read(self, start: int, count: int) -> bytes:
        """`count` bytes from byte `start` on, less where it ends."""
        count = min(count, self.length - start)
        with _unreadable_named(self._file.path):
            data = await run_in_thread(READERS, self._file.pread, count, self._offset + start, abandon=True)
            if len(data) < count:
                raise OSError(errno.EIO, "it is shorter than what was written to it")
            return data


@contextmanager
def _unreadable_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> OutputUnreadable:
    return OutputUnreadable(f"the output in {path} cannot be read: {error.strerror}")


class OutputLog:
    """Where a running job's output is kept. Made with its file, which its owner closes after `seal`."""

    def __init__(self, path: Path) -> None:
        """Creates the file, 0600. Blocks as long as the disk does.

        Raises:
            OSError: the file exists already, or cannot be made.
        """
        self._use(path, os.open(path, _CREATE, 0o600), size=0, lost=0)

    @classmethod
    def reopen(cls, path: Path, *, lost: int) -> OutputLog:
        """The log of a job that an earlier server ran. Blocks as long as the disk does.

        What splice(2) has moved is in the file, whenever the one who called it was killed, so its size tells how much
        of the output is kept.

        Args:
            path: of the file.
            lost: bytes that the earlier server could not keep.

        Raises:
            OSError: the file cannot be opened, or is none.
        """
        log = cls.__new__(cls)
        fd = os.open(path, _CONTINUE)
        log._use(path, fd, size=os.fstat(fd).st_size, lost=lost)
        return log

    def _use(self, path: Path, fd: int, *, size: int, lost: int) -> None:
        self.path = path
        self.fd = fd
        self.size = size
        self.lost = 0
        self.left_in_pipe = 0
        """Of `lost`, bytes that were left in the pipe: a server that goes on with the job finds them there."""
        self.has_lost = trio.Event()
        """Set when some of the output could not be kept."""
        self.lose(lost)
        self.sealed = False
        self._growth = trio.lowlevel.ParkingLot()

    def advance(self, count: int) -> None:
        """Says that `count` more bytes are in the file, and wakes the followers that wait for them."""
        self.size += count
        self._growth.unpark_all()

    def lose(self, count: int, *, left_in_pipe: bool = False) -> None:
        """Says that `count` bytes could not be written. What comes after them is not kept either: no gap inside."""
        self.lost += count
        if left_in_pipe:
            self.left_in_pipe += count
        if self.lost:
            self.has_lost.set()

    def seal(self) -> None:
        """Says that nothing more will come; followers end when they have read what there is. Idempotent."""
        self.sealed = True
        self._growth.unpark_all()

    def stored(self) -> StoredOutput:
        """The log of a job that has ended."""
        return StoredOutput(path=self.path, size=self.size, lost=self.lost)

    async def wait_growth(self) -> None:
        """Waits until the log grows or is sealed."""
        await self._growth.park()

    def follow(self, offset: int = 0) -> AsyncGenerator[Stretch, None]:
        """Yields all from `offset` on, in stretches, then follows live until the log is sealed.

        A stretch can be read until the next one is asked for. Close the follower (`contextlib.aclosing`) to leave early.

        Raises:
            OutputUnreadable: the file cannot be opened (any more).
        """
        return _follow(self, offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOutput:
    """The output of a job that has ended: a file, of which `size` bytes are the job's."""

    path: Path
    size: int
    lost: int
    sealed: bool = True

    async def wait_growth(self) -> None:
        """It does not grow."""
        raise AssertionError("nobody waits for the growth of a sealed log")

    def follow(self, offset: int = 0) -> AsyncGenerator[Stretch, None]:
        """As that of `OutputLog`; raises OutputCut behind the last stretch where the file has less than `size` bytes.

        A record is on the disk when the job has ended, its output some time later: a power cut can take what was between.
        """
        return _follow(self, offset)


class _FollowedFile:
    """The file of one follower: closed after `leave`, or by the last thread in it where that comes later."""

    def __init__(self, path: Path) -> None:
        self.fd = -1
        self.path = path
        self._lock = threading.Lock()
        self._threads = 0
        self._is_closed = False

    def open(self) -> int:
        """To be called in a thread; returns the size of the file.

        Raises:
            OSError: there is no such file (any more).
        """
        with self._used():
            self.fd = os.open(self.path, _READ)
            return os.fstat(self.fd).st_size

    def pread(self, count: int, offset: int) -> bytes:
        """To be called in a thread; raises OSError where the disk fails."""
        with self._used():
            return os.pread(self.fd, count, offset)

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


async def _follow(log: OutputLog | StoredOutput, offset: int) -> AsyncGenerator[Stretch, None]:
    file = _FollowedFile(log.path)
    try:
        missing = await _open(file, log)
        while True:
            await trio.lowlevel.checkpoint_if_cancelled()  # sending is what waits, where there is much to send
            if offset < log.size - missing:
                length = min(STRETCH_SIZE, log.size - missing - offset)
                yield Stretch(file, offset, length)
                offset += length
            elif log.sealed:
                if missing:
                    raise OutputCut(f"the output in {log.path} has {missing} bytes less than was recorded", missing)
                return
            else:
                await log.wait_growth()
    finally:
        if (fd := file.leave()) is not None:
            await _close_in_thread(fd)  # noqa: ASYNC102  # shields itself, with a deadline


async def _open(file: _FollowedFile, log: OutputLog | StoredOutput) -> int:
    """Opens the file; returns how many bytes it lacks at its end, which those of running jobs never do."""
    with _unreadable_named(log.path):
        try:
            there = await run_in_thread(READERS, file.open, abandon=True)
        except FileNotFoundError:
            if isinstance(log, OutputLog):
                raise
            there = 0
    return max(0, log.size - there) if isinstance(log, StoredOutput) else 0


async def _close_in_thread(fd: int) -> None:
    with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_SECONDS):
        try:
            await run_in_thread(CLOSERS, _close, fd, abandon=True)
        except NoThread:
            _close(fd)


def _close(fd: int) -> None:
    with suppress(OSError):  # nothing was written by it
        os.close(fd)
