"""What a job has used, from its cgroup into its record."""

from __future__ import annotations

import errno
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from signal import SIGKILL
from typing import Final

import pytest
import trio

from jobmaster.host.cgroup.tree import CgroupTree
from jobmaster.job.cause import Exited, OomKilled
from jobmaster.job.identifier import new_job_id
from jobmaster.job.memory import OomLimit
from jobmaster.job.record import JobRecord
from jobmaster.job.specification import CommandLine, JobSpecification
from jobmaster.job.state import Ended, Running
from jobmaster.job.usage import MemoryEventCounts, MemoryUsage, Usage
from jobmaster.run.oom_limits import FRESH_SECONDS, MOST_CLIENTS, CountsAbove
from jobmaster.run.teardown import USAGE_SECONDS
from jobmaster.run.usages import end_and_read
from tests.harness import own_cgroup_root
from tests.host.cgroup.kernel import family_in
from tests.run.conftest import ALWAYS, SOON, Machine, end_of
from tests.run.faults import Fault
from tests.run.identities import CLIENT1, ended, record_of
from tests.run.scripted import NEVER, Script
from tests.run.test_recovery import write

COMMAND: Final = CommandLine.of(JobSpecification(command="family"))
USAGE: Final = Usage(memory=MemoryUsage(peak=4096, events=MemoryEventCounts(oom_group_kill=1)), pids_peak=3)


async def test_what_a_job_has_used_is_in_its_record(machine: Machine) -> None:
    """It is told with the end, and the journal has it."""
    supervisor = await machine.running(Script(ends_at=1, usage=USAGE))
    assert (await end_of(supervisor))[0] == Exited(0)
    assert supervisor.record.usage == USAGE
    assert machine.records.jobs[supervisor.job_id].usage == USAGE


async def test_a_kernel_that_does_not_answer(machine: Machine) -> None:
    """It costs the job its usage and USAGE_SECONDS, and nothing else."""
    supervisor = await machine.running(Script(ends_at=1, usage=USAGE, usage_seconds=NEVER))
    cause, seconds = await end_of(supervisor)
    assert (cause, supervisor.record.usage) == (Exited(0), None)
    assert seconds == pytest.approx(1 + USAGE_SECONDS, abs=SOON)
    assert supervisor.leaves_nothing


@pytest.mark.parametrize("number", [None, errno.EMFILE])
async def test_a_usage_that_cannot_be_read(
    machine: Machine, caplog: pytest.LogCaptureFixture, number: int | None
) -> None:
    """It is unknown, and the log says why; the job ends as it did."""
    machine.plan(Fault(point="usage", call=1, times=ALWAYS, number=number))
    supervisor = await machine.running(Script(ends_at=1, usage=USAGE))
    assert (await end_of(supervisor))[0] == Exited(0)
    assert supervisor.record.usage is None
    assert "reading what it has used" in caplog.text
    assert supervisor.leaves_nothing


async def test_usage_outlives_the_server(machine: Machine) -> None:
    """A job that is adopted, also one that ended meanwhile, is told with what it has used."""
    async with machine.registry(hands_over=lambda: True) as registry:
        now, later = [await machine.start(registry, CLIENT1, Script(ends_at=at, usage=USAGE)) for at in (5, 50)]
        await trio.sleep(1)
        await registry.hand_over()
    await trio.sleep(10)
    async with machine.registry() as registry:
        await registry.recover()
        for job_id in (now, later):
            assert await ended(registry, job_id) == Exited(0)
            assert record_of(registry, job_id).usage == USAGE


async def test_usage_of_a_job_that_cannot_be_adopted(machine: Machine) -> None:
    """It is read before what is left of the job is removed."""
    async with machine.registry(hands_over=lambda: True) as registry:
        job_id = await machine.start(registry, CLIENT1, Script(usage=USAGE))
        await registry.hand_over()
    machine.plan(Fault(point="adopt", call=1))
    async with machine.registry() as registry:
        await registry.recover()
    assert machine.records.jobs[job_id].usage == USAGE


