"""The output log and its followers, on real files."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Final, NoReturn

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from jobmaster.errors import OutputCut, OutputCutOff, OutputUnreadable
from jobmaster.output.cap import SMALLEST, Cap
from jobmaster.output.files import unlink_output
from jobmaster.output.followed_file import Stretch
from jobmaster.output.following import STRETCH_SIZE
from jobmaster.output.index import GapReason, Stream
from jobmaster.output.index_file import LATE, IndexFile
from jobmaster.output.log import OutputLog
from jobmaster.output.stored_output import StoredOutput
from jobmaster.output.survey import survey
from jobmaster.output.transfer import Transfer
from tests.output.stretches import bytes_of

DEADLINE: Final = 60.0


@pytest.fixture
def log(tmp_path: Path) -> Iterator[OutputLog]:
    """A fresh log, whose file is closed at the end."""
    fresh = OutputLog(tmp_path / "job.log")
    yield fresh
    fresh.close()


def write(log: OutputLog, data: bytes) -> None:
    """Does what the pump does."""
    assert os.pwrite(log.fd, data, log.size) == len(data)
    log.advance(len(data))


def sample(size: int) -> bytes:
    """Bytes without a pattern that a misplaced stretch would repeat."""
    return hashlib.shake_128(b"").digest(size)


async def read_all(log: OutputLog | StoredOutput, offset: int = 0) -> bytes:
    """Follows to the end."""
    with trio.fail_after(DEADLINE):
        async with aclosing(log.follow(offset)) as stretches:
            return b"".join([await bytes_of(stretch) async for stretch in stretches])


async def follow_into(log: OutputLog | StoredOutput, seen: bytearray, offset: int = 0) -> None:
    """Follows to the end and shows what has come so far."""
    with trio.fail_after(DEADLINE):
        async with aclosing(log.follow(offset)) as stretches:
            async for stretch in stretches:
                seen += await bytes_of(stretch)


async def next_into(stretches: AsyncGenerator[Stretch, None], seen: list[bytes]) -> None:
    """Waits for one stretch."""
    seen.append(await bytes_of(await anext(stretches)))


def test_only_its_owner_can_read_it(log: OutputLog) -> None:
    """The file is a regular one of mode 0600."""
    details = os.lstat(log.path)
    assert stat.S_ISREG(details.st_mode)
    assert stat.S_IMODE(details.st_mode) == 0o600


def test_an_existing_file_is_refused(tmp_path: Path) -> None:
    """A log never takes over what is there."""
    (tmp_path / "job.log").write_text("old")
    with pytest.raises(FileExistsError):
        OutputLog(tmp_path / "job.log")
    assert (tmp_path / "job.log").read_text() == "old"


@pytest.mark.parametrize("target_exists", [True, False])
def test_a_link_in_its_place_is_refused(tmp_path: Path, target_exists: bool) -> None:
    """A symbolic link at the path is not followed: its target is neither written nor made."""
    target = tmp_path / "target"
    if target_exists:
        target.write_text("precious")
    (tmp_path / "job.log").symlink_to(target)
    with pytest.raises(FileExistsError):
        OutputLog(tmp_path / "job.log")
    assert (target.read_text() == "precious") if target_exists else not target.exists()


async def test_a_follower_does_not_read_through_a_link(log: OutputLog, tmp_path: Path) -> None:
    """Whoever can write to the folder gets no other file read for it, while the job runs or after."""
    (tmp_path / "precious").write_text("precious")
    write(log, b"of the job")
    log.path.unlink()
    log.path.symlink_to(tmp_path / "precious")
    log.seal()
    assert await read_all(log) == b"of the job"
    with pytest.raises(OutputCut):
        await read_all(log.stored())


@pytest.mark.parametrize("size", [0, 1, STRETCH_SIZE, STRETCH_SIZE + 1, 3 * 2**20])
@pytest.mark.parametrize("offset", [0, 1, 2**16, 2**22])
async def test_all_from_an_offset(log: OutputLog, size: int, offset: int) -> None:
    """A follower of a sealed log gets every byte from its offset on, and then the end."""
    data = sample(size)
    write(log, data)
    log.seal()
    assert await read_all(log, offset) == data[offset:]


async def test_a_stretch_has_an_end(log: OutputLog) -> None:
    """However much there is to read, a stretch is at most STRETCH_SIZE."""
    write(log, bytes(3 * STRETCH_SIZE + 5))
    log.seal()
    assert [stretch.length async for stretch in log.follow()] == [STRETCH_SIZE] * 3 + [5]


async def test_a_stretch_is_read_into_places(log: OutputLog) -> None:
    """From any byte on, into as many places as there are; what does not fill them is not at hand."""
    data = sample(100)
    write(log, data)
    async with aclosing(log.follow()) as stretches:
        stretch = await anext(stretches)
        places = [bytearray(10), bytearray(1), bytearray(80)]
        assert stretch.read_at_once([memoryview(place) for place in places], 9)
        assert b"".join(places) == data[9:]
        assert not stretch.read_at_once([memoryview(bytearray(92))], 9)
        assert await stretch.read(95, 3) == data[95:98]
        assert await stretch.read(95, 30) == data[95:]


async def test_a_follower_is_live(log: OutputLog) -> None:
    """A follower waits for what is not there yet, and has it as soon as it is written, each time."""
    async with aclosing(log.follow()) as stretches:
        for data in (b"one", b"\0two\0", b"three"):
            seen: list[bytes] = []
            with trio.fail_after(DEADLINE):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(next_into, stretches, seen)
                    await wait_all_tasks_blocked()
                    assert seen == []
                    write(log, data)
            assert seen == [data]


async def test_followers_of_any_moment_see_the_same(log: OutputLog) -> None:
    """Followers from before, during and after the writing, at the start and in the middle, miss and repeat nothing."""
    pieces = [bytes([number]) * (number * 37) for number in range(100)]
    whole = b"".join(pieces)
    offsets = [0, 0, 1000] * 20
    seen = [bytearray() for _ in offsets]
    async with trio.open_nursery() as nursery:
        for index, (offset, buffer) in enumerate(zip(offsets, seen, strict=True)):
            if index % 2:
                nursery.start_soon(follow_into, log, buffer, offset)
        for position, piece in enumerate(pieces):
            write(log, piece)
            if position % 2 == 0 and position < len(offsets):
                nursery.start_soon(follow_into, log, seen[position], offsets[position])
            await trio.lowlevel.checkpoint()
        log.seal()
    assert [bytes(buffer) for buffer in seen] == [whole[offset:] for offset in offsets]
    assert await read_all(log) == whole


async def test_only_what_is_counted_is_seen(log: OutputLog) -> None:
    """Bytes that are in the file and not yet counted are not shown, though a stretch would have room for them."""
    os.pwrite(log.fd, b"counted and not", 0)
    log.advance(7)
    async with aclosing(log.follow()) as stretches:
        assert await bytes_of(await anext(stretches)) == b"counted"
        log.advance(8)
        assert await bytes_of(await anext(stretches)) == b" and not"


async def test_a_slow_follower_costs_the_others_nothing(log: OutputLog) -> None:
    """A follower that stopped reading keeps neither the writer nor another follower from the end."""
    async with aclosing(log.follow()) as slow:
        write(log, b"x" * (STRETCH_SIZE + 1))
        first = await bytes_of(await anext(slow))
        write(log, b"y" * STRETCH_SIZE)
        log.seal()
        fast = await read_all(log)
        assert first + b"".join([await bytes_of(stretch) async for stretch in slow]) == fast


async def test_sealing_ends_the_waiting(log: OutputLog) -> None:
    """A follower of a log without a byte ends when the log is sealed; sealing again is nothing."""
    seen = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow_into, log, seen)
        await wait_all_tasks_blocked()
        log.seal()
    log.seal()
    assert log.sealed
    assert seen == b""


async def test_what_is_kept_of_an_ended_job(log: OutputLog) -> None:
    """The output of an ended job is read from its file, as far as it is the job's, by whoever comes, however often."""
    data = sample(STRETCH_SIZE + 1)
    write(log, data)
    log.lose(7)
    log.seal()
    os.pwrite(log.fd, b"came late", len(data))  # by a thread that was given up
    stored = log.stored()
    assert (stored.kept, stored.lost, stored.sealed) == (len(data), 7, True)
    assert [await read_all(stored), await read_all(stored, 5), await read_all(stored, 2**30)] == [data, data[5:], b""]


