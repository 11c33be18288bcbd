"""What is kept of the jobs that have ended, within the bounds on their number."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from jobmaster.errors import HostError, JobNotEnded, JobNotFound, JournalUnavailable
from jobmaster.job.identifier import JobId, new_job_id
from jobmaster.job.specification import JobSpecification
from jobmaster.journal.stored import Removed, StoredJob
from jobmaster.run import ended_jobs
from jobmaster.run.bounds import Bounds, OutputBounds
from jobmaster.run.ended_jobs import FORGET_SECONDS, RETENTION_SECONDS
from jobmaster.run.retention import forget_expired, remove_output
from jobmaster.threads import NoThread
from tests.run.conftest import ALWAYS, Machine
from tests.run.faults import Fault
from tests.run.identities import ADMIN, CLIENT1, CLIENT2, CLIENTS, ended, record_of
from tests.run.records import MemoryRecords
from tests.run.scripted import Script, ScriptedHost


async def test_ended_jobs_of_one_client(machine: Machine) -> None:
    """Of a client's ended jobs the newest are kept; another's record and output stay whatever that client runs."""
    async with machine.registry(bounds=Bounds(ended=8)) as registry:
        kept = await machine.start(registry, CLIENT2, Script(ends_at=1))
        await ended(registry, kept)
        job_ids = []
        for _ in range(6):
            job_ids.append(await machine.start(registry, CLIENT1, Script(ends_at=1)))
            await ended(registry, job_ids[-1])
        await trio.sleep(1)
        for job_id in job_ids[:-2]:
            with pytest.raises(JobNotFound):
                await registry.find(ADMIN, job_id)
        assert machine.logs() == {kept, *job_ids[-2:]}
        assert [record_of(registry, job_id).id for job_id in (kept, *job_ids[-2:])] == [kept, *job_ids[-2:]]


async def test_ended_jobs_of_all_clients(machine: Machine) -> None:
    """When all together have too many, the oldest of the client that has most is forgotten."""
    async with machine.registry(bounds=Bounds(ended=8)) as registry:
        job_ids: list[JobId] = []
        for client in (CLIENTS[0], *CLIENTS[:4], *CLIENTS[1:6]):
            job_ids.append(await machine.start(registry, client, Script(ends_at=1)))
            await ended(registry, job_ids[-1])
        await trio.sleep(1)
        kept = [job_id for job_id in job_ids if registry.known(ADMIN, job_id) is not None]
        await trio.sleep(1)
        assert len(kept) == 8
        assert machine.logs() == set(kept)
        assert job_ids[-2:] == kept[-2:], "a client with a single ended job keeps it"
        assert {record_of(registry, job_id).owner for job_id in kept} == {client.name for client in CLIENTS}


@pytest.mark.parametrize("output", [OutputBounds(), OutputBounds(most=2**30)], ids=["unbounded", "bounded"])
async def test_nothing_is_remembered_of_what_is_forgotten(machine: Machine, output: OutputBounds) -> None:
    """However many jobs there have been, the ledger of outputs has those alone that there are."""
    async with machine.registry(bounds=Bounds(ended=4, output=output)) as registry:
        job_ids = [await machine.start(registry, CLIENT1, Script(ends_at=seconds)) for seconds in (1, 2)]
        for job_id in job_ids:
            await ended(registry, job_id)
        await trio.sleep(5)
        assert machine.logs() == {job_ids[1]}
        assert job_ids[0] not in repr(vars(registry._ended.ledger))


async def test_ends_in_quick_succession_share_a_look(machine: Machine) -> None:
    """The journal is not asked after each of many ends what is to be forgotten, and all of it is forgotten all the same."""
    async with machine.registry(bounds=Bounds(ended=8)) as registry:
        looks = machine.records.looks_for_expired
        job_ids = [await machine.start(registry, CLIENT1, Script(ends_at=1 + number / 1000)) for number in range(20)]
        for job_id in job_ids:
            await ended(registry, job_id)
        await trio.sleep(1)
        assert machine.logs() == set(job_ids[-2:])
        assert machine.records.looks_for_expired - looks <= 4  # each of two looks asks whether there is more


async def test_the_journals_disk_is_full(machine: Machine) -> None:
    """What the journal cannot write keeps no output from being removed, whose space may be what it waits for."""
    async with machine.registry(bounds=Bounds(ended=4)) as registry:
        job_ids = [await machine.start(registry, CLIENT1, Script(ends_at=seconds)) for seconds in (1, 2)]
        machine.records.settle_seconds = 1e9
        for job_id in job_ids:
            await ended(registry, job_id)
        await trio.sleep(60)
        assert machine.logs() == {job_ids[1]}


@pytest.mark.parametrize("settles", [True, False])
async def test_a_job_that_was_given_up(machine: Machine, settles: bool) -> None:
    """It is forgotten when the journal has its end, not before: it would be there again with that."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, Script(ends_at=1))
        await ended(registry, job_id)
        machine.records.settle_seconds = 0 if settles else 1e9
        forgotten = await forget_expired(machine.host, machine.records, Bounds().retention, [job_id])
        assert (job_id in forgotten, job_id in machine.records.jobs) == (settles, not settles)
        machine.records.settle_seconds = 0


