"""What one client may take: the numbers of a rate, and clients that start jobs with a quota."""

from __future__ import annotations

import pytest
import trio

from jobmaster.errors import ServerBusy, StartRateExceeded
from jobmaster.job.specification import JobSpecification
from jobmaster.run import requests
from jobmaster.run.bounds import Bounds
from jobmaster.run.quotas import MOST_STARTS, Quota, StartRate, StartRates, default_burst
from tests.run.conftest import SLEEPER, Machine
from tests.run.identities import CLIENT1, CLIENT2

RATE = StartRate(per_minute=6, burst=2)
COMMAND = JobSpecification(command="command")


def taken(rates: StartRates, now: float) -> int:
    """How many Starts of client1 are let through at a moment."""
    count = 0
    while count < 1000:
        try:
            rates.take("client1", now)
        except StartRateExceeded:
            return count
        count += 1
    return count


def test_a_burst_and_then_the_rate() -> None:
    """After a rest the burst at once, and then one in ten seconds; never more than the burst, however long the rest was."""
    rates = StartRates({"client1": Quota(starts=RATE)})
    assert [taken(rates, now) for now in (0, 0, 9.9, 10, 15, 20, 1e6, 1e6)] == [2, 0, 0, 1, 0, 1, 2, 0]


def test_when_to_come_again() -> None:
    """Who is refused is told when it may start one more, and by then it may."""
    rates = StartRates({"client1": Quota(starts=RATE)})
    taken(rates, 0)
    with pytest.raises(
        StartRateExceeded, match="client1 may start 6 jobs a minute, 2 of them at once; try again in 7 s"
    ) as no:
        rates.take("client1", 3.5)
    assert no.value.retry_seconds == pytest.approx(6.5)
    assert taken(rates, 3.5 + no.value.retry_seconds + 1e-6) == 1


def test_who_has_no_rate() -> None:
    """A client without one is never refused, and its Starts are not counted."""
    rates = StartRates({"client2": Quota(starts=RATE)})
    assert taken(rates, 0) == 1000


def test_another_rate() -> None:
    """A larger burst is no gift: it is gained; a smaller one counts at once; a client that loses its rate begins anew."""
    rates = StartRates({"client1": Quota(starts=RATE)})
    taken(rates, 0)
    rates.take_up({"client1": Quota(starts=StartRate(per_minute=60, burst=100))})
    assert taken(rates, 3) == 3
    rates.take_up({"client1": Quota(starts=StartRate(per_minute=60, burst=1))})
    assert taken(rates, 100) == 1
    rates.take_up({})
    rates.take_up({"client1": Quota(starts=RATE)})
    assert taken(rates, 100) == 2


@pytest.mark.parametrize(("per_minute", "burst"), [(1, 1), (5, 1), (6, 1), (60, 10), (MOST_STARTS, MOST_STARTS // 6)])
def test_the_burst_where_none_is_given(per_minute: int, burst: int) -> None:
    """What the rate gives in ten seconds, and one at least."""
    assert default_burst(per_minute) == burst


@pytest.mark.parametrize("values", [{"per_minute": 0, "burst": 1}, {"per_minute": 1, "burst": MOST_STARTS + 1}])
def test_no_rate(values: dict[str, int]) -> None:
    """A rate of none, or of more than anybody starts, is none."""
    with pytest.raises(ValueError, match="must be from 1"):
        StartRate(**values)


def quotas(running: int | None = None, starts: StartRate | None = None) -> Bounds:
    """Bounds with a quota of client1."""
    return Bounds(running=8, quotas={"client1": Quota(running=running, starts=starts)})


@pytest.mark.parametrize("most", [1, 5])
async def test_running_jobs_of_a_client(machine: Machine, most: int) -> None:
    """A client's own number counts, be it less or more than its share; others keep theirs."""
    async with machine.registry(bounds=quotas(running=most)) as registry:
        assert (registry.most_running_of(CLIENT1), registry.most_running_of(CLIENT2)) == (most, 2)
        for _ in range(most):
            await machine.start(registry, CLIENT1)
        with pytest.raises(ServerBusy, match=f"client1 runs {most} jobs, as many as this client may"):
            await machine.start(registry, CLIENT1)
        await machine.start(registry, CLIENT2)


async def test_more_than_all_may_have(machine: Machine) -> None:
    """A client's number does not lift that of all together."""
    async with machine.registry(bounds=quotas(running=100)) as registry:
        assert registry.most_running_of(CLIENT1) == 8


async def test_other_quotas_while_jobs_run(machine: Machine) -> None:
    """What is taken up counts for the next Start, and no job ends of it."""
    async with machine.registry(bounds=quotas()) as registry:
        for _ in range(2):
            await machine.start(registry, CLIENT1)
        registry.take_up(quotas(running=1))
        with pytest.raises(ServerBusy, match=r"client1 runs 2 jobs, as many as this client may \(1\)"):
            await machine.start(registry, CLIENT1)
        assert registry.running_of(CLIENT1) == 2
        registry.take_up(quotas(running=3))
        await machine.start(registry, CLIENT1)


async def test_starts_in_a_minute(machine: Machine) -> None:
    """A client that starts too many is refused until its rate gives another one; others are not."""
    async with machine.registry(bounds=quotas(running=8, starts=RATE)) as registry:
        for _ in range(2):
            await machine.start(registry, CLIENT1)
        with pytest.raises(StartRateExceeded) as no:
            await machine.start(registry, CLIENT1)
        await machine.start(registry, CLIENT2)
        await trio.sleep(no.value.retry_seconds + 0.001)
        await machine.start(registry, CLIENT1)


@pytest.mark.parametrize("comes_soon", [True, False])
async def test_a_start_that_comes_again(machine: Machine, monkeypatch: pytest.MonkeyPatch, comes_soon: bool) -> None:
    """It finds its job where its client may start none, and takes nothing of the rate."""
    if not comes_soon:
        monkeypatch.setattr(requests, "MOST_RECENT", 0)
    machine.scripts["command"] = SLEEPER
    async with machine.registry(bounds=quotas(running=1, starts=RATE)) as registry:
        job_id = await registry.start(CLIENT1, COMMAND, "request")
        registry.take_up(quotas(running=8, starts=RATE))
        for _ in range(5):
            assert await registry.start(CLIENT1, COMMAND, "request") == job_id
        await registry.start(CLIENT1, COMMAND, "another")
        with pytest.raises(StartRateExceeded):
            await registry.start(CLIENT1, COMMAND, "a third")
        assert await registry.start(CLIENT1, COMMAND, "request") == job_id
        registry.take_up(quotas(running=1))
        assert await registry.start(CLIENT1, COMMAND, "request") == job_id
