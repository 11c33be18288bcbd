"""What becomes of jobs whose processes are gone when a server starts: after a power cut, or with their launcher."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NoReturn

import pytest
import trio

from jobmaster.errors import HostError, JournalUnavailable, ServerBusy
from jobmaster.host.cgroup.tree import CgroupTree
from jobmaster.job.cause import Death, Exited, ServerLost, Signalled, StopOrder, Stopped
from jobmaster.job.identifier import JobId, new_job_id
from jobmaster.job.record import JobEvent, JobRecord, Launched
from jobmaster.job.request import RequestKey
from jobmaster.job.specification import CommandLine, JobSpecification
from jobmaster.job.state import Ended, Executed, MainProcessDied, Running, StopOrdered, StopSignalled
from jobmaster.run import job_files, recovery
from jobmaster.run.execution import Spawned
from jobmaster.run.job_files import AdoptedFiles, acquire
from jobmaster.run.recovery import ADOPTION_PAUSES, LOOK_SECONDS, RECORD_SECONDS
from jobmaster.run.start_errors import EXHAUSTED
from jobmaster.run.supervisor import Supervisor
from tests.run.conftest import Machine
from tests.run.faults import Fault
from tests.run.identities import CLIENT1, ended, record_of
from tests.run.records import MemoryRecords
from tests.run.scripted import OnTerm, Script, ScriptedHost

SPECIFICATION: Final = JobSpecification(command="gone")
REQUEST_ID: Final = "once"
LATER: Final = timedelta(hours=1)
"""Later than anything that is written meanwhile."""
ORDER: Final = StopOrder(by="client1", requested_at=datetime.now(UTC))


def write(machine: Machine, *events: JobEvent) -> JobId:
    """Records a job of client1 to which nothing but this has happened."""
    launched = Launched(
        id=new_job_id(),
        owner=CLIENT1.name,
        command=CommandLine.of(SPECIFICATION),
        pid=7,
        start_time=1,
        boot_id="",
        at=datetime.now(UTC),
        request=RequestKey.of(REQUEST_ID, SPECIFICATION),
    )
    for event in (launched, *events):
        machine.records.post(launched.id, event)
    machine.host.output_path(launched.id).write_bytes(b"output")
    return launched.id


@pytest.mark.parametrize(
    "events",
    [(), (Executed(),), (Executed(), StopOrdered(order=ORDER), StopSignalled())],
    ids=["launched", "executed", "stopped"],
)
async def test_a_job_whose_end_nobody_saw_is_lost(machine: Machine, events: tuple[JobEvent, ...]) -> None:
    """It is kept, as lost, with its output and its request id, however much of it was recorded.

    Its command is executed once its launch is recorded, and its caller told before more need be.
    """
    job_id = write(machine, *events)
    async with machine.registry() as registry:
        recovered = await registry.recover()
        assert [record.id for record in recovered.lost] == [job_id]
        job = await registry.find(CLIENT1, job_id)
        assert isinstance(job.record.state, Ended)
        assert isinstance(job.record.state.cause, ServerLost)
        assert (job.record.output_bytes, machine.logs()) == (6, {job_id})
        assert await registry.start(CLIENT1, SPECIFICATION, REQUEST_ID) == job_id


@pytest.mark.parametrize("before", [(), (StopOrdered(order=ORDER), StopSignalled())], ids=["returned", "stopped"])
async def test_a_job_whose_main_process_was_seen_to_die(machine: Machine, before: tuple[JobEvent, ...]) -> None:
    """How it did is told, and that nobody knows what of its output was in the pipe then: this is no success."""
    job_id = write(machine, Executed(), *before, MainProcessDied(death=Exited(0)))
    async with machine.registry() as registry:
        await registry.recover()
        state = (await registry.find(CLIENT1, job_id)).record.state
        assert isinstance(state, Ended)
        assert isinstance(state.cause, ServerLost)
        assert state.cause.reason.startswith("its main process exited with code 0, but the launcher died")
        assert "how much is missing is not known" in state.cause.reason


@pytest.mark.parametrize(("death", "is_told"), [(Exited(42), True), (Signalled(11), True), (Signalled(9), False)])
async def test_a_job_that_has_ended_and_cannot_be_adopted(machine: Machine, death: Death, is_told: bool) -> None:
    """How its main process died without a server is told, where that alone says why; and when, in any case."""
    async with machine.registry(hands_over=lambda: True) as registry:
        script = Script(ends_at=2, death=death, writes=((1.5, 1000),), told_died_at=datetime.now(UTC) + LATER)
        job_id = await machine.start(registry, CLIENT1, script)
        await trio.sleep(1)
        await registry.hand_over()
    await trio.sleep(3)
    machine.plan(Fault(point="adopt", call=1))
    async with machine.registry() as registry:
        await registry.recover()
        cause = await ended(registry, job_id)
        assert cause == death if is_told else isinstance(cause, ServerLost)
        record = record_of(registry, job_id)
        assert (record.output_bytes, record.output_bytes_lost) == (0, 1000)
        assert isinstance(record.state, Ended)
        assert record.state.ended_at == script.told_died_at


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOENT])
async def test_what_the_host_says_of_an_adoption(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A descriptor or memory that is wanted for now is ServerBusy, as in the scripts of these tests."""

    def fail(_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(job_files, "OpenedCgroup", fail)
    kind = ServerBusy if number in EXHAUSTED else HostError
    command = CommandLine.of(SPECIFICATION)
    state = Running(pid=1, started_at=datetime.now(UTC))
    record = JobRecord(id=new_job_id(), owner="client1", command=command, state=state)
    with pytest.raises(kind):
        await acquire(lambda: AdoptedFiles(CgroupTree(root=tmp_path), tmp_path, record))


@pytest.mark.parametrize(("number", "lives"), [(errno.EMFILE, True), (errno.ENOMEM, True), (errno.ENOENT, False)])
async def test_a_host_that_lacks_something_for_now(machine: Machine, number: int, lives: bool) -> None:
    """A job that cannot be adopted for want of a descriptor or of memory is tried again before it is ended."""
    async with machine.registry(hands_over=lambda: True) as registry:
        job_id = await machine.start(registry, CLIENT1)
        await registry.hand_over()
    machine.plan(Fault(point="adopt", call=1, times=3, number=number))
    async with machine.registry() as registry:
        before = trio.current_time()
        await registry.recover()
        assert trio.current_time() - before == pytest.approx(sum(ADOPTION_PAUSES[:3]) if lives else 0, abs=0.01)
        job = await registry.find(CLIENT1, job_id)
        assert isinstance(job.record.state, Running) == lives


async def test_a_stop_that_was_noted_and_not_recorded(machine: Machine) -> None:
    """A job that died of it, and cannot be adopted, was stopped by who asked, and did not die of a stranger's signal."""
    async with machine.registry(hands_over=lambda: True) as registry:
        job_id = await machine.start(registry, CLIENT1, Script(on_term=OnTerm(after=1)))
        recorded = machine.records.jobs[job_id]
        job = await registry.find(CLIENT1, job_id)
        assert isinstance(job, Supervisor)
        job.order_stop("client1", "enough")
        await registry.hand_over()
    machine.records.jobs[job_id] = recorded  # as where the server was killed instead
    await trio.sleep(3)
    machine.plan(Fault(point="adopt", call=1))
    async with machine.registry() as registry:
        await registry.recover()
        cause = await ended(registry, job_id)
        assert isinstance(cause, Stopped)
        assert (cause.by, cause.signal, cause.reason) == ("client1", 15, "enough")


async def test_a_launch_that_was_refused_and_is_recorded(machine: Machine) -> None:
    """Its command was never executed, as the launcher knows: the job is forgotten, and its request id with it."""
    machine.scripts[SPECIFICATION.command] = Script()
    machine.records.is_doubtful = machine.records.posts_wait = True
    machine.records.settle_seconds = 2 * RECORD_SECONDS
    async with machine.registry(hands_over=lambda: True) as registry:
        with pytest.raises(JournalUnavailable):
            await registry.start(CLIENT1, SPECIFICATION, REQUEST_ID)
    launch, *_ = machine.records.posted
    assert isinstance(launch[1], Launched)
    machine.records = machine_records = MemoryRecords()  # the server was killed before it could write more
    machine_records.post(*launch[:2])
    async with machine.registry() as registry:
        recovered = await registry.recover()
        assert (recovered.adopted, recovered.lost) == ([], [])
        assert machine_records.jobs == {}
        assert await registry.start(CLIENT1, SPECIFICATION, REQUEST_ID) != launch[0]


@pytest.mark.parametrize("kind", ["folder", "fifo"])
async def test_something_else_in_an_outputs_place(
    machine: Machine, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """That job is ended and named; the others are adopted."""
    async with machine.registry(hands_over=lambda: True) as registry:
        first, other = [await machine.start(registry, CLIENT1) for _ in range(2)]
        await registry.hand_over()
    path = machine.host.output_path(first)
    path.unlink()
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    async with machine.registry() as registry:
        await registry.recover()
        assert isinstance(await ended(registry, first), ServerLost)
        assert record_of(registry, first).output_bytes == 0
        assert isinstance((await registry.find(CLIENT1, other)).record.state, Running)
    assert f"job {first} of an earlier server cannot be adopted" in caplog.text


async def test_a_bug_in_an_adoption(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong with one job, the others are adopted."""
    async with machine.registry(hands_over=lambda: True) as registry:
        first, other = [await machine.start(registry, CLIENT1) for _ in range(2)]
        await registry.hand_over()
    adopt = ScriptedHost.adopt

    async def fail(host: ScriptedHost, record: JobRecord) -> Spawned | None:
        if record.id == first:
            raise ZeroDivisionError
        return await adopt(host, record)

    def fail_too(path: Path) -> NoReturn:
        raise ZeroDivisionError(path)

    monkeypatch.setattr(ScriptedHost, "adopt", fail)
    monkeypatch.setattr(recovery, "survey", fail_too)
    async with machine.registry() as registry:
        await registry.recover()
        assert isinstance(await ended(registry, first), ServerLost)
        assert isinstance((await registry.find(CLIENT1, other)).record.state, Running)


@pytest.mark.parametrize("events", [(), (Executed(),)], ids=["launched", "executed"])
async def test_a_job_that_cannot_be_adopted(machine: Machine, events: tuple[JobEvent, ...]) -> None:
    """It is ended, and its record blames neither the launcher nor the host for that."""
    machine.plan(Fault(point="adopt", call=1))
    job_id = write(machine, *events)
    async with machine.registry() as registry:
        await registry.recover()
        state = (await registry.find(CLIENT1, job_id)).record.state
        assert isinstance(state, Ended)
        assert isinstance(state.cause, ServerLost)
        assert "could not open its output or its cgroup" in state.cause.reason


async def test_a_disk_that_does_not_tell_the_sizes(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server serves; the lost job is told by the one that knows the size of its output, and not before."""
    job_id = write(machine, Executed())

    async def hang(*_: object) -> NoReturn:
        await trio.sleep_forever()
        raise AssertionError

    with monkeypatch.context() as patched:
        patched.setattr(recovery, "_look", hang)
        async with machine.registry() as registry:
            recovered = await registry.recover()
            assert recovered.lost == []
            assert trio.current_time() <= LOOK_SECONDS + 1
            with pytest.raises(JournalUnavailable):
                await registry.find(CLIENT1, job_id)
    async with machine.registry() as registry:
        await registry.recover()
        assert isinstance(await ended(registry, job_id), ServerLost)
        assert record_of(registry, job_id).output_bytes == len(b"output")


async def test_what_is_known_is_recorded_before_the_launcher_forgets_it(machine: Machine) -> None:
    """The known end of a job that cannot be adopted is durable before its child is released with the others."""
    async with machine.registry(hands_over=lambda: True) as registry:
        job_id = await machine.start(registry, CLIENT1, Script(ends_at=2, death=Exited(42)))
        await registry.hand_over()
    await trio.sleep(3)
    machine.plan(Fault(point="adopt", call=1))
    machine.records.posts_wait = True
    recorded_at_sweep: list[bool] = []
    machine.host.before_sweep = lambda: recorded_at_sweep.append(isinstance(machine.records.jobs[job_id].state, Ended))
    async with machine.registry() as registry:
        await registry.recover()
    assert recorded_at_sweep == [True]


async def test_oom_kills_of_a_job_that_is_lost(machine: Machine) -> None:
    """Those that an earlier server had counted, and told clients of, are recorded, though the journal did not have them yet."""
    async with machine.registry(hands_over=lambda: True) as registry:
        job_id = await machine.start(registry, CLIENT1, Script(ends_at=2, death=Exited(42)))
        await registry.hand_over()
    machine.host.made[0].keep_oom_kills(5)
    machine.plan(Fault(point="adopt", call=1))
    async with machine.registry() as registry:
        await registry.recover()
    assert (machine.records.jobs[job_id].oom_kills, isinstance(machine.records.jobs[job_id].state, Ended)) == (5, True)


@pytest.mark.parametrize("seconds", [0.0, 3600.0], ids=["refuses", "stalls"])
async def test_a_journal_that_cannot_be_asked_what_is_left(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, seconds: float
) -> None:
    """That is a line in the log: what was adopted goes on."""
    async with machine.registry(hands_over=lambda: True) as registry:
        job_ids = [await machine.start(registry, CLIENT1, Script()) for _ in range(2)]
        await registry.hand_over()
    left = [new_job_id() for _ in range(3)]

    async def end_others(_: ScriptedHost) -> list[JobId]:
        await trio.lowlevel.checkpoint()
        return left

    async def find(*_: object) -> None:
        await trio.sleep(seconds)
        raise JournalUnavailable("its disk does not answer")

    monkeypatch.setattr(ScriptedHost, "end_others", end_others)
    monkeypatch.setattr(MemoryRecords, "find", find)
    async with machine.registry() as registry:
        recovered = await registry.recover()
        assert sorted(record.id for record, _ in recovered.adopted) == sorted(job_ids)
        assert trio.current_time() <= 2 * RECORD_SECONDS
    (complaint,) = [record.message for record in caplog.records if "the journal cannot tell now" in record.message]
    assert all(job_id in complaint for job_id in left)


async def test_what_is_left_of_a_job_that_has_ended(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that could not die with its job makes nobody think that the journal does not know of that."""
    async with machine.registry() as registry:
        job_id, unknown = await machine.start(registry, CLIENT1, Script(ends_at=1)), new_job_id()
        await ended(registry, job_id)

    async def end_others(_: ScriptedHost) -> list[JobId]:
        await trio.lowlevel.checkpoint()
        return [job_id, unknown]

    monkeypatch.setattr(ScriptedHost, "end_others", end_others)
    async with machine.registry() as registry:
        await registry.recover()
    (complaint,) = [record.message for record in caplog.records if "was the journal removed" in record.message]
    assert complaint.startswith("1 job of an earlier server")
    assert unknown in complaint
