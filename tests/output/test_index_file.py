"""The index's file: what it says of every byte, whatever a crash or a bad disk has left of it."""

from __future__ import annotations

import itertools
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobmaster.output import index_file
from jobmaster.output.holes import BLOCK
from jobmaster.output.index import ENTRY_SIZE, HEADER_SIZE, SLOT_SIZE, SLOTS, Entry, GapReason, Stream
from jobmaster.output.index_file import CLOSING, LATE, MANY, RESERVED, SOON, Gap, IndexFile
from jobmaster.output.index_reader import entry_position, stored_view
from jobmaster.output.index_search import IndexView, Run

EPOCH = 1_790_000_000_000_000
NO_BYTE = "."
LETTERS = {Stream.BOTH: "b", Stream.STDOUT: "o", Stream.STDERR: "e"}


@dataclass(frozen=True)
class Data:
    """Bytes come."""

    count: int
    passed: int
    stream: Stream = Stream.BOTH


@dataclass(frozen=True)
class Lost:
    """Bytes are lost, and then one is kept."""

    count: int
    passed: int
    reason: GapReason = GapReason.NO_SPACE
    stream: Stream = Stream.BOTH


Step = Data | Lost
STREAMS = st.sampled_from(Stream)
COUNTS = st.integers(1, 150)
PASSED = st.integers(0, 2 * LATE)
STEPS = st.lists(
    st.builds(Data, COUNTS, PASSED, STREAMS) | st.builds(Lost, COUNTS, PASSED, st.sampled_from(GapReason), STREAMS),
    max_size=12,
)
TRIES = settings(deadline=None, max_examples=int(os.environ.get("INDEX_EXAMPLES", "60")))


@dataclass
class Written:
    """An index, and what is true of the output: a letter for each byte.

    Attributes:
        before: what the index's file was before the last step, and the output then.
    """

    index: IndexFile
    truth: str = ""
    now: int = EPOCH
    times: list[int] = field(default_factory=list)
    before: tuple[bytes, str] = (b"", "")

    def do(self, step: Step) -> None:
        """Writes as the pump does."""
        self.before = contents(self.index.fd), self.truth
        self.now += step.passed
        if isinstance(step, Data):
            self.index.note(len(self.truth), step.stream, self.now, step.count)
            self._put(LETTERS[step.stream] * step.count)
        else:
            gap = Gap(len(self.truth), self.now, step.reason)
            end = gap.start + step.count
            self.index.announce_gap(gap, end, step.stream, self.now)
            self.index.confirm_gap(end, step.stream, self.now)
            self._put(NO_BYTE * step.count + LETTERS[step.stream])

    def _put(self, letters: str) -> None:
        self.truth += letters
        self.times += [self.now] * len(letters)


def contents(fd: int) -> bytes:
    """All of a file."""
    return os.pread(fd, os.fstat(fd).st_size, 0)


@contextmanager
def written(steps: list[Step]) -> Iterator[Written]:
    """An index after these steps."""
    with tempfile.TemporaryDirectory() as folder:
        made = Written(IndexFile(Path(folder) / "job.index", EPOCH))
        for step in steps:
            made.do(step)
        yield made
        made.index.close()


def path_of(made: Written) -> Path:
    """Where its file is."""
    return Path(os.readlink(f"/proc/self/fd/{made.index.fd}"))


def told(view: IndexView, size: int, start: int = 0) -> str:
    """What an index says of each byte from one on."""
    letters = ""
    for run in view.runs(start):
        end = size if run.end is None else min(run.end, size)
        begin = max(run.start, start + len(letters))
        assert begin == start + len(letters), "runs leave nothing out"
        letters += (NO_BYTE if isinstance(run.what, GapReason) else LETTERS[run.what]) * (end - begin)
        if end >= size:
            break
    return letters


def kept(letters: str) -> str:
    """Which of the bytes are there."""
    return "".join(NO_BYTE if letter == NO_BYTE else "x" for letter in letters)


@contextmanager
def reopened(path: Path, size: int) -> Iterator[IndexFile]:
    """As a server that follows has it."""
    index = IndexFile.reopen(path, size, EPOCH)
    yield index
    index.close()


