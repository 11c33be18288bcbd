"""Choosing the root, and moving out of it."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jobmaster.errors import CgroupError, ConfigurationError
from jobmaster.host.cgroup.mounts import Mount, find_cgroup2, read_mounts
from jobmaster.host.cgroup.root import (
    CgroupHost,
    RootOrigin,
    choose_root,
    move_to_supervisor,
    read_host,
    require_cgroup2,
)
from tests.host.cgroup.kernel import join, sleeper

if TYPE_CHECKING:
    from collections.abc import Callable

MOUNT = Mount(device="0:26", root="/", mount_point=Path("/cg"), filesystem="cgroup2", source="cgroup2")
OWN = Path("/cg/system.slice/jobmaster.service")


def _host(
    *,
    mount: Mount | None = MOUNT,
    own: Path | None = OWN,
    delegated: bool = False,
    namespace_top: bool = False,
    superuser: bool = False,
) -> CgroupHost:
    return CgroupHost(mount=mount, own=own, delegated=delegated, namespace_top=namespace_top, superuser=superuser)


@pytest.mark.parametrize(
    ("explicit", "host", "path", "origin"),
    [
        (Path("/cg/mine"), _host(delegated=True, superuser=True), Path("/cg/mine"), RootOrigin.EXPLICIT),
        (None, _host(delegated=True), OWN, RootOrigin.DELEGATED),
        (None, _host(delegated=True, superuser=True), OWN, RootOrigin.DELEGATED),
        (None, _host(own=Path("/cg"), namespace_top=True, superuser=True), Path("/cg"), RootOrigin.NAMESPACE),
        (None, _host(superuser=True), Path("/cg/jobmaster"), RootOrigin.TOP),
        (None, _host(own=None, superuser=True), Path("/cg/jobmaster"), RootOrigin.TOP),
    ],
)
def test_the_order_of_choice(explicit: Path | None, host: CgroupHost, path: Path, origin: RootOrigin) -> None:
    """What is named goes first, then what was delegated, then the top of a container, then a folder of our own."""
    root = choose_root(explicit, host)
    assert (root.path, root.origin) == (path, origin)


@pytest.mark.parametrize("host", [_host(), _host(own=Path("/cg"), namespace_top=True), _host(own=None)])
def test_without_any_right_the_remedies_are_named(host: CgroupHost) -> None:
    """An ordinary user without a delegated cgroup is told the ways to get one."""
    with pytest.raises(ConfigurationError, match=r"Delegate=yes.*--cgroup-root"):
        choose_root(None, host)


def test_a_host_without_cgroup2_is_refused() -> None:
    """Without a mount there is nothing to choose, and nothing for an explicit root to be in."""
    with pytest.raises(ConfigurationError, match="no cgroup v2 is mounted"):
        choose_root(None, _host(mount=None, own=None, superuser=True))
    with pytest.raises(ConfigurationError, match="no cgroup v2 is mounted"):
        require_cgroup2(Path("/anything"), None)


@pytest.mark.parametrize("explicit", [Path("relative"), Path("/cg/../etc")])
def test_an_explicit_root_is_absolute(explicit: Path) -> None:
    """A relative path would mean another folder after a change of directory."""
    with pytest.raises(ConfigurationError, match="absolute path"):
        choose_root(explicit, _host())


def _proc(tmp_path: Path, mount_point: Path, own: str) -> Path:
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "mountinfo").write_text(f"30 23 0:26 / {mount_point} rw - cgroup2 cgroup2 rw\n")
    (proc / "self" / "cgroup").write_text(f"0::{own}\n")
    return proc


def _marked(folders: frozenset[Path]) -> Callable[..., bytes]:
    def getxattr(path: Path, name: str, *, follow_symlinks: bool) -> bytes:
        assert not follow_symlinks
        if path in folders and name == "user.delegate":
            return b"1"
        raise OSError(61, "No data available")

    return getxattr


@pytest.mark.parametrize("own", ["/unit", "/unit/supervisor"])
def test_a_delegated_cgroup_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str) -> None:
    """The mark is seen on the own cgroup, and on its parent when the server is in the supervisor's leaf already."""
    unit = tmp_path / "cg" / "unit"
    (unit / "supervisor").mkdir(parents=True)
    monkeypatch.setattr("os.getxattr", _marked(frozenset({unit})))
    host = read_host(_proc(tmp_path, tmp_path / "cg", own))
    assert (host.own, host.delegated, host.namespace_top) == (unit, True, False)


