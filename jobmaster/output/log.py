"""The output log of one job.

Theory of operation: the log is a file in which a byte's place is its offset: how many bytes the job had written before it,
kept or not. So an offset means the same byte for ever, and what is missing are holes. One writer (the pump) asks for a
`plan`, transfers bytes in a thread, and tells the log by `record`; followers hold an offset each and read the file, never
the pipe, so a slow one costs nobody anything. A follower that has read all there is parks until the log grows or is sealed:
an idle job costs no wake-up.

While the file cannot be written, bytes are counted in an *open gap* behind its end, and once in RETRY_SECONDS writing is
tried again. As far as the disk lets it, the index has where the gap begins, and the file is extended over it with each move,
which takes no space: so its size tells a server that comes after a kill how much was lost. The gap is closed, in the index,
when a byte can be written behind it. Always: kept + lost + dropped = written.

The index is the pump's thread's alone; followers read it by descriptors of their own, as far as `index_state` says.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from bisect import bisect_left
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import trio

from jobmaster.output.cap import INDEX_SHARE, Cap, Range, without
from jobmaster.output.dropping import Dropped, DropPlan
from jobmaster.output.files import index_path
from jobmaster.output.followed_file import FollowedFile, Stretch, WrittenFile
from jobmaster.output.following import LiveFollower, follow
from jobmaster.output.found_gaps import FoundGaps, find_gaps, has_lost_end
from jobmaster.output.holes import BLOCK, punch
from jobmaster.output.index import ENTRY_SIZE, MAX_OFFSET, Entry, GapReason, Header, Stream
from jobmaster.output.index_file import STEPS, Gap, IndexFile
from jobmaster.output.index_search import IndexView
from jobmaster.output.mending import is_there, restore, restore_last
from jobmaster.output.reading import GapPiece, Piece, Position, Selection, read
from jobmaster.output.sharing import KeptFile, Room
from jobmaster.output.stored_output import StoredOutput
from jobmaster.output.transfer import PIPE_SIZE, Plan, Transferred, now

logger = logging.getLogger(__name__)

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
        cap: how much of the output is kept; None: all.
        size: where the file ends; what comes next and can be kept is written there, or behind the open gap.
        gap: the open one.
        left_in_pipe: of `lost`, bytes that were left in the pipe: a server that goes on with the job finds them there.
        has_lost: set when some of the output is not kept.
        is_full: set when the cap is reached of a job that is ended then.
        dropped_range: what followers pass over, and why they do.
        index: None as long as there is none; for the pump's thread.
        file: what its followers share with it.
        followed_indexes: the index, as each of its followers has it or will.
        room: where the outputs of all jobs together may not grow, what comes is lost as on a full disk.
    """

    def __init__(self, path: Path, cap: Cap | None = None) -> None:
        """Creates the file, 0600. Blocks as long as the disk does.

        Args:
            path: of the file.
            cap: how much of the output is kept; None: all.

        Raises:
            OSError: the file exists already, or cannot be made.
        """
        self._use(path, os.open(path, _CREATE, 0o600), cap, size=0)

    @classmethod
    def reopen(cls, path: Path, *, lost: int, dropped: int = 0, cap: Cap | None = None) -> OutputLog:
        """The log of a job that an earlier server ran. Blocks as long as the disk does.

        What splice(2) has moved is in the file, whenever the one who called it was killed, so its size tells how far the
        output is there. What was lost and is in no gap of the index is an open gap at its end.

        Args:
            path: of the file.
            lost: bytes that the earlier server could not keep, as far as it was recorded.
            dropped: likewise, bytes that it had dropped.
            cap: as of a new one.

        Raises:
            OSError: the file or its index cannot be opened, or is none.
        """
        log = cls.__new__(cls)
        fd = os.open(path, _CONTINUE)
        if not stat.S_ISREG(os.fstat(fd).st_mode):  # a FIFO would take it all, and give it to nobody
            os.close(fd)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        log._use(path, fd, cap, size=os.fstat(fd).st_size)
        try:
            log._continue(lost, dropped)
            log._note_full()
        except BaseException:
            log.close()
            raise
        return log

    def _use(self, path: Path, fd: int, cap: Cap | None, *, size: int) -> None:
        self.path = path
        self.fd = fd
        self._details = os.fstat(fd)
        self.size = size
        self.gap: OpenGap | None = None
        self.left_in_pipe = 0
        self.has_lost = trio.Event()
        self.sealed = False
        self.index: IndexFile | None = None
        self._index_again_at = 0
        self._again_at = 0.0
        self._lost_before = 0
        self.cap = cap
        self._cap_is_hard = cap is not None and cap.ends_job
        self._drop_again_at = 0.0
        self._can_drop = False
        self._dropped_before = 0
        self.file = KeptFile()
        self.followed_indexes: set[FollowedFile] = set()
        self.room = Room()
        self._held_back: list[Range] = []
        self.dropped_range: Range = (0, 0)
        self._head_end = 0
        self.is_full = trio.Event()
        self._growth = trio.lowlevel.ParkingLot()

    def _continue(self, lost: int, dropped: int) -> None:
        gaps = FoundGaps(()) if is_there(self.path) else self._find_gaps()
        is_vital = dropped + gaps.length > 0
        index = self.index = self._index_if_any(is_needed=is_vital or lost > 0, is_vital=is_vital)
        if index is None:
            self._open_gap(lost, GapReason.DISK_FAILED)  # without an index, no gap was ever closed
            if lost:
                self.has_lost.set()
            self._grow_head()
            return
        if index.output_size < self.size:
            if index.open_reason is None:
                os.ftruncate(self.fd, index.output_size)
            self.size = index.output_size
        if has_lost_end(index.view, self.fd, self.size):
            restore_last(index, self._find_gaps(), self.size)
        elif index.was_unusable or gaps.length:  # a gap is closed in an index alone: what is missing is in the file
            lost, dropped = restore(
                index, gaps if gaps.length else self._find_gaps(), self.size, lost=lost, dropped=dropped
            )
        self._lost_before, self._dropped_before = index.lost, index.header.dropped
        self._bound_index(index)
        self.dropped_range = (index.header.dropped_start, index.header.dropped_end)
        self._head_end = self.dropped_range[0] if self.dropped_range[1] else self._head_there(index)
        with suppress(OSError):  # what was held back for a follower, or for a server that died
            punch(self.fd, *self.dropped_range)
        self._open_gaps_behind(index, lost - index.lost, dropped - index.header.dropped)
        if self.lost or self.dropped:
            self.has_lost.set()

    def _note_full(self) -> None:
        """Where a job that is ended at its cap has written more already; the earlier server may have ordered nothing."""
        if self.cap is not None and self.cap.ends_job:
            is_capped = self.gap is not None and self.cap.taken(self.kept, self._index_size) >= self.cap.size
            if is_capped or self.dropped:
                self.is_full.set()

    def _open_gaps_behind(self, index: IndexFile, lost: int, dropped: int) -> None:
        """The gap that was not closed: as much as was recorded, or as index and file tell, where that is more."""
        if index.was_cut:
            self._open_gap(max(lost + dropped, index.unclosed), GapReason.DISK_FAILED)
        elif index.open_reason is GapReason.CAPPED:
            self._open_gap(lost, GapReason.DISK_FAILED)
            self._open_gap(max(dropped, index.unclosed), GapReason.CAPPED)
        else:
            self._open_gap(max(lost, index.unclosed), index.open_reason or GapReason.DISK_FAILED)
            self._open_gap(dropped, GapReason.CAPPED)

    def _find_gaps(self) -> FoundGaps:
        """As the file has them; how many bytes are missing was recorded some time before the last of them."""
        return find_gaps(self.fd, self.size, lost=self.size, dropped=0)

    def _index_if_any(self, *, is_needed: bool, is_vital: bool) -> IndexFile | None:
        path = index_path(self.path)
        is_vital |= is_needed and path.exists()  # it tells what of the file are holes
        try:
            return IndexFile.reopen(path, self.size, now()) if is_needed or path.exists() else None
        except OSError as error:
            if is_vital:
                raise
            logger.warning("%s cannot be used, so that nothing tells when the output came: %s", path, error.strerror)
            return None

    def _bound_index(self, index: IndexFile) -> None:
        if self.cap is not None:
            index.step_size = self.cap.size // INDEX_SHARE // 2 // STEPS

    def _head_there(self, index: IndexFile) -> int:
        """How much of an output of which nothing is dropped yet is never to be: as much as it was, or less."""
        cap, view = self.cap, index.view
        if cap is None:
            return 0
        blocks = range(BLOCK, min(self.size, cap.head) + 1, BLOCK)
        is_too_far = partial(_is_too_far, cap, view)
        return bisect_left(blocks, x=True, key=is_too_far) * BLOCK

    def _grow_head(self) -> None:
        if self.cap is not None and self._head_end < self.cap.head and self.dropped_range[1] == 0:
            self._head_end = max(self._head_end, self.cap.head_end(self.size, self._index_size))

    @property
    def _index_size(self) -> int:
        return 0 if self.index is None else self.index.size

    def _open_gap(self, count: int, reason: GapReason) -> None:
        if count > 0:
            gap = self.gap or OpenGap(Gap(self.size, now(), reason), 0)
            self.gap = replace(gap, length=gap.length + count)

    # --- what is where ------------------------------------------------------------------------------------------------

    @property
    def kept(self) -> int:
        """Bytes that can be read."""
        return self.size - self._lost_before - self._dropped_before

    @property
    def lost(self) -> int:
        """Bytes that could not be written."""
        return self._lost_before + (0 if self.gap is None or self._is_capped else self.gap.length)

    @property
    def dropped(self) -> int:
        """Bytes that are not kept because of the cap."""
        return self._dropped_before + (self.gap.length if self.gap and self._is_capped else 0)

    @property
    def gone_for_good(self) -> tuple[int, int]:
        """How many bytes are lost and dropped, but for those that were left in the pipe."""
        left = self.left_in_pipe
        return (self.lost, self.dropped - left) if self._is_capped else (self.lost - left, self.dropped)

    @property
    def end(self) -> int:
        """The offset behind all bytes, kept or not."""
        return self.size + (self.gap.length if self.gap else 0)

    @property
    def has_lost_inside(self) -> bool:
        """Whether bytes are lost before `size`."""
        return self._lost_before > 0

    @property
    def _is_capped(self) -> bool:
        return self.gap is not None and self.gap.gap.reason is GapReason.CAPPED

    @property
    def last_entry(self) -> Entry | None:
        """The last entry of the index."""
        return None if self.index is None else self.index.last

    @property
    def written_file(self) -> WrittenFile:
        """What a follower is to read, whatever has become of its name."""
        return WrittenFile(self.fd, self._details)

    async def presumes_loss(self) -> bool:
        """Whether some of what is lost is in no gap: an index was unusable, and nobody knows where it was."""
        await trio.lowlevel.checkpoint()
        return self.index is not None and self.index.header.presumes_loss

    def index_state(self) -> tuple[Header, int] | None:
        """The header and the number of entries by which a follower may read the index; None where there is none."""
        return None if self.index is None else (self.index.header, self.index.count)

    # --- the writer ---------------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """What is to become of the next bytes."""
        at_most, cap = min(PIPE_SIZE, MAX_OFFSET - self.end), self.cap
        gap = None if self.gap is None else self.gap.gap
        if at_most <= 0:
            return Plan(offset=self.end, gap=gap, is_kept=False, reason=GapReason.CAPPED)
        if self.room.why_full is not None:
            return Plan(offset=self.end, gap=gap, is_kept=False, reason=GapReason.NO_SPACE)
        if cap is not None:
            taken = cap.taken(self.kept, self._index_size)
            at_most = min(at_most, cap.size - taken if self._cap_is_hard else cap.chunk)
            if at_most <= 0:
                return Plan(offset=self.end, gap=gap, is_kept=False, reason=GapReason.CAPPED)
            if not self._cap_is_hard and taken >= cap.size + cap.chunk:  # the disk does not let anything be dropped
                return Plan(offset=self.end, gap=gap, is_kept=False, reason=GapReason.NO_SPACE)
        if gap is None:
            return Plan(offset=self.size, at_most=at_most)
        is_kept = trio.current_time() >= self._again_at
        return Plan(offset=self.end, gap=gap, is_kept=is_kept, reason=gap.reason, at_most=at_most)

    def plan_drop(self) -> DropPlan | None:
        """What is to be dropped now; from now on, followers pass it over. `record_drop` follows."""
        if self.cap is None or self._cap_is_hard or trio.current_time() < self._drop_again_at:
            return None
        start = self._head_end
        begin = max(start, self.dropped_range[1])
        end = self.cap.dropped_end(begin, self.kept, self.size, self._index_size)
        if end is None:
            return None
        if not self._can_drop:
            return DropPlan(
                start=start, begin=begin, end=begin
            )  # it is tried whether that goes, before it is announced
        self.dropped_range = (start, end)
        holes, held_back = without((begin, end), self.file.pins)
        before = self._dropped_before
        return DropPlan(
            start=start, begin=begin, end=end, before=before, holes=tuple(holes), held_back=tuple(held_back)
        )

    def record_drop(self, plan: DropPlan, dropped: Dropped) -> None:
        """Says what has come of a plan."""
        if not dropped.is_offered:
            logger.warning(
                "the file system of %s makes no holes: what is behind the first %d bytes is not kept",
                self.path,
                self.kept,
            )
            self._cap_is_hard = True
        elif dropped.count is None:
            self._drop_again_at = trio.current_time() + RETRY_SECONDS
            self.withdraw_drop(plan)
        else:
            self._can_drop = True
            self._dropped_before += dropped.count
            self._held_back += plan.held_back
            if self._dropped_before:
                self.has_lost.set()

    def withdraw_drop(self, plan: DropPlan) -> None:
        """Says that nothing was done about a plan."""
        self.dropped_range = (plan.start, plan.begin) if plan.begin > plan.start else (0, 0)

    def index_at(self, time: int) -> IndexFile | None:
        """The index, which is made where there is none. To be called in the pump's thread.

        Args:
            time: microseconds since the Unix epoch.
        """
        if self.index is None and time >= self._index_again_at:
            try:
                self.index = IndexFile(index_path(self.path), time)
                self._bound_index(self.index)
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
        self._grow_head()
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
        if reason is GapReason.CAPPED and self.cap is not None and self.cap.ends_job:
            self.is_full.set()
        self._growth.unpark_all()

    def seal(self) -> None:
        """Says that nothing more will come; followers end when they have read what there is. Idempotent."""
        self.sealed = True
        self._growth.unpark_all()

    def close(self) -> None:
        """Closes the files; a gap at the end is noted in the index. Blocks as long as the disk does. Idempotent.

        Followers keep the index open from now on, as they do the output's file: both may be removed.

        Raises:
            OSError: the file system says only now that it has not kept what it had taken.
        """
        fd, self.fd = self.fd, -1
        try:
            if self.index is not None:
                for followed in tuple(self.followed_indexes):
                    with suppress(OSError):
                        followed.duplicate(self.index.fd)
                _close_index(self.index, self.gap)
        finally:
            if fd >= 0:
                os.close(fd)

    def stored(self) -> StoredOutput:
        """The log of a job that has ended."""
        return StoredOutput(path=self.path, kept=self.kept, lost=self.lost, dropped=self.dropped, file=self.file)

    def pin(self, range_: Range) -> None:
        """Says that a follower is being sent a range: it is not given back until `unpin`."""
        self.file.pins.append(range_)

    def unpin(self, range_: Range) -> tuple[Range, ...]:
        """Says that a range was sent; returns what is to be given back now."""
        self.file.pins.remove(range_)
        ranges, self._held_back = self._held_back, []
        free: list[Range] = []
        for each in ranges:
            now_free, still_held = without(each, self.file.pins)
            free += now_free
            self._held_back += still_held
        return tuple(free)

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

    def read(self, selection: Selection) -> AsyncGenerator[Piece | GapPiece | Position, None]:
        """Yields what is selected, bytes and gaps, as `follow` does; a gap that is open when it is closed."""
        return read(LiveFollower(self), selection)


def _is_too_far(cap: Cap, view: IndexView, size: int) -> bool:
    """Whether so many bytes of the beginning are more than is never dropped."""
    return cap.head_end(size, view.entries_before(size) * ENTRY_SIZE) < size


def _close_index(index: IndexFile, gap: OpenGap | None) -> None:
    with suppress(OSError):  # it is complete as it is; only why bytes are missing at the end, nobody will know
        if gap is not None and index.fd >= 0:
            index.end_with_gap(gap.gap)
    with suppress(OSError):
        index.close()
