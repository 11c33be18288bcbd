"""What is there of the output of a job that was lost: how much of it, and when the last byte came."""

from __future__ import annotations

import errno
import logging
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from jobmaster.output.files import index_path
from jobmaster.output.found_gaps import find_gaps
from jobmaster.output.index import GapReason
from jobmaster.output.index_reader import stored_view, with_index
from jobmaster.output.index_search import IndexView

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """An output that nobody writes any more.

    Attributes:
        kept, lost, dropped: bytes, as far as file and index tell.
        modified: when its file was written last, in seconds since the Unix epoch.
    """

    kept: int
    lost: int
    dropped: int
    modified: float


def survey(path: Path) -> Survey:
    """Looks at an output. Blocks as long as the disk does.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    status = path.stat(follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        raise FileNotFoundError(errno.ENOENT, "something that is no file is in its place", str(path))
    view = _view_of(path)
    if view is None:
        missing = _missing_in(path, status.st_size)
        return Survey(kept=status.st_size - missing, lost=missing, dropped=0, modified=status.st_mtime)
    header, size = view.header, status.st_size
    if header.open_reason is not None and header.gap_start <= size:
        open_ = max(size, header.gap_end) - header.gap_start
        is_capped = header.open_reason is GapReason.CAPPED
        return Survey(
            kept=max(0, header.gap_start - header.lost - header.dropped),
            lost=header.lost + (0 if is_capped else open_),
            dropped=header.dropped + (open_ if is_capped else 0),
            modified=status.st_mtime,
        )
    last = header.gap_end - header.gap_start
    is_closed = header.gap_end <= size
    size = size if is_closed else min(size, header.gap_start)
    kept = max(0, size - header.lost - header.dropped - (last if is_closed else 0))
    return Survey(kept=kept, lost=header.lost + last, dropped=header.dropped, modified=status.st_mtime)


def _view_of(path: Path) -> IndexView | None:
    try:
        return with_index(index_path(path), stored_view)
    except OSError as error:
        logger.warning(
            "%s cannot be read, and the output's file alone tells what is missing: %s", index_path(path), error
        )
        return None


def _missing_in(path: Path, size: int) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return find_gaps(fd, size, lost=size, dropped=0).length
    finally:
        os.close(fd)
