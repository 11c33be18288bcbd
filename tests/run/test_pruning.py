"""The outputs of all jobs stay within what they may take of the disk."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from jobmaster.errors import ServerBusy
from jobmaster.job.identifier import JobId
from jobmaster.job.record import OutputPruned
from jobmaster.output.dropping import prune_file
from jobmaster.output.index import GapReason
from jobmaster.output.reading import FromOffset, GapPiece, LastBytes, LastLines, Piece, Position, Selection, Since
from jobmaster.run import pruning
from jobmaster.run.bounds import Bounds, Disk, FreeSpace, OutputBounds
from jobmaster.run.registry import Registry
from tests.run.conftest import Machine
from tests.run.faults import Fault
from tests.run.identities import ADMIN, CLIENT1, CLIENT2, ended, record_of
from tests.run.scripted import Script, output

SIZE: Final = 320 * 1024
WRITER: Final = Script(writes=((0.1, SIZE),), ends_at=1)
MOST: Final = 1216 * 1024
"""Room for three outputs of that size with their indexes, and no fourth."""


@asynccontextmanager
async def bounded(machine: Machine, most: int = MOST) -> AsyncIterator[Registry]:
    """A registry whose outputs may take so much."""
    async with machine.registry(bounds=Bounds(output=OutputBounds(most=most))) as registry:
        yield registry


async def run_to_end(machine: Machine, registry: Registry, *callers: Any) -> list[JobId]:
    """Jobs that write SIZE bytes, one after the other."""
    job_ids = []
    for caller in callers:
        job_ids.append(await machine.start(registry, caller, WRITER))
        await ended(registry, job_ids[-1])
    return job_ids


async def pieces_of(registry: Registry, job_id: str, offset: int = 0) -> list[tuple[int, int, GapReason | None]]:
    """What a follower gets of an output: where each piece begins and ends, and why it is not there."""
    job = await registry.find(ADMIN, job_id)
    async with aclosing(job.output.read(Selection(start=FromOffset(offset)))) as pieces:
        return [extent_of(piece) async for piece in pieces]


def extent_of(piece: Piece | GapPiece | Position) -> tuple[int, int, GapReason | None]:
    """Where a piece begins and ends, and why it is not there."""
    if isinstance(piece, GapPiece):
        return piece.start, piece.end, piece.reason
    assert isinstance(piece, Piece)
    return piece.stretch.offset, piece.stretch.offset + piece.stretch.length, None


async def test_the_client_that_takes_most_loses_its_oldest(machine: Machine) -> None:
    """Its output goes and its record stays and says so; all others are as they were."""
    async with bounded(machine) as registry:
        first, *kept = await run_to_end(machine, registry, CLIENT1, CLIENT2, CLIENT1, CLIENT1)
        await trio.sleep(20)
        assert machine.logs() == set(kept)
        pruned = record_of(registry, first).output_pruned
        assert pruned is not None
        assert pruned.reason == "the outputs of all jobs take as much as they may (1216K)"
        assert record_of(registry, first) == machine.records.jobs[first]
        assert [record_of(registry, job_id).output_pruned for job_id in kept] == [None] * 3
        assert (first, pruned) in machine.records.written


async def test_readers_of_what_was_removed(machine: Machine) -> None:
    """Who asks for it gets one gap of all that is asked for, with the reason; the others' are read as ever."""
    async with bounded(machine) as registry:
        first, *_, last = await run_to_end(machine, registry, CLIENT1, CLIENT1, CLIENT1, CLIENT1)
        await trio.sleep(20)
        assert await pieces_of(registry, first) == [(0, SIZE, GapReason.PRUNED)]
        assert await pieces_of(registry, first, 1000) == [(1000, SIZE, GapReason.PRUNED)]
        assert {reason for *_, reason in await pieces_of(registry, last)} == {None}
        job = await registry.find(ADMIN, first)
        for start in (LastBytes(1000), LastLines(3), Since(0)):
            async with aclosing(job.output.read(Selection(start=start))) as pieces:
                position, *gaps = [piece async for piece in pieces]
            assert isinstance(position, Position)
            assert [extent_of(gap) for gap in gaps] == [(position.offset, SIZE, GapReason.PRUNED)]


