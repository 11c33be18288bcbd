"""One read or write of an interface file."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from jobmaster.host.cgroup.interface import CgroupFileError, read_if_offered, read_interface, write_interface

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    """A file larger than one read, such as a long cgroup.procs, comes back complete."""
    text = "".join(f"{pid}\n" for pid in range(100_000))
    (tmp_path / "cgroup.procs").write_text(text)
    assert read_interface(tmp_path / "cgroup.procs") == text


def test_a_write_replaces_the_text(tmp_path: Path) -> None:
    """A shorter text leaves nothing of the longer one before it."""
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    write_interface(tmp_path / "cpu.max", "1000 100000")
    assert (tmp_path / "cpu.max").read_text() == "1000 100000"


def test_a_missing_file_is_never_created(tmp_path: Path) -> None:
    """A limit whose file is not there must fail; the error names folder, file and value."""
    with pytest.raises(CgroupFileError) as caught:
        write_interface(tmp_path / "memory.max", "4096")
    assert not (tmp_path / "memory.max").exists()
    assert caught.value.errno == errno.ENOENT
    assert all(part in str(caught.value) for part in (str(tmp_path), "memory.max", "'4096'", "No such file"))


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    """Neither a read nor a write goes through a link."""
    (tmp_path / "target").write_text("secret")
    (tmp_path / "cpu.max").symlink_to(tmp_path / "target")
    with pytest.raises(CgroupFileError):
        read_interface(tmp_path / "cpu.max")
    with pytest.raises(CgroupFileError):
        write_interface(tmp_path / "cpu.max", "max")
    assert (tmp_path / "target").read_text() == "secret"


def test_what_is_not_offered_reads_as_none(tmp_path: Path) -> None:
    """A missing file is an answer, any other failure stays an error."""
    assert read_if_offered(tmp_path / "memory.peak") is None
    (tmp_path / "memory.peak").mkdir()
    with pytest.raises(CgroupFileError, match=r"memory\.peak: Is a directory"):
        read_if_offered(tmp_path / "memory.peak")
