"""Dropping the middle of an output, in a thread: first its index says so, then the file has a hole there. Or all of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from jobmaster.output.cap import Range, without
from jobmaster.output.files import unlink_output
from jobmaster.output.holes import BLOCK, can_punch, punch
from jobmaster.output.transfer import now

if TYPE_CHECKING:
    from jobmaster.output.log import OutputLog

logger = logging.getLogger(__name__)

PUNCHERS: Final = trio.CapacityLimiter(8)
"""Threads that make holes, besides those that a disk holds up."""

_WRITE: Final = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class DropPlan:
    """What is to be dropped.

    Attributes:
        start, end: the whole dropped range, by then.
        begin: where in it that begins which was not dropped before; the end, where it is only asked whether that goes.
        before: bytes that are dropped already; the index may have more, where its disk failed in between.
        holes: what can be given back now.
        held_back: what followers are being sent.
    """

    start: int
    begin: int
    end: int
    before: int = 0
    holes: tuple[Range, ...] = ()
    held_back: tuple[Range, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """What came of it.

    Attributes:
        count: bytes that were kept before, in the range; None where it could not be dropped now.
        is_offered: False where the file system makes no holes.
    """

    count: int | None = None
    is_offered: bool = True


def drop(log: OutputLog, plan: DropPlan) -> Dropped:
    """Drops a range. Blocks as long as the disk does."""
    if not can_punch(log.fd):
        return Dropped(is_offered=False)
    if plan.begin == plan.end:
        return Dropped(count=0)
    index = log.index_at(now())
    if index is None:
        return Dropped()
    try:
        index.drop(plan.start, plan.end)
        os.fdatasync(index.fd)  # before the hole: a host that loses power must not have that alone on its disk
    except OSError:
        return Dropped()
    for start, end in plan.holes:
        _punch(log.fd, log.path, start, end)
    return Dropped(count=index.header.dropped - plan.before)


def punch_file(path: Path, holes: Iterable[Range]) -> None:
    """Gives ranges back that were dropped before. Blocks as long as the disk does; what fails is logged."""
    try:
        fd = os.open(path, _WRITE)
    except FileNotFoundError:
        return
    except OSError as error:
        logger.warning("what was dropped of %s takes up space on: %s", path, error.strerror)
        return
    try:
        for start, end in holes:
            _punch(fd, path, start, end)
    finally:
        os.close(fd)


def prune_file(path: Path, pinned: Iterable[Range]) -> None:
    """Removes an output with its index, and gives its blocks back though followers have it open, but for what is pinned.

    Blocks as long as the disk does.

    Raises:
        OSError: it cannot be removed.
    """
    with suppress(FileNotFoundError):
        fd = os.open(path, _WRITE)
        try:
            free, held = without((0, -(-os.fstat(fd).st_size // BLOCK) * BLOCK), pinned)
            if held:
                for start, end in free:
                    _punch(fd, path, start, end)
            else:
                os.ftruncate(fd, 0)
        finally:
            os.close(fd)
    unlink_output(path)


def _punch(fd: int, path: Path, start: int, end: int) -> None:
    try:
        punch(fd, start, end)
    except OSError as error:
        logger.warning("%d bytes of %s that were dropped take up space on: %s", end - start, path, error.strerror)
