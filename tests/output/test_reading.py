"""Reading parts of an output, on real files."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from jobmaster.errors import OutputUnreadable
from jobmaster.output import dropping, files, index_file, reading, transfer
from jobmaster.output import log as log_module
from jobmaster.output.cap import SMALLEST, Cap
from jobmaster.output.files import index_path, unlink_output
from jobmaster.output.followed_file import Stretch
from jobmaster.output.following import FIRST_RUNS, LiveFollower
from jobmaster.output.index import MAX_OFFSET, GapReason, Stream
from jobmaster.output.index_search import IndexView, Run
from jobmaster.output.log import OutputLog
from jobmaster.output.reading import (
    PIECE_SIZE,
    FromOffset,
    GapPiece,
    LastBytes,
    LastLines,
    Piece,
    Position,
    Selection,
    Since,
)
from jobmaster.output.stored_output import StoredOutput
from jobmaster.output.transfer import Transfer
from tests.output.stretches import bytes_of

SECOND = 1_000_000
START = 1_790_000_000 * SECOND
BOTH, OUT, ERR = Stream.BOTH, Stream.STDOUT, Stream.STDERR
Told = tuple[int, int | None, str, bytes | int]
"""Offset, seconds since the start, stream or reason, and the bytes or how many are missing."""


@dataclass
class Writer:
    """Writes as a pump does."""

    log: OutputLog
    now: int = START
    written: bytes = b""
    pipe: tuple[int, int] = field(default_factory=lambda: os.pipe2(os.O_NONBLOCK))

    def write(self, data: bytes, stream: Stream = BOTH, *, seconds: float = 0, is_lost: bool = False) -> None:
        """After so many seconds."""
        self.now += int(seconds * SECOND)
        self.written += data
        if is_lost:
            self.log.lose(len(data), GapReason.NO_SPACE, self.now)
            return
        os.write(self.pipe[1], data)
        while True:
            if (drop := self.log.plan_drop()) is not None:
                self.log.record_drop(drop, dropping.drop(self.log, drop))
            moved = Transfer(self.pipe[0], stream, self.log, self.log.plan(), splice=True).run(len(data))
            if moved.taken is None:
                return
            self.log.record(moved)


@pytest.fixture
def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock) -> Iterator[Writer]:
    """Of a fresh log."""
    made = Writer(OutputLog(tmp_path / "job.log"))
    for module in (transfer, log_module, reading):
        monkeypatch.setattr(module, "now", lambda: made.now)
    yield made
    made.log.close()
    for end in made.pipe:
        os.close(end)


async def told(output: OutputLog | StoredOutput, selection: Selection) -> list[Told]:
    """What is read."""
    found: list[Told] = []
    async with aclosing(output.read(selection)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Position):
                assert not found
                continue
            seconds = None if piece.time is None else (piece.time - START) // SECOND
            match piece:
                case Piece(stream=stream, stretch=stretch):
                    found.append((stretch.offset, seconds, stream.name, await bytes_of(stretch)))
                case GapPiece(start=start, end=end, reason=reason):
                    found.append((start, seconds, reason.name, end - start))
    return found


def once(start: reading.Start = FromOffset(), **keywords: object) -> Selection:  # noqa: B008  # a frozen value
    """A selection that ends at the present end."""
    return Selection(start=start, follows=False, **keywords)  # type: ignore[arg-type]


@pytest.fixture
async def story(writer: Writer) -> Writer:
    """An output with two streams, and a gap in it."""
    writer.write(b"out 1\n", OUT)
    writer.write(b"out 2\n", OUT, seconds=1)
    writer.write(b"err 3\n", ERR, seconds=1)
    writer.write(b"lost\n", seconds=1, is_lost=True)
    writer.write(b"out 4\n", OUT, seconds=1)
    writer.write(b"out 5\n", OUT, seconds=1)
    return writer


STORY: list[Told] = [
    (0, 0, "STDOUT", b"out 1\n"),
    (6, 1, "STDOUT", b"out 2\n"),
    (12, 2, "STDERR", b"err 3\n"),
    (18, 3, "NO_SPACE", 5),
    (23, 4, "STDOUT", b"out 4\n"),
    (29, 5, "STDOUT", b"out 5\n"),
]


async def test_each_time(story: Writer) -> None:
    """With times, each that is known has a piece of its own; live and stored are the same."""
    for output in (story.log, story.log.stored()):
        assert await told(output, once(in_time=True)) == STORY


async def test_without_times(story: Writer) -> None:
    """Without, what comes from one stream in a row is one piece, with the time of its first byte."""
    assert await told(story.log, once()) == [
        (0, 0, "STDOUT", b"out 1\nout 2\n"),
        (12, 2, "STDERR", b"err 3\n"),
        (18, 3, "NO_SPACE", 5),
        (23, 4, "STDOUT", b"out 4\nout 5\n"),
    ]


@pytest.mark.parametrize("offset", [0, 1, 6, 14, 18, 20, 22, 23, 34, 35, 100])
async def test_from_an_offset(story: Writer, offset: int) -> None:
    """From any byte on all comes, and of a gap what is left of it."""
    for output in (story.log, story.log.stored()):
        parts = await told(output, once(FromOffset(offset), in_time=True))
        sizes = [what if isinstance(what, int) else len(what) for *_, what in parts]
        assert sum(sizes) == max(0, len(story.written) - offset)
        expected = offset
        for (begin, _, _, what), size in zip(parts, sizes, strict=True):
            assert begin == expected
            assert isinstance(what, int) or what == story.written[begin : begin + size]
            expected += size


@pytest.mark.parametrize(
    ("start", "stream", "first"),
    [
        (LastBytes(7), None, 28),
        (LastBytes(0), None, None),
        (LastBytes(1000), None, 0),
        (LastBytes(3), ERR, 15),
        (LastBytes(13), OUT, 11),
        (LastLines(1), None, 29),
        (LastLines(2), None, 18),  # with the gap before it
        (LastLines(3), None, 12),
        (LastLines(100), None, 0),
        (LastLines(0), None, None),
        (LastLines(1), ERR, 12),
        (LastLines(3), OUT, 6),
        (Since(START - SECOND), None, 0),
        (Since(START + SECOND), None, 6),
        (Since(START + SECOND + 10), None, 12),
        (Since(START + 3 * SECOND), None, 18),
        (Since(START + 6 * SECOND), None, None),
    ],
)
async def test_where_it_begins(story: Writer, start: reading.Start, stream: Stream | None, first: int | None) -> None:
    """Bytes, lines and times are counted from the present end, of the stream that is asked for."""
    for output in (story.log, story.log.stored()):
        parts = await told(output, once(start, stream=stream))
        assert (parts[0][0] if parts else None) == first


async def test_what_comes_while_a_time_is_looked_up(story: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, where nothing that was there came so late."""
    look_up = LiveFollower.in_index

    async def look_up_slowly(
        follower: LiveFollower, function: Callable[[IndexView], int], view: IndexView
    ) -> int | None:
        found = await look_up(follower, function, view)
        if not story.log.sealed:
            story.write(b"out 6\n", OUT, seconds=2)
            story.log.seal()
        return found

    monkeypatch.setattr(LiveFollower, "in_index", look_up_slowly)
    assert await told(story.log, Selection(start=Since(START + 6 * SECOND))) == [(35, 7, "STDOUT", b"out 6\n")]


