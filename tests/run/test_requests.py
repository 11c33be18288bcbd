"""Starts that are repeated with one request id: whatever became of the first, the answer is a job that is there."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
import trio

from jobmaster.errors import HostError
from jobmaster.job.identifier import JobId, new_job_id
from jobmaster.job.record import JobEvent, Launched
from jobmaster.job.request import RequestError, RequestKey
from jobmaster.job.specification import CommandLine, JobSpecification
from jobmaster.job.state import Running
from jobmaster.run.registry import Registry
from tests.run.conftest import Machine
from tests.run.identities import CLIENT1, record_of
from tests.run.records import MemoryRecords
from tests.run.scripted import OnTerm, Script

REQUEST = "one"
SPECIFICATION = JobSpecification(command="command")


@dataclass(slots=True, kw_only=True)
class LateRecords(MemoryRecords):
    """Writes what nobody waits for as late as it may."""

    late: list[tuple[JobId, JobEvent, RequestError | None]] = field(default_factory=list)

    def post(self, job_id: JobId, event: JobEvent, request_error: RequestError | None = None) -> None:
        """Keeps an event until it is needed."""
        self.late.append((job_id, event, request_error))

    async def record(self, job_id: JobId, event: JobEvent) -> int:
        """Writes all that came before, and this."""
        await self.settle()
        return await MemoryRecords.record(self, job_id, event)

    async def settle(self) -> None:
        """Writes all."""
        await trio.lowlevel.checkpoint()
        late, self.late = self.late, []
        for job_id, event, request_error in late:
            self._write(job_id, event, request_error)


@pytest.mark.parametrize("pause", [0, 20])
@pytest.mark.parametrize("rounds", range(24))
async def test_a_start_that_was_given_up_is_repeated(machine: Machine, rounds: int, pause: float) -> None:
    """In whatever round of the event loop the first caller leaves, the second one has a job that runs."""
    machine.scripts["command"] = Script(execute_checkpoints=3, on_term=OnTerm(after=2), death_seconds=1)

    async def call(registry: Registry) -> None:
        await registry.start(CLIENT1, SPECIFICATION, REQUEST)

    async with machine.registry() as registry:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, registry)
            for _ in range(rounds):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        await trio.sleep(pause)
        job_id = await registry.start(CLIENT1, SPECIFICATION, REQUEST)
        await trio.sleep(20)
        assert isinstance(record_of(registry, job_id).state, Running)
        assert registry.running == 1


async def left_by_an_earlier_server(machine: Machine) -> JobId:
    """A job that was recorded and not executed."""
    job_id = new_job_id()
    spawned = await machine.host.spawn(job_id, "client1", SPECIFICATION)
    launched = Launched(
        id=job_id,
        owner="client1",
        command=CommandLine.of(SPECIFICATION),
        pid=spawned.execution.pid,
        start_time=0,
        boot_id="",
        at=datetime.now(UTC),
        request=RequestKey.of(REQUEST, SPECIFICATION),
    )
    await machine.records.record(job_id, launched)
    spawned.execution.leave()
    await spawned.pump.hand_over()
    await spawned.pump.close()
    return job_id


async def test_a_job_of_an_earlier_server_is_not_executed(machine: Machine) -> None:
    """A Start that is repeated while the next server finds out that its job is never executed has a new one."""
    machine.records = LateRecords()
    machine.scripts["command"] = Script(execute_seconds=1, execute_error=HostError("it had died before"))
    first = await left_by_an_earlier_server(machine)
    machine.scripts["command"] = Script()
    async with machine.registry() as registry:
        await registry.recover()
        job_id = await registry.start(CLIENT1, SPECIFICATION, REQUEST)
        assert job_id != first
        assert isinstance(record_of(registry, job_id).state, Running)
