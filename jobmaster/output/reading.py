"""Reading a part of an output: from where, how far, and what of it, as pieces of bytes and gaps that leave no byte out."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Final, assert_never

import trio

from jobmaster.output.followed_file import Stretch
from jobmaster.output.following import STRETCH_SIZE, Follower
from jobmaster.output.index import GapReason, Stream
from jobmaster.output.index_search import Run
from jobmaster.output.transfer import now

PIECE_SIZE: Final = STRETCH_SIZE - 64
"""Bytes of a piece, at most: the messages that carry it have an offset and a time each, beside what those of a stretch
have, and are to be as many TLS records."""
MOST_SEARCHED: Final = 16 * 1024 * 1024
"""Bytes at the end of an output in which its last lines, or bytes of one stream, are looked for."""
MOST_RUNS_SEARCHED: Final = 16 * 1024
"""Runs of the index in which they are looked for: an output may consist of single bytes."""
RUNS_AT_A_TIME: Final = 4 * 1024
"""Runs that are held in one step of the search."""
_AT_ONCE: Final = 256
"""Runs that are looked at before other tasks have a turn."""
_FIRST_SEARCHED: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class FromOffset:
    """From a byte on."""

    offset: int = 0


@dataclass(frozen=True, slots=True)
class LastBytes:
    """From so many bytes before the present end on; of one stream, as far as MOST_SEARCHED bytes have so many."""

    count: int


@dataclass(frozen=True, slots=True)
class LastLines:
    """From so many lines before the present end on, as far as MOST_SEARCHED bytes have so many."""

    count: int


@dataclass(frozen=True, slots=True)
class Since:
    """From the first bytes on that came then or later; `time` in microseconds since the Unix epoch."""

    time: int


Start = FromOffset | LastBytes | LastLines | Since


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What of an output is to be read.

    Attributes:
        start: where to begin.
        follows: go on as the output grows, until the job has ended; else end at the present end.
        until: end before bytes that came then or later; microseconds since the Unix epoch.
        stream: of a job whose streams are apart, which one; None: both. Gaps are of no stream.
        in_time: a piece for each time that is known, instead of pieces as long as may be.
    """

    start: Start = FromOffset()
    follows: bool = True
    until: int | None = None
    stream: Stream | None = None
    in_time: bool = False

    def has(self, run: Run) -> bool:
        """Whether a run is of what is to be read."""
        return (
            self.stream is None or run.what is self.stream or run.what is Stream.BOTH or isinstance(run.what, GapReason)
        )

    def is_over(self, run: Run) -> bool:
        """Whether a run came too late."""
        return self.until is not None and run.time is not None and run.time >= self.until


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Bytes; `time` of the first of them, in microseconds since the Unix epoch, where that is known."""

    time: int | None
    stream: Stream
    stretch: Stretch


@dataclass(frozen=True, slots=True, kw_only=True)
class GapPiece:
    """Bytes that are not there, and why."""

    start: int
    end: int
    reason: GapReason
    time: int | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """Where what is selected begins: comes first, where that was not named by its offset."""

    offset: int


async def read(follower: Follower, selection: Selection) -> AsyncGenerator[Piece | GapPiece | Position, None]:
    """Yields what is selected, in the order of its offsets. A piece can be read until the next one is asked for.

    Raises:
        OutputUnreadable: the files cannot be opened or read (any more).
    """
    try:
        await follower.open()
        present_end = follower.end
        offset = await _begin(follower, selection)
        if not isinstance(selection.start, FromOffset):
            yield Position(offset)
        while True:
            await trio.lowlevel.checkpoint_if_cancelled()
            limit = follower.size if selection.follows else present_end
            if offset < limit:
                run = await _next(follower, selection, offset, limit)
                if selection.is_over(run):
                    return
                end = min(limit, limit if run.end is None else run.end)
                if isinstance(run.what, GapReason):
                    yield GapPiece(start=offset, end=end, reason=run.what, time=run.time)
                elif selection.has(run):
                    if not follower.pin((offset, end)):
                        continue
                    stretch = Stretch(follower.file, offset, end - offset)
                    yield Piece(time=run.time, stream=run.what, stretch=stretch)
                    await follower.unpin()
                offset = end
            elif follower.is_complete or not selection.follows or not await _grows(follower, selection.until):
                return
    finally:
        await follower.unpin()  # noqa: ASYNC102  # shields itself, with a deadline
        await follower.close()  # noqa: ASYNC102  # as above


async def _grows(follower: Follower, until: int | None) -> bool:
    """Waits until there is more; False where it is too late by then."""
    if until is None:
        await follower.wait_growth()
        return True
    with trio.move_on_after(max(0.0, (until - now()) / 1_000_000)) as waiting:
        await follower.wait_growth()
    return not waiting.cancelled_caught


async def _next(follower: Follower, selection: Selection, offset: int, limit: int) -> Run:
    """The run that has an offset, with those behind it that are told as one, as far as a stretch."""
    run = await follower.run_at(offset, in_detail=True)
    if isinstance(run.what, GapReason) or not selection.has(run):
        return run
    end, most = _end(run, limit), min(limit, offset + PIECE_SIZE)
    while end < most and not selection.in_time:
        following = await follower.run_at(end, in_detail=True)
        if following.what is not run.what or selection.is_over(following):
            break
        end = max(end + 1, _end(following, limit))
    return replace(run, end=min(end, most))


def _end(run: Run, limit: int) -> int:
    return limit if run.end is None else min(run.end, limit)


async def _begin(follower: Follower, selection: Selection) -> int:
    """The offset at which to begin."""
    match selection.start:
        case FromOffset(offset):
            return offset
        case LastBytes(count) if selection.stream is None:
            return max(0, follower.end - count)
        case LastBytes(count):
            return await _search(follower, selection, _Bytes(count))
        case LastLines(count):
            return await _search(follower, selection, _Lines(count))
        case Since(time):
            while selection.follows and not follower.is_complete and await _grows(follower, time):
                pass  # it is a time to come
            view = await follower.view()
            end = follower.end  # what comes during the look-up is behind it, and later
            if view is None:
                return 0
            since = await follower.in_index(lambda view: view.offset_at(time), view)
            return end if since is None else min(since, end)
        case unreachable:
            assert_never(unreachable)


class _Bytes:
    """Counts bytes from the end on."""

    def __init__(self, count: int) -> None:
        self._left = count

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to look for."""
        return self._left <= 0

    def look(self, data: bytes) -> int | None:
        """Where in the data, which come before those of the last look, the last so many begin; None where before it."""
        self._left -= len(data)
        return -self._left if self._left <= 0 else None


