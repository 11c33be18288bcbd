"""Standing suite: cancellation at each await of a job's life.

The life of a job (start, follow, stop) is run again and again, cancelled after one more step of any of its tasks each
time, until a run gets through. Wherever it was cut, nothing may be left: no process, cgroup, descriptor, task or,
of a job that never came to be, output.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
import trio
import trio.testing

from jobmaster.identity.policy import Identity, Role
from jobmaster.job.specification import JobSpecification
from jobmaster.run.registry import Keeper, keep_jobs
from jobmaster.server import preparation as host
from tests.harness import options_for, own_cgroup_root
from tests.output.stretches import bytes_of
from tests.test_leaks import children, descriptors

CALLER = Identity(name="client1", role=Role.USER)
SLEEPER = JobSpecification(command="sh", args=("-c", "echo up; sleep 1000"))
MOST_STEPS = 2_000


class CancelAfter(trio.abc.Instrument):
    """Cancels a scope after a number of steps of any task but the one that counts."""

    def __init__(self, steps: int, scope: trio.CancelScope) -> None:
        self._left = steps
        self._scope = scope
        self._counter = trio.lowlevel.current_task()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """One step less."""
        if task is not self._counter:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


async def cancelled_after(steps: int, scenario: Callable[[], Awaitable[object]]) -> bool:
    """Runs a scenario in a task of its own, cancelled after `steps`; True when it was."""
    async with trio.open_nursery() as nursery:
        instrument = CancelAfter(steps, nursery.cancel_scope)
        trio.lowlevel.add_instrument(instrument)
        try:
            nursery.start_soon(scenario)
            await trio.lowlevel.checkpoint()
            while nursery.child_tasks:
                await trio.sleep(0.0005)
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return nursery.cancel_scope.cancelled_caught


async def life_of_a_job(keeper: Keeper) -> None:
    """Start, follow the first line, stop, and see the end."""
    job_id = await keeper.start(CALLER, SLEEPER)
    async with aclosing(keeper.find(CALLER, job_id).output.follow()) as stretches:
        async for stretch in stretches:
            assert await bytes_of(stretch) == b"up\n"
            break
    await keeper.stop(CALLER, job_id)


async def test_caller_is_cancelled(tmp_path: Path, certificates: Path) -> None:
    """Wherever a caller is cut off, the keeper has a whole job or none, and at its end nothing is left."""
    with own_cgroup_root() as root:
        terms = host.prepare(options_for(tmp_path, certificates, root)).terms
        before = len(descriptors())
        for steps in range(1, MOST_STEPS):
            async with keep_jobs(terms) as keeper:
                cut = await cancelled_after(steps, lambda keeper=keeper: life_of_a_job(keeper))  # type: ignore[misc]  # bound now
                whole = list((root / "jobs").glob("*/*/"))
                assert len(whole) == keeper.running <= 1
                assert len(list(tmp_path.glob("output/*.log"))) <= 1
            left = list((root / "jobs").glob("*/*/")), children(), len(descriptors())
            assert left == ([], set(), before), f"after {steps} steps"
            for log in tmp_path.glob("output/*.log"):
                log.unlink()
            if not cut:
                return
    pytest.fail(f"the life of a job takes more than {MOST_STEPS} steps")


async def test_keeper_is_cancelled(tmp_path: Path, certificates: Path) -> None:
    """Wherever the keeper itself is cut off, it ends its jobs before it ends, and nothing is left."""
    with own_cgroup_root() as root:
        terms = host.prepare(options_for(tmp_path, certificates, root)).terms
        before = len(descriptors())

        async def keep_and_live() -> None:
            async with keep_jobs(terms) as keeper:
                await life_of_a_job(keeper)

        for steps in range(1, MOST_STEPS):
            cut = await cancelled_after(steps, keep_and_live)
            left = list((root / "jobs").glob("*/*/")), children(), len(descriptors())
            assert left == ([], set(), before), f"after {steps} steps"
            if not cut:
                return
    pytest.fail(f"the life of a job takes more than {MOST_STEPS} steps")
