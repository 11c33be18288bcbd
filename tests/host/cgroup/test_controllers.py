"""Enabling controllers, and the reasons why one can't be."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from jobmaster.errors import CgroupError
from jobmaster.host.cgroup.controllers import (
    Enforced,
    Enforcement,
    KernelController,
    NotEnforced,
    enable_controllers,
    foresee_controllers,
    parse_proc_cgroups,
    why_absent,
)
from jobmaster.host.cgroup.limits import Controller
from tests.host.cgroup.fake import FakeFolders

if TYPE_CHECKING:
    from pathlib import Path

PROC_CGROUPS = (
    "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t0\t80\t1\nblkio\t7\t1\t1\nmemory\t4\t17\t1\npids\t0\t1\t0\n"
)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A procfs that knows of no controller bound elsewhere."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cgroups").write_text("#subsys_name\thierarchy\tnum_cgroups\tenabled\n")
    return tmp_path / "proc"


def _folders(mount: Path, *names: str, offered: frozenset[Controller] = frozenset(Controller)) -> Path:
    fake = FakeFolders(controllers=offered)
    folder = mount
    fake.make(folder)
    for name in names:
        folder = folder / name
        fake.make(folder)
    return folder


def test_proc_cgroups_is_parsed() -> None:
    """Hierarchy and boot switch of each controller are read; comments and other lines are left out."""
    assert parse_proc_cgroups(PROC_CGROUPS + "odd line\n") == {
        "cpu": KernelController(hierarchy=0, enabled=True),
        "blkio": KernelController(hierarchy=7, enabled=True),
        "memory": KernelController(hierarchy=4, enabled=True),
        "pids": KernelController(hierarchy=0, enabled=False),
    }


@pytest.mark.parametrize(
    ("controller", "reason"),
    [
        (Controller.MEMORY, "this host binds the memory controller to cgroup v1"),
        (Controller.IO, "this host binds the io controller to cgroup v1"),
        (Controller.PIDS, "the pids controller is switched off at boot"),
        (Controller.CPU, "the cpu controller is not delegated to this cgroup namespace"),
    ],
)
def test_the_reason_of_an_absent_controller(controller: Controller, reason: str) -> None:
    """Each cause has its own words; io is looked up by its v1 name blkio."""
    assert why_absent(controller, parse_proc_cgroups(PROC_CGROUPS)).startswith(reason)


def test_a_controller_the_kernel_does_not_know() -> None:
    """Without a line in /proc/cgroups the kernel has no such controller."""
    assert why_absent(Controller.CPU, {}) == "this kernel does not offer the cpu controller"


def test_controllers_are_enabled_in_every_folder_down_the_chain(tmp_path: Path, proc: Path) -> None:
    """Mount point, folders between and the last folder all enable the controller for their subfolders."""
    jobs = _folders(tmp_path / "cg", "jobmaster", "jobs", offered=frozenset({Controller.MEMORY}))
    enforcement = enable_controllers(tmp_path / "cg", jobs, proc=proc)
    assert enforcement.controllers == {Controller.MEMORY}
    assert enforcement.why_not(Controller.MEMORY) is None
    for folder in (jobs, jobs.parent, jobs.parent.parent):
        assert (folder / "cgroup.subtree_control").read_text() == "+memory"


def test_a_controller_that_is_enabled_already_is_left_alone(tmp_path: Path, proc: Path) -> None:
    """Nothing is written where the folder above has been set up by its owner."""
    jobs = _folders(tmp_path / "cg", "jobs")
    (tmp_path / "cg" / "cgroup.subtree_control").write_text("cpu io memory pids\n")
    enable_controllers(tmp_path / "cg", jobs, proc=proc)
    assert (tmp_path / "cg" / "cgroup.subtree_control").read_text() == "cpu io memory pids\n"


def test_an_absent_controller_is_an_answer_and_no_error(tmp_path: Path, proc: Path) -> None:
    """A host that offers only one controller enforces that one and says why not the others."""
    jobs = _folders(tmp_path / "cg", "jobs", offered=frozenset({Controller.PIDS}))
    (proc / "cgroups").write_text(PROC_CGROUPS)
    enforcement = enable_controllers(tmp_path / "cg", jobs, proc=proc)
    assert enforcement.pids == Enforced(controller=Controller.PIDS)
    assert enforcement.why_not(Controller.MEMORY) == why_absent(Controller.MEMORY, parse_proc_cgroups(PROC_CGROUPS))
    assert enforcement.controllers == {Controller.PIDS}


def test_a_refused_folder_is_named_in_the_reason(tmp_path: Path, proc: Path) -> None:
    """Where one folder of the chain refuses, the reason names that folder and what the kernel said."""
    jobs = _folders(tmp_path / "cg", "jobmaster", "jobs")
    (jobs.parent / "cgroup.subtree_control").unlink()
    enforcement = enable_controllers(tmp_path / "cg", jobs, proc=proc)
    assert enforcement.controllers == frozenset()
    reason = enforcement.why_not(Controller.CPU)
    assert reason is not None
    assert f"the cpu controller is not delegated to {jobs.parent}" in reason
    assert "No such file or directory" in reason


def test_a_folder_with_processes_is_left_as_it_is(tmp_path: Path, proc: Path) -> None:
    """No controller is enabled in a cgroup that has processes: cpu and pids would turn it into a threaded one."""
    jobs = _folders(tmp_path / "cg", "unit", "jobs")
    (jobs.parent / "cgroup.type").write_text("domain\n")
    (jobs.parent / "cgroup.procs").write_text("1\n")
    enforcement = enable_controllers(tmp_path / "cg", jobs, proc=proc)
    assert enforcement.controllers == frozenset()
    assert (jobs.parent / "cgroup.subtree_control").read_text() == ""
    reason = f"the pids controller can't be enabled in {jobs.parent}: processes live in that cgroup itself"
    assert enforcement.why_not(Controller.PIDS) == reason


def test_the_top_of_the_hierarchy_may_have_processes(tmp_path: Path, proc: Path) -> None:
    """The rule does not hold at the top, where the processes of every host live."""
    jobs = _folders(tmp_path / "cg", "jobs")
    (tmp_path / "cg" / "cgroup.procs").write_text("1\n")
    assert enable_controllers(tmp_path / "cg", jobs, proc=proc).controllers == set(Controller)


def test_a_controller_without_its_limit_file_does_not_enforce(tmp_path: Path, proc: Path) -> None:
    """A kernel can have the io controller without io.max: then an io limit would bind nothing."""
    jobs = _folders(tmp_path / "cg", "jobs")
    (jobs / "io.max").unlink()
    enforcement = enable_controllers(tmp_path / "cg", jobs, proc=proc)
    reason = enforcement.why_not(Controller.IO)
    assert reason is not None
    assert "CONFIG_BLK_DEV_THROTTLING" in reason
    assert enforcement.controllers == {Controller.CPU, Controller.MEMORY, Controller.PIDS}


def test_a_hidden_proc_cgroups_only_costs_the_reason(tmp_path: Path) -> None:
    """With /proc/cgroups hidden the controllers are enabled all the same."""
    jobs = _folders(tmp_path / "cg", "jobs", offered=frozenset({Controller.CPU}))
    enforcement = enable_controllers(tmp_path / "cg", jobs, proc=tmp_path / "nowhere")
    assert enforcement.controllers == {Controller.CPU}
    assert enforcement.why_not(Controller.IO) == "this kernel does not offer the io controller"


def test_a_folder_that_is_no_cgroup_is_an_error(tmp_path: Path, proc: Path) -> None:
    """Without cgroup.controllers at the top this is no cgroup v2, which is an error and no answer."""
    with pytest.raises(CgroupError, match=r"cgroup\.controllers"):
        enable_controllers(tmp_path, tmp_path / "jobs", proc=proc)


def test_a_folder_outside_the_mount_is_a_mistake(tmp_path: Path, proc: Path) -> None:
    """The chain can only be walked inside the mount."""
    _folders(tmp_path / "cg")
    with pytest.raises(ValueError, match="subpath"):
        enable_controllers(tmp_path / "cg", tmp_path / "elsewhere", proc=proc)


def test_states_are_told_apart() -> None:
    """Each kind of limit has its own state and reason."""
    enforcement = Enforcement(
        cpu=Enforced(controller=Controller.CPU),
        io=NotEnforced(controller=Controller.IO, reason="no disk"),
        memory=Enforced(controller=Controller.MEMORY),
        pids=NotEnforced(controller=Controller.PIDS, reason="too old"),
    )
    assert enforcement.controllers == {Controller.CPU, Controller.MEMORY}
    assert [enforcement.why_not(c) for c in Controller] == [None, "no disk", None, "too old"]


def test_the_kernel_is_believed(kernel_mount: Path, kernel_root: Path) -> None:
    """On the real hierarchy a controller enforces exactly when its limit file is in the folder."""
    (kernel_root / "jobs").mkdir()
    enforcement = enable_controllers(kernel_mount, kernel_root / "jobs")
    files = {c: (kernel_root / "jobs" / f"{c}.max").exists() for c in Controller}
    assert files == {c: c in enforcement.controllers for c in Controller}
    assert all(enforcement.why_not(c) for c, offered in files.items() if not offered)


def test_what_is_foreseen_is_what_comes(tmp_path: Path, proc: Path) -> None:
    """Where nothing is in the way every controller is foreseen, for a folder that is not there too, and nothing is written."""
    mount = _folders(tmp_path / "cg")
    before = {file: file.read_bytes() for file in mount.rglob("*") if file.is_file()}
    foreseen = foresee_controllers(mount, mount / "jobmaster", proc=proc)
    assert foreseen.controllers == frozenset(Controller)
    assert {file: file.read_bytes() for file in mount.rglob("*") if file.is_file()} == before
    assert not (mount / "jobmaster").exists()
    FakeFolders(controllers=frozenset(Controller)).make(mount / "jobmaster")
    assert foreseen == enable_controllers(mount, mount / "jobmaster", proc=proc)


def test_an_absent_controller_is_foreseen(tmp_path: Path, proc: Path) -> None:
    """The reason is the one that a server would tell."""
    mount = _folders(tmp_path / "cg", offered=frozenset({Controller.PIDS}))
    (proc / "cgroups").write_text(PROC_CGROUPS)
    foreseen = foresee_controllers(mount, mount / "jobmaster", proc=proc)
    assert foreseen == enable_controllers(mount, mount, proc=proc)
    assert foreseen.controllers == {Controller.PIDS}


def test_processes_in_the_way_are_foreseen(tmp_path: Path, proc: Path) -> None:
    """A folder with processes of its own keeps a controller away, unless they are the server's, which will move."""
    root = _folders(tmp_path / "cg", "unit")
    mount = root.parent
    (root / "cgroup.type").write_text("domain\n")
    (root / "cgroup.procs").write_text("123\n")
    assert "processes live in that cgroup itself" in str(
        foresee_controllers(mount, root, proc=proc).why_not(Controller.CPU)
    )
    assert foresee_controllers(mount, root, is_vacated=True, proc=proc).controllers == frozenset(Controller)


def test_a_folder_that_may_not_be_written_is_foreseen(
    tmp_path: Path, proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ordinary user is told of the first folder that is not delegated."""
    mount = _folders(tmp_path / "cg")
    monkeypatch.setattr(os, "access", lambda path, _mode: path != mount / "cgroup.subtree_control")
    assert f"not delegated to {mount}" in str(foresee_controllers(mount, mount / "x", proc=proc).why_not(Controller.IO))
