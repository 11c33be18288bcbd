"""Standing suite: cancellation at each await of a job's life.

The life of a job (start, follow, stop) is run again and again, cancelled after one more step of any of its tasks each
time, until a run gets through. Wherever it was cut, nothing may be left: no process, cgroup, descriptor, task or,
of a job that never came to be, output.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, aclosing, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from jobmaster.identity.policy import Identity, Role
from jobmaster.job.run_time import RunTime
from jobmaster.job.specification import JobSpecification
from jobmaster.run.local import LocalHost
from jobmaster.run.registry import Registry, open_registry
from jobmaster.server.preparation import prepare
from jobmaster.server.succession import hold_jobs, hold_state, own_launcher
from tests.harness import options_for, own_cgroup_root
from tests.output.stretches import bytes_of
from tests.run.records import MemoryRecords
from tests.test_leaks import descriptors

CALLER = Identity(name="client1", role=Role.USER)
SLEEPER = JobSpecification(
    command="sh",
    args=("-c", "echo up; sleep 1000"),
    run_time=RunTime(max_ms=3_600_000, warn_before_ms=1_000, warn_signal=10),
)
MOST_STEPS = 2_000


class CancelAfter(trio.abc.Instrument):
    """Cancels a scope after a number of steps of any task."""

    def __init__(self, steps: int, scope: trio.CancelScope) -> None:
        self._left = steps
        self._scope = scope

    def after_task_step(self, _task: trio.lowlevel.Task) -> None:
        """One step less."""
        self._left -= 1
        if self._left == 0:
            self._scope.cancel()


async def cancelled_after(steps: int, scenario: Callable[[], Awaitable[object]]) -> bool:
    """Runs a scenario, cancelled after `steps`; True when it was."""
    scope = trio.CancelScope()
    instrument = CancelAfter(steps, scope)
    trio.lowlevel.add_instrument(instrument)
    try:
        with scope:
            await scenario()
    finally:
        trio.lowlevel.remove_instrument(instrument)
    return scope.cancelled_caught


async def life_of_a_job(registry: Registry) -> None:
    """Start, follow the first line, stop, and see the end."""
    job_id = await registry.start(CALLER, SLEEPER)
    job = await registry.find(CALLER, job_id)
    async with aclosing(job.output.follow()) as stretches:
        async for stretch in stretches:
            assert await bytes_of(stretch) == b"up\n"
            break
    await registry.stop(CALLER, job_id)


@asynccontextmanager
async def local_host(folder: Path, certificates: Path, root: Path) -> AsyncIterator[LocalHost]:
    """Executions of this host, in a cgroup root of the test's own."""
    terms = prepare(options_for(folder, certificates, root), open_files=1024).terms
    with ExitStack() as closing:
        async with own_launcher() as held:
            state = await hold_state(held.launcher, terms.output_folder, closing)
            await hold_jobs(held.launcher, terms.tree, state, closing)
            yield LocalHost(terms, held.launcher)


async def test_caller_is_cancelled(tmp_path: Path, certificates: Path) -> None:
    """Wherever a caller is cut off, the registry has a whole job or none, and at its end nothing is left."""
    with own_cgroup_root() as root:
        async with local_host(tmp_path, certificates, root) as host:
            before = len(descriptors())
            for steps in range(1, MOST_STEPS):
                async with open_registry(host, MemoryRecords(), grace_seconds=10) as registry:
                    cut = await cancelled_after(steps, lambda registry=registry: life_of_a_job(registry))  # type: ignore[misc]  # bound now
                    await until_settled(registry, tmp_path)
                assert list((root / "jobs").glob("*/*/")) == []
                assert await descriptors_settle(before), f"after {steps} steps"
                for log in tmp_path.glob("output/*.log"):
                    log.unlink()
                if not cut:
                    return
    pytest.fail(f"the life of a job takes more than {MOST_STEPS} steps")


async def until_settled(registry: Registry, folder: Path) -> None:
    """Returns when what was given up is gone: as many cgroups and logs as jobs, one or none."""
    with trio.fail_after(60):
        while len(list(folder.glob("output/*.log"))) > 1 or registry.running > 1:
            await trio.sleep(0.001)


async def descriptors_settle(count: int) -> bool:
    """Whether this process comes to have so many descriptors again: a thread may be closing some."""
    with trio.move_on_after(60):
        while len(descriptors()) != count:
            await trio.sleep(0.001)
        return True
    return False


async def test_registry_is_cancelled(tmp_path: Path, certificates: Path) -> None:
    """Wherever the registry itself is cut off, it ends its jobs before it ends, and nothing is left."""
    with own_cgroup_root() as root:
        async with local_host(tmp_path, certificates, root) as host:
            before = len(descriptors())

            async def open_and_live() -> None:
                async with open_registry(host, MemoryRecords(), grace_seconds=10) as registry:
                    await life_of_a_job(registry)

            for steps in range(1, MOST_STEPS):
                cut = await cancelled_after(steps, open_and_live)
                assert list((root / "jobs").glob("*/*/")) == []
                assert await descriptors_settle(before), f"after {steps} steps"
                if not cut:
                    return
    pytest.fail(f"the life of a job takes more than {MOST_STEPS} steps")
