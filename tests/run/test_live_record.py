"""What is told of a job while it lives: failures to the operator, lost output to the journal."""

from __future__ import annotations

import errno
import signal

import pytest
import trio

from jobmaster.errors import JournalUnavailable
from jobmaster.job.cause import Exited, OutputCapped
from jobmaster.job.state import Closing, Running, Stopping
from jobmaster.output.cap import SMALLEST, Cap
from jobmaster.run.supervisor import Supervisor
from jobmaster.run.teardown import OUTPUT_SECONDS
from tests.run.conftest import ALWAYS, Machine, launched_of
from tests.run.faults import Fault
from tests.run.identities import CLIENT1, ended, record_of
from tests.run.scripted import NEVER, OnTerm, Script


async def test_each_failing_step_is_logged_once(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """Of a step that fails again and again the first failure is logged, without a traceback where it is the host's."""
    supervisor = await machine.running(Script(ends_at=1, others_end_at=NEVER))
    machine.plan(Fault(point="is_populated", call=1, times=100, number=errno.EMFILE))
    await supervisor.wait_ended()
    complaints = [record for record in caplog.records if "looking for its processes" in record.message]
    assert len(complaints) == 1
    assert not complaints[0].exc_info


async def test_of_a_launch_that_was_not_recorded_no_end_is(machine: Machine) -> None:
    """The journal takes nothing about a job of which it has not even the launch."""
    supervisor = await machine.held(Script())
    machine.records.is_writable = False
    with pytest.raises(JournalUnavailable):
        await supervisor.run(launched_of(supervisor.record))
    assert machine.records.posted == []
    assert machine.records.written == []
    assert supervisor.ended.is_set()


# --- output that is lost ----------------------------------------------------------------------------------------------


async def test_lost_output_is_recorded_at_once(machine: Machine) -> None:
    """That a disk does not take the output is recorded while the job runs, at first at once and then from time to time."""
    supervisor = await machine.held(Script(writes=((1, 1000), (2, 1000), (3, 1000), (100, 1000))))
    machine.plan(
        *(Fault(point=f"pump.{call}", call=1, times=ALWAYS, number=errno.ENOSPC) for call in ("splice", "pwrite"))
    )
    await machine.nursery.start(supervisor.run, launched_of(supervisor.record))
    counts = []
    for seconds in (1.5, 10, 200):
        await trio.sleep(seconds)
        counts.append(machine.records.jobs[supervisor.record.id].output_bytes_lost)
    assert counts == [1000, 3000, 4000]


async def test_losses_outlive_the_server(machine: Machine) -> None:
    """A server that dies after output was lost is followed by one that keeps the rest at its offset, behind the gap."""
    script = Script(writes=((1, 1000), (2, 1000), (5, 1000)), ends_at=10)
    async with machine.registry(hands_over=lambda: True) as registry:
        machine.plan(
            Fault(point="pump.splice", call=2, number=errno.ENOSPC),
            Fault(point="pump.pwrite", call=1, number=errno.ENOSPC),
        )
        job_id = await machine.start(registry, CLIENT1, script)
        await trio.sleep(3)
        recorded = machine.records.jobs[job_id]
        await registry.hand_over()
    machine.records.jobs[job_id] = recorded  # as where the server was killed instead
    async with machine.registry() as registry:
        await registry.recover()
        assert await ended(registry, job_id) == Exited(0)
        record = record_of(registry, job_id)
        assert (record.output_bytes, record.output_bytes_lost) == (2000, 1000)


async def test_an_output_that_is_larger_than_its_cap(machine: Machine) -> None:
    """What is dropped is recorded, also over a server that hands over, and every byte of the job's is accounted for."""
    writes = tuple((second / 10, 50_000) for second in range(1, 31))
    async with machine.registry(hands_over=lambda: True) as registry:
        job_id = await machine.start(registry, CLIENT1, Script(writes=writes, ends_at=10), cap=Cap(SMALLEST))
        await trio.sleep(1.95)
        assert machine.records.jobs[job_id].output_bytes_dropped > 0
        assert (machine.records.jobs[job_id].output_max, machine.records.jobs[job_id].ends_when_full) == (
            SMALLEST,
            False,
        )
        await registry.hand_over()
    async with machine.registry() as registry:
        await registry.recover()
        assert await ended(registry, job_id) == Exited(0)
        record = record_of(registry, job_id)
        written = 50_000 * len(writes)
        assert (record.output_bytes_lost, record.output_bytes + record.output_bytes_dropped) == (0, written)
        assert SMALLEST - Cap(SMALLEST).chunk <= record.output_bytes <= SMALLEST + Cap(SMALLEST).chunk


@pytest.mark.parametrize("is_handed_over", [False, True])
async def test_a_job_that_ends_when_its_output_is_full(machine: Machine, is_handed_over: bool) -> None:
    """It is stopped as anybody would stop it, and its cause says why, also where another server sees it to its end."""
    script = Script(writes=tuple((second, 100_000) for second in range(1, 60)), on_term=OnTerm(after=5))
    async with machine.registry(hands_over=lambda: is_handed_over) as registry:
        job_id = await machine.start(registry, CLIENT1, script, cap=Cap(SMALLEST, ends_job=True))
        await trio.sleep(4)
        assert isinstance(record_of(registry, job_id).state, Stopping)
        if is_handed_over:
            await registry.hand_over()
        else:
            await ended(registry, job_id)
    async with machine.registry() as registry:
        await registry.recover()
        cause = await ended(registry, job_id)
        record = record_of(registry, job_id)
    assert cause == OutputCapped(output_max=SMALLEST, signal=signal.SIGTERM)
    assert (record.output_bytes, record.output_bytes_lost) == (SMALLEST, 0)
    assert record.output_bytes_dropped > 0


async def test_a_job_whose_output_was_full_when_its_server_left(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that writes no more is ended by the next server, where the first had lost bytes and not ordered its end yet."""

    async def end_later(_: Supervisor) -> None:
        await trio.sleep_forever()

    script = Script(writes=((1, SMALLEST + 1),), on_term=OnTerm(after=5))
    async with machine.registry(hands_over=lambda: True) as registry:
        with monkeypatch.context() as patch:
            patch.setattr(Supervisor, "_end_when_full", end_later)
            job_id = await machine.start(registry, CLIENT1, script, cap=Cap(SMALLEST, ends_job=True))
            await trio.sleep(2)
        assert isinstance(record_of(registry, job_id).state, Running)
        await registry.hand_over()
    async with machine.registry() as registry:
        await registry.recover()
        cause = await ended(registry, job_id)
        record = record_of(registry, job_id)
    assert cause == OutputCapped(output_max=SMALLEST, signal=signal.SIGTERM)
    assert (record.output_bytes, record.output_bytes_dropped) == (SMALLEST, 1)


@pytest.mark.parametrize(
    ("is_written", "has_threads", "kept"), [(True, True, 0), (False, True, 1000), (False, False, 0)]
)
async def test_what_stays_in_the_pipe_is_counted_once(
    machine: Machine, is_written: bool, has_threads: bool, kept: int
) -> None:
    """A server whose journal ends before it writes an end leaves the pipe's rest, uncounted, to the one that follows."""
    no_threads = Fault(point="pump thread", call=1, times=ALWAYS)
    async with machine.registry(hands_over=lambda: True) as registry:
        machine.plan(no_threads)
        job_id = await machine.start(registry, CLIENT1, Script(writes=((1, 1000),), ends_at=2))
        machine.records.commit_seconds = 3600
        await trio.sleep(2 + OUTPUT_SECONDS)
        assert isinstance(machine.records.jobs[job_id].state, Closing)
        machine.records.settle_seconds = 3600
        await registry.hand_over()
    machine.records.commit_seconds = machine.records.settle_seconds = 0
    if is_written:
        await machine.records.settle()
    machine.records.posted.clear()
    machine.plan(*(() if has_threads else (no_threads,)))
    async with machine.registry() as registry:
        await registry.recover()
        assert await ended(registry, job_id) == Exited(0)
        record = record_of(registry, job_id)
        assert (record.output_bytes, record.output_bytes_lost) == (kept, 1000 - kept)
