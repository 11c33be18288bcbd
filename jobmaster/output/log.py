"""The output log of one job, and its followers.

Theory of operation: the log is a file that only grows while its job runs, so an offset means the same byte for ever.
One writer (the pump) puts bytes at `size` and then calls `advance`; followers hold an offset each and read the file,
never the pipe, so a slow one costs nobody anything. A follower that has read all there is parks until the log grows
or is sealed: an idle job costs no wake-up.

Reading does not hold up the event loop: bytes that are in the page cache are read at once (`RWF_NOWAIT`), others in a
worker thread.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Final

import trio

CHUNK_SIZE: Final = 112 * 1024 - 16
"""Bytes a follower holds at a time: with what a message wraps round them, seven of HTTP/2's smallest frames."""

_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_AT_ONCE: Final = frozenset({errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


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

    async def follow(self, offset: int = 0) -> AsyncGenerator[bytes | bytearray, None]:
        """Yields all bytes from `offset` on, in chunks, then follows live until the log is sealed.

        Close it (`contextlib.aclosing`) to leave early.

        Raises:
            OSError: the file cannot be read (any more).
        """
        fd = os.open(self.path, _READ)
        try:
            while True:
                await trio.lowlevel.checkpoint_if_cancelled()  # whoever takes the chunks waits for room to send them
                if offset < self.size:
                    chunk = await _read(fd, min(CHUNK_SIZE, self.size - offset), offset)
                    if not chunk:
                        raise OSError(errno.EIO, "output file is shorter than what was written to it")
                    offset += len(chunk)
                    yield chunk
                elif self.sealed:
                    return
                else:
                    await self._growth.park()
        finally:
            os.close(fd)


async def _read(fd: int, count: int, offset: int) -> bytes | bytearray:
    buffer = bytearray(count)
    try:
        got = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno not in _NOT_AT_ONCE:
            raise
        return await trio.to_thread.run_sync(partial(os.pread, fd, count, offset))
    del buffer[got:]
    return buffer
