"""The server's start: its port, its launcher and the lock of the jobs' folder, and what it says where it cannot."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
import trio.testing

from jobmaster.host.cgroup.lock import take_lock
from jobmaster.host.cgroup.tree import CgroupTree
from jobmaster.run.launcher import Launcher
from jobmaster.server.program import hand_over
from jobmaster.server.serving import Ending
from jobmaster.server.succession import hold_jobs, hold_state, own_launcher
from tests.harness import REPOSITORY, command_line_for, own_cgroup_root

DEADLINE = 60.0


async def hold(tree: CgroupTree, folder: Path, held: trio.Event) -> None:
    """Holds a launcher until cancelled."""
    async with own_launcher() as launcher:
        with ExitStack() as closing:
            state = await hold_state(launcher.launcher, folder, closing)
            await hold_jobs(launcher.launcher, tree, state, closing)
            held.set()
            await trio.sleep_forever()


async def test_an_old_server_takes_its_folder_away(tmp_path: Path) -> None:
    """A server that waits for an old one, which removes the folder at its end, makes it anew and has its lock."""
    held = trio.Event()
    with own_cgroup_root() as root:
        tree = CgroupTree(root=root)
        tree.prepare()
        old = take_lock(tree.jobs)
        assert old is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, tree, tmp_path, held)
            await trio.testing.wait_all_tasks_blocked()
            tree.dispose()
            assert not root.exists()
            os.close(old)
            with trio.fail_after(DEADLINE):
                await held.wait()
            assert tree.kill_all_path.exists()
            assert take_lock(tree.jobs) is None
            nursery.cancel_scope.cancel()
        again = take_lock(tree.jobs)
        assert again is not None
        os.close(again)
        tree.dispose()


NO_THREADS = """
import sys, threading
def start(thread):
    raise RuntimeError("can't start new thread")
threading.Thread.start = start
from jobmaster.server.program import main
main((), sys.argv[1:])
"""


@pytest.mark.parametrize("address", ["localhost:0", "127.0.0.1:0"])
async def test_a_host_without_threads(tmp_path: Path, certificates: Path, address: str) -> None:
    """A server that cannot have a single thread says so in a line and exits 1, whatever it was about to do."""
    with own_cgroup_root() as root:
        arguments = [*command_line_for(tmp_path, certificates, root), "--listen", address]
        command = [sys.executable, "-c", NO_THREADS, *arguments]
        told = await trio.run_process(
            command, stdout=subprocess.DEVNULL, capture_stderr=True, check=False, cwd=REPOSITORY
        )
    assert (told.returncode, told.stderr) == (1, b"jobmaster: the server's host has no thread left; try again later\n")


async def test_a_port_that_is_taken_costs_no_cgroup(tmp_path: Path, certificates: Path) -> None:
    """A server that cannot listen exits 2, and has made no cgroup by then."""
    with own_cgroup_root() as root:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listeners[0]:
            port = listeners[0].socket.getsockname()[1]
            arguments = [*command_line_for(tmp_path, certificates, root), "--listen", f"127.0.0.1:{port}"]
            command = [sys.executable, "-m", "jobmaster.serve", *arguments]
            told = await trio.run_process(command, capture_stderr=True, check=False, cwd=REPOSITORY)
        assert told.returncode == 2
        assert b"another program has the port" in told.stderr
        assert not root.exists()


@pytest.mark.parametrize("is_lost", [True, False])
async def test_a_launcher_that_is_lost_during_a_hand_over(is_lost: bool) -> None:
    """What is left of the jobs is killed, since nobody goes on with them; where the launcher lives, they live too."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with own_cgroup_root() as root, ours, theirs, subprocess.Popen(["sleep", "1000"]) as left:
        tree = CgroupTree(root=root)
        tree.prepare()
        job = tree.create("client1", "job", ())
        job.procs_path.write_text(str(left.pid))
        launcher = Launcher(ours)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(launcher._outbox.run)
            if is_lost:
                launcher._lose("it has died")
            ending = await hand_over(launcher, tree)
            nursery.cancel_scope.cancel()
        assert ending is (Ending.LAUNCHER_LOST if is_lost else Ending.HAND_OVER)
        left.terminate()
        assert await trio.to_thread.run_sync(left.wait) == -(signal.SIGKILL if is_lost else signal.SIGTERM)
        assert job.remove()
        tree.dispose()
