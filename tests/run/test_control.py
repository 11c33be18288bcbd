"""What clients order of a running job: to pause, to go on, to be sent a signal."""

from __future__ import annotations

import errno
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import pytest
import trio

from jobmaster.errors import (
    HandedOver,
    JobNotFound,
    JobNotRunning,
    JournalUnavailable,
    NotFrozenYet,
    PauseUnavailable,
    ServerBusy,
)
from jobmaster.identity.policy import Identity
from jobmaster.job.cause import Exited, OomKilled, ServerShutdown, Signalled, Stopped
from jobmaster.job.identifier import JobId
from jobmaster.job.record import JobRecord, Paused, Resumed, SignalOrdered
from jobmaster.job.state import Running
from jobmaster.run import control
from jobmaster.run.control import FREEZE_SECONDS, SETTLE_SECONDS
from jobmaster.run.registry import Registry
from jobmaster.run.turns import OF_CLIENT
from tests.run.conftest import Machine
from tests.run.faults import Fault
from tests.run.identities import ADMIN, CLIENT1, CLIENT2, ended, record_of
from tests.run.scripted import NEVER, OnTerm, Script


async def send(registry: Registry, caller: Identity, job_id: str) -> JobRecord:
    """Sends a job a signal."""
    return await registry.signal(caller, job_id, signal.SIGUSR1)


ORDERS: Final[dict[str, Callable[[Registry, Identity, str], Awaitable[JobRecord]]]] = {
    "pause": Registry.pause,
    "resume": Registry.resume,
    "signal": send,
}


def orders_in(machine: Machine) -> list[object]:
    """The events of clients' orders that are durable, without their times."""
    kinds = Paused | Resumed | SignalOrdered
    return [
        (type(each), each.by, *((each.signal, each.to_all) if isinstance(each, SignalOrdered) else ()))
        for _, each in machine.records.written
        if isinstance(each, kinds)
    ]


async def test_a_job_is_paused_and_goes_on(machine: Machine) -> None:
    """Each is an event of its own, with who asked, durable before the answer; again, it changes nothing."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1)
        for _ in range(2):
            assert (await registry.pause(CLIENT1, job_id)).paused
            assert machine.execution(job_id).is_frozen
            assert machine.records.jobs[job_id].paused
        for _ in range(2):
            assert not (await registry.resume(ADMIN, job_id)).paused
            assert not machine.execution(job_id).is_frozen
        assert orders_in(machine) == [(Paused, "client1"), (Resumed, "superuser")]


async def test_a_pause_takes_the_kernel_its_time(machine: Machine) -> None:
    """It is answered when all processes have stopped; where that takes long, with an error: it is paused all the same."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, Script(freeze_seconds=1.5 * FREEZE_SECONDS))
        with pytest.raises(NotFrozenYet):
            await registry.pause(CLIENT1, job_id)
        assert machine.records.jobs[job_id].paused
        assert not machine.execution(job_id).has_frozen()
        assert (await registry.pause(CLIENT1, job_id)).paused
        assert machine.execution(job_id).has_frozen()
        assert orders_in(machine) == [(Paused, "client1")]


@pytest.mark.parametrize("goes_on", ["resume", "stop", "die"])
async def test_a_pause_that_is_overtaken(machine: Machine, goes_on: str) -> None:
    """Whoever waits for the processes to stop is answered when somebody has the job go on, or it dies."""
    async with machine.registry() as registry, trio.open_nursery() as nursery:
        job_id = await machine.start(registry, CLIENT1, Script(freeze_seconds=NEVER))
        nursery.start_soon(registry.pause, CLIENT1, job_id)
        await trio.sleep(FREEZE_SECONDS / 2)
        match goes_on:
            case "resume":
                await registry.resume(ADMIN, job_id)
            case "stop":
                await registry.stop(ADMIN, job_id)
            case _:
                machine.execution(job_id).end(Signalled(signal.SIGKILL))


