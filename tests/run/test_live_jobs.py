"""How many jobs may run, of one client and of all together."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from jobmaster.errors import ServerBusy
from jobmaster.run.bounds import Bounds
from tests.run.conftest import Machine
from tests.run.identities import ADMIN, CLIENT1, CLIENT2, CLIENTS
from tests.run.scripted import NEVER, Script


async def test_one_client_may_run_a_share(machine: Machine) -> None:
    """A client that has its share is refused with the number, and the others are not; an end gives the place back."""
    async with machine.registry(bounds=Bounds(running=8)) as registry:
        job_ids = [await machine.start(registry, CLIENT1) for _ in range(2)]
        with pytest.raises(ServerBusy, match="client1 runs 2 jobs, as many as one client may"):
            await machine.start(registry, CLIENT1)
        await machine.start(registry, CLIENT2)
        await registry.stop(CLIENT1, job_ids[0])
        await machine.start(registry, CLIENT1)


async def test_all_clients_together(machine: Machine) -> None:
    """When as many jobs run as may, everybody is refused, until one has ended."""
    async with machine.registry(bounds=Bounds(running=8)) as registry:
        job_ids = [await machine.start(registry, client) for client in CLIENTS[:4] for _ in range(2)]
        with pytest.raises(ServerBusy, match="the server runs 8 jobs, as many as it may"):
            await machine.start(registry, CLIENTS[4])
        await registry.stop(ADMIN, job_ids[0])
        await machine.start(registry, CLIENTS[4])


async def test_jobs_that_are_being_started_count(machine: Machine) -> None:
    """A Start under way holds a place from its first moment."""
    async with machine.registry(bounds=Bounds(running=8)) as registry, trio.open_nursery() as callers:
        for _ in range(2):
            callers.start_soon(machine.start, registry, CLIENT1, Script(spawn_seconds=NEVER))
        await wait_all_tasks_blocked()
        with pytest.raises(ServerBusy, match="client1 runs 2 jobs"):
            await machine.start(registry, CLIENT1)
        callers.cancel_scope.cancel()
