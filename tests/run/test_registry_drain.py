"""How a registry ends: Starts under way are given up, jobs are stopped with grace, and nothing is left."""

from __future__ import annotations

import signal

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from jobmaster.errors import HandedOver, ServerDraining
from jobmaster.job.cause import Exited, ServerShutdown, Stopped
from jobmaster.job.state import Ended
from jobmaster.run.live_record import RECORD_SECONDS
from jobmaster.run.registry import START_SECONDS, Registry
from jobmaster.run.teardown import MOST_SECONDS
from tests.run.conftest import GRACE_SECONDS, SOON, Machine, stopped_as
from tests.run.identities import CLIENT1, CLIENT2, CLIENTS, ended
from tests.run.scripted import NEVER, OnTerm, Script

# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [Script(spawn_seconds=NEVER), Script(execute_seconds=NEVER), Script(spawn_seconds=1), Script(execute_seconds=1)],
)
async def test_a_drain_gives_up_starts(machine: Machine, script: Script) -> None:
    """A Start under way when the server shuts down is refused at once, and nothing is left of it."""
    errors = []

    async def call(registry: Registry) -> None:
        with pytest.raises(ServerDraining, match="shutting down") as caught:
            await machine.start(registry, CLIENT1, script)
        errors.append(caught.value)

    async with machine.registry() as registry, trio.open_nursery() as callers:
        callers.start_soon(call, registry)
        await trio.sleep(0.5)
        before = trio.current_time()
        await registry.drain()
        assert trio.current_time() - before <= SOON
        assert registry.running == 0
    assert len(errors) == 1
    assert machine.logs() == set()
    assert all(each.is_closed for each in machine.host.spawned.values())


@pytest.mark.parametrize("rounds", range(16))
async def test_a_drain_in_any_round_of_a_start(machine: Machine, rounds: int) -> None:
    """Whenever the drain comes, a Start is refused and leaves nothing, or its job has an end that says so."""
    outcomes: list[object] = []

    async def call(registry: Registry) -> None:
        try:
            outcomes.append(await machine.start(registry, CLIENT1, Script(execute_checkpoints=3, on_term=None)))
        except ServerDraining as error:
            outcomes.append(error)

    async with machine.registry() as registry:
        async with trio.open_nursery() as callers:
            callers.start_soon(call, registry)
            for _ in range(rounds):
                await trio.lowlevel.checkpoint()
            await registry.drain()
        (outcome,) = outcomes
        if isinstance(outcome, str):
            assert await ended(registry, outcome) == ServerShutdown(signal=signal.SIGKILL)
    assert machine.logs() == {outcome for outcome in outcomes if isinstance(outcome, str)}


async def test_a_drain_takes_no_more_jobs(machine: Machine) -> None:
    """From its first moment on a Start is refused."""
    async with machine.registry() as registry, trio.open_nursery() as nursery:
        await machine.start(registry, CLIENT1, Script(on_term=None))
        nursery.start_soon(registry.drain)
        await wait_all_tasks_blocked()
        with pytest.raises(ServerDraining):
            await machine.start(registry, CLIENT1)


async def test_a_drain_ends_all_jobs_with_grace(machine: Machine) -> None:
    """Every job gets SIGTERM and the grace period, and the drain returns when the last one has ended."""
    async with machine.registry() as registry:
        quick = await machine.start(registry, CLIENT1, Script(on_term=OnTerm(death=Exited(0), after=1)))
        slow = await machine.start(registry, CLIENT2, Script(on_term=None, others_end_at=NEVER))
        before = trio.current_time()
        await registry.drain()
        assert trio.current_time() - before == pytest.approx(GRACE_SECONDS, abs=SOON)
        assert await ended(registry, quick) == ServerShutdown(signal=signal.SIGTERM, exit_code=0)
        assert await ended(registry, slow) == ServerShutdown(signal=signal.SIGKILL)
        await registry.drain()


async def test_hurry_ends_a_drain(machine: Machine) -> None:
    """Told again, the server kills what is being stopped, and what is stopped from then on."""
    async with machine.registry() as registry, trio.open_nursery() as nursery:
        job_ids = [await machine.start(registry, client, Script(on_term=None)) for client in CLIENTS[:3]]
        nursery.start_soon(registry.drain)
        await trio.sleep(1)
        before = trio.current_time()
        registry.hurry()
        for job_id in job_ids:
            assert await ended(registry, job_id) == ServerShutdown(signal=signal.SIGKILL)
        assert trio.current_time() - before <= SOON


async def test_hurry_is_for_later_jobs_too(machine: Machine) -> None:
    """A job that is started afterwards has no grace period."""
    async with machine.registry() as registry:
        registry.hurry()
        job_id = await machine.start(registry, CLIENT1, Script(on_term=None))
        before = trio.current_time()
        await registry.stop(CLIENT1, job_id)
        assert trio.current_time() - before <= SOON


async def test_an_order_before_the_drain_counts(machine: Machine) -> None:
    """A job that a client was stopping when the server shut down is stopped by that client, after one SIGTERM."""
    async with machine.registry() as registry, trio.open_nursery() as nursery:
        job_id = await machine.start(registry, CLIENT1, Script(on_term=None))
        nursery.start_soon(registry.stop, CLIENT1, job_id)
        await trio.sleep(1)
        await registry.drain()
        assert isinstance(await ended(registry, job_id), Stopped)
        assert len(machine.execution(job_id).truth.terms) == 1


