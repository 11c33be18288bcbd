"""The server's way to its launcher and to the lock of the jobs' folder."""

from __future__ import annotations

import os
from pathlib import Path

import trio
import trio.testing

from jobmaster.host.cgroup.lock import take_lock
from jobmaster.host.cgroup.tree import CgroupTree
from jobmaster.server.succession import hold_launcher
from tests.harness import own_cgroup_root

DEADLINE = 60.0


async def hold(tree: CgroupTree, folder: Path, held: trio.Event) -> None:
    """Holds a launcher until cancelled."""
    async with hold_launcher(tree, folder):
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
