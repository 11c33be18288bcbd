"""How an output is read, while it grows and after: the runs of bytes and gaps that it consists of.

Where nothing is missing, and nobody asks for times, the index is not looked at. Otherwise its entries are read by a
descriptor of the follower's own, which it keeps, many at a time and in a thread; what has come since the last entry needs no look.

A follower is handed stretches of the log, not bytes: whoever sends them reads when the flow-control window allows it,
straight into the frames. So a follower whose client takes nothing holds nothing.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import trio

from jobmaster.errors import OutputCut, OutputUnreadable
from jobmaster.output.cap import Range
from jobmaster.output.dropping import PUNCHERS, punch_file
from jobmaster.output.files import index_path
from jobmaster.output.followed_file import (
    CLOSE_SECONDS,
    READERS,
    FollowedFile,
    Stretch,
    WrittenFile,
    leave_and_close,
    unreadable_named,
)
from jobmaster.output.found_gaps import FoundGaps, has_lost_end
from jobmaster.output.index import GapReason, Header, Stream
from jobmaster.output.index_reader import Reader, stored_view
from jobmaster.output.index_search import IndexView, Run
from jobmaster.threads import NoThread, run_in_thread

if TYPE_CHECKING:
    from jobmaster.output.log import OutputLog
    from jobmaster.output.stored_output import StoredOutput

logger = logging.getLogger(__name__)

T = TypeVar("T")

STRETCH_SIZE: Final = 192 * 1024 - 32
"""Bytes of a stretch, at most; with the messages' own bytes, two of which carry it, a round number of TLS records."""
FIRST_RUNS: Final = 32
MOST_RUNS: Final = 4_096
"""Runs that a follower reads at first, so that its first byte comes soon, and at most at a time; it holds these."""


class Follower(Protocol):
    """One reader of an output, from `open` to `close`."""

    file: FollowedFile

    @property
    def size(self) -> int:
        """The offset as far as there is something, bytes or gaps, that can be told now."""

    @property
    def end(self) -> int:
        """The offset behind all bytes as of now, kept or not."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing will come behind `size`."""

    @property
    def missing(self) -> int:
        """Bytes that were kept, and that the file does not have any more."""

    async def open(self) -> None:
        """Opens the file.

        Raises:
            OutputUnreadable: it cannot be opened (any more).
        """

    async def run_at(self, offset: int, *, in_detail: bool) -> Run:
        """What is at an offset before `size`: a run that ends at `size` at the latest.

        Args:
            offset: where.
            in_detail: whether times and streams matter; else only whether there are bytes.

        Raises:
            OutputUnreadable: the index cannot be read.
        """

    async def view(self) -> IndexView | None:
        """The index as of now, to be read in a thread by `in_index`; None where there is none."""

    async def in_index(self, function: Callable[[IndexView], T], view: IndexView) -> T | None:
        """Calls a function with the index, in a thread; None where it is gone."""

    def pin(self, range_: Range) -> bool:
        """Keeps a range in the file until `unpin`.

        Returns False where some of it has been dropped since it was looked at: it is to be looked at again.
        """

    async def unpin(self) -> None:
        """Lets go of the range that was pinned last, if any; shielded and bounded."""

    async def wait_growth(self) -> None:
        """Waits until there is more, or will be no more."""

    async def close(self) -> None:
        """Closes what is open; shielded and bounded."""


class _Index:
    """An index as one follower reads it: many runs at a time.

    It may be removed meanwhile, as the output's file may, so it is opened with that; or, where the output grows and an index
    may yet be made, when it is read first, by the log's end at the latest. Without it, holes would be told as bytes.
    """

    def __init__(self, output: Path) -> None:
        self.file = FollowedFile(index_path(output))
        self._runs: deque[Run] = deque()
        self._at_a_time = FIRST_RUNS

    async def use(self, function: Callable[[int], T]) -> T | None:
        """Calls a function with a descriptor of the file, in a thread; None where there is none."""
        with unreadable_named(self.file.path):
            return await run_in_thread(READERS, self.file.use, function, abandon=True)

    def open(self) -> None:
        """Opens it, where there is one, in a thread. An error is raised by `use`, where that comes to it."""
        with suppress(OSError):
            self.file.use(lambda _fd: None)

    async def run_at(self, offset: int, size: int, header: Header, count: int) -> Run:
        """The run that has an offset, as far as `size`."""
        runs = self._runs
        while runs and _end(runs[0], size) <= offset:
            runs.popleft()
        if not runs or runs[0].start > offset:
            runs.clear()
            view, most = IndexView(header, count, Reader(-1)), self._at_a_time
            self._at_a_time = min(8 * most, MOST_RUNS)
            found = await self.read(lambda view: _runs(view, offset, size, most), view)
            if found is None and header.has_gaps:
                raise OutputUnreadable(f"{self.file.path}, which tells what is missing of the output, is gone")
            runs.extend(found or ())
        return runs[0] if runs else Run(offset, size, None, Stream.BOTH)

    async def read(self, function: Callable[[IndexView], T], view: IndexView) -> T | None:
        """Calls a function with a view that reads the file, in a thread; None where there is none."""
        return await self.use(lambda fd: function(replace(view, read=Reader(fd))))