@pytest.mark.parametrize("minutes", [0, 60])
async def test_the_output_of_a_job_that_was_given_up_outlives_no_disk(machine: Machine, minutes: int) -> None:
    """However long the disk is read-only, and whichever server it is that finds it writable: the file goes."""
    async with machine.registry(hands_over=lambda: True) as registry:
        machine.plan(Fault(point="unlink", call=1, times=ALWAYS, number=errno.EROFS))
        with trio.move_on_after(0.5):
            await machine.start(
                registry, CLIENT1, Script(execute_seconds=1, is_executed_unheard=True, writes=((0, 9),))
            )
        await trio.sleep(5 + 60 * minutes)
        (execution,) = machine.host.spawned.values()
        assert (machine.logs(), machine.records.jobs) == ({execution.job_id}, {})
        await registry.hand_over()
    machine.plan()
    async with machine.registry():
        await trio.sleep(RETENTION_SECONDS + 1)
        assert (machine.logs(), machine.records.gone) == (set(), set())


async def test_one_output_that_stays_keeps_no_other(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """Behind those that cannot be removed others are; one line a round names the first."""
    job_ids = sorted(new_job_id() for _ in range(5))
    for job_id in job_ids:
        machine.host.output_path(job_id).write_bytes(b"x")
    machine.records.gone.update(job_ids)
    machine.plan(Fault(point="unlink", call=1, times=3, number=errno.EIO))
    async with machine.registry():
        await trio.sleep(RETENTION_SECONDS + 1)
        assert machine.logs() == machine.records.gone == set(job_ids[:3])
        (line,) = [record.message for record in caplog.records if "cannot be removed now" in record.message]
        assert f"{job_ids[0]}.log: Input/output error" in line
        await trio.sleep(RETENTION_SECONDS + 1)
        assert machine.logs() == machine.records.gone == set()


async def test_an_unlink_that_fails_ends_nothing(machine: Machine) -> None:
    """A forgotten job's file that can't be removed (EROFS) is tried again, and the server goes on meanwhile."""
    async with machine.registry(bounds=Bounds(ended=4)) as registry:
        machine.plan(Fault(point="unlink", call=1, times=2, number=errno.EROFS))
        first = await machine.start(registry, CLIENT1, Script(ends_at=1))
        await ended(registry, first)
        second = await machine.start(registry, CLIENT1, Script(ends_at=1))
        await ended(registry, second)
        await trio.sleep(1)
        assert machine.logs() == {first, second}
        await machine.start(registry, CLIENT2)
        await trio.sleep(200)
        assert first not in machine.logs()


# --- Remove -----------------------------------------------------------------------------------------------------------


async def test_a_removed_job(machine: Machine) -> None:
    """Its output, index and record are gone, which those who watch are told; a second time there is no such job."""
    async with machine.registry() as registry:
        job_id, kept = [await machine.start(registry, CLIENT1, Script(ends_at=1)) for _ in range(2)]
        for each in (job_id, kept):
            await ended(registry, each)
        await registry.remove(CLIENT1, job_id)
        assert machine.logs() == {kept}
        assert set(machine.records.jobs) == {kept}
        assert (machine.records.happened[-1].job_id, machine.records.happened[-1].event) == (job_id, Removed())
        for question in (registry.find, registry.remove):
            with pytest.raises(JobNotFound, match="no such job"):
                await question(CLIENT1, job_id)


async def test_whose_job_may_be_removed(machine: Machine) -> None:
    """To another client there is no such job, running or ended; an admin may remove it when it has ended."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, Script(ends_at=1))
        for _ in ("running", "ended"):
            with pytest.raises(JobNotFound, match="no such job"):
                await registry.remove(CLIENT2, job_id)
            await trio.sleep(2)
        await registry.remove(ADMIN, job_id)
        assert machine.logs() == set()


async def test_a_running_job_is_not_removed(machine: Machine) -> None:
    """The refusal says what to do first, and the job is as it was."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1)
        with pytest.raises(JobNotEnded, match="stop it first"):
            await registry.remove(CLIENT1, job_id)
        assert machine.logs() == {job_id}
        await registry.stop(CLIENT1, job_id)
        await registry.remove(CLIENT1, job_id)
        assert machine.logs() == set()


async def test_a_removed_jobs_request_is_remembered(machine: Machine) -> None:
    """A Start that is repeated after the removal starts no second job."""
    machine.scripts["command"] = Script(ends_at=1)
    command = JobSpecification(command="command")
    async with machine.registry() as registry:
        job_id = await registry.start(CLIENT1, command, "request")
        await ended(registry, job_id)
        await registry.remove(CLIENT1, job_id)
        assert await registry.start(CLIENT1, command, "request") == job_id
        assert registry.running == 0


async def test_an_end_that_is_not_written_yet(machine: Machine) -> None:
    """The record would be there again with it: nothing is removed before."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, Script(ends_at=1))
        unended = machine.records.jobs[job_id]
        await ended(registry, job_id)
        machine.records.jobs[job_id] = unended
        with pytest.raises(JournalUnavailable, match="does not have the end"):
            await registry.remove(CLIENT1, job_id)
        assert machine.logs() == {job_id}
        machine.records.jobs[job_id] = record_of(registry, job_id)


async def test_a_removal_while_the_journals_disk_is_full(machine: Machine) -> None:
    """What the journal cannot write of others keeps no output from being removed, whose space may be what it waits for."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, Script(ends_at=1))
        await ended(registry, job_id)
        machine.records.settle_seconds = 1e9
        await registry.remove(CLIENT1, job_id)
        assert machine.logs() == set()
        machine.records.settle_seconds = 0


async def test_an_output_that_cannot_be_removed(machine: Machine) -> None:
    """The record stays where its output does, and both go the next time."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, Script(ends_at=1))
        await ended(registry, job_id)
        machine.plan(Fault(point="unlink", call=1, number=errno.EROFS))
        with pytest.raises(HostError, match="cannot be removed: Read-only file system"):
            await registry.remove(CLIENT1, job_id)
        assert record_of(registry, job_id).id == job_id
        await registry.remove(CLIENT1, job_id)
        assert (machine.logs(), machine.records.jobs) == (set(), {})


async def test_who_leaves_a_removal_does_not_cut_it_off(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record whose output is gone goes, too, while the journal answers in time; else the caller is to ask again."""
    seconds = 1.0
    remove = MemoryRecords.remove

    async def slowly(records: MemoryRecords, job_ids: Sequence[JobId], *, given_up: bool = False) -> None:
        await trio.sleep(seconds if job_ids else 0)
        await remove(records, job_ids, given_up=given_up)

    monkeypatch.setattr(MemoryRecords, "remove", slowly)
    async with machine.registry() as registry:
        first, second = [await machine.start(registry, CLIENT1, Script(ends_at=1)) for _ in range(2)]
        for job_id in (first, second):
            await ended(registry, job_id)
        with trio.move_on_after(0.5):
            await registry.remove(CLIENT1, first)
        assert set(machine.records.jobs) == {second}
        seconds = 2 * FORGET_SECONDS
        with pytest.raises(JournalUnavailable, match="try again later"):
            await registry.remove(CLIENT1, second)
        seconds = 0
        await registry.remove(CLIENT1, second)
        assert machine.records.jobs == {}


@pytest.mark.parametrize(
    ("failure", "is_kept"),
    [(None, False), (NoThread("no thread"), False), (OSError(errno.EROFS, "Read-only file system"), True)],
    ids=["none", "no thread for now", "the disk's"],
)
async def test_who_leaves_as_the_output_is_removed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, failure: Exception | None, is_kept: bool
) -> None:  # a parameter
    """The record goes as well, soon; where the disk keeps the output, both stay."""
    callers, failures = [trio.CancelScope()], [] if failure is None else [failure]

    async def leave_first(host: ScriptedHost, job_id: JobId) -> None:
        while callers:
            callers.pop().cancel()
            await trio.lowlevel.checkpoint()
        if failures:
            raise failures.pop()
        await remove_output(host, job_id)

    monkeypatch.setattr(ended_jobs, "remove_output", leave_first)
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, Script(ends_at=1))
        await ended(registry, job_id)
        with callers[0] as caller:
            await registry.remove(CLIENT1, job_id)
        assert caller.cancelled_caught
        await trio.sleep(2 * RETENTION_SECONDS)
        assert (bool(machine.logs()), bool(machine.records.jobs)) == (is_kept, is_kept)
        if not is_kept:
            with pytest.raises(JobNotFound):
                await registry.find(CLIENT1, job_id)


async def test_a_record_that_was_read_before_the_removal(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers who asked before, and nobody after."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, Script(ends_at=1))
        await ended(registry, job_id)
    find, is_removed, are_late = MemoryRecords.find, trio.Event(), [True]

    async def late(records: MemoryRecords, job_id: JobId) -> StoredJob | None:
        found = await find(records, job_id)
        if are_late and are_late.pop():
            await is_removed.wait()
        return found

    monkeypatch.setattr(MemoryRecords, "find", late)
    async with machine.registry() as registry, trio.open_nursery() as nursery:
        nursery.start_soon(registry.find, CLIENT1, job_id)
        await wait_all_tasks_blocked()
        await registry.remove(CLIENT1, job_id)
        is_removed.set()
        await wait_all_tasks_blocked()
        with pytest.raises(JobNotFound):
            await registry.find(CLIENT1, job_id)