async def test_a_lost_job_of_which_nothing_is_left(machine: Machine) -> None:
    """Of a job whose cgroup is gone nothing is known."""
    job_id = write(machine)
    async with machine.registry() as registry:
        await registry.recover()
    record = machine.records.jobs[job_id]
    assert isinstance(record.state, Ended)
    assert record.usage is None


# --- whose limit ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", OomLimit)
async def test_whose_limit_the_main_process_was_killed_for(machine: Machine, limit: OomLimit) -> None:
    """It is told with the peak, and with whether the whole job was killed at once."""
    supervisor = await machine.running(Script(killed_for_memory_at=1, limit_of_kills=limit, usage=USAGE))
    cause, _ = await end_of(supervisor)
    assert cause == OomKilled(memory_max=None, processes_killed=1, memory_peak=4096, whole_job=True, limit_of=limit)


async def test_a_limit_that_was_met_for_a_child_long_ago(machine: Machine) -> None:
    """It is not held against what the main process is killed for later."""
    script = Script(children_killed_for_memory=(1,), killed_for_memory_at=10, limit_of_kills=OomLimit.JOB, usage=USAGE)
    supervisor = await machine.running(script)
    await trio.sleep(1.1)
    supervisor.memory_has_changed()
    await trio.sleep(5)
    machine.execution(supervisor.job_id).script = replace(script, limit_of_kills=OomLimit.CLIENT)
    cause, _ = await end_of(supervisor)
    assert isinstance(cause, OomKilled)
    assert cause.limit_of == OomLimit.CLIENT


async def test_a_usage_that_does_not_tell_of_group_kills(machine: Machine) -> None:
    """Before kernel 5.17 it is not known whether the whole job was killed at once."""
    usage = Usage(memory=MemoryUsage(events=MemoryEventCounts(oom_kill=1)))
    supervisor = await machine.running(Script(killed_for_memory_at=1, usage=usage))
    assert (await end_of(supervisor))[0] == OomKilled(memory_max=None, processes_killed=1)


def write_counts(folder: Path, count: int) -> None:
    """How often the limit of this cgroup was met."""
    folder.mkdir(exist_ok=True)
    (folder / "memory.events.local").write_text(f"oom {count}\n")


async def test_counts_above_are_read_for_all_jobs_together(tmp_path: Path, autojump_clock: object) -> None:
    """They are as new as they have to be, at once where that is asked for, and of each client; their number is bounded."""
    counts = CountsAbove(tmp_path)
    write_counts(tmp_path, 5)
    write_counts(tmp_path / "a", 1)
    assert (counts.of("a"), counts.of("b")) == ((1, 5), (None, 5))
    write_counts(tmp_path / "a", 2)
    assert counts.of("a") == (1, 5)
    assert counts.of("a", at_once=True) == (2, 5)
    write_counts(tmp_path / "a", 3)
    await trio.sleep(FRESH_SECONDS * 1.1)
    assert counts.of("a") == (3, 5)
    for number in range(MOST_CLIENTS):
        counts.of(str(number))
    write_counts(tmp_path / "a", 4)
    assert counts.of("a") == (4, 5)


# --- of jobs that nobody adopts ---------------------------------------------------------------------------------------


def test_jobs_that_are_ended_tell_what_they_used() -> None:
    """Their processes are killed first; one that has no cgroup any more, or a name for none, is left out."""
    record = JobRecord(
        id=new_job_id(), owner="client1", command=COMMAND, state=Running(pid=1, started_at=datetime.now(UTC))
    )
    gone, nameless = replace(record, id=new_job_id()), replace(record, owner="..")
    with own_cgroup_root() as root:
        tree = CgroupTree(root=root)
        tree.prepare()
        cgroup = tree.create(record.owner, record.id, ())
        with family_in(cgroup.path) as family:
            usages = end_and_read(tree, [gone, nameless, record], 60.0)
            assert family.wait() == -SIGKILL
        assert cgroup.remove()
    assert usages.keys() == {record.id}
    assert usages[record.id].cpu is not None