@pytest.mark.parametrize("was_live", [True, False])
async def test_a_follower_in_the_middle(machine: Machine, was_live: bool) -> None:
    """It reads what it is being sent and is told of the rest; the disk has the other blocks back at once."""
    async with bounded(machine) as registry:
        job_id = await machine.start(registry, CLIENT1, WRITER)
        path = machine.host.output_path(job_id)
        if not was_live:
            await ended(registry, job_id)
        job = await registry.find(ADMIN, job_id)
        async with aclosing(job.output.read(Selection())) as pieces:
            piece = await anext(pieces)
            assert isinstance(piece, Piece)
            with path.open("rb") as file:
                await run_to_end(machine, registry, *[CLIENT1] * 4)
                await trio.sleep(20)
                assert not path.exists()
                there = os.fstat(file.fileno()).st_blocks * 512
            assert there <= piece.stretch.length + 8192
            data = await piece.stretch.read(0, piece.stretch.length)
            assert data == output(SIZE)[piece.stretch.offset :][: piece.stretch.length]
            end = piece.stretch.offset + piece.stretch.length
            assert [extent_of(piece) async for piece in pieces] == [(end, SIZE, GapReason.PRUNED)]


def lines(caplog: pytest.LogCaptureFixture, words: str) -> int:
    """How often the operator is told so."""
    return sum(words in record.message for record in caplog.records)