@given(STEPS)
@TRIES
def test_every_byte_is_told_as_it_is(steps: list[Step]) -> None:
    """Of each byte the index says whether it is there and of which stream, from wherever it is asked."""
    with written(steps) as made:
        for start in {0, len(made.truth) // 3, max(0, len(made.truth) - 1)}:
            assert told(made.index.view, len(made.truth), start) == made.truth[start:]
        assert made.index.lost == made.truth.count(NO_BYTE)
        view = stored_view(made.index.fd)
        assert view is not None
        assert told(view, len(made.truth)) == made.truth


@given(STEPS)
@TRIES
def test_times_are_true(steps: list[Step]) -> None:
    """A byte's time is that at which it came, or at most LATE before it."""
    with written(steps) as made:
        for run in made.index.view.runs(0):
            end = len(made.truth) if run.end is None else run.end
            if isinstance(run.what, Stream):
                assert run.time is not None or end == run.start
                passed = [made.times[offset] - (run.time or 0) for offset in range(run.start, end)]
                assert all(-LATE <= each < LATE + 10 for each in passed)
                assert all(each > -10 for each in passed)
            if run.end is None:
                break


@given(STEPS, st.data())
@TRIES
def test_a_crash_at_any_byte(steps: list[Step], data: st.DataObject) -> None:
    """What a step had written of the index when the server died, to any byte, does no harm: the output had not gone on."""
    with written(steps) as made:
        after, (before, truth) = contents(made.index.fd), made.before
        if not before:
            return
        changed = [place for place in range(len(after)) if before[place : place + 1] != after[place : place + 1]]
        cut = data.draw(st.sampled_from([0, *(place + 1 for place in changed)]))
        path_of(made).write_bytes(after[:cut] + before[cut:])
        with reopened(path_of(made), len(truth)) as index:
            assert told(index.view, len(truth)) == truth
            assert (index.lost, index.output_size) == (truth.count(NO_BYTE), len(truth))
            its = Written(index, truth, made.now, list(made.times[: len(truth)]))
            its.do(Lost(5, 0))
            its.do(Data(7, LATE, Stream.STDERR))
            assert told(index.view, len(its.truth)) == its.truth


@given(STEPS, st.data())
@TRIES
def test_a_flipped_bit(steps: list[Step], data: st.DataObject) -> None:
    """No single bit lets a gap pass for bytes or bytes for a gap, with an index that is read and one that is gone on with."""
    with written(steps) as made:
        whole = bytearray(contents(made.index.fd))
        places = [*(slot + place for slot in SLOTS for place in range(SLOT_SIZE)), *range(HEADER_SIZE, len(whole))]
        whole[data.draw(st.sampled_from(places))] ^= 1 << data.draw(st.integers(0, 7))
        path_of(made).write_bytes(whole)
        view = stored_view(made.index.fd)
        assert view is not None
        assert kept(told(view, len(made.truth))) == kept(made.truth)
        with reopened(path_of(made), len(made.truth)) as index:
            assert kept(told(index.view, len(made.truth))) == kept(made.truth)
            assert index.lost == made.truth.count(NO_BYTE)


@given(STEPS, st.data())
@TRIES
def test_a_truncation_by_hand(steps: list[Step], data: st.DataObject) -> None:
    """However short somebody has made it, it is usable, loses no byte, and tells every gap that it still has whole."""
    with written(steps) as made:
        length = data.draw(st.integers(0, len(contents(made.index.fd))))
        os.truncate(path_of(made), length)
        with reopened(path_of(made), len(made.truth)) as index:
            says = told(index.view, len(made.truth))
            assert len(says) == len(made.truth)
            lost = [offset for offset in range(len(says)) if says[offset] == NO_BYTE != made.truth[offset]]
            assert lost == []
            assert length > HEADER_SIZE or NO_BYTE not in says
            index.note(len(made.truth), Stream.BOTH, made.now + LATE, 1)
            assert told(index.view, len(made.truth) + 1) == says + "b"


@given(STEPS, st.data())
@TRIES
def test_an_output_that_was_cut(steps: list[Step], data: st.DataObject) -> None:
    """Where somebody has cut the output, the index ends with it, at a byte and not in a gap."""
    with written(steps) as made:
        size = data.draw(st.integers(0, len(made.truth)))
        while made.truth[size - 1 : size] == NO_BYTE:
            size -= 1
        cut = next((end for end in range(size, len(made.truth)) if made.truth[end] != NO_BYTE), len(made.truth))
        for there in {size, cut - 1 if cut > size else size}:
            path_of(made).write_bytes(contents(made.index.fd))
            with reopened(path_of(made), there) as index:
                assert index.output_size == size
                assert told(index.view, size) == made.truth[:size]
                assert index.lost == made.truth[:size].count(NO_BYTE)
            return


def test_a_gap_that_was_not_closed() -> None:
    """A server that dies between the index and the output leaves a gap open, and how much it had at least."""
    with written([Data(10, 0), Lost(3, LATE)]) as made:
        made.index.announce_gap(Gap(14, made.now, GapReason.DISK_FAILED), 20, Stream.BOTH, made.now)
        for _ in range(2):  # as long as it is open
            with reopened(path_of(made), 14) as index:
                assert (index.unclosed, index.lost, index.output_size) == (6, 3, 14)
                assert told(index.view, 14) == made.truth


def test_a_header_whose_writing_is_interrupted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the one server and the next are interrupted, or the disk fails in between, a header is left."""
    for torn in itertools.product(range(2), repeat=3):
        with written([Data(10, 0)]) as made:
            index = made.index
            for is_second in torn:
                _tear(index, is_second, monkeypatch)
                with reopened(path_of(made), 10) as index:
                    assert not index.was_unusable
                    _tear(index, not is_second, monkeypatch)
                    _tear(index, is_second, monkeypatch)
                with reopened(path_of(made), 10) as index:
                    assert not index.was_unusable
                index = made.index


def _tear(index: IndexFile, is_second: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupts the writing of a header in one of its slots."""
    left = [is_second]

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if left[0] == 0:
            os_pwrite(fd, data[: len(data) // 2], offset)
            raise OSError(5, "torn")
        left[0] -= 1
        return os_pwrite(fd, data, offset)

    os_pwrite = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        with pytest.raises(OSError, match="torn"):
            index.put_header(index.header)


def test_a_gap_that_was_closed() -> None:
    """The output's size tells that it was, also where the server died before the first byte behind it."""
    with written([Data(10, 0)]) as made:
        made.index.announce_gap(Gap(10, made.now, GapReason.DISK_FAILED), 20, Stream.BOTH, made.now)
        with reopened(path_of(made), 20) as index:
            assert (index.unclosed, index.lost, index.output_size) == (0, 10, 20)
            assert told(index.view, 21) == "b" * 10 + NO_BYTE * 10 + "b"


def test_a_gap_that_is_given_up_is_closed_later() -> None:
    """What was announced in vain leaves no trace when the gap has grown and is closed after all."""
    with written([Data(10, 0)]) as made:
        made.index.announce_gap(Gap(10, made.now, GapReason.DISK_FAILED), 20, Stream.BOTH, made.now)
        made.do(Lost(15, LATE))
        made.do(Data(1, LATE))
        assert told(made.index.view, len(made.truth)) == made.truth
        with reopened(path_of(made), len(made.truth)) as index:
            assert (index.lost, told(index.view, len(made.truth))) == (15, made.truth)


def test_an_end_with_a_gap() -> None:
    """The gap at an output's end has its reason in the index, which another server takes for what it was: not closed."""
    with written([Data(10, 0)]) as made:
        made.index.end_with_gap(Gap(10, made.now, GapReason.DISK_FAILED))
        view = stored_view(made.index.fd)
        assert view is not None
        assert list(view.runs(10)) == [Run(10, None, made.now, GapReason.DISK_FAILED)]
        with reopened(path_of(made), 10) as index:
            assert told(index.view, 11) == "b" * 11


def test_how_many_entries_there_are() -> None:
    """One when the stream changes, one SOON after the last where many bytes came, and one LATE after it else."""
    with written([]) as made:
        counts = []
        for step in (
            Data(1, 0),
            Data(MANY, SOON - 10),
            Data(1, 10),
            Data(1, SOON),
            Data(1, LATE - SOON),
            Data(1, 0, Stream.STDERR),
            Data(1, 0, Stream.STDERR),
        ):
            made.do(step)
            counts.append(made.index.count)
        assert counts == [1, 1, 2, 2, 3, 4, 4]


@pytest.mark.parametrize("count", [1, 15, MANY])
def test_an_output_that_takes_forever(count: int) -> None:
    """Entries of few bytes take a few steps, however many there are; each doubles how long a byte shares its time."""
    with written([]) as made:
        index, offset = made.index, 0
        index.step_size = step = 32 * ENTRY_SIZE
        for number in range(30_000):
            index.note(offset, Stream.BOTH, EPOCH + number * LATE, count)
            offset += count
        doublings = (30_000 // 32).bit_length()
        assert index.size <= (doublings + 1) * step + offset * ENTRY_SIZE // MANY
        times = [run.time or 0 for run in index.view.runs(0)]
        assert len(times) * ENTRY_SIZE == index.size
        assert max(later - earlier for earlier, later in pairwise(times)) <= LATE << doublings
        index.note(offset, Stream.BOTH, EPOCH + 10**6 * LATE, 1)
        assert index.last == Entry(offset, EPOCH + 10**6 * LATE, Stream.BOTH), (
            "what comes after a pause has its own time"
        )


def test_a_clock_that_is_set_back() -> None:
    """Times never go back, so that they can be searched; by then nothing is missing."""
    with written([Data(5, LATE)]) as made:
        made.now -= LATE // 2
        made.index.note(5, Stream.STDERR, made.now, 1)
        assert [run.time for run in made.index.view.runs(0)] == [EPOCH + LATE] * 2


def test_offsets_of_times() -> None:
    """A time's offset is that of the first byte that came then or later; None where none did."""
    with written([Data(10, 0), Data(10, LATE), Lost(5, LATE), Data(10, LATE)]) as made:
        found = [made.index.view.offset_at(EPOCH + passed) for passed in (-1, 0, 1, LATE, 2 * LATE, 3 * LATE)]
        assert found == [0, 0, 10, 10, 20, 26]
        assert made.index.view.offset_at(EPOCH + 3 * LATE + 10) is None


@given(st.lists(st.integers(1, 5), min_size=1, max_size=600), st.data())
@TRIES
def test_what_was_dropped(counts: list[int], data: st.DataObject) -> None:
    """The range that was dropped is a gap, also to a server that follows; around it all is as it was."""
    with written([Data(count, LATE) for count in counts]) as made:
        size = len(made.truth)
        start = data.draw(st.integers(0, size))
        end = start
        for _ in range(2):
            end = data.draw(st.integers(end, size))
            made.index.drop(start, end)
        truth = made.truth[:start] + NO_BYTE * (end - start) + made.truth[end:]
        assert told(made.index.view, size) == truth
        assert told(made.index.view, size, end) == truth[end:]
        assert made.index.header.dropped == end - start
        with reopened(path_of(made), size) as index:
            assert told(index.view, size) == truth
            assert index.view.offset_at(EPOCH) == 0
            for offset in range(end, size, 97):
                assert index.view.offset_at(made.times[offset]) is not None
            index.note(size, Stream.STDERR, made.now, 1)
            assert told(index.view, size + 1) == truth + "e"


def test_what_was_lost_is_not_dropped_too() -> None:
    """Of a range with a gap in it, only the bytes that were there count as dropped."""
    with written([Data(10, 0), Lost(6, LATE), Data(10, LATE), Lost(5, LATE)]) as made:
        made.index.drop(4, 13)
        made.index.drop(4, 20)
        assert (made.index.header.dropped, made.index.lost) == (10, 11)


def test_dropped_entries_are_given_back() -> None:
    """Blocks of entries of the dropped range are holes, and no others."""
    with written([Data(1, LATE)] * 2000) as made:
        fd = made.index.fd
        start = -(-entry_position(9) // BLOCK) * BLOCK
        assert os.lseek(fd, start, os.SEEK_DATA) == start
        made.index.drop(10, 1900)
        assert os.lseek(fd, 0, os.SEEK_HOLE) == start
        assert os.lseek(fd, start, os.SEEK_DATA) == entry_position(1898) // BLOCK * BLOCK


def test_room_for_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that has become full, times are no longer noted where there is no room but that of gaps, which are."""
    with written([Data(1, LATE)]) as made:

        def full(*_: object) -> None:
            raise OSError(28, "no space")

        monkeypatch.setattr(index_file, "allocate", full)
        for _ in range(300):
            made.index.note(1, Stream.BOTH, made.now + LATE * (made.index.count + 1), 1)
        most = BLOCK // ENTRY_SIZE
        assert made.index.count == most - RESERVED
        for _ in range(RESERVED // CLOSING):
            made.do(Lost(1, LATE))
        assert os.fstat(made.index.fd).st_size == HEADER_SIZE + BLOCK


def test_its_file(tmp_path: Path) -> None:
    """It is a regular file of mode 0600, and never takes over what is there."""
    index = IndexFile(tmp_path / "job.index", EPOCH)
    details = os.fstat(index.fd)
    assert stat.S_ISREG(details.st_mode)
    assert stat.S_IMODE(details.st_mode) == 0o600
    assert not os.get_inheritable(index.fd)
    with pytest.raises(FileExistsError):
        IndexFile(tmp_path / "job.index", EPOCH)
    index.close()
    index.close()


@pytest.mark.parametrize("made", ["link", "fifo"])
def test_what_is_no_index(tmp_path: Path, made: str) -> None:
    """A link is not followed and a FIFO not waited for; no descriptor is left."""
    path = tmp_path / "job.index"
    if made == "link":
        (tmp_path / "target").write_bytes(b"precious")
        path.symlink_to(tmp_path / "target")
    else:
        os.mkfifo(path)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match=r"job\.index"):
        IndexFile.reopen(path, 0, EPOCH)
    assert os.listdir("/proc/self/fd") == before
    assert made == "fifo" or (tmp_path / "target").read_bytes() == b"precious"


def test_an_index_that_is_not_there(tmp_path: Path) -> None:
    """A new one is begun, which knows no times of what was there, and goes on from then."""
    with reopened(tmp_path / "job.index", 100) as index:
        assert list(index.view.runs(0)) == [Run(0, None, None, Stream.BOTH)]
        index.note(100, Stream.STDERR, EPOCH, 5)
        assert list(index.view.runs(0)) == [Run(0, 100, None, Stream.BOTH), Run(100, None, EPOCH, Stream.STDERR)]
        assert index.last == Entry(100, EPOCH, Stream.STDERR)
        assert (index.output_size, index.was_unusable) == (100, False)