def _runs(view: IndexView, offset: int, size: int, most: int) -> list[Run]:
    found: list[Run] = []
    for run in view.runs(offset):
        if run.start >= size or len(found) == most:
            break
        found.append(replace(run, end=_end(run, size)))
    return found


def _end(run: Run, size: int) -> int:
    return size if run.end is None else min(run.end, size)


class LiveFollower:
    """A follower of a running job's output."""

    missing = 0

    def __init__(self, log: OutputLog) -> None:
        self._log = log
        self._index = _Index(log.path)
        self._pinned: Range | None = None
        self.file = FollowedFile(log.path)

    @property
    def size(self) -> int:
        """As far as there are bytes; when nothing more will come, as far as the gap behind them goes."""
        return self._log.end if self._log.sealed else self._log.size

    @property
    def end(self) -> int:
        """With the gap that is open."""
        return self._log.end

    @property
    def is_complete(self) -> bool:
        """Whether the log is sealed."""
        return self._log.sealed

    async def open(self) -> None:
        """Opens the file; the index, too, where the log may close its own before it is needed."""
        self._log.followed_indexes.add(self._index.file)
        try:
            with unreadable_named(self._log.path):
                await run_in_thread(READERS, self._open, self._log.written_file, abandon=True)
        except OutputUnreadable:
            if not self._log.file.is_pruned:
                raise

    def _open(self, written: WrittenFile) -> None:
        if self._log.sealed:
            self._index.open()
        self.file.open(written)

    async def run_at(self, offset: int, *, in_detail: bool) -> Run:
        """From the log itself, where that knows it; else from the index."""
        log = self._log
        if log.file.is_pruned:
            return Run(offset, log.end, None, GapReason.PRUNED)
        start, end = log.dropped_range
        if start <= offset < end:
            return Run(start, end, None, GapReason.CAPPED)
        if offset >= log.size:
            assert log.gap is not None  # noqa: S101  # for the type checker
            return Run(offset, log.end, log.gap.gap.time, log.gap.gap.reason)
        run = await self._run_in_file(offset, in_detail=in_detail)
        return replace(run, end=min(_end(run, log.size), start)) if offset < start else run

    async def _run_in_file(self, offset: int, *, in_detail: bool) -> Run:
        log = self._log
        if not in_detail and not log.has_lost_inside:
            return Run(offset, log.size, None, Stream.BOTH)
        last, state = log.last_entry, log.index_state()
        if last is not None and last.offset <= offset:
            return Run(last.offset, log.size, last.time, last.what)
        if state is None:
            return Run(offset, log.size, None, Stream.BOTH)
        return await self._index.run_at(offset, log.size, *state)

    def pin(self, range_: Range) -> bool:
        """In the log."""
        dropped_start, dropped_end = self._log.dropped_range
        if self._log.file.is_pruned or (range_[0] < dropped_end and dropped_start < range_[1]):
            return False
        self._pinned = range_
        self._log.pin(range_)
        return True

    async def unpin(self) -> None:
        """Makes the holes that were held back for this follower alone."""
        pinned, self._pinned = self._pinned, None
        if pinned is not None and (holes := self._log.unpin(pinned)):
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_SECONDS), suppress(NoThread):
                await run_in_thread(PUNCHERS, punch_file, self._log.path, holes, abandon=True)

    async def view(self) -> IndexView | None:
        """Without a way to read it."""
        await trio.lowlevel.checkpoint()
        state = self._log.index_state()
        return None if state is None else IndexView(*state, Reader(-1))

    async def in_index(self, function: Callable[[IndexView], T], view: IndexView) -> T | None:
        """In a thread."""
        return await self._index.read(function, view)

    async def wait_growth(self) -> None:
        """Parks."""
        await self._log.wait_growth()

    async def close(self) -> None:
        """Closes the files."""
        self._log.followed_indexes.discard(self._index.file)
        await leave_and_close(self.file, self._index.file)


