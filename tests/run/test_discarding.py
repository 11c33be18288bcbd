"""Starts that fail when their files are made already, on a host that gives no thread to take these back."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from jobmaster.errors import ServerBusy
from jobmaster.host.account import look_up
from jobmaster.host.cgroup.tree import CgroupTree
from jobmaster.job.identifier import new_job_id
from jobmaster.job.specification import JobSpecification
from jobmaster.run import job_files
from jobmaster.run.accounts import AccountPolicy
from jobmaster.run.launcher import Launcher, LaunchRefused
from jobmaster.run.local import LocalHost, LocalTerms
from jobmaster.threads import NoThread, run_in_thread
from tests.harness import own_cgroup_root
from tests.run.policies import NO_POLICY

TRUE = JobSpecification(command="true")


@dataclass(slots=True, kw_only=True)
class FailingLauncher:
    """Refuses each start, or leaves it without an answer, once `begin` has been called."""

    begin: Callable[[], None]
    answers: bool
    asked: trio.Event = field(default_factory=trio.Event)

    async def start(self, *_: object, **__: object) -> None:
        """As of a launcher."""
        self.begin()
        self.asked.set()
        if not self.answers:
            await trio.sleep_forever()
        raise LaunchRefused(errno.EAGAIN)


@asynccontextmanager
async def host_with(launcher: FailingLauncher, folder: Path) -> AsyncIterator[LocalHost]:
    """A host with this launcher; at the end no descriptor and no cgroup may be left."""
    with own_cgroup_root() as root:
        tree = CgroupTree(root=root)
        tree.prepare()
        terms = LocalTerms(
            tree=tree,
            limits=NO_POLICY,
            output_folder=folder,
            accounts=AccountPolicy(common=look_up("nobody")),
            drops_privileges=True,
            open_files=64,
        )
        before = os.listdir("/proc/self/fd")
        yield LocalHost(terms, cast("Launcher", launcher))
        assert os.listdir("/proc/self/fd") == before


@pytest.fixture
def exhausted(monkeypatch: pytest.MonkeyPatch) -> trio.Event:
    """From when this is set, no thread can be started."""
    event = trio.Event()

    async def run_or_fail(*arguments: Any, **keywords: Any) -> Any:
        if event.is_set():
            raise NoThread("none")
        return await run_in_thread(*arguments, **keywords)

    monkeypatch.setattr(job_files, "run_in_thread", run_or_fail)
    return event


async def test_refused_without_a_thread(exhausted: trio.Event, tmp_path: Path) -> None:
    """A start that is refused leaves only an empty file where no thread can be started."""
    async with host_with(FailingLauncher(begin=exhausted.set, answers=True), tmp_path) as host:
        with pytest.raises(ServerBusy, match=os.strerror(errno.EAGAIN)):
            await host.spawn(new_job_id(), "client1", TRUE)
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [0]


async def test_given_up_without_a_thread(exhausted: trio.Event, tmp_path: Path) -> None:
    """A caller who leaves is not told of threads: the cancellation passes."""
    launcher = FailingLauncher(begin=exhausted.set, answers=False)
    async with host_with(launcher, tmp_path) as host:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.spawn, new_job_id(), "client1", TRUE)
            await launcher.asked.wait()
            nursery.cancel_scope.cancel()
        assert nursery.cancel_scope.cancelled_caught


async def test_all_threads_held_up(mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where a disk holds up every thread, a refused start gives back all but the file in bounded time."""
    starters = trio.CapacityLimiter(1)
    monkeypatch.setattr(job_files, "STARTERS", starters)

    def hold_up() -> None:
        starters.acquire_on_behalf_of_nowait("a thread that waits for a disk")

    launcher = FailingLauncher(begin=hold_up, answers=True)
    refused = trio.Event()

    async def start() -> None:
        with pytest.raises(ServerBusy):
            await host.spawn(new_job_id(), "client1", TRUE)
        refused.set()

    async with host_with(launcher, tmp_path) as host, trio.open_nursery() as nursery:
        nursery.start_soon(start)
        await launcher.asked.wait()
        await wait_all_tasks_blocked()
        assert not refused.is_set()
        mock_clock.jump(job_files.UNDO_SECONDS)
        await refused.wait()
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [0]