@pytest.mark.parametrize("force", [True, False])
async def test_a_paused_job_is_stopped(machine: Machine, force: bool) -> None:
    """It goes on with the stop's signal, and is paused no more."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, Script(on_term=OnTerm(after=1)))
        await registry.pause(CLIENT1, job_id)
        record = await registry.stop(CLIENT1, job_id, force=force)
        assert isinstance(record.state.cause, Stopped)  # type: ignore[union-attr]  # it has ended
        assert (record.paused, machine.execution(job_id).is_frozen) == (False, False)


async def test_a_paused_job_ends_with_the_server(machine: Machine) -> None:
    """It is given SIGTERM, and goes on to act on it."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, Script(on_term=OnTerm(after=1)))
        await registry.pause(CLIENT1, job_id)
        await registry.drain()
        assert await ended(registry, job_id) == ServerShutdown(signal=15)
        assert not machine.execution(job_id).is_frozen


async def test_a_paused_job_dies(machine: Machine) -> None:
    """By SIGKILL, which is acted on at once: its record is paused no more."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1)
        await registry.pause(CLIENT1, job_id)
        machine.execution(job_id).end(Signalled(signal.SIGKILL))
        assert await ended(registry, job_id) == Signalled(signal.SIGKILL)
        assert not record_of(registry, job_id).paused


@pytest.mark.parametrize("is_paused", [True, False])
@pytest.mark.parametrize("is_frozen", [True, False])
async def test_the_next_server_makes_a_job_what_its_record_is(
    machine: Machine, is_paused: bool, is_frozen: bool
) -> None:
    """Whatever an earlier one had done when it died; a job stays paused."""
    async with machine.registry(hands_over=lambda: True) as registry:
        job_id = await machine.start(registry, CLIENT1)
        if is_paused:
            await registry.pause(CLIENT1, job_id)
        await registry.hand_over()
    machine.execution(job_id).is_frozen = is_frozen
    async with machine.registry() as registry:
        await registry.recover()
        await trio.sleep(1)
        assert (machine.execution(job_id).is_frozen, record_of(registry, job_id).paused) == (is_paused, is_paused)
        assert not (await registry.resume(CLIENT1, job_id)).paused


async def test_a_stop_of_a_paused_job_goes_on_over_a_crash(machine: Machine) -> None:
    """A server that dies between the order and the thaw is followed by one that lets the job go on."""
    async with machine.registry(hands_over=lambda: True) as registry, trio.open_nursery() as nursery:
        job_id = await machine.start(registry, CLIENT1, Script(on_term=OnTerm(after=2)))
        await registry.pause(CLIENT1, job_id)
        nursery.start_soon(expect_handed_over, partial(registry.stop, CLIENT1, job_id))
        await trio.sleep(1)
        await registry.hand_over()
    machine.execution(job_id).is_frozen = True
    async with machine.registry() as registry:
        await registry.recover()
        await trio.sleep(0.5)
        assert not machine.execution(job_id).is_frozen
        assert isinstance(await ended(registry, job_id), Stopped)


async def expect_handed_over(call: Callable[[], Awaitable[object]]) -> None:
    """A call whose job goes on with another server."""
    with pytest.raises(HandedOver):
        await call()


async def test_who_may_order(machine: Machine) -> None:
    """The job's owner and an admin; for another client there is no such job."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1)
        for order in ORDERS.values():
            with pytest.raises(JobNotFound):
                await order(registry, CLIENT2, job_id)
            await order(registry, ADMIN, job_id)


@pytest.mark.parametrize("name", ORDERS)
async def test_a_job_that_does_not_run(machine: Machine, name: str) -> None:
    """One that has ended is refused; one that is being stopped is sent signals, and neither paused nor resumed."""
    async with machine.registry() as registry, trio.open_nursery() as nursery:
        job_id = await machine.start(registry, CLIENT1, Script(on_term=OnTerm(after=2)))
        nursery.start_soon(registry.stop, CLIENT1, job_id)
        await trio.sleep(1)
        if name == "signal":
            await ORDERS[name](registry, CLIENT1, job_id)
        else:
            with pytest.raises(JobNotRunning, match="is being stopped"):
                await ORDERS[name](registry, CLIENT1, job_id)
        await ended(registry, job_id)
        with pytest.raises(JobNotRunning, match="has ended"):
            await ORDERS[name](registry, CLIENT1, job_id)


@pytest.mark.parametrize("name", ORDERS)
async def test_a_job_that_is_being_executed(machine: Machine, name: str) -> None:
    """An order that comes before its command is executed is carried out after that."""
    async with machine.registry() as registry, trio.open_nursery() as nursery:
        nursery.start_soon(machine.start, registry, CLIENT1, Script(execute_seconds=2))
        await trio.sleep(1)
        (job_id,) = machine.records.jobs
        before = trio.current_time()
        record = await ORDERS[name](registry, CLIENT1, job_id)
        assert trio.current_time() - before == pytest.approx(1)
        assert isinstance(record.state, Running)


