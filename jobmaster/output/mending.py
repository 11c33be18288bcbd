"""An index that an earlier server kept and somebody has damaged, made usable again from what the output's file tells."""

from __future__ import annotations

import logging
import stat
from contextlib import suppress
from pathlib import Path

from jobmaster.output.found_gaps import FoundGaps
from jobmaster.output.index import GapReason
from jobmaster.output.index_file import IndexFile

logger = logging.getLogger(__name__)


def is_there(path: Path) -> bool:
    """Whether there is an index; what is in its place and no regular file is put aside. Blocks as long as the disk does.

    Raises:
        OSError: that cannot be done.
    """
    with suppress(FileNotFoundError):
        if stat.S_ISREG(path.lstat().st_mode):
            return True
        aside = path.with_name(f"{path.name}.aside")
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


def restore_last(index: IndexFile, gaps: FoundGaps) -> None:
    """Notes those gaps of an output, all of them counted in its header, whose entries are gone from the index's end.

    Raises:
        OSError: the disk fails.
    """
    told = 0 if index.last is None else index.last.offset
    for start, end, _ in gaps.gaps:
        begin = max(start, index.header.dropped_end if start >= index.header.dropped_start else start)
        if begin >= told and begin < end:
            index.note_gap(begin, end, GapReason.DISK_FAILED)
