"""One transfer of bytes from a job's pipe to its log, in a thread: what the log asked for, and what came of it.

An entry of the index is written before its bytes, in the same thread. Where the log has an open gap, the gap is in the index
and on the disk before the output's file is extended over it, and the file is extended before a byte is written behind the
gap. Where that byte cannot be written after all, the file is cut back, and the gap goes on as if nothing had been tried.

A write that is an error may have left its bytes in the file all the same, where each is synced. The file is cut back then,
too: its size is what another server takes for the truth.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jobmaster.output.holes import can_punch
from jobmaster.output.index import GapReason, Stream
from jobmaster.output.index_file import Gap

if TYPE_CHECKING:
    from jobmaster.output.log import OutputLog

PIPE_SIZE: Final = 1024 * 1024
"""Bytes of one transfer, at most."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to become of the next bytes.

    Attributes:
        offset: of the first of them.
        gap: the gap that is open before them, if there is one.
        is_kept: whether they are to be written; else they are lost for `reason`.
        at_most: how many may be taken.
    """

    offset: int
    gap: Gap | None = None
    is_kept: bool = True
    reason: GapReason = GapReason.DISK_FAILED
    at_most: int = PIPE_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """What became of them.

    Attributes:
        taken: bytes taken from the pipe; 0 where every writer has closed it, None where it was empty.
        lost: of these, the last ones, that could not be written.
        has_closed_gap: the gap of the plan is closed: the file goes on behind it.
        has_failed: writing was tried, and is to be tried again only after a while.
        reason: why some are lost.
        time: when they came, in microseconds since the Unix epoch.
        splice_works: False once the file system has refused splice(2).
    """

    taken: int | None
    lost: int = 0
    has_closed_gap: bool = False
    has_failed: bool = False
    reason: GapReason = GapReason.DISK_FAILED
    time: int = 0
    splice_works: bool = True

    @property
    def kept(self) -> int:
        """Bytes that are in the file."""
        return (self.taken or 0) - self.lost


def now() -> int:
    """The time, in microseconds since the Unix epoch."""
    return time.time_ns() // 1000


class Transfer:
    """To be run once."""

    def __init__(self, pipe: int, stream: Stream, log: OutputLog, plan: Plan, *, splice: bool) -> None:
        self._pipe = pipe
        self._stream = stream
        self._log = log
        self._plan = plan
        self._splice_works = splice
        self._lost = 0
        self._has_failed = False
        self._reason = plan.reason
        self._time = now()

    def run(self, waiting: int) -> Transferred:
        """Transfers what is in the pipe.

        Args:
            waiting: bytes in the pipe, as far as that is known.

        Raises:
            OSError, MemoryError: the pipe cannot be read; nothing was taken.
        """
        plan = self._plan
        if plan.gap is not None and plan.is_kept and waiting:
            return self._transfer_behind(plan.gap)
        if plan.gap is None and plan.is_kept and (not waiting or self._is_noted(waiting)):
            return self._done(self._transfer())
        return self._done(self._lose())

    def _done(self, taken: int | None, *, has_closed_gap: bool = False) -> Transferred:
        if taken and self._lost:
            self._extend_over_lost(taken, None if has_closed_gap else self._plan.gap)
        return Transferred(
            taken=taken,
            lost=self._lost,
            has_closed_gap=has_closed_gap,
            has_failed=self._has_failed,
            reason=self._reason,
            time=self._time,
            splice_works=self._splice_works,
        )

    def _extend_over_lost(self, taken: int, gap: Gap | None) -> None:
        """Has index and size of the file tell what is lost, for a server that comes after a kill.

        Not where the file system makes no holes, so that this would take space.
        """
        end = self._plan.offset + taken
        index = self._log.index_at(self._time)
        if index is not None and (index.header.open_reason is not None or can_punch(self._log.fd)):
            with suppress(OSError):  # the journal has it in a while
                if gap is None:
                    index.open_gap(end - self._lost, end, self._reason)
                else:
                    index.open_gap(gap.start, end, gap.reason)
                os.ftruncate(self._log.fd, end)

    def _is_noted(self, count: int) -> bool:
        """Whether the index tells, or leaves open, of which stream the bytes are; they may have no time of their own."""
        index = self._log.index_at(self._time)
        try:
            if index is not None:
                index.note(self._plan.offset, self._stream, self._time, count)
        except OSError as error:
            self._has_failed = True
            self._reason = reason_of(error)
            return False
        return True

    def _transfer_behind(self, gap: Gap) -> Transferred:
        if not self._go_behind(gap):
            return self._done(self._lose())
        is_closed = False
        try:
            taken = self._transfer()
            is_closed = (taken or 0) > self._lost
        finally:
            if not is_closed:
                self._cut_back(gap.start)  # else it ends in a hole, which is the gap's too
        if is_closed:
            self._log.closed_gap(self._plan.offset, self._stream, self._time)
        return self._done(taken, has_closed_gap=is_closed)

    def _go_behind(self, gap: Gap) -> bool:
        index = self._log.index_at(self._time)
        try:
            if index is not None:
                index.announce_gap(gap, self._plan.offset, self._stream, self._time)
                os.ftruncate(self._log.fd, self._plan.offset)
                return True
        except OSError as error:
            self._reason = reason_of(error)
        self._has_failed = True
        return False

    def _transfer(self) -> int | None:
        if not self._splice_works:
            return self._copy()
        try:
            return os.splice(self._pipe, self._log.fd, self._plan.at_most, offset_dst=self._plan.offset)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.EINVAL:
                self._splice_works = False
            return self._copy()  # the error, if it lasts, shows where the lost bytes can be counted

    def _copy(self) -> int | None:
        data = self._read()
        if not data:
            return None if data is None else 0
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._log.fd, memoryview(data)[written:], self._plan.offset + written)
        except OSError as error:
            self._lost = len(data) - written
            self._has_failed = True
            self._reason = reason_of(error)
            self._cut_back(self._plan.offset + written)
        return len(data)

    def _cut_back(self, size: int) -> None:
        """Takes out of the file what a write that failed has left in it, as on a file system that syncs each of them."""
        with suppress(OSError):
            os.ftruncate(self._log.fd, size)

    def _lose(self) -> int | None:
        data = self._read()
        self._lost = len(data or b"")
        return None if data is None else len(data)

    def _read(self) -> bytes | None:
        try:
            return os.read(self._pipe, self._plan.at_most)
        except BlockingIOError:
            return None


def reason_of(error: OSError) -> GapReason:
    """Why bytes are lost that a disk did not take."""
    return GapReason.NO_SPACE if error.errno in _FULL else GapReason.DISK_FAILED
