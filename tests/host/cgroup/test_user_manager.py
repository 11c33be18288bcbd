"""Which cgroups of a user's own systemd are taken for delegated; the real one answers in `tests/kernel/systemd/test_user.py`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobmaster.host.cgroup.user_manager import has_delegated


def answering(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Has a script be systemctl."""
    program = folder / "systemctl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def unit_of(manager: Path) -> Path:
    """A cgroup of one of its units."""
    unit = manager / "app.slice" / "jobmaster.scope"
    unit.mkdir(parents=True)
    (unit / "cgroup.procs").touch()
    return unit


def test_a_unit_with_delegation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the unit that systemd is asked for, and its answer that counts."""
    unit = unit_of(tmp_path / f"user@{os.geteuid()}.service")
    answering(tmp_path, monkeypatch, '[ "$*" = "--user show --value -p Delegate -- jobmaster.scope" ] && echo yes')
    assert has_delegated(unit)
    answering(tmp_path, monkeypatch, "echo no")
    assert not has_delegated(unit)
    answering(tmp_path, monkeypatch, "echo no bus >&2; exit 1")
    assert not has_delegated(unit)


def test_a_cgroup_that_is_not_this_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit of another user's systemd is none, nor the cgroup of the whole systemd, nor one without processes' file."""
    answering(tmp_path, monkeypatch, "echo yes")
    assert not has_delegated(unit_of(tmp_path / f"user@{os.geteuid() + 1}.service"))
    unit = unit_of(tmp_path / f"user@{os.geteuid()}.service")
    assert not has_delegated(unit.parent.parent)
    (unit / "cgroup.procs").unlink()
    assert not has_delegated(unit)
