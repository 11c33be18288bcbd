"""What is kept of the jobs that have ended, within the bounds on their number."""

from __future__ import annotations

import errno

import pytest
import trio

from jobmaster.errors import JobNotFound
from jobmaster.job.identifier import JobId
from jobmaster.run.bounds import Bounds
from tests.run.conftest import Machine
from tests.run.faults import Fault
from tests.run.identities import ADMIN, CLIENT1, CLIENT2, CLIENTS, ended, record_of
from tests.run.scripted import Script


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
