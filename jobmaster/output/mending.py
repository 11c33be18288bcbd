"""An index that an earlier server kept and somebody has damaged, made usable again from what the output's file tells."""

from __future__ import annotations

import logging
import stat
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from jobmaster.output.cap import Range
from jobmaster.output.files import aside_path, index_path, remove_aside
from jobmaster.output.found_gaps import FoundGaps
from jobmaster.output.index import GapReason, Header
from jobmaster.output.index_file import IndexFile

logger = logging.getLogger(__name__)


def is_there(output: Path) -> bool:
    """Whether an output has an index; what is in its place and no regular file is put aside, until the next look.

    Blocks as long as the disk does.

    Raises:
        OSError: that cannot be done.
    """
    path = index_path(output)
    remove_aside(output)
    with suppress(FileNotFoundError):
        if stat.S_ISREG(path.lstat().st_mode):
            return True
        aside = aside_path(output)
        path.rename(aside)
        logger.warning("%s was no file; it is %s now, and another one is begun", path, aside.name)
    return False


def restore(index: IndexFile, gaps: FoundGaps, size: int, *, lost: int, dropped: int) -> tuple[int, int]:
    """Notes the gaps of an output in an index that tells nothing; how many bytes are lost and dropped then.

    Args:
        index: a new one.
        gaps: of the output's file.
        size: of that.
        lost: bytes, as far as it was recorded.
        dropped: likewise.

    Raises:
        OSError: the disk fails.
    """
    if dropped and not lost and len(gaps.gaps) == 1:
        (start, end, _) = gaps.gaps[0]
        index.drop(start, end)
        return 0, max(dropped, end - start)
    lost = max(lost + dropped, gaps.length)  # which of them is which, nobody knows
    index.presume_lost(min(lost, size), in_gaps=gaps.length)
    for start, end, reason in gaps.gaps:
        index.note_gap(start, end, reason)
    return lost, 0


def restore_last(index: IndexFile, gaps: FoundGaps, size: int) -> None:
    """Notes those gaps of an output, all of them counted in its header, whose entries are gone from the index's end.

    Args:
        index: what is left of it.
        gaps: of the output's file, but for the last one, of which the header has the extent.
        size: of that file.

    Raises:
        OSError: the disk fails.
    """
    header = index.header
    ranges = _with_last(gaps, header, size)
    if header.dropped_end > header.dropped_start and index.count <= header.head_entries:
        told = max((entry.offset for _, entry in index.view.head_backwards()), default=0)
        for start, end in _between(ranges, told, header.dropped_start):
            index.note_gap(start, end, GapReason.DISK_FAILED)
        index.put_header(replace(header, head_entries=index.count, first_entry=index.count))
    told = 0 if index.last is None else index.last.offset
    for start, end in _between(ranges, max(told, header.dropped_end), size):
        index.note_gap(start, end, GapReason.DISK_FAILED)


def _with_last(gaps: FoundGaps, header: Header, size: int) -> list[Range]:
    found = [(start, end) for start, end, _ in gaps.gaps]
    if header.open_reason is not None or not header.gap_start < header.gap_end <= size:
        return found
    start, end = header.gap_start, header.gap_end
    return [*_between(found, 0, start), (start, end), *_between(found, end, size)]


def _between(ranges: list[Range], begin: int, stop: int) -> list[Range]:
    """What of ranges is between two offsets."""
    cut = ((max(start, begin), min(end, stop)) for start, end in ranges)
    return [(start, end) for start, end in cut if start < end]
