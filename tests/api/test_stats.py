"""Stats: what a job uses, at an interval until it has ended."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import pytest
import trio
import trio.testing

from jobmaster.api.followers import Followers
from jobmaster.api.stats import SAMPLE_SECONDS, follow_stats
from jobmaster.errors import HandedOver, InvalidRequest, JobNotFound, ServerBusy
from jobmaster.job.usage import CpuUsage, Usage
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.run.supervisor import Supervisor
from jobmaster.run.usages import SHARED_SECONDS
from tests.run.conftest import SOON, Machine, machine
from tests.run.identities import ADMIN, CLIENT1, CLIENT2
from tests.run.scripted import NEVER, Script

if TYPE_CHECKING:
    from jobmaster.identity.policy import Identity
    from jobmaster.job.usage import Sample
    from jobmaster.run.registry import Registry

__all__ = ["machine"]

USED: Final = Usage(cpu=CpuUsage(user=0, system=7))


async def followed(
    registry: Registry, caller: Identity, job_id: str, interval_ms: int = 0
) -> list[tuple[float, pb.JobStats]]:
    """All that is told, and when."""
    request = pb.StatsRequest(job_id=pb.JobID(job_id=job_id), interval_ms=interval_ms)
    async with aclosing(follow_stats(registry, Followers(), caller, request)) as stats:
        return [(trio.current_time(), each) async for each in stats]


async def test_until_the_end(machine: Machine) -> None:
    """At once, then at the interval, then at the end with what the record has; of an ended job, that alone."""
    async with machine.registry() as registry:
        begin = trio.current_time()
        job_id = await machine.start(registry, CLIENT1, Script(ends_at=2.5, usage=USED))
        told = await followed(registry, CLIENT1, job_id)
        assert [at - begin for at, _ in told] == pytest.approx([0, 1, 2, 2.5], abs=SOON)
        assert [each.pids_now.value for _, each in told] == [1, 2, 3, 0]
        assert {each.usage.cpu.system_usec.value for _, each in told} == {7}
        assert all(each.usage.cpu.HasField("user_usec") for _, each in told)
        assert [each.ended for _, each in told] == [False, False, False, True]
        assert [each for _, each in await followed(registry, ADMIN, job_id)] == [told[-1][1]]


async def test_who_reads_slowly(machine: Machine) -> None:
    """Gets fewer, each as of the moment when it is asked for."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, Script(ends_at=10, usage=USED))
        request = pb.StatsRequest(job_id=pb.JobID(job_id=job_id), interval_ms=100)
        count = 0
        async with aclosing(follow_stats(registry, Followers(), CLIENT1, request)) as stats:
            async for each in stats:
                count += 1
                assert each.ended or each.pids_now.value == count
                await trio.sleep(3)
        assert count == 5


async def test_followers_share_samples(machine: Machine) -> None:
    """Many who follow one job at a time have one read for all of them; one that leaves while it is read fails no other."""
    async with machine.registry() as registry, trio.open_nursery() as nursery:
        job_id = await machine.start(registry, CLIENT1, Script(ends_at=1.3, usage=USED, usage_seconds=0.5))
        told: list[list[tuple[float, pb.JobStats]]] = []

        async def follow() -> None:
            told.append(await followed(registry, CLIENT1, job_id))

        with trio.move_on_after(0.1):
            async with trio.open_nursery() as leaving:
                leaving.start_soon(follow)
                await trio.lowlevel.checkpoint()
                for _ in range(10):
                    nursery.start_soon(follow)
                await trio.sleep_forever()
    assert [len(each) for each in told] == [3] * 10
    assert machine.execution(job_id).samples == 3


async def test_followers_whose_turn_comes_late(machine: Machine) -> None:
    """They share the read that they have waited for also where the server has been busy with the others since."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1, Script(usage=USED, usage_seconds=0.5))
        job = await registry.find(CLIENT1, job_id)
        assert isinstance(job, Supervisor)
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        taken: list[Sample | None] = []

        async def take() -> None:
            taken.append(await job.sampling.take())
            clock.jump(2 * SHARED_SECONDS)

        with trio.fail_after(4):
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(take)
        assert [each and each.pids for each in taken] == [1] * 10
        assert machine.execution(job_id).samples == 1


async def test_a_kernel_that_does_not_answer(machine: Machine) -> None:
    """What it would tell is left out, and the end is told as ever."""
    async with machine.registry() as registry:
        job_id = await machine.start(
            registry, CLIENT1, Script(ends_at=SAMPLE_SECONDS + 0.5, usage=USED, usage_seconds=NEVER)
        )
        told = [each for _, each in await followed(registry, CLIENT1, job_id)]
        assert [each.usage.HasField("cpu") for each in told] == [False] * len(told)
        assert [each.ended for each in told] == [False] * (len(told) - 1) + [True]


async def test_what_is_refused(machine: Machine) -> None:
    """An interval that is none, a stranger's job, and one more than may be followed."""
    async with machine.registry() as registry:
        job_id = await machine.start(registry, CLIENT1)
        for interval in (1, 99, 60_001, 2**32 - 1):
            with pytest.raises(InvalidRequest, match="interval_ms"):
                await followed(registry, CLIENT1, job_id, interval)
        with pytest.raises(JobNotFound):
            await followed(registry, CLIENT2, job_id)
        followers, request = Followers(1), pb.StatsRequest(job_id=pb.JobID(job_id=job_id))
        async with aclosing(follow_stats(registry, followers, CLIENT1, request)) as first:
            assert (await anext(first)).usage.wall_usec.value >= 0
            with pytest.raises(ServerBusy):
                await anext(follow_stats(registry, followers, CLIENT1, request))
        async with aclosing(follow_stats(registry, followers, CLIENT1, request)) as again:
            await anext(again)


async def test_a_hand_over(machine: Machine) -> None:
    """The next server tells the rest."""
    async with machine.registry(hands_over=lambda: True) as registry:
        job_id = await machine.start(registry, CLIENT1)
        request = pb.StatsRequest(job_id=pb.JobID(job_id=job_id))
        async with aclosing(follow_stats(registry, Followers(), CLIENT1, request)) as stats:
            await anext(stats)
            await registry.hand_over()
            with pytest.raises(HandedOver):
                await anext(stats)