async def test_a_file_that_is_removed(log: OutputLog) -> None:
    """When the file is removed, who was reading has the rest, and who comes then has an error."""
    data = sample(STRETCH_SIZE + 1)
    write(log, data)
    log.seal()
    stored = log.stored()
    async with aclosing(stored.follow()) as early:
        first = await bytes_of(await anext(early))
        log.path.unlink()
        assert first + b"".join([await bytes_of(stretch) async for stretch in early]) == data
    with pytest.raises(OutputCut, match=f"{len(data)} bytes less than was recorded"):
        await read_all(stored)


def put_in_its_place(path: Path, made: str) -> None:
    """Moves a file away, and has something else in its place."""
    path.rename(path.with_name("elsewhere"))
    match made:
        case "link":
            path.symlink_to("elsewhere")
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "file":
            path.write_bytes(b"of somebody else")


@pytest.mark.parametrize("made", ["link", "folder", "fifo", "file", "nothing"])
async def test_a_running_job_whose_file_was_replaced(log: OutputLog, made: str) -> None:
    """What it has written is read as long as it runs, and nothing else is taken for it."""
    write(log, b"of the job")
    put_in_its_place(log.path, made)
    before = os.listdir("/proc/self/fd")
    log.seal()
    assert await read_all(log) == b"of the job"
    assert os.listdir("/proc/self/fd") == before