async def test_since_a_time_to_come(writer: Writer, mock_clock: MockClock) -> None:
    """A follower is told of nothing that comes before."""
    writer.write(b"there")
    found: list[Told] = []

    async def follow() -> None:
        found.extend(await told(writer.log, Selection(start=Since(START + 10 * SECOND))))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        for _ in range(2):
            await wait_all_tasks_blocked(0.01)
            writer.write(b"before", seconds=4)
            mock_clock.jump(4)
        await wait_all_tasks_blocked(0.01)
        writer.now += 2 * SECOND
        mock_clock.jump(2)
        await wait_all_tasks_blocked(0.01)
        writer.write(b"then")
        writer.log.seal()
    assert [what for *_, what in found] == [b"then"]


async def test_one_stream(story: Writer) -> None:
    """Of one stream its own bytes come, and every gap, which may have had some."""
    assert await told(story.log, once(stream=ERR)) == [(12, 2, "STDERR", b"err 3\n"), (18, 3, "NO_SPACE", 5)]


async def test_streams_that_an_index_has_no_room_to_tell(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that takes bytes and no entry, none is told as of the other stream: they are lost, and that is told."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer.write(b"out\n", OUT)
    monkeypatch.setattr(index_file, "allocate", full)
    for _ in range(300):
        writer.write(b"ERR\n", ERR)
        writer.write(b"out\n", OUT)
    for output in (writer.log, writer.log.stored()):
        for stream, line in ((OUT, b"out\n"), (ERR, b"ERR\n")):
            *parts, gap = await told(output, once(stream=stream))
            received = b"".join(part[3] for part in parts if isinstance(part[3], bytes))
            assert received == line * (len(received) // len(line))
            assert len(received) > 400
            assert gap[2:] == ("NO_SPACE", writer.log.lost)


async def test_until(story: Writer) -> None:
    """What came then or later is left out."""
    until = START + 2 * SECOND
    assert [part[0] for part in await told(story.log, once(until=until, in_time=True))] == [0, 6]


async def test_until_a_time_to_come(writer: Writer, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower waits no longer than that, also where nothing more comes."""
    writer.write(b"first")
    waits, left_at = trio.Event(), []

    async def wait_growth(_: LiveFollower) -> None:
        waits.set()
        try:
            await trio.sleep_forever()
        finally:
            left_at.append(trio.current_time())

    monkeypatch.setattr(LiveFollower, "wait_growth", wait_growth)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def follow() -> None:
            selection = Selection(until=START + 10 * SECOND)
            assert await told(writer.log, selection) == [(0, 0, "BOTH", b"first")]

        nursery.start_soon(follow)
        await waits.wait()  # its threads have ended: nothing but the clock goes on
        mock_clock.jump(9.9)
        await wait_all_tasks_blocked()
        assert left_at == []
        mock_clock.jump(0.1)
    assert left_at == [pytest.approx(began + 10)]


async def test_live(writer: Writer) -> None:
    """A follower has each byte as it comes, and a gap when it is closed, or at the end."""
    found: list[Told] = []

    async def follow() -> None:
        async with aclosing(writer.log.read(Selection())) as pieces:
            async for piece in pieces:
                match piece:
                    case Piece(stretch=stretch):
                        found.append((stretch.offset, None, "", await bytes_of(stretch)))
                    case GapPiece(start=start, end=end):
                        found.append((start, None, "", end - start))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        for step in range(3):
            writer.write(b"kept")
            await _until(lambda: bool(found) and found[-1][3] == b"kept")
            writer.write(b"lost" * (step + 1), is_lost=True)
            await wait_all_tasks_blocked(0.01)
            assert found[-1][3] == b"kept"
        writer.log.seal()
    assert [what for *_, what in found] == [b"kept", 4, b"kept", 8, b"kept", 12]


async def _until(condition: object) -> None:
    while not condition():  # type: ignore[operator]  # a function
        await trio.lowlevel.checkpoint()


async def test_long_outputs(writer: Writer) -> None:
    """Pieces are PIECE_SIZE long at most, and lines are found far back, but not farther than MOST_SEARCHED."""
    line = b"x" * 999 + b"\n"
    for _ in range(60):
        writer.write(line * 50, seconds=0.02)
    parts = await told(writer.log, once())
    assert b"".join(what for *_, what in parts if isinstance(what, bytes)) == writer.written
    assert max(len(what) for *_, what in parts if isinstance(what, bytes)) == PIECE_SIZE
    for count in (1, 70, 2999, 3000):
        assert (await told(writer.log, once(LastLines(count))))[0][0] == len(writer.written) - count * len(line)


async def test_how_far_lines_are_searched(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is longer than that is told from so far back."""
    monkeypatch.setattr(reading, "MOST_SEARCHED", 50_000)
    monkeypatch.setattr(reading, "_FIRST_SEARCHED", 1_000)
    writer.write(b"line\n" + b"x" * 60_000)
    assert (await told(writer.log, once(LastLines(1))))[0][0] == 60_005 - 50_000


@pytest.mark.parametrize("is_live", [True, False])
async def test_the_largest_output(writer: Writer, monkeypatch: pytest.MonkeyPatch, *, is_live: bool) -> None:
    """Behind the largest offset that an index can tell of, all is dropped, and told so."""
    monkeypatch.setattr(log_module, "MAX_OFFSET", 5_000)
    writer.write(b"a" * 4_000)
    writer.write(b"b" * 2_000, seconds=1)
    writer.write(b"c" * 2_000, seconds=1)
    writer.log.seal()
    if not is_live:
        writer.log.close()
    assert await told(writer.log if is_live else writer.log.stored(), once(in_time=True)) == [
        (0, 0, "BOTH", b"a" * 4_000),
        (4_000, 1, "BOTH", b"b" * 1_000),
        (5_000, 1 if is_live else None, "CAPPED", 3_000),
    ]


async def test_an_offset_that_no_index_can_tell(writer: Writer) -> None:
    """An output of which so much is lost that there is none for what comes next goes on: that is lost as well."""
    writer.write(b"first", OUT)
    writer.log.lose(MAX_OFFSET, GapReason.NO_SPACE, writer.now)
    await trio.sleep(2)
    writer.write(b"next", ERR, seconds=2)
    writer.log.seal()
    writer.log.close()
    stored = writer.log.stored()
    assert (stored.kept, stored.lost) == (5, MAX_OFFSET + 4)
    assert await told(stored, once()) == [(0, 0, "STDOUT", b"first"), (5, None, "NO_SPACE", MAX_OFFSET + 4)]


async def test_an_output_without_an_index(tmp_path: Path) -> None:
    """One that an earlier version kept has no times; what it lost is a gap at the end."""
    (tmp_path / "job.log").write_bytes(b"a\nb\n")
    stored = StoredOutput(path=tmp_path / "job.log", kept=4, lost=3)
    assert await told(stored, once()) == [(0, None, "BOTH", b"a\nb\n"), (4, None, "DISK_FAILED", 3)]
    assert await told(stored, once(LastLines(1))) == [(2, None, "BOTH", b"b\n"), (4, None, "DISK_FAILED", 3)]
    assert await told(stored, once(Since(START))) == await told(stored, once())


def write_long_story(writer: Writer) -> None:
    """More runs than a follower reads at first, a gap behind them, and bytes behind that."""
    for number in range(2 * FIRST_RUNS):
        writer.write(b"%4d\n" % number, ERR if number % 2 else OUT, seconds=1)
    writer.write(b"x" * 10_000, seconds=1, is_lost=True)
    writer.now += SECOND
    writer.write(b"last\n", OUT)


@pytest.mark.parametrize("is_live", [True, False])
@pytest.mark.parametrize("reads_parts", [True, False])
async def test_an_output_that_is_removed_while_it_is_read(writer: Writer, *, is_live: bool, reads_parts: bool) -> None:
    """Whoever reads an output that is removed reads on: its bytes are told as such, and what is missing as missing."""
    write_long_story(writer)
    writer.log.seal()
    output = writer.log if is_live else writer.log.stored()
    received, gaps = b"", []
    async with aclosing(output.read(Selection()) if reads_parts else output.follow()) as parts:
        async for part in parts:
            unlink_output(writer.log.path)
            match part:
                case GapPiece(start=start, end=end):
                    gaps.append((start, end))
                case Piece(stretch=stretch) | (Stretch() as stretch):
                    received += await bytes_of(stretch)
    assert received == writer.written.replace(b"x", b"")
    assert gaps == ([(10 * FIRST_RUNS, 10 * FIRST_RUNS + 10_000)] if reads_parts else [])


async def read_on(output: OutputLog | StoredOutput, meanwhile: Callable[[], object]) -> list[Told]:
    """What is read by a follower that rests at its first part."""
    found: list[Told] = []
    async with aclosing(output.read(Selection(start=LastBytes(1_000_000)))) as parts:
        async for part in parts:
            match part:
                case Piece(stream=stream, stretch=stretch):
                    found.append((stretch.offset, part.time, stream.name, await bytes_of(stretch)))
                case GapPiece(start=start, end=end, reason=reason):
                    found.append((start, part.time, reason.name, end - start))
                case Position():
                    meanwhile()
    return found


async def test_an_output_that_ends_and_is_removed_while_a_follower_rests(writer: Writer) -> None:
    """A follower that was up to date when it came to rest has the index of what came since, though nothing has that name."""

    def end() -> None:
        write_long_story(writer)
        writer.log.seal()
        writer.log.close()
        shutil.copytree(writer.log.path.parent, writer.log.path.parent / "copy")
        unlink_output(writer.log.path)

    log = writer.log
    found = await read_on(log, end)
    copy = StoredOutput(path=log.path.parent / "copy" / log.path.name, kept=log.kept, lost=log.lost)
    assert found == await read_on(copy, lambda: None)
    assert not log.followed_indexes


@pytest.mark.parametrize("is_live", [True, False])
async def test_an_ended_output_that_is_removed_while_a_follower_rests(writer: Writer, *, is_live: bool) -> None:
    """Who has begun to read an output that nobody writes any more needs no name of it, though nothing was read by then."""
    for stream in (OUT, ERR) * 3:
        writer.write(b"line\n", stream, seconds=1)
    writer.log.seal()
    writer.log.close()
    output = writer.log if is_live else writer.log.stored()
    kept = await read_on(output, lambda: None)
    assert len(kept) == 6
    assert await read_on(output, lambda: unlink_output(writer.log.path)) == kept


async def test_an_output_of_which_half_is_removed(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who opens an output while it is being removed has all of it or nothing: no bytes of which the streams are not known."""
    for stream in (OUT, ERR):
        writer.write(b"line\n", stream, seconds=1)
    writer.log.seal()
    writer.log.close()
    whole = await told(writer.log.stored(), Selection())
    found = []
    remove = files._remove

    def remove_and_read(path: Path) -> None:
        remove(path)
        found.append(trio.from_thread.run(told, writer.log.stored(), Selection()))

    monkeypatch.setattr(files, "_remove", remove_and_read)
    await trio.to_thread.run_sync(unlink_output, writer.log.path)
    assert len(whole) == 2
    assert [each for each in found if each != whole] == [[(0, None, "NOT_SYNCED", 10)]] * 3


async def test_an_index_that_is_gone_before_it_is_read(writer: Writer) -> None:
    """Where nothing tells any more which bytes of a running job's output are missing, none are made up."""
    write_long_story(writer)
    index_path(writer.log.path).unlink()
    with pytest.raises(OutputUnreadable, match="which tells what is missing of the output, is gone"):
        await told(writer.log, once())


async def test_what_a_power_cut_has_taken(story: Writer) -> None:
    """Bytes that were recorded and are not in the file are a gap of that reason, beside those that were never kept."""
    story.write(b"at end", is_lost=True)
    story.log.close()
    os.truncate(story.log.path, 31)
    assert (await told(story.log.stored(), once()))[-3:] == [
        (23, 4, "STDOUT", b"out 4\nou"),
        (31, None, "NOT_SYNCED", 4),
        (35, None, "NO_SPACE", 6),
    ]


async def test_what_was_dropped(tmp_path: Path, writer: Writer) -> None:
    """What the cap has taken is one gap, to every byte; live and stored are the same."""
    capped = Writer(OutputLog(tmp_path / "capped.log", Cap(SMALLEST)), pipe=writer.pipe)
    for number in range(100):
        writer.now += SECOND
        capped.write(bytes([number]) * 9_000)
    start, end = capped.log.dropped_range
    for output in (capped.log, capped.log.stored()):
        parts = await told(output, once())
        assert [(begin, what) for begin, _, name, what in parts if name == "CAPPED"] == [(start, end - start)]
        kept = b"".join(what for *_, what in parts if isinstance(what, bytes))
        assert kept == capped.written[:start] + capped.written[end:]
        assert (await told(output, once(FromOffset(end - 1))))[0] == (end - 1, None, "CAPPED", 1)
        assert (await told(output, once(Since(START + 100 * SECOND))))[0][:2] == (99 * 9_000, 100)
    capped.log.close()


@pytest.mark.parametrize("reads_parts", [True, False])
async def test_a_follower_that_is_overtaken(
    tmp_path: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch, *, reads_parts: bool
) -> None:
    """What is dropped while a follower looks where it is, is told as a gap, and no hole is read as bytes."""
    capped = Writer(OutputLog(tmp_path / "capped.log", Cap(SMALLEST)), pipe=writer.pipe)

    def fill() -> None:
        for _ in range(8):
            capped.write(b"x" * (SMALLEST // 8))  # as much as a pipe takes

    fill()
    run_at, looks = LiveFollower.run_at, 0

    async def overtaken(follower: LiveFollower, offset: int, *, in_detail: bool) -> Run:
        nonlocal looks
        run = await run_at(follower, offset, in_detail=in_detail)
        if isinstance(run.what, Stream) and looks < 20:
            looks += 1
            fill()  # the middle goes, with the place at which the follower is
        return run

    monkeypatch.setattr(LiveFollower, "run_at", overtaken)
    received = gone = 0
    async with aclosing(capped.log.read(once()) if reads_parts else capped.log.follow()) as parts:
        async for part in parts:
            match part:
                case GapPiece(start=start, end=end):
                    gone += end - start
                case Piece(stretch=stretch) | (Stretch() as stretch):
                    assert await bytes_of(stretch) == b"x" * stretch.length
                    received += stretch.length
            if not reads_parts and looks == 20:
                capped.log.seal()
    assert received >= capped.log.dropped_range[0] > 0
    assert gone == (SMALLEST - received if reads_parts else 0)
    capped.log.close()


async def test_an_output_of_single_bytes(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of one stream are looked for in so many runs, and from there on all is told."""
    monkeypatch.setattr(reading, "RUNS_AT_A_TIME", 8)
    monkeypatch.setattr(reading, "MOST_RUNS_SEARCHED", 32)
    for _ in range(200):
        writer.write(b"o", OUT, seconds=1)
        writer.write(b"e", ERR, seconds=1)
    (found,) = {piece[0] for piece in (await told(writer.log, once(LastLines(1), stream=OUT)))[:1]}
    assert 400 - 2 * 32 - 16 <= found <= 400 - 2 * 32 + 1
    assert (await told(writer.log, once(LastBytes(10), stream=OUT)))[0][0] == 380
