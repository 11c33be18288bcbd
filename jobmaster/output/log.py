"""The output log of one job.

Theory of operation: the log is a file in which a byte's place is its offset: how many bytes the job had written before it,
kept or not. So an offset means the same byte for ever, and what is missing are holes. One writer (the pump) asks for a
`plan`, transfers bytes in a thread, and tells the log by `record`; followers hold an offset each and read the file, never
the pipe, so a slow one costs nobody anything. A follower that has read all there is parks until the log grows or is sealed:
an idle job costs no wake-up.

While the file cannot be written, bytes are counted in an *open gap* behind its end, and once in RETRY_SECONDS writing is
tried again. The gap is closed, in the index beside the file and by extending the file over it, when a byte can be written
behind it. Always: kept + lost + dropped = written.

The index is the pump's thread's alone; followers read it by descriptors of their own, as far as `index_state` says.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import trio

from jobmaster.output.followed_file import Stretch
from jobmaster.output.following import LiveFollower, StoredFollower, follow
from jobmaster.output.index import Entry, GapReason, Header, Stream
from jobmaster.output.index_file import Gap, IndexFile, index_path
from jobmaster.output.transfer import Plan, Transferred, now

RETRY_SECONDS: Final = 1.0
"""Between two attempts to write what a disk has not taken."""
INDEX_RETRY: Final = 1_000_000
"""Microseconds between two attempts to make an index."""

_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CONTINUE: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class OpenGap:
    """A gap that ends where the output does for now; it has `length` bytes so far."""

    gap: Gap
    length: int


class OutputLog:
    """Where a running job's output is kept. Made with its file, which its owner closes after `seal`.

    Attributes:
        size: where the file ends; what comes next and can be kept is written there, or behind the open gap.
        gap: the open one.
        left_in_pipe: of `lost`, bytes that were left in the pipe: a server that goes on with the job finds them there.
        has_lost: set when some of the output could not be kept.
        index: None as long as there is none; for the pump's thread.
    """

    def __init__(self, path: Path) -> None:
        """Creates the file, 0600. Blocks as long as the disk does.

        Raises:
            OSError: the file exists already, or cannot be made.
        """
        self._use(path, os.open(path, _CREATE, 0o600), size=0)

    @classmethod
    def reopen(cls, path: Path, *, lost: int) -> OutputLog:
        """The log of a job that an earlier server ran. Blocks as long as the disk does.

        What splice(2) has moved is in the file, whenever the one who called it was killed, so its size tells how far the
        output is there. What was lost and is in no gap of the index is an open gap at its end.

        Args:
            path: of the file.
            lost: bytes that the earlier server could not keep, as far as it was recorded.

        Raises:
            OSError: the file or its index cannot be opened, or is none.
        """
        log = cls.__new__(cls)
        fd = os.open(path, _CONTINUE)
        try:
            log._use(path, fd, size=os.fstat(fd).st_size)
            log._continue(lost)
        except BaseException:
            os.close(fd)
            raise
        return log

    def _use(self, path: Path, fd: int, *, size: int) -> None:
        self.path = path
        self.fd = fd
        self.size = size
        self.gap: OpenGap | None = None
        self.left_in_pipe = 0
        self.has_lost = trio.Event()
        self.sealed = False
        self.index: IndexFile | None = None
        self._index_again_at = 0
        self._again_at = 0.0
        self._lost_before = 0
        self._growth = trio.lowlevel.ParkingLot()

    def _continue(self, lost: int) -> None:
        open_bytes = lost
        if lost or index_path(self.path).exists():
            index = IndexFile.reopen(index_path(self.path), self.size, now())
            self.index = index
            if index.output_size < self.size:
                os.ftruncate(self.fd, index.output_size)
                self.size = index.output_size
            self._lost_before = index.lost
            open_bytes = max(lost - index.lost, index.unclosed)
        if open_bytes > 0:
            self.gap = OpenGap(Gap(self.size, now(), GapReason.DISK_FAILED), open_bytes)
        if self.lost:
            self.has_lost.set()

    # --- what is where ------------------------------------------------------------------------------------------------

    @property
    def kept(self) -> int:
        """Bytes that can be read."""
        return self.size - self._lost_before

    @property
    def lost(self) -> int:
        """Bytes that could not be written."""
        return self._lost_before + (self.gap.length if self.gap else 0)

    @property
    def end(self) -> int:
        """The offset behind all bytes, kept or not."""
        return self.size + (self.gap.length if self.gap else 0)

    @property
    def has_gaps(self) -> bool:
        """Whether bytes are missing before `size`."""
        return self._lost_before > 0

    @property
    def last_entry(self) -> Entry | None:
        """The last entry of the index."""
        return None if self.index is None else self.index.last

    def index_state(self) -> tuple[Header, int] | None:
        """The header and the number of entries by which a follower may read the index; None where there is none."""
        return None if self.index is None else (self.index.header, self.index.count)

    # --- the writer ---------------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """What is to become of the next bytes."""
        gap = self.gap
        if gap is None:
            return Plan(offset=self.size)
        is_kept = trio.current_time() >= self._again_at
        return Plan(offset=self.end, gap=gap.gap, is_kept=is_kept, reason=gap.gap.reason)

    def index_at(self, time: int) -> IndexFile | None:
        """The index, which is made where there is none. To be called in the pump's thread.

        Args:
            time: microseconds since the Unix epoch.
        """
        if self.index is None and time >= self._index_again_at:
            try:
                self.index = IndexFile(index_path(self.path), time)
            except OSError:
                self._index_again_at = time + INDEX_RETRY
        return self.index

    def closed_gap(self, end: int, stream: Stream, time: int) -> None:
        """Says that there are bytes behind the gap. To be called in the pump's thread, before `record` on the loop."""
        if self.index is None:
            raise AssertionError("a gap was closed that is not in the index")
        self.index.confirm_gap(end, stream, time)

    def record(self, transferred: Transferred) -> None:
        """Says what has become of the bytes of a plan."""
        if transferred.has_closed_gap and self.gap is not None:
            self._lost_before += self.gap.length
            self.size, self.gap = self.end, None
        self.advance(transferred.kept)
        if transferred.lost:
            self.lose(transferred.lost, transferred.reason, transferred.time)
        if transferred.has_failed:
            self._again_at = trio.current_time() + RETRY_SECONDS

    def advance(self, count: int) -> None:
        """Says that `count` more bytes are in the file, and wakes the followers that wait for them."""
        self.size += count
        self._growth.unpark_all()

    def lose(
        self,
        count: int,
        reason: GapReason = GapReason.DISK_FAILED,
        time: int | None = None,
        *,
        left_in_pipe: bool = False,
    ) -> None:
        """Says that `count` bytes are lost, and why, if that was not lost already what came before them."""
        if count <= 0:
            return
        gap = self.gap or OpenGap(Gap(self.size, now() if time is None else time, reason), 0)
        self.gap = replace(gap, length=gap.length + count)
        if left_in_pipe:
            self.left_in_pipe += count
        self.has_lost.set()
        self._growth.unpark_all()

    def seal(self) -> None:
        """Says that nothing more will come; followers end when they have read what there is. Idempotent."""
        self.sealed = True
        self._growth.unpark_all()

    def close(self) -> None:
        """Closes the files; a gap at the end is noted in the index. Blocks as long as the disk does. Idempotent.

        Raises:
            OSError: the file system says only now that it has not kept what it had taken.
        """
        fd, self.fd = self.fd, -1
        try:
            if self.index is not None:
                _close_index(self.index, self.gap)
        finally:
            if fd >= 0:
                os.close(fd)

    def stored(self) -> StoredOutput:
        """The log of a job that has ended."""
        return StoredOutput(path=self.path, kept=self.kept, lost=self.lost)

    # --- followers ----------------------------------------------------------------------------------------------------

    async def wait_growth(self) -> None:
        """Waits until the log grows or is sealed."""
        await self._growth.park()

    def follow(self, offset: int = 0) -> AsyncGenerator[Stretch, None]:
        """Yields all that is kept from `offset` on, in stretches, then follows live until the log is sealed.

        A stretch can be read until the next one is asked for. Close the follower (`contextlib.aclosing`) to leave early.

        Raises:
            OutputUnreadable: the file cannot be opened (any more).
        """
        return follow(LiveFollower(self), offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOutput:
    """The output of a job that has ended: a file, and how many of the job's bytes are in it and are not."""

    path: Path
    kept: int
    lost: int
    sealed: bool = True

    @property
    def end(self) -> int:
        """The offset behind all bytes, kept or not."""
        return self.kept + self.lost

    async def wait_growth(self) -> None:
        """It does not grow."""
        raise AssertionError("nobody waits for the growth of a sealed log")

    def follow(self, offset: int = 0) -> AsyncGenerator[Stretch, None]:
        """As that of `OutputLog`; raises OutputCut behind the last stretch where the file has less than it should have.

        A record is on the disk when the job has ended, its output some time later: a power cut can take what was between.
        """
        return follow(StoredFollower(self), offset)


def _close_index(index: IndexFile, gap: OpenGap | None) -> None:
    with suppress(OSError):  # it is complete as it is; only why bytes are missing at the end, nobody will know
        if gap is not None and index.fd >= 0:
            index.end_with_gap(gap.gap)
    with suppress(OSError):
        index.close()
