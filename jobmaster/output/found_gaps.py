"""Where bytes of an output are missing, by its file alone, for want of an index that can be used.

What could not be written, and what was dropped, was never written to the file, or was taken out of it: these are holes. Holes
consist of whole blocks. So zeros that border on one count as its own, as far as there are so many bytes missing; a gap that
has no whole block to itself is not found.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from jobmaster.output.cap import Range
from jobmaster.output.holes import BLOCK
from jobmaster.output.index import GapReason, Header, Stream
from jobmaster.output.index_search import IndexView, Run

MOST_HOLES: Final = 65_536
"""Holes that are looked for. A gap ends a second after the last one, at the earliest: it takes most of a day to have so many."""


@dataclass(frozen=True, slots=True)
class FoundGaps:
    """The gaps of a file, in order."""

    gaps: Sequence[tuple[int, int, GapReason]]

    @property
    def length(self) -> int:
        """Bytes in all of them."""
        return sum(end - start for start, end, _ in self.gaps)

    def run_at(self, offset: int, size: int) -> Run:
        """What is at an offset, as far as `size`; when it came nobody knows."""
        begin = 0
        for start, end, reason in self.gaps:
            if offset < start:
                return Run(begin, min(start, size), None, Stream.BOTH)
            if offset < end:
                return Run(start, min(end, size), None, reason)
            begin = end
        return Run(begin, size, None, Stream.BOTH)


def find_gaps(fd: int, size: int, *, lost: int, dropped: int, header: Header | None = None) -> FoundGaps:
    """Looks for the gaps of a file. Blocks as long as the disk does.

    Args:
        fd: of the file.
        size: where it ends.
        lost: bytes that are missing, in it or behind it.
        dropped: likewise, those that were dropped.
        header: of its index, where that is left.

    Raises:
        OSError: the disk fails.
    """
    holes = list(_holes(fd, size))
    for found in (_with_zeros(fd, holes, size), holes):
        if sum(end - start for start, end in found) <= lost + dropped:
            return FoundGaps([(start, end, _reason(start, lost, header)) for start, end in found])
    return FoundGaps(())  # these are no gaps: the file system makes holes of zeros that were written


def has_lost_end(view: IndexView, fd: int, size: int) -> bool:
    """Whether an index has lost its last entries, those of gaps among them. Blocks as long as the disk does.

    Its header tells that of the last gap that was closed. Where another one is open by now, or the range was dropped in
    which the last one is, it is told by holes of the file behind the last entry.

    Args:
        view: of the index.
        fd: of the output's file.
        size: of that.

    Raises:
        OSError: the disk fails.
    """
    if not view.tells_last_gap(size):
        return True
    if not view.header.lost:
        return False
    ranges = view.bytes_behind(size)
    if ranges is None:
        return True
    has_holes = any(_seek(fd, start, os.SEEK_HOLE, end) < end for start, end in ranges)
    return has_holes and not view.tells_all(size)  # there are file systems that make holes of zeros that were written


def _reason(start: int, lost: int, header: Header | None) -> GapReason:
    if header is not None and header.dropped_start <= start < header.dropped_end:
        return GapReason.CAPPED
    return GapReason.DISK_FAILED if lost else GapReason.CAPPED


def _holes(fd: int, size: int) -> Iterator[Range]:
    end = 0
    for _ in range(MOST_HOLES):
        start = _seek(fd, end, os.SEEK_HOLE, size)
        if start >= size:
            return
        end = _seek(fd, start, os.SEEK_DATA, size)
        yield start, end
    yield _seek(fd, end, os.SEEK_HOLE, size), size


def _seek(fd: int, offset: int, whence: int, size: int) -> int:
    """Where the next hole or data begins; `size` where there is none."""
    try:
        return min(os.lseek(fd, offset, whence), size)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        raise


def _with_zeros(fd: int, holes: Sequence[Range], size: int) -> list[Range]:
    limits = [0, *accumulate((end for _, end in holes), max)]
    following = [start for start, _ in holes[1:]] + [size]
    found: list[Range] = []
    for (start, end), low, high in zip(holes, limits, following, strict=False):
        before = os.pread(fd, min(BLOCK, start - low), max(low, start - BLOCK))
        behind = os.pread(fd, min(BLOCK, high - end), end)
        begin = start - (len(before) - len(before.rstrip(b"\0")))
        found.append((max(begin, found[-1][1] if found else 0), end + len(behind) - len(behind.lstrip(b"\0"))))
    return found
