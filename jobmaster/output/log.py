"""The output log of one job, and its followers.

Theory of operation: the log is a file that only grows while its job runs, so an offset means the same byte for ever.
One writer (the pump) puts bytes at `size` and then calls `advance`; followers hold an offset each and read the file,
never the pipe, so a slow one costs nobody anything. A follower that has read all there is parks until the log grows
or is sealed: an idle job costs no wake-up.

A follower is handed stretches of the log, not bytes: whoever sends them reads when there is room to send, straight into
what is sent. So a follower whose client takes nothing holds nothing. Reading does not hold up the event loop: bytes that
are in the page cache are read at once (`RWF_NOWAIT`), others in a worker thread.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import trio

STRETCH_SIZE: Final = 192 * 1024 - 32
"""Bytes of a stretch, at most: with what messages wrap round them, a turn of a connection."""

_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_AT_ONCE: Final = frozenset({errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


class Stretch:
    """Bytes of a log that are in its file, to be read while its follower lives.

    Both ways of reading raise OSError where the file cannot be read (any more).
    """

    __slots__ = ("_fd", "_offset", "length")

    def __init__(self, fd: int, offset: int, length: int) -> None:
        self._fd = fd
        self._offset = offset
        self.length = length

    def read_at_once(self, buffers: Sequence[memoryview], start: int) -> bool:
        """Fills the buffers from byte `start` on, at most to the end; False when that would have to wait for a disk."""
        try:
            count = os.preadv(self._fd, buffers, self._offset + start, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in _NOT_AT_ONCE:
                raise
            return False
        return count == sum(map(len, buffers))

    async def read(self, start: int, count: int) -> bytes:
        """`count` bytes from byte `start` on, less where it ends."""
        count = min(count, self.length - start)
        data = await trio.to_thread.run_sync(partial(os.pread, self._fd, count, self._offset + start))
        if len(data) < count:
            raise OSError(errno.EIO, "output file is shorter than what was written to it")
        return data


class OutputLog:
    """Where a job's output is kept. Made with its file; sealed when the last byte is in."""

    def __init__(self, path: Path) -> None:
        """Creates the file, 0600.

        Raises:
            OSError: the file exists already, or cannot be made.
        """
        self.path = path
        self.fd = os.open(path, _CREATE, 0o600)
        self.size = 0
        self.lost = 0
        self.sealed = False
        self._growth = trio.lowlevel.ParkingLot()

    def advance(self, count: int) -> None:
        """Says that `count` more bytes are in the file, and wakes the followers that wait for them."""
        self.size += count
        self._growth.unpark_all()

    def lose(self, count: int) -> None:
        """Says that `count` bytes could not be written. What comes after them is not kept either: no gap inside."""
        self.lost += count

    def seal(self) -> None:
        """Says that nothing more will come; followers end when they have read what there is. Idempotent."""
        if not self.sealed:
            self.sealed = True
            os.close(self.fd)
            self._growth.unpark_all()

    def discard(self) -> None:
        """Seals the log and removes its file."""
        self.seal()
        self.path.unlink(missing_ok=True)

    async def follow(self, offset: int = 0) -> AsyncGenerator[Stretch, None]:
        """Yields all from `offset` on, in stretches, then follows live until the log is sealed.

        A stretch can be read until the next one is asked for. Close the follower (`contextlib.aclosing`) to leave early.

        Raises:
            OSError: the file cannot be opened (any more).
        """
        fd = os.open(self.path, _READ)
        try:
            while True:
                await trio.lowlevel.checkpoint_if_cancelled()  # whoever takes them waits for room to send them
                if offset < self.size:
                    length = min(STRETCH_SIZE, self.size - offset)
                    yield Stretch(fd, offset, length)
                    offset += length
                elif self.sealed:
                    return
                else:
                    await self._growth.park()
        finally:
            os.close(fd)
