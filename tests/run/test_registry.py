"""The set of jobs: who may see and stop one, running and ended."""

from __future__ import annotations

import pytest
import trio

from jobmaster.errors import HandedOver, JobNotFound
from jobmaster.job.cause import Exited, Stopped
from jobmaster.job.identifier import JobId
from jobmaster.job.state import Ended, Stopping
from jobmaster.journal.stored import StoredJob
from tests.run.conftest import Machine
from tests.run.identities import ADMIN, CLIENT1, CLIENT2, ended, record_of
from tests.run.records import MemoryRecords
from tests.run.scripted import OnTerm, Script


async def test_a_job_belongs_to_who_started_it(machine: Machine) -> None:
    """Its owner and an admin find it, running and ended; to another client it is as one that never was."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, Script(ends_at=1))
        for _ in ("running", "ended"):
            assert (await registry.find(CLIENT1, job_id)).record.owner == "client1"
            assert (await registry.find(ADMIN, job_id)).record.id == job_id
            with pytest.raises(JobNotFound, match="no such job"):
                await registry.find(CLIENT2, job_id)
            await trio.sleep(2)


@pytest.mark.parametrize("text", ["", "x", "0" * 27, "é" * 27, "../../etc/passwd"])
async def test_there_is_no_such_job(machine: Machine, text: str) -> None:
    """Whatever is no id of a job answers the same."""
    async with machine.registry() as registry:
        with pytest.raises(JobNotFound, match="no such job"):
            await registry.find(ADMIN, text)
        with pytest.raises(JobNotFound, match="no such job"):
            await registry.stop(ADMIN, text)


async def test_a_stop_returns_the_record_of_the_end(machine: Machine) -> None:
    """Stop returns when the job has ended, at once where it has already, with the same record."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, Script(on_term=OnTerm(death=Exited(7), after=2)))
        record = await registry.stop(ADMIN, job_id)
        assert isinstance(record.state, Ended)
        cause = record.state.cause
        assert isinstance(cause, Stopped)
        assert (cause.by, cause.exit_code) == ("superuser", 7)
        assert await registry.stop(CLIENT1, job_id) == record


async def test_who_leaves_a_stop_does_not_undo_it(machine: Machine) -> None:
    """The order stands when its caller is gone."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, Script(on_term=OnTerm(after=3)))
        with trio.move_on_after(1):
            await registry.stop(CLIENT1, job_id)
        assert isinstance(record_of(registry, job_id).state, Stopping)
        assert isinstance(await ended(registry, job_id), Stopped)


async def test_a_job_that_was_handed_over(machine: Machine) -> None:
    """Its owner is told to ask again, whatever is asked; a stranger, that there is no such job."""
    async with machine.registry(hands_over=lambda: True) as registry:
        job_id = await machine.start(registry, CLIENT1)
        await registry.hand_over()
        for question in (registry.find, registry.stop):
            with pytest.raises(HandedOver):
                await question(CLIENT1, job_id)
            with pytest.raises(JobNotFound):
                await question(CLIENT2, job_id)


async def test_a_job_that_is_adopted_while_it_is_looked_for(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for it at that moment gets the job that runs."""
    async with machine.registry(hands_over=lambda: True) as registry:
        job_id = await machine.start(registry, CLIENT1, Script(ends_at=5))
        await registry.hand_over()
    async with machine.registry() as registry:
        find = MemoryRecords.find

        async def find_slowly(records: MemoryRecords, job_id: JobId) -> StoredJob | None:
            stored = await find(records, job_id)
            monkeypatch.setattr(MemoryRecords, "find", find)
            await registry.recover()
            return stored

        monkeypatch.setattr(MemoryRecords, "find", find_slowly)
        job = await registry.find(CLIENT1, job_id)
        await job.wait_ended()
        assert isinstance(job.record.state, Ended)