async def test_running_jobs_alone(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing of theirs is removed: who takes most starts no job, and what they write is lost; others go on."""
    async with bounded(machine, most=2 * SIZE) as registry:
        runs = Script(writes=((0.1, 3 * SIZE), (30, 1000), (100, 1000)))
        job_id = await machine.start(registry, CLIENT1, runs)
        other = await machine.start(registry, CLIENT2, Script(writes=((0.2, 1000), (30, 1000)), ends_at=100))
        await trio.sleep(20)
        with pytest.raises(
            ServerBusy, match=r"the outputs of all jobs take as much as they may \(640K\), and what can be removed"
        ):
            await machine.start(registry, CLIENT1)
        await machine.start(registry, CLIENT2)
        await trio.sleep(20)
        record = record_of(registry, job_id)
        assert (record.output_bytes, record.output_bytes_lost) == (3 * SIZE, 1000)
        assert record.output_pruned is None
        assert (record_of(registry, other).output_bytes, record_of(registry, other).output_bytes_lost) == (2000, 0)
        assert lines(caplog, "most of it of running jobs of client1") == 1
        assert lines(caplog, "all of it") == 0


@pytest.mark.parametrize("bounds", [OutputBounds(), OutputBounds(most=100 * SIZE)])
async def test_other_bounds(machine: Machine, caplog: pytest.LogCaptureFixture, bounds: OutputBounds) -> None:
    """A server that takes up a larger bound, or none, lets those go on that were stopped by the one before."""
    async with bounded(machine, most=2 * SIZE) as registry:
        await machine.start(registry, CLIENT1, Script(writes=((0.1, 3 * SIZE), (60, 1000))))
        await trio.sleep(20)
        with pytest.raises(ServerBusy, match="as much as they may"):
            await machine.start(registry, CLIENT1)
        registry.take_up(Bounds(output=bounds))
        await trio.sleep(20)
        await machine.start(registry, CLIENT1)
        assert lines(caplog, "there is room for output again") == 1
        registry.take_up(Bounds(output=OutputBounds(most=SIZE)))
        await trio.sleep(20)
        with pytest.raises(ServerBusy, match="as much as they may"):
            await machine.start(registry, CLIENT1)


async def test_a_smaller_bound(machine: Machine) -> None:
    """Outputs of ended jobs that were within the bound before go."""
    async with bounded(machine) as registry:
        first, second = await run_to_end(machine, registry, CLIENT1, CLIENT1)
        await trio.sleep(20)
        assert machine.logs() == {first, second}
        registry.take_up(Bounds(output=OutputBounds(most=MOST // 2)))
        await trio.sleep(20)
        assert machine.logs() == {second}


async def test_the_reserve_is_taken_too(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """Where those who take less have written an eighth of the bound more, no job is started, and all is lost."""
    async with bounded(machine, most=2 * SIZE) as registry:
        await machine.start(registry, CLIENT1, Script(writes=((0.1, 3 * SIZE),)))
        other = await machine.start(registry, CLIENT2, Script(writes=((10, SIZE // 2), (30, 1000))))
        await trio.sleep(20)
        with pytest.raises(ServerBusy, match="try again when running jobs have ended"):
            await machine.start(registry, CLIENT2)
        await trio.sleep(20)
        record = record_of(registry, other)
        assert (record.output_bytes, record.output_bytes_lost) == (SIZE // 2, 1000)
        assert lines(caplog, "all of it of running jobs") == 1


async def test_a_job_that_ends_while_it_is_measured(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has written meanwhile counts as well."""
    run_in_thread = vars(pruning)["run_in_thread"]  # that of the machine
    job_ids: list[JobId] = []

    async def late(limiter: trio.CapacityLimiter, function: Any, *arguments: Any, abandon: bool) -> Any:
        found = await run_in_thread(limiter, function, *arguments, abandon=abandon)
        if limiter is pruning.LOOKERS and sum(found[0]) and job_ids:
            await ended(registry, job_ids.pop())
        return found

    monkeypatch.setattr(pruning, "run_in_thread", late)
    async with bounded(machine, most=3 * SIZE - SIZE // 4) as registry:
        first = await machine.start(registry, CLIENT1, Script(writes=((0.1, SIZE), (5, SIZE)), ends_at=6))
        job_ids.append(first)
        await ended(registry, first)
        (last,) = await run_to_end(machine, registry, CLIENT1)
        await trio.sleep(20)
        assert machine.logs() == {last}


async def test_there_is_room_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When others have left the disk, jobs are started, and what running ones write is kept behind the gap."""
    disk = Disk(size=10 * MOST, free=MOST)
    monkeypatch.setattr(pruning, "disk_of", lambda _: disk)
    bounds = Bounds(output=OutputBounds(free=FreeSpace(percent=20)))
    async with machine.registry(bounds=bounds) as registry:
        runs = Script(writes=((10, 1000), (20, 2000), (40, 3000)), ends_at=60)
        job_id = await machine.start(registry, CLIENT1, runs)
        await trio.sleep(30)
        with pytest.raises(ServerBusy, match=r"the disk of the outputs has as little free as it may \(20 %\)"):
            await machine.start(registry, CLIENT2)
        disk = Disk(size=10 * MOST, free=3 * MOST)
        await trio.sleep(5)
        await machine.start(registry, CLIENT2)
        await ended(registry, job_id)
        assert await pieces_of(registry, job_id) == [(0, 3000, GapReason.NO_SPACE), (3000, 6000, None)]
        assert lines(caplog, "there is room for output again") == 1


async def test_a_disk_that_cannot_be_measured(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """That is said when it begins, when it changes and when it is over, however often it was tried meanwhile."""
    failure: OSError | None = None

    def measure(_folder: Path) -> Disk:
        if failure is not None:
            raise failure
        return Disk(size=10 * MOST, free=10 * MOST)

    monkeypatch.setattr(pruning, "disk_of", measure)
    async with machine.registry(bounds=Bounds(output=OutputBounds(most=MOST))):
        await trio.sleep(10)
        for each in (OSError(errno.ENOENT, "gone"), OSError(errno.EIO, "broken"), None):
            failure = each
            await trio.sleep(20)
    said = [record.getMessage() for record in caplog.records if "measured" in record.getMessage()]
    assert [line.partition("disk can")[2] for line in said] == [
        "not be measured: [Errno 2] gone",
        "not be measured: [Errno 5] broken",
        " be measured again",
    ]


@pytest.mark.parametrize("is_earlier", [True, False])
async def test_an_output_that_cannot_be_measured(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_earlier: bool
) -> None:
    """It is named, once, and does not count; the others are kept within the bound as ever."""
    fails: set[Path] = set()
    blocks_of = vars(pruning)["_blocks_of"]

    def blocks(path: Path) -> int:
        if path in fails:
            raise OSError(errno.EIO, "Input/output error", str(path))
        found: int = blocks_of(path)
        return found

    monkeypatch.setattr(pruning, "_blocks_of", blocks)
    others: list[JobId] = []
    async with machine.registry() if is_earlier else bounded(machine) as registry:
        broken = await machine.start(registry, CLIENT1, WRITER)
        fails.add(machine.host.output_path(broken))
        await ended(registry, broken)
        if not is_earlier:
            others += await run_to_end(machine, registry, *[CLIENT1] * 4)
            await trio.sleep(20)
    if is_earlier:
        async with bounded(machine) as registry:
            others += await run_to_end(machine, registry, *[CLIENT1] * 4)
            await trio.sleep(20)
    kept = others[1:]
    assert machine.logs() == {broken, *kept}
    assert lines(caplog, f"do not count until they can be: {broken}") == 1


async def test_a_disk_that_others_fill(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing of the floor is given back by ended jobs, no more at a time than that; the disk takes its time."""
    free = 2 * MOST
    monkeypatch.setattr(pruning, "disk_of", lambda _: Disk(size=10 * MOST, free=free))
    bounds = Bounds(output=OutputBounds(free=FreeSpace(size=MOST)))
    async with machine.registry(bounds=bounds) as registry:
        job_ids = await run_to_end(machine, registry, *[CLIENT1] * 4)
        await trio.sleep(20)
        assert machine.logs() == set(job_ids)
        free = MOST - SIZE // 2
        await trio.sleep(5)
        assert machine.logs() == set(job_ids[1:])
        free = 2 * MOST
        await trio.sleep(20)
        assert machine.logs() == set(job_ids[1:])


async def test_a_record_that_is_read_meanwhile(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who had asked for an output before it was removed is told that it was, and not that the host went down."""
    async with machine.registry() as registry:
        (job_id,) = await run_to_end(machine, registry, CLIENT1)
    find = type(machine.records).find

    async def late(records: Any, job_id: JobId) -> Any:
        found = await find(records, job_id)
        await trio.sleep(20)
        return found

    async with bounded(machine) as registry:
        monkeypatch.setattr(type(machine.records), "find", late)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_to_end, machine, registry, *[CLIENT1] * 4)
            assert await pieces_of(registry, job_id) == [(0, SIZE, GapReason.PRUNED)]


async def test_what_an_earlier_server_left(machine: Machine) -> None:
    """It counts, and goes in the order in which the jobs have ended."""
    async with machine.registry() as registry:
        job_ids = await run_to_end(machine, registry, CLIENT1, *[CLIENT2] * 4)
    async with bounded(machine) as registry:
        await trio.sleep(20)
        assert machine.logs() == {job_ids[0], *job_ids[3:]}
        pruned = [job_id for job_id in job_ids if machine.records.jobs[job_id].output_pruned]
        assert pruned == job_ids[1:3]


@pytest.mark.parametrize("is_counted_first", [True, False])
async def test_a_job_that_was_lost(machine: Machine, is_counted_first: bool) -> None:
    """Its output counts, and goes in its turn, also where the others of an earlier server were counted before it had ended."""
    async with machine.registry(hands_over=lambda: True) as registry:
        await machine.start(registry, CLIENT1, Script(writes=((0.1, SIZE),)))
        await trio.sleep(1)
        await registry.hand_over()
    machine.plan(Fault(point="adopt", call=1))
    async with bounded(machine) as registry:
        if is_counted_first:
            await wait_all_tasks_blocked()
        await registry.recover()
        kept = await run_to_end(machine, registry, *[CLIENT1] * 3)
        await trio.sleep(20)
        assert machine.logs() == set(kept)


async def test_a_server_that_was_killed_in_between(machine: Machine) -> None:
    """An output that the journal says is removed, and that is still there, goes at the next start, and nobody reads it."""
    async with machine.registry() as registry:
        (job_id,) = await run_to_end(machine, registry, CLIENT1)
    event = OutputPruned(at=record_at(machine, job_id), reason="too much")
    machine.records.post(job_id, event)
    async with bounded(machine) as registry:
        assert await pieces_of(registry, job_id) == [(0, SIZE, GapReason.PRUNED)]
        await trio.sleep(20)
        assert machine.logs() == set()


def record_at(machine: Machine, job_id: JobId) -> Any:
    """When a job was started."""
    return machine.records.jobs[job_id].state.started_at


async def test_a_journal_that_cannot_be_written(machine: Machine) -> None:
    """It is not waited for without end: its own disk may be the one that is to have room."""
    async with bounded(machine) as registry:
        job_ids = await run_to_end(machine, registry, *[CLIENT1] * 3)
        machine.records.settle_seconds = 1e9
        await run_to_end(machine, registry, CLIENT1)
        await trio.sleep(30)
        assert job_ids[0] not in machine.logs()
        machine.records.settle_seconds = 0


async def test_an_output_that_cannot_be_removed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again, and what is missing of the bound is not taken from another."""
    failures = [OSError(errno.EIO, os.strerror(errno.EIO))]

    def fail_once(path: Path, pinned: Any) -> None:
        if failures:
            raise failures.pop()
        prune_file(path, pinned)

    monkeypatch.setattr(pruning, "prune_file", fail_once)
    async with bounded(machine) as registry:
        first, *kept = await run_to_end(machine, registry, *[CLIENT1] * 4)
        await trio.sleep(200)
        assert machine.logs() == set(kept)
        assert await pieces_of(registry, first) == [(0, SIZE, GapReason.PRUNED)]


async def test_a_removed_job_does_not_count(machine: Machine) -> None:
    """What a client removes by itself is room for others."""
    async with bounded(machine) as registry:
        job_ids = await run_to_end(machine, registry, *[CLIENT1] * 3)
        await registry.remove(CLIENT1, job_ids[2])
        last = await run_to_end(machine, registry, CLIENT1)
        await trio.sleep(20)
        assert machine.logs() == {*job_ids[:2], *last}


async def test_a_client_that_writes_without_end(machine: Machine) -> None:
    """It drives out no more of others' outputs than it wrote in a moment: then it is blocked, and it alone, until it gives."""
    async with bounded(machine, most=10 * SIZE) as registry:
        kept = await run_to_end(machine, registry, *[CLIENT2] * 4)
        writes = tuple((second, SIZE) for second in range(1, 60))
        job_id = await machine.start(registry, CLIENT1, Script(writes=writes, ends_at=90))
        await trio.sleep(70)
        lost = [each for each in kept if record_of(registry, each).output_pruned]
        assert lost == kept[: len(lost)]
        assert len(lost) in {1, 2}, "it wrote as much as one of them takes, and its index"
        record = record_of(registry, job_id)
        assert record.output_bytes + record.output_bytes_lost == 59 * SIZE
        assert record.output_bytes <= 8 * SIZE
        with pytest.raises(ServerBusy, match="try again when running jobs of client1 have ended"):
            await machine.start(registry, CLIENT1)
        (last,) = await run_to_end(machine, registry, CLIENT2)
        await trio.sleep(2)
        assert record_of(registry, last).output_pruned is None
        await ended(registry, job_id)
        await trio.sleep(5)
        assert record_of(registry, job_id).output_pruned is not None
        assert await run_to_end(machine, registry, CLIENT1)


async def test_a_client_in_debt_that_has_nothing_left(machine: Machine) -> None:
    """However much others have replaced of their own meanwhile, a client starts jobs again when its own have ended."""
    async with bounded(machine, most=8 * SIZE) as registry:
        job_id = await machine.start(registry, CLIENT1, Script(writes=((0.1, 5 * SIZE),), ends_at=500))
        await run_to_end(machine, registry, *[CLIENT2] * 12)
        with pytest.raises(ServerBusy, match="try again when running jobs of client1 have ended"):
            await machine.start(registry, CLIENT1)
        await ended(registry, job_id)
        await registry.remove(CLIENT1, job_id)
        await run_to_end(machine, registry, *[CLIENT2] * 12)
        await run_to_end(machine, registry, CLIENT1)
