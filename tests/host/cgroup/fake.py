"""A folder of plain files that stands in for cgroupfs."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobmaster.host.cgroup.limits import Controller
from jobmaster.host.cgroup.tree import CgroupTree

if TYPE_CHECKING:
    from collections.abc import Collection

CORE_FILES = {
    "cgroup.procs": "",
    "cgroup.threads": "",
    "cgroup.kill": "",
    "cgroup.freeze": "0\n",
    "cgroup.events": "populated 0\nfrozen 0\n",
    "cgroup.subtree_control": "",
    "cpu.stat": "usage_usec 30\nuser_usec 20\nsystem_usec 10\n",
}
CONTROLLER_FILES = {
    Controller.CPU: {"cpu.max": "max 100000\n"},
    Controller.IO: {"io.max": "", "io.stat": ""},
    Controller.MEMORY: {
        "memory.max": "max\n",
        "memory.swap.max": "max\n",
        "memory.oom.group": "0\n",
        "memory.current": "0\n",
        "memory.peak": "0\n",
        "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
    },
    Controller.PIDS: {"pids.max": "max\n", "pids.current": "0\n"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeFolders:
    """Fills new folders with interface files, and refuses to remove what is in use, as the kernel does.

    Unlike the kernel it gives a folder the files of ``controllers`` without being asked by cgroup.subtree_control.
    """

    controllers: frozenset[Controller] = frozenset()

    def make(self, folder: Path) -> None:
        """Make one folder and its interface files."""
        folder.mkdir()
        files = dict(CORE_FILES, **{"cgroup.controllers": " ".join(sorted(self.controllers)) + "\n"})
        for controller in self.controllers:
            files.update(CONTROLLER_FILES[controller])
        for name, text in files.items():
            (folder / name).write_text(text)

    def remove(self, folder: Path) -> None:
        """Remove one folder with its interface files."""
        entries = list(folder.iterdir())
        if any(entry.is_dir() for entry in entries) or (folder / "cgroup.procs").read_text():
            raise OSError(errno.EBUSY, "Device or resource busy")
        for entry in entries:
            entry.unlink()
        folder.rmdir()


def fake_tree(root: Path, controllers: Collection[Controller] = ()) -> CgroupTree:
    """A prepared tree of plain files under ``root``, which must not exist yet."""
    folders = FakeFolders(controllers=frozenset(controllers))
    tree = CgroupTree(root=root, controllers=frozenset(controllers), folders=folders)
    tree.prepare()
    return tree
