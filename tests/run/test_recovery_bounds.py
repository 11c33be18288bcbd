"""What a server does with the jobs of an earlier one before it serves."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import trio

from jobmaster.errors import JournalUnavailable
from jobmaster.job.cause import ServerLost
from jobmaster.job.identifier import JobId
from jobmaster.job.record import JobEvent, JobRecord
from jobmaster.job.request import RequestError
from jobmaster.job.state import Ended, Executed
from jobmaster.run.execution import Spawned
from jobmaster.run.job_files import STARTERS
from jobmaster.run.recovery import RECORD_SECONDS, recover
from tests.run.conftest import SOON, Machine, launched_of
from tests.run.identities import ADMIN
from tests.run.records import MemoryRecords
from tests.run.scripted import Script, ScriptedHost


@dataclass(slots=True, kw_only=True)
class FullRecords(MemoryRecords):
    """Takes what happens, and writes nothing while its disk is full."""

    is_full: bool = False

    async def record(self, job_id: JobId, event: JobEvent) -> int:
        """Waits for space."""
        if self.is_full:
            await trio.sleep_forever()
        return await MemoryRecords.record(self, job_id, event)

    def post(
        self, job_id: JobId, event: JobEvent, request_error: RequestError | None = None, *, forget: bool = False
    ) -> None:
        """Writes it where there is space."""
        if not self.is_full:
            MemoryRecords.post(self, job_id, event, request_error, forget=forget)

    async def settle(self) -> None:
        """Waits for space."""
        await trio.lowlevel.checkpoint()
        if self.is_full:
            await trio.sleep_forever()


@dataclass(slots=True, kw_only=True)
class CountingHost(ScriptedHost):
    """Takes a second to adopt a job, and counts how many are adopted at a time.

    Attributes:
        waiting: now.
        most: at most.
    """

    waiting: int = 0
    most: int = 0

    async def adopt(self, record: JobRecord) -> Spawned | None:  # noqa: ARG002  # of each the same
        """Adopts none."""
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        await trio.sleep(1)
        self.waiting -= 1
        return None


async def record_running(machine: Machine) -> JobRecord:
    """A job that the records have running, and whose processes are gone."""
    held = await machine.held(Script())
    await machine.records.record(held.record.id, launched_of(held.record))
    machine.records.post(held.record.id, Executed())
    return held.record


async def test_lost_jobs_have_an_end(machine: Machine) -> None:
    """A job whose processes are gone is recorded as lost before the server serves."""
    record = await record_running(machine)
    recovered = await recover(machine.host, machine.records)
    assert [job.id for job in recovered.lost] == [record.id]
    state = machine.records.jobs[record.id].state
    assert isinstance(state, Ended)
    assert isinstance(state.cause, ServerLost)


async def test_a_journal_that_is_full_keeps_no_server_from_serving(machine: Machine) -> None:
    """The ends of lost jobs are waited for in bounds; until they are recorded, who asks is told to ask again."""
    machine.records = records = FullRecords()
    record = await record_running(machine)
    records.is_full = True
    async with machine.registry() as registry:
        before = trio.current_time()
        await registry.recover()
        assert trio.current_time() - before == pytest.approx(RECORD_SECONDS, abs=SOON)
        with pytest.raises(JournalUnavailable, match="try again later"):
            await registry.find(ADMIN, record.id)
        records.is_full = False


async def test_adoptions_take_turns(machine: Machine) -> None:
    """Each of many jobs has the whole of its time: none waits for a thread while another one has it."""
    for _ in range(50):
        await record_running(machine)
    host = CountingHost(folder=machine.host.folder, nursery=machine.nursery, scripts={})
    await recover(host, machine.records)
    assert 1 < host.most <= STARTERS.total_tokens
