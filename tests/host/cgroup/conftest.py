"""Fixtures: a fake cgroupfs of plain files, and a folder of one's own in the real one where it is writable."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import pytest

from jobmaster.host.cgroup.controllers import enable_controllers
from jobmaster.host.cgroup.limits import Controller
from jobmaster.host.cgroup.mounts import find_cgroup2, read_mounts
from jobmaster.host.cgroup.tree import CgroupTree, JobCgroup, KernelFolders
from tests.host.cgroup.fake import fake_tree
from tests.host.cgroup.kernel import wait_until_empty

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_numbers = itertools.count()


@pytest.fixture
def plain_tree(tmp_path: Path) -> CgroupTree:
    """A prepared tree of plain files with the files of all controllers."""
    return fake_tree(tmp_path / "root", tuple(Controller))


@pytest.fixture
def kernel_mount() -> Path:
    """Where cgroup v2 is mounted."""
    mount = find_cgroup2(read_mounts())
    if mount is None:
        pytest.skip("no cgroup v2 is mounted here")
    return mount.mount_point


@pytest.fixture
def kernel_root(kernel_mount: Path) -> Iterator[Path]:
    """An empty cgroup of one's own, removed with everything in it."""
    root = kernel_mount / f"jobmaster-test-{os.getpid()}-{next(_numbers)}"
    try:
        root.mkdir()
    except OSError as error:
        pytest.skip(f"cgroup v2 is not writable here: {error}")
    yield root
    cgroup = JobCgroup(path=root, folders=KernelFolders())
    cgroup.kill()
    wait_until_empty(cgroup)
    assert _removed(root)


@pytest.fixture
def kernel_tree(kernel_root: Path) -> CgroupTree:
    """A prepared tree in the real cgroup file system, without controllers."""
    tree = CgroupTree(root=kernel_root)
    tree.prepare()
    return tree


@pytest.fixture
def limiting_tree(kernel_mount: Path, kernel_root: Path) -> CgroupTree:
    """A prepared tree in which the kernel enforces every kind of limit."""
    CgroupTree(root=kernel_root).prepare()
    enforcement = enable_controllers(kernel_mount, kernel_root / "jobs")
    missing = sorted(set(Controller) - enforcement.controllers)
    if missing:
        pytest.skip(f"not enforced here: {', '.join(missing)}, because {enforcement.why_not(missing[0])}")
    return CgroupTree(root=kernel_root, controllers=enforcement.controllers)


def _removed(root: Path) -> bool:
    for folder, _, _ in os.walk(root, topdown=False):
        os.rmdir(folder)
    return not root.exists()
