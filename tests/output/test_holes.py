"""Holes and room, on real files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from jobmaster.output.holes import BLOCK, allocate, can_punch, punch


@pytest.fixture
def fd(tmp_path: Path) -> int:
    """A file of four blocks."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"x" * 4 * BLOCK)
    return fd


def test_a_hole(fd: int) -> None:
    """Its blocks are given back, it reads as zeros, and all around it is as it was; an empty one is none."""
    if not can_punch(fd):
        pytest.skip("this file system makes no holes")
    os.fsync(fd)
    before = os.fstat(fd)
    punch(fd, BLOCK, 3 * BLOCK)
    punch(fd, 2, 2)
    after = os.fstat(fd)
    assert before.st_blocks - after.st_blocks == 2 * BLOCK // 512
    assert after.st_size == before.st_size
    assert os.pread(fd, 4 * BLOCK, 0) == b"x" * BLOCK + bytes(2 * BLOCK) + b"x" * BLOCK
    os.close(fd)


def test_room_ahead(fd: int) -> None:
    """It takes space on the disk, and leaves the file's size as it is."""
    before = os.fstat(fd)
    allocate(fd, 0, 8 * BLOCK)
    after = os.fstat(fd)
    assert after.st_size == before.st_size
    assert after.st_blocks >= 8 * BLOCK // 512
    os.close(fd)


def test_what_fails() -> None:
    """An error of the kernel's has its number; that of a file system that makes no holes is told from others."""
    read_end, write_end = os.pipe()
    with pytest.raises(OSError, match=os.strerror(errno.ESPIPE)):
        punch(write_end, 0, BLOCK)
    assert can_punch(write_end)
    os.close(read_end)
    os.close(write_end)
    device = os.open("/dev/null", os.O_WRONLY)
    assert not can_punch(device)
    os.close(device)
