"""The lock of a folder, on any file system."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from jobmaster.host.cgroup.lock import take_lock

if TYPE_CHECKING:
    from pathlib import Path


def test_one_holder(tmp_path: Path) -> None:
    """Nobody gets the lock until every descriptor of its holder is closed."""
    first = take_lock(tmp_path)
    assert first is not None
    second = os.dup(first)
    assert take_lock(tmp_path) is None
    os.close(first)
    assert take_lock(tmp_path) is None
    os.close(second)
    third = take_lock(tmp_path)
    assert third is not None
    assert not os.get_inheritable(third)
    os.close(third)


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    """What is not there cannot be locked."""
    assert take_lock(tmp_path / "none") is None


def test_a_folder_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of another user's server counts as locked."""

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert take_lock(tmp_path) is None


def test_a_folder_that_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock of a folder whose name means another one by now, or none, is no lock; its descriptor is closed."""
    folder = tmp_path / "jobs"
    open_file = os.open

    def removed_when_open(*arguments: object) -> int:
        descriptor = open_file(*arguments)  # type: ignore[arg-type]  # as the caller's
        folder.rename(tmp_path / f"old {len(opened)}")
        if opened:
            folder.mkdir()
        opened.append(descriptor)
        return descriptor

    opened: list[int] = []
    monkeypatch.setattr(os, "open", removed_when_open)
    folder.mkdir()
    assert take_lock(folder) is None
    folder.mkdir()
    assert take_lock(folder) is None
    for descriptor in opened:
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.fstat(descriptor)
