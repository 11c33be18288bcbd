"""What is told of a job while it lives: failures to the operator, lost output to the journal."""

from __future__ import annotations

import errno
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from jobmaster.errors import JournalUnavailable
from jobmaster.job.cause import Exited, OutputCapped
from jobmaster.job.identifier import JobId, new_job_id
from jobmaster.job.record import JobEvent, JobRecord, Launched
from jobmaster.job.request import RequestError
from jobmaster.job.specification import CommandLine, JobSpecification
from jobmaster.job.state import Closing, Ended, Finished, Running, Stopping
from jobmaster.output.cap import SMALLEST, Cap
from jobmaster.run.live_record import RECORD_SECONDS, LiveRecord
from jobmaster.run.supervisor import Supervisor
from jobmaster.run.teardown import OUTPUT_SECONDS
from tests.run.conftest import ALWAYS, Machine, launched_of
from tests.run.faults import Fault
from tests.run.identities import CLIENT1, ended, record_of
from tests.run.scripted import NEVER, OnTerm, Script

if TYPE_CHECKING:
    from jobmaster.output.log import OutputLog


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


async def test_a_launch_that_is_refused_and_may_be_recorded(machine: Machine) -> None:
    """The journal is given the end as well, and nothing is left of the job."""
    supervisor = await machine.held(Script())
    machine.records.is_doubtful = machine.records.posts_wait = True
    with pytest.raises(JournalUnavailable):
        await supervisor.run(launched_of(supervisor.record))
    assert [type(event) for _, event in machine.records.written] == [Launched, Finished]
    assert machine.records.jobs == {}
    assert machine.execution(supervisor.job_id).is_closed


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


# --- the end ----------------------------------------------------------------------------------------------------------


class Journal:
    """A recorder that answers nobody until it may.

    Attributes:
        fails: it takes no end at once.
        has_ended: what it has not written by then is never written.
        holds_leavers: who is cancelled waits for the answer all the same, as the journal has it.
        unwritten: jobs of which something was given.
    """

    def __init__(self, *, fails: bool = False, has_ended: bool = False, holds_leavers: bool = False) -> None:
        self.fails = fails
        self.has_ended = has_ended
        self.holds_leavers = holds_leavers
        self.unwritten: list[JobId] = []
        self.may_answer = trio.Event()
        self.may_settle = trio.Event()

    async def record(self, job_id: JobId, event: JobEvent) -> int:
        """As `Recorder.record`."""
        self.post(job_id, event)
        with trio.CancelScope(shield=self.holds_leavers):
            await self.may_answer.wait()
        if self.fails:
            raise JournalUnavailable("its disk is away")
        self.unwritten.remove(job_id)
        return 1

    def post(
        self,
        job_id: JobId,
        _: JobEvent,
        __: RequestError | None = None,
        *,
        forget: bool = False,  # noqa: ARG002  # as there
    ) -> None:
        """As `Recorder.post`."""
        self.unwritten.append(job_id)

    async def settle(self) -> None:
        """As `Recorder.settle`."""
        await self.may_settle.wait()
        if not self.has_ended:
            self.unwritten.clear()


class NoOutput:
    """The output of a job that wrote nothing."""

    kept = lost = dropped = 0

    def seal(self) -> None:
        """As `OutputLog.seal`."""


def closing(journal: Journal, *, hands_over: bool = False) -> LiveRecord:
    """A job whose processes have died."""
    record = JobRecord(
        id=new_job_id(),
        owner="client1",
        command=CommandLine.of(JobSpecification(command="true")),
        state=Closing(pid=1, started_at=datetime.now(UTC), death=Exited(0)),
    )
    return LiveRecord(record, journal, cast("OutputLog", NoOutput()), hands_over=lambda: hands_over)


def known(record: LiveRecord) -> tuple[bool, bool, bool]:
    """Whether it has ended, whether the journal was given its end, and whether that is settled."""
    return isinstance(record.state, Ended), record.is_end_given, record.is_end_settled


NOT_TAKEN, GIVEN, SETTLED = (False, False, False), (False, True, False), (True, True, True)