class _Lines:
    """Counts lines from the end on; what is behind the last newline is one as well."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._is_first = True

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to look for."""
        return self._left <= 0

    def look(self, data: bytes) -> int | None:
        """As that of `_Bytes`."""
        end = len(data)
        if self._is_first and data:
            self._is_first = False
            end -= data.endswith(b"\n")
        while (end := data.rfind(b"\n", 0, end)) >= 0:
            self._left -= 1
            if self._left == 0:
                return end + 1
        return None


async def _search(follower: Follower, selection: Selection, wanted: _Bytes | _Lines) -> int:
    """Looks back from the present end, as far as MOST_SEARCHED."""
    end = high = follower.end
    step, searched = _FIRST_SEARCHED, 0
    while high > 0 and not wanted.is_done and end - high < MOST_SEARCHED and searched < MOST_RUNS_SEARCHED:
        low = max(0, high - step, end - MOST_SEARCHED)
        runs = await _last_runs(follower, selection, low, high)
        for number, run in enumerate(reversed(runs)):
            if number % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            found = await _look(follower, run, wanted)
            if found is not None:
                return found
        searched += len(runs)
        if len(runs) == RUNS_AT_A_TIME:
            high = runs[0].start
        else:
            high, step = low, step * 4
    return end if wanted.is_done else high


async def _look(follower: Follower, run: Run, wanted: _Bytes | _Lines) -> int | None:
    high = run.end or 0
    while high > run.start:
        low = max(run.start, high - STRETCH_SIZE)
        if not follower.pin((low, high)):
            high = low  # it is not kept any more
            continue
        try:
            place = wanted.look(await _bytes_of(Stretch(follower.file, low, high - low)))
        finally:
            await follower.unpin()  # noqa: ASYNC102  # shields itself, with a deadline
        if place is not None:
            return low + place
        high = low
    return None


async def _bytes_of(stretch: Stretch) -> bytes:
    buffer = bytearray(stretch.length)
    if stretch.read_at_once([memoryview(buffer)], 0):
        return bytes(buffer)
    return await stretch.read(0, stretch.length)


async def _last_runs(follower: Follower, selection: Selection, low: int, high: int) -> Sequence[Run]:
    """The last of the bytes of a range that are selected, in runs that begin and end in it; neighbours are one run."""
    found: deque[Run] = deque(maxlen=RUNS_AT_A_TIME)
    number = 0
    while low < high:
        run = await follower.run_at(low, in_detail=True)
        end = max(low + 1, _end(run, high))
        if not isinstance(run.what, GapReason) and selection.has(run):
            if found and found[-1].end == low:
                found[-1] = replace(found[-1], end=end)
            else:
                found.append(replace(run, start=low, end=end))
        low = end
        number += 1
        if number % _AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
    return tuple(found)
