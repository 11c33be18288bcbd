"""The task that writes: who waits for it, what becomes of what the disk does not take, and what is lost is counted."""

from __future__ import annotations

import errno
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from jobmaster.audit import trail as audit_trail
from jobmaster.audit.file import FileBounds
from jobmaster.audit.names import AUDIT, BALLAST, current_file
from jobmaster.audit.trail import MAX_QUEUED, MOST_IN_BATCH, Trail
from jobmaster.errors import AuditUnavailable
from jobmaster.journal.ballast import BALLAST_BYTES, Ballast
from tests.audit.disk import Disk, faulty_disk
from tests.audit.entries import begun, call, calls_in, change, entries_in
from tests.audit.opened import open_trail

BOUNDS = FileBounds(size=1 << 24, kept=3)
DEADLINE = 30.0


@pytest.fixture
def disk() -> Iterator[Disk]:
    """A disk that does as it is told."""
    with faulty_disk() as disk:
        yield disk


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails is tried again soon."""
    monkeypatch.setattr(audit_trail, "RETRY_SECONDS", 0.01)


@asynccontextmanager
async def writing(folder: Path) -> AsyncIterator[Trail]:
    """A trail with a ballast."""
    with trio.fail_after(DEADLINE):
        async with open_trail(folder, AUDIT, BOUNDS, ballast=Ballast(folder / BALLAST)) as trail:
            yield trail


async def started(trail: Trail) -> None:
    """Returns when the beginning of a Start is written."""
    await trail.wait_written(trail.admit(begun()))


async def until_admitted(trail: Trail) -> None:
    """Returns when Starts are taken again."""
    while not trail.is_writable:
        await trio.sleep(0.01)


def outcomes(folder: Path) -> list[str]:
    """The outcomes of all calls, in their order."""
    return [entry["outcome"] for entry in calls_in(folder)]


async def test_what_is_put_is_written_in_order(tmp_path: Path) -> None:
    """All of it, more than one batch of it, and that the trail was closed, by the block's end."""
    wanted = [f"N{number}" for number in range(1000)]
    async with writing(tmp_path) as trail:
        for outcome in wanted:
            trail.put(call(outcome))
    assert outcomes(tmp_path) == wanted
    assert entries_in(tmp_path)[-1]["kind"] == "closed"


async def test_a_cancelled_server_writes_what_it_has(tmp_path: Path) -> None:
    """Being cancelled ends no entry that was put before."""
    with trio.CancelScope() as scope:
        async with writing(tmp_path) as trail:
            trail.put(call())
            scope.cancel()
            trail.put(call())
            await trio.sleep_forever()
    assert len(calls_in(tmp_path)) == 2