def test_a_leaf_named_supervisor_of_somebody_else_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a delegated parent makes the leaf ours; else its parent would be taken without a right."""
    monkeypatch.setattr("os.getxattr", _marked(frozenset()))
    host = read_host(_proc(tmp_path, tmp_path / "cg", "/unit/supervisor"))
    assert (host.own, host.delegated) == (tmp_path / "cg" / "unit" / "supervisor", False)


@pytest.mark.parametrize("own", ["/", "/supervisor"])
def test_the_top_of_a_namespace_is_told_from_the_top_of_all(tmp_path: Path, own: str) -> None:
    """Only the top of the whole hierarchy has no cgroup.type."""
    cgroups = tmp_path / "cg"
    cgroups.mkdir()
    proc = _proc(tmp_path, cgroups, own)
    assert not read_host(proc).namespace_top
    (cgroups / "cgroup.type").write_text("domain\n")
    host = read_host(proc)
    assert (host.own, host.namespace_top) == (cgroups, True)


def test_this_host_can_be_read() -> None:
    """The reader works on the real procfs."""
    assert read_host().mount == find_cgroup2(read_mounts())


def test_a_root_outside_the_mount_is_refused(tmp_path: Path, kernel_mount: Path) -> None:
    """A folder on a disk is no cgroup, existing or not; a new folder in the mount is fine."""
    mount = find_cgroup2(read_mounts())
    for root in (tmp_path, tmp_path / "not" / "there"):
        with pytest.raises(ConfigurationError, match="is not in the cgroup v2 mount"):
            require_cgroup2(root, mount)
    assert require_cgroup2(kernel_mount / "new", mount) == mount
    with pytest.raises(ConfigurationError, match=r"there is no .*/not: make that, or name another with --cgroup-root"):
        require_cgroup2(kernel_mount / "not" / "there", mount)


def test_a_mount_is_known_by_place_and_device(tmp_path: Path) -> None:
    """Both must fit: a place under the mount point, and no other file system mounted over it."""
    number = tmp_path.stat().st_dev
    mount = replace(MOUNT, mount_point=tmp_path / "cg", device=f"{os.major(number)}:{os.minor(number)}")
    mount.mount_point.mkdir()
    assert require_cgroup2(tmp_path / "cg" / "new", mount) == mount
    for root, other in ((tmp_path / "beside", mount), (tmp_path / "cg" / "new", replace(mount, device="0:9999"))):
        with pytest.raises(ConfigurationError, match="is not in the cgroup v2 mount"):
            require_cgroup2(root, other)


def test_the_top_of_all_is_no_root(tmp_path: Path) -> None:
    """The processes of a whole host are moved nowhere; those of a container's own cgroup may be."""
    number = tmp_path.stat().st_dev
    mount = replace(MOUNT, mount_point=tmp_path, device=f"{os.major(number)}:{os.minor(number)}")
    with pytest.raises(ConfigurationError, match="is the top of the whole hierarchy"):
        require_cgroup2(tmp_path, mount)
    (tmp_path / "cgroup.type").write_text("domain\n")
    assert require_cgroup2(tmp_path, mount) == mount


def test_a_process_that_ended_meanwhile_is_no_error(kernel_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pid that is listed and gone when it is to be moved does not stop the others."""
    with sleeper() as process:
        process.kill()
        process.wait()
        listings = iter([f"{process.pid}\n", ""])
        monkeypatch.setattr("jobmaster.host.cgroup.root.read_interface", lambda _: next(listings))
        assert move_to_supervisor(kernel_root) == kernel_root / "supervisor"


def test_processes_move_to_the_supervisor(kernel_root: Path) -> None:
    """Every process of the root ends up in the leaf, and doing it twice changes nothing."""
    with ExitStack() as stack:
        processes = [stack.enter_context(sleeper()) for _ in range(3)]
        for process in processes:
            join(kernel_root, process)
        leaf = move_to_supervisor(kernel_root)
        assert move_to_supervisor(kernel_root) == leaf == kernel_root / "supervisor"
        assert (kernel_root / "cgroup.procs").read_text() == ""
        assert sorted(map(int, (leaf / "cgroup.procs").read_text().split())) == sorted(p.pid for p in processes)


def _plain_root(tmp_path: Path, procs: str) -> Path:
    (tmp_path / "supervisor").mkdir()
    (tmp_path / "supervisor" / "cgroup.procs").write_text("")
    (tmp_path / "cgroup.procs").write_text(procs)
    return tmp_path


def test_processes_that_stay_are_an_error(tmp_path: Path) -> None:
    """Moving gives up after a bounded number of passes instead of going on for ever."""
    with pytest.raises(CgroupError, match="still appear"):
        move_to_supervisor(_plain_root(tmp_path, "123\n"))


def test_a_process_of_another_namespace_is_an_error(tmp_path: Path) -> None:
    """The kernel shows a process of an invisible pid namespace as 0, and writing 0 would move the server."""
    with pytest.raises(CgroupError, match="another pid namespace"):
        move_to_supervisor(_plain_root(tmp_path, "0\n"))