@pytest.mark.parametrize("name", ORDERS)
async def test_a_journal_that_does_not_answer(machine: Machine, name: str) -> None:
    """The order is not acknowledged, in bounded time; a signal is not sent."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1)
        await registry.pause(CLIENT1, job_id)
        if name == "pause":
            await registry.resume(CLIENT1, job_id)
        machine.records.posts_wait, machine.records.settle_seconds = True, 1e9
        before = trio.current_time()
        with pytest.raises(JournalUnavailable):
            await ORDERS[name](registry, CLIENT1, job_id)
        assert trio.current_time() - before == pytest.approx(SETTLE_SECONDS)
        assert machine.execution(job_id).signals == []
        machine.records.posts_wait, machine.records.settle_seconds = False, 0


async def test_a_host_that_does_not_freeze(machine: Machine) -> None:
    """The caller is told, and nothing is recorded."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1)
        machine.plan(Fault(point="freeze", call=1, number=errno.ENOENT))
        with pytest.raises(PauseUnavailable):
            await registry.pause(CLIENT1, job_id)
        assert (record_of(registry, job_id).paused, orders_in(machine)) == (False, [])


async def test_pauses_are_bounded(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs the journal something as long as it has the job."""
    monkeypatch.setattr(control, "MOST_PAUSES", 3)
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1)
        for _ in range(3):
            await registry.pause(CLIENT1, job_id)
            await registry.resume(CLIENT1, job_id)
        with pytest.raises(ServerBusy):
            await registry.pause(CLIENT1, job_id)


# --- signals ----------------------------------------------------------------------------------------------------------


async def signalled(machine: Machine, registry: Registry, number: int, **ordered: bool) -> JobId:
    """A job that client1 has sent a signal."""
    job_id = await machine.start(registry, CLIENT1)
    await registry.signal(CLIENT1, job_id, number, **ordered)
    return job_id


async def test_who_has_sent_the_signal_is_told(machine: Machine) -> None:
    """A death by a signal that a client had sent is told with that client; by another one, with none."""
    async with machine.registry() as registry:
        for number, by in ((signal.SIGUSR1, "client1"), (signal.SIGUSR2, "")):
            job_id = await signalled(machine, registry, signal.SIGUSR1)
            assert machine.execution(job_id).signals == [signal.SIGUSR1]
            machine.execution(job_id).end(Signalled(number))
            assert await ended(registry, job_id) == Signalled(number, by=by)


async def test_the_last_who_sent_it_counts(machine: Machine) -> None:
    """Of one client, the same signal is one event, however often it is sent."""
    async with machine.registry() as registry:
        job_id = await signalled(machine, registry, signal.SIGINT)
        for caller in (CLIENT1, ADMIN, ADMIN):
            await registry.signal(caller, job_id, signal.SIGINT)
        assert machine.execution(job_id).signals == [signal.SIGINT] * 4
        number = signal.SIGINT
        assert orders_in(machine) == [
            (SignalOrdered, "client1", number, False),
            (SignalOrdered, "superuser", number, False),
        ]
        machine.execution(job_id).end(Signalled(number))
        assert await ended(registry, job_id) == Signalled(number, by="superuser")


async def test_what_else_a_signalled_job_ends_by(machine: Machine) -> None:
    """A code that it returns, the kernel's kill for memory and a stop are told as such."""
    async with machine.registry() as registry:
        job_id = await signalled(machine, registry, signal.SIGTERM, to_all=True)
        assert isinstance(await ended(registry, job_id), Signalled)
        job_id = await signalled(machine, registry, signal.SIGUSR1)
        machine.execution(job_id).end(Exited(7))
        assert await ended(registry, job_id) == Exited(7)
        job_id = await machine.start(registry, CLIENT1, Script(killed_for_memory_at=2))
        await registry.signal(CLIENT1, job_id, signal.SIGKILL)
        assert isinstance(await ended(registry, job_id), OomKilled)
        job_id = await machine.start(registry, CLIENT1, Script(on_term=OnTerm(after=1)))
        await registry.signal(CLIENT1, job_id, signal.SIGUSR1)
        await registry.stop(CLIENT1, job_id)
        assert isinstance(await ended(registry, job_id), Stopped)


@pytest.mark.parametrize("leaves", [True, False])
@pytest.mark.parametrize("earlier", [True, False])
async def test_a_signal_that_was_not_sent(machine: Machine, leaves: bool, earlier: bool) -> None:
    """Where its caller leaves or is refused meanwhile, a death by that signal is not told as its own; by an earlier one, it is."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1)
        if earlier:
            await registry.signal(ADMIN, job_id, signal.SIGUSR1)
        machine.records.settle_seconds = 1e9
        with trio.move_on_after(1) if leaves else pytest.raises(JournalUnavailable):
            await registry.signal(CLIENT1, job_id, signal.SIGUSR1)
        machine.records.settle_seconds = 0
        assert len(machine.execution(job_id).signals) == earlier
        machine.execution(job_id).end(Signalled(signal.SIGUSR1))
        assert await ended(registry, job_id) == Signalled(signal.SIGUSR1, by="superuser" if earlier else "")


async def test_the_first_of_two_who_send_the_same_signal_leaves(machine: Machine) -> None:
    """The signal of the other one is sent, and a death by it told as that client's."""
    async with machine.registry() as registry, trio.open_nursery() as nursery:
        job_id = await machine.start(registry, CLIENT1)
        machine.records.settle_seconds = 2

        async def second() -> None:
            await trio.sleep(0.5)
            await registry.signal(CLIENT1, job_id, signal.SIGUSR1)

        nursery.start_soon(second)
        with trio.move_on_after(1):
            await registry.signal(CLIENT1, job_id, signal.SIGUSR1)
        await trio.sleep(3)
        assert machine.execution(job_id).signals == [signal.SIGUSR1]
        machine.execution(job_id).end(Signalled(signal.SIGUSR1))
        assert await ended(registry, job_id) == Signalled(signal.SIGUSR1, by="client1")


async def test_a_signal_is_recorded_before_it_is_sent(machine: Machine) -> None:
    """A server that dies in between does not make it a stranger's."""
    async with machine.registry(hands_over=lambda: True) as registry:
        machine.records.posts_wait, machine.records.settle_seconds = True, 2
        job_id = await machine.start(registry, CLIENT1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(registry.signal, CLIENT1, job_id, signal.SIGUSR1)
            await trio.sleep(1)
            assert machine.execution(job_id).signals == []
        assert machine.execution(job_id).signals == [signal.SIGUSR1]
        assert orders_in(machine) == [(SignalOrdered, "client1", signal.SIGUSR1, False)]
        await registry.hand_over()
    machine.records.posts_wait, machine.records.settle_seconds = False, 0
    machine.execution(job_id).end(Signalled(signal.SIGUSR1))
    async with machine.registry() as registry:
        await registry.recover()
        assert await ended(registry, job_id) == Signalled(signal.SIGUSR1, by="client1")


async def test_signals_to_all_wait_for_those_of_the_same_client(machine: Machine) -> None:
    """A client that has many under way, which may take the host long, waits for itself; others do not, nor do stops."""
    async with machine.registry() as registry, trio.open_nursery() as nursery:
        slow = await machine.start(registry, CLIENT1, Script(signalling_hangs=True))
        for _ in range(OF_CLIENT):
            nursery.start_soon(partial(registry.signal, CLIENT1, slow, signal.SIGUSR1, to_all=True))
        quick = [await machine.start(registry, client) for client in (CLIENT1, CLIENT2)]
        with pytest.raises(ServerBusy):
            await registry.signal(CLIENT1, quick[0], signal.SIGUSR1, to_all=True)
        await registry.signal(CLIENT1, quick[0], signal.SIGUSR1)
        await registry.signal(CLIENT2, quick[1], signal.SIGUSR1, to_all=True)
        await registry.stop(CLIENT1, quick[0])
        nursery.cancel_scope.cancel()


async def test_a_signal_to_all(machine: Machine) -> None:
    """It reaches the others too."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, Script(on_term=None, others_end_at=1e9))
        machine.plan(Fault(point="signal_others", call=1))
        await registry.signal(CLIENT1, job_id, signal.SIGUSR1)
        assert not machine.host.faults.have_met("signal_others")
        with pytest.raises(Exception, match="scripted"):
            await registry.signal(CLIENT1, job_id, signal.SIGUSR1, to_all=True)