async def test_the_end_of_the_block_ends_the_jobs(machine: Machine) -> None:
    """A registry that is left, by an error too, has ended its jobs and left nothing."""
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        await _leave_by_an_error(machine)
    assert all(each.is_closed and each.truth.terms for each in machine.host.spawned.values())
    assert len(machine.logs()) == 1


async def _leave_by_an_error(machine: Machine) -> None:
    async with machine.registry() as registry:
        await machine.start(registry, CLIENT1, Script(on_term=OnTerm(after=2), others_end_at=NEVER))
        raise ZeroDivisionError


async def test_the_end_of_the_block_has_a_deadline(machine: Machine) -> None:
    """However long the processes take to die, the registry is left in bounded time."""
    before = trio.current_time()
    async with machine.registry() as registry:
        for client in CLIENTS:
            await machine.start(registry, client, Script(on_term=None, death_seconds=NEVER))
    assert registry.running == 0
    assert trio.current_time() - before <= GRACE_SECONDS + MOST_SECONDS + RECORD_SECONDS + 5


@pytest.mark.parametrize("is_written", [True, False])
async def test_an_end_that_the_journal_takes_late(machine: Machine, is_written: bool) -> None:
    """The drain waits so long for it; the journal has it still, and where it writes that by its own end, nothing is missing."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, Script(on_term=OnTerm()))
        machine.records.commit_seconds = machine.records.settle_seconds = 3600
        before = trio.current_time()
        await registry.drain()
        assert trio.current_time() - before == pytest.approx(RECORD_SECONDS, abs=SOON)
        assert machine.records.unwritten == [job_id]
    if is_written:
        machine.records.settle_seconds = 0
        await machine.records.settle()
        assert isinstance(machine.records.jobs[job_id].state, Ended)
    assert registry.unrecorded == (not is_written)


async def test_a_drain_that_hangs_has_a_deadline(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a bug keeps the drain from its end, the block is left when every job has had its time and five seconds more."""

    async def drain(_: Registry) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(Registry, "drain", drain)
    async with machine.registry():
        before = trio.current_time()
    assert trio.current_time() - before == pytest.approx(GRACE_SECONDS + MOST_SECONDS + RECORD_SECONDS + 5, abs=SOON)


async def test_output_of_given_up_starts_goes_with_the_registry(machine: Machine) -> None:
    """A Start that the shutdown gives up leaves no file, though there is no time after it."""
    async with trio.open_nursery() as callers:
        async with machine.registry() as registry:
            callers.start_soon(_start_in_vain, machine, registry)  # noqa: ASYNC111  # it is refused at the block's end
            await trio.sleep(1)
            assert len(machine.logs()) == 1
        assert machine.logs() == set()


async def _start_in_vain(machine: Machine, registry: Registry) -> None:
    with pytest.raises(ServerDraining):
        await machine.start(registry, CLIENT1, Script(execute_seconds=NEVER))


# --- handed over ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [Script(spawn_seconds=1), Script(execute_seconds=1)])
async def test_starts_under_way_are_not_refused_when_their_jobs_go_on(machine: Machine, script: Script) -> None:
    """A Start that a hand-over meets has its job, which is left running to the next server."""
    job_ids = []

    async def call(registry: Registry) -> None:
        job_ids.append(await machine.start(registry, CLIENT1, script))

    async with machine.registry(hands_over=lambda: True) as registry, trio.open_nursery() as callers:
        callers.start_soon(call, registry)
        await trio.sleep(0.5)
        await registry.hand_over()
    (execution,) = machine.host.spawned.values()
    assert job_ids == [execution.job_id]
    assert execution.is_left


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        (Script(on_term=None, death_seconds=15), ("client1", 9, None, True)),
        (
            Script(on_term=OnTerm(), others_end_at=NEVER, others_ignore_term=True, death_seconds=15),
            ("client1", 15, None, False),
        ),
        (Script(ends_at=1, others_end_at=18, death_seconds=NEVER), Exited(0)),
    ],
)
async def test_no_process_that_cannot_die_holds_a_hand_over_up(machine: Machine, script: Script, cause: object) -> None:
    """A job that was killed and lives on (uninterruptible sleep) is left to the next server, which sees how it ends."""
    async with machine.registry(hands_over=lambda: True) as registry, trio.open_nursery() as callers:
        job_id = await machine.start(registry, CLIENT1, script)

        async def stop() -> None:
            with pytest.raises(HandedOver):
                await registry.stop(CLIENT1, job_id)

        await trio.sleep(2)
        callers.start_soon(stop)
        await trio.sleep(GRACE_SECONDS + 1)
        before = trio.current_time()
        await registry.hand_over()
        assert trio.current_time() - before <= SOON
        assert machine.execution(job_id).is_left
    async with machine.registry() as registry:
        await registry.recover()
        found = await ended(registry, job_id)
        assert (stopped_as(found) if isinstance(found, Stopped) else found) == cause
        assert registry.running == 0
        assert machine.execution(job_id).is_removed


@pytest.mark.parametrize("script", [Script(spawn_seconds=NEVER), Script(execute_seconds=NEVER)])
async def test_no_start_holds_a_hand_over_up(machine: Machine, script: Script) -> None:
    """A Start that the host does not come to an end with is refused in time."""
    async with machine.registry(hands_over=lambda: True) as registry, trio.open_nursery() as callers:

        async def call() -> None:
            with pytest.raises(ServerDraining):
                await machine.start(registry, CLIENT1, script)

        callers.start_soon(call)
        await trio.sleep(0.5)
        before = trio.current_time()
        await registry.hand_over()
        assert trio.current_time() - before == pytest.approx(START_SECONDS, abs=SOON)