async def test_an_end_is_told_when_it_is_recorded() -> None:
    """Until the journal has it, the job has not ended."""
    journal = Journal()
    record = closing(journal)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(record.end, Exited(0))
        await wait_all_tasks_blocked()
        assert known(record) == GIVEN
        journal.may_answer.set()
    assert known(record) == SETTLED


@pytest.mark.parametrize("is_kept", [True, False])
async def test_an_end_that_the_journal_does_not_take(is_kept: bool, caplog: pytest.LogCaptureFixture) -> None:
    """It is not told; whether the journal has it still, and may write it yet, is known, and the operator reads why."""
    journal = Journal(fails=True)
    record = closing(journal)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(record.end, Exited(0))
        await wait_all_tasks_blocked()
        if not is_kept:
            journal.unwritten.clear()
        journal.may_answer.set()
    assert known(record) == (GIVEN if is_kept else NOT_TAKEN)
    assert [line.message.endswith(": its disk is away") for line in caplog.records] == [True]


async def end_cancelled(record: LiveRecord, journal: Journal) -> None:
    """Cancels who waits for the end to be recorded; the journal answers after that."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(record.end, Exited(0))
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        await trio.lowlevel.cancel_shielded_checkpoint()
        journal.may_answer.set()
        with trio.CancelScope(shield=True):
            await wait_all_tasks_blocked()
            assert not isinstance(record.state, Ended)
            journal.may_settle.set()


@pytest.mark.parametrize("holds_leavers", [True, False])
@pytest.mark.parametrize(
    ("hands_over", "has_ended", "becomes"), [(False, False, SETTLED), (False, True, GIVEN), (True, False, GIVEN)]
)
async def test_an_end_that_is_cancelled(
    holds_leavers: bool, hands_over: bool, has_ended: bool, becomes: tuple[bool, bool, bool]
) -> None:
    """A server that hands its jobs over waits no longer; another one does, and tells the end if the journal has it then."""
    journal = Journal(fails=True, has_ended=has_ended, holds_leavers=holds_leavers)
    record = closing(journal, hands_over=hands_over)
    await end_cancelled(record, journal)
    assert known(record) == becomes


@pytest.mark.parametrize("is_late", [True, False])
async def test_an_end_with_the_server_waits_only_so_long(
    is_late: bool, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The journal has RECORD_SECONDS for the end from when the server ends the job, or from the end if that is later."""
    record = closing(Journal())
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        if is_late:
            record.end_with_server()
            await trio.sleep(3)
        nursery.start_soon(record.end, Exited(0))
        if not is_late:
            await trio.sleep(3)
            record.end_with_server()
            await trio.sleep(3)
            record.end_with_server()  # again
    assert trio.current_time() - began == pytest.approx(3 + RECORD_SECONDS)
    assert known(record) == GIVEN
    assert [line.message.endswith(": its disk does not answer") for line in caplog.records] == [True]


async def test_a_cancelled_end_waits_only_so_long(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """Where jobs end with the server, the journal has RECORD_SECONDS from the cancellation, and the operator is told."""
    record = closing(Journal())
    with trio.move_on_after(1):
        await record.end(Exited(0))
    assert trio.current_time() == pytest.approx(1 + RECORD_SECONDS)
    assert known(record) == GIVEN
    assert [line.message.endswith(": its disk does not answer") for line in caplog.records] == [True]


@pytest.mark.parametrize("is_settled", [True, False])
async def test_an_end_that_nobody_was_told_of(is_settled: bool, autojump_clock: MockClock) -> None:
    """It is told after RECORD_SECONDS at most, and whether the journal has it by then is known."""
    journal = Journal()
    record = closing(journal)
    if is_settled:
        journal.may_settle.set()
    with trio.CancelScope() as scope:
        scope.cancel()
        await record.end_unknown(Exited(0), None, forget=True)
    assert trio.current_time() == pytest.approx(0 if is_settled else RECORD_SECONDS)
    assert (isinstance(record.state, Ended), record.is_end_settled) == (True, is_settled)