class StoredFollower:
    """A follower of an ended job's output."""

    is_complete = True

    def __init__(self, output: StoredOutput) -> None:
        self._output = output
        self._index = _Index(output.path)
        self._view: IndexView | None = None
        self._pinned: Range | None = None
        self._found: FoundGaps | None = None
        self._header: Header | None = None
        self._there = 0
        self._kept_end = output.kept
        self.file = FollowedFile(output.path)

    @property
    def size(self) -> int:
        """All of it."""
        return self._output.end

    @property
    def end(self) -> int:
        """As `size`."""
        return self._output.end

    @property
    def missing(self) -> int:
        """By the file's size and what was recorded: a power cut may have taken the end."""
        return 0 if self._output.file.is_pruned else max(0, self._kept_end - self._there)

    async def open(self) -> None:
        """Opens the file, and looks at the index where some of the output is missing."""
        try:
            if not self._output.file.is_pruned:
                await self._open()
        except OutputUnreadable:
            if not self._output.file.is_pruned:
                raise

    async def _open(self) -> None:
        with unreadable_named(self._output.path):
            try:
                self._there = await run_in_thread(READERS, self._open_files, abandon=True)
            except FileNotFoundError:
                self._there = 0
        if self._output.end > self._output.kept and await self.view() is None:
            await self._do_without_index()

    def _open_files(self) -> int:
        """The index first, which is removed last: where the output's file is there, it is none of a removed output."""
        self._index.open()
        return self.file.open()

    async def view(self) -> IndexView | None:
        """As of the job's end; None where there is none, or none that tells where bytes are missing."""
        if self._view is None and self._found is None:
            self._view = await self._whole_view()
            if self._view is not None:
                self._kept_end = _kept_end(self._view.header, self._output.kept)
        return self._view

    async def _whole_view(self) -> IndexView | None:
        try:
            view = await self._index.use(stored_view)
            if view is None:
                return None
            self._header = view.header
            return None if await self._has_lost_end(view) else view
        except OutputUnreadable as error:
            logger.warning("%s: the output's file alone tells what is missing", error)
            return None

    async def _has_lost_end(self, view: IndexView) -> bool:
        end = self._output.kept + view.header.lost + view.header.dropped
        if not await self.in_index(lambda view: view.tells_last_gap(end), view):
            return True
        there = self._there
        return there > 0 and bool(
            await self.in_index(lambda view: self.file.use(lambda fd: has_lost_end(view, fd, there)), view)
        )

    async def _do_without_index(self) -> None:
        output = self._output
        with unreadable_named(output.path):
            self._found = await run_in_thread(
                READERS, self.file.find_gaps, self._there, output.lost, output.dropped, self._header, abandon=True
            )
        if inside := self._found.length:  # else it is behind the bytes
            self._kept_end = min(output.end, max(output.kept + inside, self._there))

    async def run_at(self, offset: int, *, in_detail: bool) -> Run:
        """From the index, where that matters."""
        if self._output.file.is_pruned:
            return Run(offset, self.size, None, GapReason.PRUNED)
        end = min(self._kept_end, self._there)
        if offset >= self._kept_end:
            return Run(self._kept_end, self.size, None, await self._why_at_end())
        if offset >= end:
            return Run(end, self._kept_end, None, GapReason.NOT_SYNCED)
        if self._found is not None:
            return self._found.run_at(offset, end)
        view = await self.view() if in_detail or self._view is not None else None
        if view is None:
            return Run(offset, end, None, Stream.BOTH)
        return await self._index.run_at(offset, end, view.header, view.count)

    async def _why_at_end(self) -> GapReason:
        """The reason for the gap at the end, which the last entry has."""
        view = await self.view()
        if view is None:
            return GapReason.DISK_FAILED
        if view.header.open_reason is not None:
            return view.header.open_reason
        at_end = await self.in_index(lambda view: next(view.runs(self._kept_end)), view)
        reason = GapReason.DISK_FAILED if at_end is None else at_end.what
        return reason if isinstance(reason, GapReason) else GapReason.DISK_FAILED

    async def in_index(self, function: Callable[[IndexView], T], view: IndexView) -> T | None:
        """In a thread."""
        return await self._index.read(function, view)

    def pin(self, range_: Range) -> bool:
        """It stays as it is, or goes as a whole."""
        if self._output.file.is_pruned:
            return False
        self._pinned = range_
        self._output.file.pins.append(range_)
        return True

    async def unpin(self) -> None:
        """Lets go of it. Its blocks go with the file where that was removed meanwhile."""
        pinned, self._pinned = self._pinned, None
        if pinned is not None:
            self._output.file.pins.remove(pinned)

    async def wait_growth(self) -> None:
        """It does not grow."""
        raise AssertionError("nobody waits for the growth of a sealed log")

    async def close(self) -> None:
        """Closes the files."""
        await leave_and_close(self.file, self._index.file)


def _kept_end(header: Header, kept: int) -> int:
    """Where the bytes end of an output of which so many are kept: the last gap of the header may not have been closed."""
    end = kept + header.lost + header.dropped
    return end if header.gap_start >= end else end + header.gap_end - header.gap_start


async def follow(follower: Follower, offset: int) -> AsyncGenerator[Stretch, None]:
    """Yields all bytes from an offset on; gaps are left out.

    Raises:
        OutputCut: behind the last of them, where not all that were kept are there.
    """
    try:
        await follower.open()
        while True:
            await trio.lowlevel.checkpoint_if_cancelled()  # sending is what waits, where there is much to send
            if offset < follower.size:
                run = await follower.run_at(offset, in_detail=False)
                end = _end(run, follower.size)
                if isinstance(run.what, Stream):
                    end = min(end, offset + STRETCH_SIZE)
                    if not follower.pin((offset, end)):
                        continue
                    yield Stretch(follower.file, offset, end - offset)
                    await follower.unpin()
                offset = end
            elif follower.is_complete:
                if missing := follower.missing:
                    raise OutputCut(
                        f"the output in {follower.file.path} has {missing} bytes less than was recorded", missing
                    )
                return
            else:
                await follower.wait_growth()
    finally:
        await follower.unpin()  # noqa: ASYNC102  # shields itself, with a deadline
        await follower.close()  # noqa: ASYNC102  # shields itself, with a deadline
