"""The steps of start-up in their one right order: choose the root, move out of it, enable controllers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobmaster.errors import ConfigurationError
from jobmaster.host.cgroup.controllers import Enforcement, enable_controllers, why_no_io_weights
from jobmaster.host.cgroup.lock import take_lock
from jobmaster.host.cgroup.mounts import PROC
from jobmaster.host.cgroup.root import CgroupRoot, choose_root, move_to_supervisor, read_host, require_cgroup2
from jobmaster.host.cgroup.totals import ClientTotals
from jobmaster.host.cgroup.tree import CgroupTree

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedCgroups:
    """A tree that is ready for jobs, and what the operator should know of it."""

    root: CgroupRoot
    enforcement: Enforcement
    tree: CgroupTree
    no_io_weights_because: str | None
    """Why no disk heeds the io weight of a job; None where one does."""


def open_cgroups(explicit: Path | None, *, proc: Path = PROC) -> OpenedCgroups:
    """Make this host ready for jobs. Leftovers of an earlier server stay: :meth:`CgroupTree.sweep` is the caller's.

    Args:
        explicit: the operator's ``--cgroup-root``, None to choose one.
        proc: where procfs is mounted.

    Raises:
        ConfigurationError: there is no root to be had, with the remedies.
        CgroupError: the kernel refuses a step without which no job can be run.
    """
    host = read_host(proc)
    root = choose_root(explicit, host)
    mount = require_cgroup2(root.path, host.mount)
    bare = CgroupTree(root=root.path)
    _require_no_jobs_around(bare)
    bare.prepare()
    if host.own == root.path:
        move_to_supervisor(root.path)  # or the kernel would refuse to enable a controller there
    enforcement = enable_controllers(mount.mount_point, bare.jobs, proc=proc)
    tree = CgroupTree(root=root.path, controllers=enforcement.controllers, totals=ClientTotals(enforcement.controllers))
    return OpenedCgroups(
        root=root,
        enforcement=enforcement,
        tree=tree,
        no_io_weights_because=why_no_io_weights(mount.mount_point, bare.jobs),
    )


def _require_no_jobs_around(tree: CgroupTree) -> None:
    """Refuses a root among the jobs of another server: this one's end would be theirs."""
    for folder in (tree.root, *tree.root.parents):
        if folder.name == tree.jobs.name and folder.is_dir():
            lock = take_lock(folder)
            if lock is None:
                raise ConfigurationError(
                    f"the cgroup {tree.root} is among the jobs of another server: give this one its own --cgroup-root"
                )
            os.close(lock)