async def test_a_descriptor_that_is_another_files_by_now(log: OutputLog, tmp_path: Path) -> None:
    """Where the job has ended meanwhile, no file is taken for its output that has got the number of its descriptor."""
    write(log, b"of the job")
    log.seal()
    put_in_its_place(log.path, "nothing")
    other = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR)
    os.dup2(other, log.fd)
    os.close(other)
    with pytest.raises(OutputUnreadable, match="No such file"):
        await read_all(log)


@pytest.mark.parametrize("made", ["link", "folder", "fifo"])
async def test_an_ended_job_whose_file_was_replaced(
    log: OutputLog, caplog: pytest.LogCaptureFixture, made: str
) -> None:
    """It is told as what is not there any more, and the log says why; it is removed all the same."""
    write(log, b"of the job")
    log.seal()
    put_in_its_place(log.path, made)
    with pytest.raises(OutputCut) as cut:
        await read_all(log.stored())
    assert cut.value.missing == 10
    assert "is no file: something else was put in its place" in caplog.text
    unlink_output(log.path)
    assert log.path not in set(log.path.parent.iterdir())


@pytest.mark.parametrize(("there", "offset"), [(STRETCH_SIZE + 2, 0), (4, 1), (0, 0), (4, 6)])
async def test_what_a_power_cut_has_left_is_read(log: OutputLog, there: int, offset: int) -> None:
    """Of an ended job whose file has less than was recorded, all that is there comes, and then how much is not."""
    data = sample(STRETCH_SIZE + 3)
    write(log, data)
    log.seal()
    os.truncate(log.path, there)
    received = bytearray()
    with pytest.raises(OutputCut) as cut:
        await follow_into(log.stored(), received, offset)
    assert (bytes(received), cut.value.missing) == (data[offset:there], len(data) - there)


async def test_no_file_is_needed_for_no_output(log: OutputLog) -> None:
    """Where a power cut has taken the empty file of a job without output, nothing is missing."""
    log.seal()
    log.path.unlink()
    assert await read_all(log.stored()) == b""


def test_a_fifo_in_its_place(log: OutputLog) -> None:
    """What comes after a server has died is not written to something that is no file."""
    write(log, b"kept")
    log.index_at(1)
    log.path.unlink()
    os.mkfifo(log.path)
    with pytest.raises(FileExistsError):
        OutputLog.reopen(log.path, lost=0)


def test_losses_add_up(log: OutputLog) -> None:
    """What is lost is counted beside what is kept, and which of it is still in the pipe."""
    write(log, b"kept")
    log.lose(3)
    log.lose(4, left_in_pipe=True)
    assert (log.size, log.lost, log.left_in_pipe) == (4, 7, 4)


async def test_a_file_that_was_cut_is_an_error(log: OutputLog, caplog: pytest.LogCaptureFixture) -> None:
    """When somebody shortened the file a follower is told from where on; it neither ends as if that were all nor waits."""
    write(log, b"0123456789")
    os.truncate(log.path, 4)
    with pytest.raises(OutputCutOff, match="all from byte 4 on is gone") as raised:
        await read_all(log)
    assert str(log.path) not in str(raised.value)
    assert str(log.path) in caplog.text


async def test_leaving_early_lets_go_of_the_file(log: OutputLog) -> None:
    """A follower that leaves, by closing or by cancellation, keeps no descriptor."""
    write(log, b"x" * (STRETCH_SIZE + 1))
    before = os.listdir("/proc/self/fd")
    async with aclosing(log.follow()) as stretches:
        await anext(stretches)
        assert os.listdir("/proc/self/fd") != before
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow_into, log, bytearray())
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert os.listdir("/proc/self/fd") == before


async def test_a_file_that_is_descriptor_0(log: OutputLog) -> None:
    """A follower's file is closed whatever its number, in a server that was started without stdin too."""
    write(log, b"output")
    stdin = os.dup(0)
    os.close(0)
    try:
        async with aclosing(log.follow()) as stretches:
            assert await bytes_of(await anext(stretches)) == b"output"
            assert os.path.samestat(os.fstat(0), log.path.stat())
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.fstat(0)
    finally:
        os.dup2(stdin, 0)
        os.close(stdin)