async def test_a_start_waits_until_its_beginning_is_written(tmp_path: Path, disk: Disk) -> None:
    """Others do not."""
    async with writing(tmp_path) as trail:
        disk.answers.clear()
        trail.put(call("STOP"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(started, trail)
            await trio.testing.wait_all_tasks_blocked()
            assert not entries_in(tmp_path)
            disk.answers.set()
        assert [entry["kind"] for entry in entries_in(tmp_path)] == ["call", "begun"]


async def test_a_disk_that_does_not_answer(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Start is refused in time, the next one at once, and both may start when it answers; its end is told once."""
    monkeypatch.setattr(audit_trail, "START_SECONDS", 0.05)
    async with writing(tmp_path) as trail:
        disk.answers.clear()
        line = trail.admit(begun())
        with pytest.raises(AuditUnavailable, match="its disk does not answer, and so nothing is started"):
            await trail.wait_written(line)
        with pytest.raises(AuditUnavailable, match="does not answer"):
            trail.admit(begun())
        trail.put(call("UNAVAILABLE"), begun=line)
        disk.answers.set()
        await until_admitted(trail)
        await started(trail)
    kinds = [(entry["kind"], entry.get("begun")) for entry in entries_in(tmp_path)]
    assert kinds == [("begun", None), ("call", 1), ("begun", None), ("closed", None)]


async def test_a_full_disk_refuses_starts_alone(tmp_path: Path, disk: Disk) -> None:
    """Its ballast is given up for what happens all the same, of which nothing is lost; then all is as before."""
    async with writing(tmp_path) as trail:
        ballast = tmp_path / BALLAST
        assert ballast.stat().st_blocks * 512 >= BALLAST_BYTES
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Ballast, "fill", _no_space)
            disk.space = 100  # the first write is cut short
            free, patched = Ballast.free, disk

            def give_up(self: Ballast) -> bool:
                patched.space = None
                return free(self)

            patch.setattr(Ballast, "free", give_up)
            trail.put(call("STOP"))
            with pytest.raises(AuditUnavailable, match="its disk is nearly full"):
                await started(trail)
            for outcome in ("REMOVE", "READ"):
                trail.put(call(outcome))
            with pytest.raises(AuditUnavailable, match="its disk is nearly full"):
                trail.admit(begun())
            assert ballast.stat().st_size == 0
        await until_admitted(trail)
        assert ballast.stat().st_blocks * 512 >= BALLAST_BYTES
        await started(trail)
    assert outcomes(tmp_path) == ["STOP", "REMOVE", "READ"]


def _no_space(_self: Ballast) -> None:
    raise OSError(errno.ENOSPC, "no space")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
async def test_what_a_disk_does_not_take_is_written_later(tmp_path: Path, disk: Disk, error: int) -> None:
    """Also where the ballast does not help: it waits in the queue, and Starts are refused meanwhile."""
    async with writing(tmp_path) as trail:
        disk.error = error
        wanted = [f"N{number}" for number in range(300)]
        for outcome in wanted:
            trail.put(call(outcome))
        while trail.is_writable:
            await trio.sleep(0.01)
        with pytest.raises(AuditUnavailable, match="its disk"):
            trail.admit(begun())
        disk.error = None
        await until_admitted(trail)
    assert outcomes(tmp_path) == wanted


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errno.EDQUOT, "its disk is full"),
        (errno.EIO, "its disk fails"),
        (errno.EROFS, "its disk is read-only"),
        (errno.EPERM, "the server may not write it"),
        (errno.EFBIG, "its file may not become larger"),
    ],
)
async def test_why_a_start_is_refused(tmp_path: Path, disk: Disk, error: int, words: str) -> None:
    """Its caller is told what is wrong, and nothing of the server's files; also who waits already."""
    async with open_trail(tmp_path, AUDIT, BOUNDS) as trail:
        disk.error = error
        for _ in range(2):
            with pytest.raises(
                AuditUnavailable, match=f"the server's audit cannot be written: {words}, and so nothing"
            ):
                await started(trail)
        disk.error = None


@pytest.mark.parametrize("in_its_place", ["nothing", "a folder", "a link"])
async def test_an_audit_that_was_moved_away(tmp_path: Path, in_its_place: str) -> None:
    """No disk is blamed for what somebody has done to the audit's folder or file."""
    folder = tmp_path / "audit"
    folder.mkdir()
    async with writing(folder) as trail:
        await started(trail)
        current = current_file(folder, AUDIT)
        match in_its_place:
            case "nothing":
                words = "its folder is not in its place"
                folder.rename(tmp_path / "elsewhere")
            case "a folder":
                words = "there is something else in its file's place"
                current.unlink()
                current.mkdir()
            case _:
                words = "there is something else in its file's place"
                current.unlink()
                current.symlink_to("elsewhere")
        for _ in range(2):
            with pytest.raises(AuditUnavailable, match=words):
                await started(trail)


async def test_a_ballast_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk is called nearly full where it is, and by what it says else."""
    error = errno.EROFS

    def fill(_ballast: Ballast) -> None:
        raise OSError(error, "broken")

    monkeypatch.setattr(Ballast, "fill", fill)
    for error, words in ((errno.EROFS, "its disk is read-only"), (errno.ENOSPC, "its disk is nearly full")):  # noqa: B007  # it is `fill`'s
        async with writing(tmp_path) as trail:
            with pytest.raises(AuditUnavailable, match=words):
                trail.admit(begun())


async def test_what_is_lost_is_counted(tmp_path: Path, disk: Disk) -> None:
    """Where the queue is full, a gap says how many entries are missing, after those before them; and Starts are refused."""
    async with writing(tmp_path) as trail:
        disk.error = errno.EIO
        trail.put(call("N0"))
        while trail.is_writable:
            await trio.sleep(0.01)
        for number in range(1, MAX_QUEUED + 25):
            trail.put(call(f"N{number}"))
        disk.error = None
        await until_admitted(trail)
        while trail._queue:
            await trio.sleep(0.01)
        trail.put(call("AFTER"))
    found = [entry for entry in entries_in(tmp_path) if entry["kind"] in {"call", "gap"}]
    assert [entry["kind"] for entry in found] == ["call"] * MAX_QUEUED + ["gap", "call"]
    assert (found[-2]["count"], found[-2]["why"], found[-1]["outcome"]) == (25, "its disk fails", "AFTER")
    assert found[-2]["since"] <= found[-2]["time"]


async def test_what_has_waited_is_written_without_a_pause(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a disk takes entries again, batch follows batch, and a Start that comes behind them is soon admitted."""
    monkeypatch.setattr(audit_trail, "GATHER_SECONDS", 3600.0)
    async with writing(tmp_path) as trail:
        disk.answers.clear()
        for number in range(3 * MOST_IN_BATCH + 5):
            trail.put(call(f"N{number}"))
        line = trail.admit(begun())
        disk.answers.set()
        await trail.wait_written(line)
        assert not trail._queue


async def test_the_queue_is_bounded_in_bytes(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large commands count as what they hold."""
    monkeypatch.setattr(audit_trail, "MAX_QUEUED_BYTES", 100_000)
    async with writing(tmp_path) as trail:
        disk.answers.clear()
        for _ in range(20):
            trail.put(call(words=("x" * 10_000,)))
        with pytest.raises(AuditUnavailable, match="too many entries"):
            trail.admit(begun())
        disk.answers.set()
    gaps = [entry["count"] for entry in entries_in(tmp_path) if entry["kind"] == "gap"]
    assert len(calls_in(tmp_path)) + sum(gaps) == 20
    assert gaps


async def test_what_is_recorded_is_told_by_number(tmp_path: Path, disk: Disk) -> None:
    """How many of some entries are written, in their order; the others are not lost, but their owner's."""
    async with writing(tmp_path) as trail:
        assert await trail.record([change(1), change(2)]) == 2
        disk.error = errno.EIO
        assert await trail.record([change(3), change(4)]) == 0
        disk.error = None
        await trail.wait_writable()
        assert await trail.record([change(3)]) == 1
    found = [entry["journal_sequence"] for entry in entries_in(tmp_path) if entry["kind"] == "job"]
    assert found == [1, 2, 3]


async def test_a_disk_that_fails_while_the_queue_is_full(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what waits for room, nothing is written that follows an entry which is not."""
    monkeypatch.setattr(audit_trail, "MAX_QUEUED", 20)
    monkeypatch.setattr(audit_trail, "RETRY_SECONDS", 0.1)
    changes = [change(number) for number in range(1, 51)]

    async def copy(trail: Trail) -> None:
        written = 0
        while written < len(changes):
            written += await trail.record(changes[written:])
            await trail.wait_writable()

    async with writing(tmp_path) as trail, trio.open_nursery() as nursery:
        disk.error = errno.EIO
        nursery.start_soon(copy, trail)
        while trail.is_writable:  # noqa: ASYNC110  # a thread writes it
            await trio.sleep(0.001)
        disk.error = None
    found = [entry["journal_sequence"] for entry in entries_in(tmp_path) if entry["kind"] == "job"]
    assert found == list(range(1, 51))


async def test_a_disk_that_does_not_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts are refused until it does: what was written may not be there after a power cut."""
    monkeypatch.setattr(audit_trail, "SYNC_SECONDS", 0.0)
    fails = True

    def sync(_descriptor: int) -> None:
        if fails:
            raise OSError(errno.EIO, "broken")

    monkeypatch.setattr("jobmaster.audit.file.os.fdatasync", sync)
    async with writing(tmp_path) as trail:
        trail.put(call())
        while trail.is_writable:
            await trio.sleep(0.01)
        fails = False
        await until_admitted(trail)


@pytest.mark.parametrize("is_at_files_end", [True, False])
async def test_what_a_disk_took_and_did_not_keep_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, is_at_files_end: bool
) -> None:
    """A gap tells how many entries were written since it had kept all, whether it says so in between or at a file's end."""
    monkeypatch.setattr(audit_trail, "SYNC_SECONDS", 1e9)
    errors: list[int] = []

    def sync(_descriptor: int) -> None:
        if errors:
            raise OSError(errors.pop(), "broken")

    monkeypatch.setattr("jobmaster.audit.file.os.fdatasync", sync)
    async with writing(tmp_path) as trail:
        trail.put(call("KEPT"))
        await started(trail)
        await trail._sync()
        for outcome in ("N1", "N2", "N3"):
            trail.put(call(outcome))
        await started(trail)
        errors.append(errno.EIO)
        if is_at_files_end:
            monkeypatch.setattr(trail._file, "_bounds", FileBounds(size=1, kept=0))
            trail.put(call("NEXT"))
        else:
            await trail._sync()
        while "the audit is written again" not in caplog.text:
            await trio.sleep(0.01)
        await started(trail)
    gaps = [(entry["count"], entry["why"]) for entry in entries_in(tmp_path) if entry["kind"] == "gap"]
    assert gaps == [(4, "its disk has failed to keep what was written: the last entries before may not be there")]
    assert not is_at_files_end or "NEXT" in outcomes(tmp_path)
    assert is_at_files_end or "did not keep what was written since" in caplog.text


async def test_what_was_written_is_synced_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without anything else being written, and not again and again."""
    synced = 0

    def sync(_descriptor: int) -> None:
        nonlocal synced
        synced += 1

    monkeypatch.setattr("jobmaster.audit.file.os.fdatasync", sync)
    monkeypatch.setattr(audit_trail, "SYNC_SECONDS", 0.01)
    async with writing(tmp_path) as trail:
        await started(trail)
        while not synced:
            await trio.sleep(0.01)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert synced == 1


async def test_a_dead_disk_holds_nobody_at_the_end(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server ends in time, and says how much was not written."""
    monkeypatch.setattr("jobmaster.audit.audit.END_SECONDS", 0.05)
    async with writing(tmp_path) as trail:
        disk.answers.clear()
        for _ in range(400):
            trail.put(call())
        await trio.testing.wait_all_tasks_blocked()
    assert re.search("entries of the audit were not written, the oldest of 20.*: 400 Call", caplog.text)


async def test_changes_that_meet_a_full_disk_are_written_once(tmp_path: Path, disk: Disk) -> None:
    """Where the ballast makes room, changes of jobs are written in their order, though others were before them."""
    changes = [change(number) for number in range(1, 101)]

    def make_room(ballast: Ballast) -> bool:
        disk.space = None
        return free(ballast)

    free = Ballast.free
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Ballast, "free", make_room)
        async with writing(tmp_path) as trail:
            disk.space = 0
            for _ in range(300):
                trail.put(call("OK"))
            assert await trail.record(changes) == len(changes)
    found = [entry["journal_sequence"] for entry in entries_in(tmp_path) if "journal_sequence" in entry]
    assert found == list(range(1, 101))
