"""OOM kills are seen while jobs run, at the price of one look for all of them."""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing

from jobmaster.job.cause import OomKilled
from tests.run.conftest import KILLED, Machine
from tests.run.faults import Fault
from tests.run.identities import CLIENT1, CLIENTS, ended, record_of
from tests.run.scripted import Script


async def test_oom_kills_are_seen_while_a_job_runs(machine: Machine) -> None:
    """A child killed for memory is in the record within a second, and is not held against a later foreign SIGKILL."""
    async with machine.registry() as registry:
        script = Script(children_killed_for_memory=(5.05,), ends_at=60, death=KILLED)
        job_id = await machine.start(registry, CLIENT1, script)
        other = await machine.start(registry, CLIENT1, Script(killed_for_memory_at=5.05, death_seconds=10))
        await trio.sleep(6)
        assert record_of(registry, job_id).oom_kills == 1
        assert await ended(registry, other) == OomKilled(memory_max=None, processes_killed=1)
        assert await ended(registry, job_id) == KILLED


@pytest.mark.parametrize("looks_first", [False, True])
async def test_oom_kills_between_two_servers(machine: Machine, looks_first: bool) -> None:
    """A child killed for memory while no server looks is in the record, and is not held against a later foreign SIGKILL."""
    async with machine.registry(hands_over=lambda: True) as registry:
        script = Script(children_killed_for_memory=(5,), ends_at=60, death=KILLED)
        job_id = await machine.start(registry, CLIENT1, script)
        await trio.sleep(3)
        await registry.hand_over()
    await trio.sleep(5)
    async with machine.registry() as registry:
        if looks_first:  # at the counters of all together, when no job is adopted
            await trio.testing.wait_all_tasks_blocked()
        await registry.recover()
        await trio.sleep(1)
        assert record_of(registry, job_id).oom_kills == 1
        assert await ended(registry, job_id) == KILLED


async def test_only_jobs_of_a_client_whose_counter_moved_are_looked_at(machine: Machine) -> None:
    """Idle jobs cost one look at the counters of all together; a kill at one client's, a look at each of that client."""
    async with machine.registry() as registry:
        for client in CLIENTS:
            for _ in range(5):
                await machine.start(registry, client)
        await trio.sleep(1)
        calls = machine.host.faults.calls
        calls.clear()
        await trio.sleep(10)
        assert calls["oom_kills"] == 0
        assert calls["memory_events"] <= 51
        await machine.start(registry, CLIENT1, Script(children_killed_for_memory=(1, 3)))
        await trio.sleep(2)
        calls.clear()  # at the first kill, the counters of all clients were new
        await trio.sleep(5)
        assert calls["oom_kills"] == 6


async def test_counters_that_cannot_be_read(machine: Machine) -> None:
    """Where the counters of all together can't be read, each job looks at its own."""
    async with machine.registry() as registry:
        machine.plan(Fault(point="memory_events", call=1, times=10**9, number=errno.EMFILE))
        job_id = await machine.start(registry, CLIENT1, Script(children_killed_for_memory=(1,)))
        await trio.sleep(2)
        assert record_of(registry, job_id).oom_kills == 1
