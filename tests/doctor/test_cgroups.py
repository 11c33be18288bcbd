"""What is foreseen of cgroups, of this kernel's and of a folder that stands in for a procfs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from jobmaster.doctor import cgroups
from jobmaster.doctor.cgroups import look_at_cgroups, of_cgroups
from jobmaster.host.cgroup.controllers import EVERY_CONTROLLER
from jobmaster.host.cgroup.limits import Controller
from jobmaster.server.findings import Verdict
from tests.harness import cgroup_mount, own_cgroup_root

if TYPE_CHECKING:
    from pathlib import Path


def test_a_host_without_cgroup_v2(tmp_path: Path) -> None:
    """Hierarchy and root are missing, with the command that mounts the one; no controller enforces, for that reason."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "mountinfo").write_text("25 1 0:22 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n")
    (tmp_path / "self" / "cgroup").write_text("1:cpu:/\n")
    found = look_at_cgroups(None, None, tmp_path)
    hierarchy, root = of_cgroups(found, is_in_use=False)
    assert (hierarchy.verdict, hierarchy.remedy) == (Verdict.MISSING, "mount -t cgroup2 none /sys/fs/cgroup")
    assert root.verdict is Verdict.MISSING
    assert found.enforcement.why_not(Controller.CPU) == "no cgroup v2 is mounted on this host"


def test_the_cgroup_of_a_server_that_starts() -> None:
    """Its root is named, with how it was found, and not made."""
    with own_cgroup_root() as root:
        found = look_at_cgroups(root, None)
        _, told = of_cgroups(found, is_in_use=False)
        assert told.text == f"{root}, named by --cgroup-root, to be made at the first start"
        assert not root.exists()


def test_the_cgroup_of_a_server_that_runs() -> None:
    """It is told as such, unless another was asked for."""
    with own_cgroup_root() as root:
        root.mkdir()
        _, told = of_cgroups(look_at_cgroups(None, root), is_in_use=True)
        assert told.text == f"{root}, in use by the server that is running"


def test_a_folder_that_is_no_cgroup(tmp_path: Path) -> None:
    """It is refused in the server's words."""
    cgroup_mount()
    _, told = of_cgroups(look_at_cgroups(tmp_path / "x", None), is_in_use=False)
    assert told.verdict is Verdict.MISSING
    assert "is not in the cgroup v2 mount" in told.text


def test_a_cgroup_that_may_not_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the user can make no cgroup, none is to be had; the remedy is in the text."""
    mount = cgroup_mount()
    monkeypatch.setattr(cgroups.os, "access", lambda *_: False)  # type: ignore[attr-defined]  # as it imports it
    _, told = of_cgroups(look_at_cgroups(mount / "x", None), is_in_use=False)
    assert told.verdict is Verdict.MISSING
    assert "cannot be written by this user" in told.text


def test_a_cgroup_to_which_no_process_may_be_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user may write a folder and yet move nothing there, from where the server is."""
    mount = cgroup_mount()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(cgroups.os, "access", lambda path, _mode: "procs" not in str(path))  # type: ignore[attr-defined]  # as above
    _, told = of_cgroups(look_at_cgroups(mount / "x", None), is_in_use=False)
    assert told.verdict is Verdict.MISSING
    assert "may move none" in told.text


def test_controllers_without_a_cgroup() -> None:
    """What could be enforced is not; what could not keeps its own reason."""
    without = EVERY_CONTROLLER.without("no cgroup")
    assert without.controllers == frozenset()
    assert without.without("another").why_not(Controller.IO) == "no cgroup"
