"""What the host tells of its jobs, from a folder in place of cgroupfs."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import cast

import pytest
import trio

from jobmaster.client import RpcFailedError
from jobmaster.errors import CommandNotRunnable, HostError
from jobmaster.host.account import own_account
from jobmaster.host.cgroup.opened import OpenedCgroup
from jobmaster.host.cgroup.statistics import MemoryEvents
from jobmaster.host.cgroup.tree import CgroupTree
from jobmaster.run import launcher, local
from jobmaster.run.child import Child, NeverExecuted
from jobmaster.run.launcher import Launcher
from jobmaster.run.local import LocalExecution, LocalHost, LocalTerms
from tests.harness import Server, run
from tests.run.launching import DEADLINE, parent_of


def host_on(root: Path, sock: socket.socket) -> LocalHost:
    """A host whose jobs are under this folder, and that starts none."""
    terms = LocalTerms(
        tree=CgroupTree(root=root),
        limit_writes=(),
        limit_reports=(),
        memory_max=None,
        output_folder=root,
        account=own_account(),
        drops_privileges=False,
        open_files=1024,
    )
    return LocalHost(terms, Launcher(sock))


class NeverExecutedChild:
    """A child that dies before it executes its command."""

    pid = 1

    def go(self) -> None:
        """As `Child.go`."""

    async def wait_executed(self) -> NeverExecuted:
        """As `Child.wait_executed`."""
        return NeverExecuted()


class CountingCgroup:
    """A cgroup with a count of OOM kills."""

    def __init__(self, kills: int) -> None:
        self._kills = kills

    def memory_events(self) -> MemoryEvents:
        """As `OpenedCgroup.memory_events`."""
        return MemoryEvents(oom_kill=self._kills)


@pytest.mark.parametrize(("kills", "error"), [(1, CommandNotRunnable), (0, HostError)])
async def test_killed_for_memory_before_it_was_executed(kills: int, error: type[Exception]) -> None:
    """The caller is told of a memory limit that is too small; any other end before the execution is the host's."""
    child, cgroup = cast(Child, NeverExecutedChild()), cast(OpenedCgroup, CountingCgroup(kills))
    with pytest.raises(error):
        await LocalExecution(cast("Launcher", None), child, cgroup, "true", own_account()).execute()


def test_counters_of_the_next_folder(tmp_path: Path) -> None:
    """The counters of a client's next folder differ from its last one's though their numbers are the same."""
    folder = tmp_path / "jobs" / "client1"
    seen = []
    with socket.socket() as sock:
        host = host_on(tmp_path, sock)
        for number in range(2):
            folder.mkdir(parents=True)
            (folder / "memory.events").write_text("oom 1\noom_kill 1\n")
            seen.append(host.memory_events("client1"))
            assert host.memory_events("client1") == seen[-1]
            folder.rename(tmp_path / f"before{number}")  # and not removed: its number is not given to the next one
        assert host.memory_events("client1") is None
    assert seen[0] != seen[1]


async def test_a_launcher_that_is_stopped(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller of Start is told to try again, and when the launcher goes on, nothing of that Start is left."""
    monkeypatch.setattr(local, "LAUNCH_SECONDS", 0.01)
    monkeypatch.setattr(launcher, "WITHDRAW_SECONDS", 0.01)
    async with server.connect() as jobs:
        lasting = await jobs.start("sleep", "1000")
        stopped = parent_of((await jobs.status(lasting)).pid)
        os.kill(stopped, signal.SIGSTOP)
        try:
            with trio.fail_after(DEADLINE), pytest.raises(RpcFailedError, match="did not make a process"):
                await jobs.start("true")
        finally:
            os.kill(stopped, signal.SIGCONT)
        monkeypatch.undo()
        await run(jobs, "true")
        assert [folder.name for folder in server.cgroup_of(lasting).parent.iterdir() if folder.is_dir()] == [lasting]