async def test_a_follower_that_never_waits_can_be_cancelled(log: OutputLog) -> None:
    """Where there is much to read and nobody holds the reader up, a cancelled one has no further stretch."""
    write(log, bytes(5 * STRETCH_SIZE))
    log.seal()
    seen = 0
    with trio.CancelScope() as scope:
        async with aclosing(log.follow()) as stretches:
            async for _ in stretches:
                seen += 1
                scope.cancel()
    assert (seen, scope.cancelled_caught) == (1, True)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
async def test_what_is_not_read_at_once_is_read_in_a_thread(
    log: OutputLog, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A cold page cache, or a file system without RWF_NOWAIT, changes nothing of what is read."""

    def refused(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "preadv", refused)
    write(log, b"cold\0bytes")
    log.seal()
    assert await read_all(log, 2) == b"ld\0bytes"


async def test_a_disk_error_is_an_error(log: OutputLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """EIO comes out: it is not an end."""

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", broken)
    write(log, b"lost")
    with pytest.raises(OutputUnreadable, match=os.strerror(errno.EIO)):
        await read_all(log)


# --- a server that follows --------------------------------------------------------------------------------------------


def broken_index(log: OutputLog, data: bytes) -> Path:
    """Closes a log whose index somebody has damaged."""
    log.close()
    path = log.path.with_suffix(".index")
    path.write_bytes(data)
    return path


async def test_an_index_that_is_unusable(log: OutputLog) -> None:
    """What is there is read, what was lost counts as lost somewhere in it, and what comes is kept with its time."""
    write(log, b"0123456789")
    broken_index(log, b"not an index")
    followed = OutputLog.reopen(log.path, lost=3)
    assert (followed.kept, followed.lost, followed.end) == (7, 3, 10)
    write(followed, b"more")
    followed.seal()
    assert await read_all(followed) == b"0123456789more"
    followed.close()
    assert await read_all(followed.stored()) == b"0123456789more"


@pytest.mark.parametrize("lost", [0, 3])
async def test_what_is_no_index(log: OutputLog, caplog: pytest.LogCaptureFixture, lost: int) -> None:
    """A folder in the place of the index is put aside, and that is told; the output goes on, with one where that is needed."""
    write(log, b"0123456789")
    broken_index(log, b"").unlink()
    log.path.with_suffix(".index").mkdir()
    followed = OutputLog.reopen(log.path, lost=lost)
    assert (followed.kept, followed.lost, followed.end) == (10, lost, 10 + lost)
    assert (log.path.parent / "job.index.aside").is_dir()
    followed.seal()
    assert await read_all(followed) == b"0123456789"
    followed.close()
    assert "was no file" in caplog.text


@pytest.mark.parametrize("made", ["folder", "link", "folder with a file"])
def test_what_was_put_aside_goes(log: OutputLog, caplog: pytest.LogCaptureFixture, made: str) -> None:
    """At the next opening, or with the output; what is in a folder is nobody's of the server's to remove, and that is told."""
    log.close()
    index, aside = log.path.with_suffix(".index"), log.path.with_suffix(".index.aside")
    for removes in (True, False):
        if made == "link":
            index.symlink_to("elsewhere")
        else:
            index.mkdir()
            if made == "folder with a file" and removes is False:
                (index / "file").touch()
        OutputLog.reopen(log.path, lost=0).close()
        assert os.path.lexists(aside)
        if not removes:
            unlink_output(log.path)
            assert not log.path.exists()
        else:
            OutputLog.reopen(log.path, lost=0).close()
            assert not os.path.lexists(aside)
    assert os.path.lexists(aside) == ("is left: Directory not empty" in caplog.text) == (made == "folder with a file")


@pytest.mark.parametrize("lost", [0, 3])
async def test_an_index_that_cannot_be_opened(
    log: OutputLog, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    """Where nothing is missing the output goes on without one, and that is told; else nobody could tell what is true."""
    write(log, b"0123456789")
    broken_index(log, b"")
    before = os.listdir("/proc/self/fd")

    def failing(*_: object) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(IndexFile, "reopen", failing)
    if lost:
        with pytest.raises(OSError, match="Input/output error"):
            OutputLog.reopen(log.path, lost=lost)
        assert os.listdir("/proc/self/fd") == before
        return
    followed = OutputLog.reopen(log.path, lost=0)
    assert (followed.kept, followed.lost) == (10, 0)
    followed.seal()
    assert await read_all(followed) == b"0123456789"
    followed.close()
    assert "nothing tells when the output came" in caplog.text


async def test_an_output_that_somebody_has_cut(log: OutputLog) -> None:
    """As far as the index knows that there was more, that counts as lost; what comes then is kept behind it."""
    for number in range(3):
        index = log.index_at(number * LATE)
        assert index is not None
        index.note(log.size, Stream.BOTH, number * LATE, 100)
        write(log, sample(100))
    log.close()
    os.truncate(log.path, 130)
    followed = OutputLog.reopen(log.path, lost=0)
    assert (followed.kept, followed.lost, followed.end) == (130, 70, 200)
    followed.seal()
    assert await read_all(followed) == sample(100) + sample(30)
    followed.close()


async def test_an_output_of_an_earlier_version(log: OutputLog) -> None:
    """Where there never was an index, all that is there is kept, and what was lost is a gap at its end."""
    write(log, b"0123456789")
    log.close()
    followed = OutputLog.reopen(log.path, lost=3)
    assert (followed.kept, followed.lost, followed.size, followed.end) == (10, 3, 10, 13)
    followed.seal()
    assert await read_all(followed) == b"0123456789"
    followed.close()
    assert log.path.read_bytes() == b"0123456789"


def test_a_log_whose_disk_is_full_is_reopened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An output that lost bytes and has no index yet goes on without one, with its loss."""
    path = tmp_path / "job.log"
    path.write_bytes(b"kept")

    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(IndexFile, "reopen", full)
    log = OutputLog.reopen(path, lost=5)
    assert (log.kept, log.lost, log.end, log.has_lost.is_set()) == (4, 5, 9, True)
    log.close()


@pytest.mark.parametrize(
    ("cap", "reason"), [(None, GapReason.NO_SPACE), (Cap(SMALLEST, ends_job=True), GapReason.CAPPED)]
)
def test_a_loss_that_was_not_recorded_before_a_kill(tmp_path: Path, cap: Cap | None, reason: GapReason) -> None:
    """How much was lost, and why, is told by index and file: an offset means the same byte for a server that comes later."""
    log = OutputLog(tmp_path / "job.log", cap)
    os.write(log.fd, bytes(SMALLEST))
    index = log.index_at(1)
    assert index is not None
    index.note(0, Stream.BOTH, 1, SMALLEST)
    log.advance(SMALLEST)
    log.room.why_full = None if cap else "too much"
    for count in (100, 50):
        read_end, write_end = os.pipe()
        os.write(write_end, bytes(count))
        log.record(Transfer(read_end, Stream.BOTH, log, log.plan(), splice=True).run(count))
        os.close(read_end)
        os.close(write_end)
    for fd in (log.fd, index.fd):
        os.close(fd)  # as a kill does

    found = survey(log.path)
    gone = (150, 0) if cap is None else (0, 150)
    assert (found.kept, found.lost, found.dropped) == (SMALLEST, *gone)
    for _ in range(2):
        followed = OutputLog.reopen(log.path, lost=0, cap=cap)
        assert (followed.kept, followed.lost, followed.dropped) == (SMALLEST, *gone)
        assert followed.is_full.is_set() == (cap is not None), "nobody else orders the end of a job that writes no more"
        assert followed.gap is not None
        assert (followed.gap.gap.start, followed.gap.gap.reason, followed.gap.length) == (SMALLEST, reason, 150)
        assert followed.index is not None
        for fd in (followed.fd, followed.index.fd):
            os.close(fd)


@pytest.mark.parametrize(
    ("kept", "lost", "dropped", "cap", "is_full"),
    [
        (SMALLEST, 0, 0, Cap(SMALLEST, ends_job=True), False),
        (SMALLEST, 0, 1, Cap(SMALLEST, ends_job=True), True),
        (
            SMALLEST,
            1,
            0,
            Cap(SMALLEST, ends_job=True),
            True,
        ),  # a damaged index does not tell any more why it is missing
        (SMALLEST - 1, 1, 0, Cap(SMALLEST, ends_job=True), False),
        (SMALLEST, 0, 1, Cap(SMALLEST), False),
    ],
)
def test_a_cap_that_was_reached_before(
    tmp_path: Path, kept: int, lost: int, dropped: int, cap: Cap, is_full: bool
) -> None:
    """A job that is to end when its output is full is one that has written more than its cap, not only as much."""
    path = tmp_path / "job.log"
    path.write_bytes(bytes(kept))
    log = OutputLog.reopen(path, lost=lost, dropped=dropped, cap=cap)
    assert log.is_full.is_set() == is_full
    log.close()
