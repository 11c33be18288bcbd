"""A host without clone3, as by a seccomp filter of a container: the child puts itself into its cgroup."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import trio

import jobmaster.launcher
from jobmaster.run.launcher import ExecFailed, Executed, use_launcher
from tests.run.launching import Folder, Host

# Answers ENOSYS to system call 435, which is clone3 on every architecture, and then executes the rest of its arguments.
WITHOUT_CLONE3: Final = """
import ctypes, os, struct, sys
instructions = ((0x20, 0, 0, 0), (0x15, 0, 1, 435), (0x06, 0, 0, 0x50000 | 38), (0x06, 0, 0, 0x7fff0000))
program = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
class Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_char_p))
if ctypes.CDLL(None).prctl(22, 2, ctypes.byref(Filter(len(instructions), program)), 0, 0):
    sys.exit("no seccomp")
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
async def old_host(folder: Folder) -> AsyncIterator[Host]:
    """A launcher that may not use clone3."""
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    launcher = [sys.executable, "-I", "-S", str(Path(jobmaster.launcher.__file__).parent), "--attached"]
    command = [sys.executable, "-c", WITHOUT_CLONE3, *launcher, str(other.fileno())]
    process = await trio.lowlevel.open_process(command, pass_fds=(other.fileno(),))
    other.close()
    async with use_launcher(own, kill_fd=folder.kill, lock_fd=folder.lock) as used:
        yield Host(launcher=used, folder=folder)
    assert await process.wait() == 0


async def test_it_joins_its_cgroup(old_host: Host) -> None:
    """The command finds itself in its cgroup, without a descriptor of it, and its end is told."""
    ran = await old_host.run("sh", "-c", "ls /proc/self/fd; cat /proc/self/cgroup; exit 3")
    assert (ran.outcome, ran.exit_code) == (Executed(), 3)
    lines = ran.output.decode().splitlines()
    assert lines[:4] == ["0", "1", "2", "3"]  # 3 is ls reading the folder
    assert f"0::/{old_host.folder.path.name}/job" in lines


async def test_a_cgroup_that_is_gone(old_host: Host) -> None:
    """A cgroup that cannot be joined is a failure of that step, and nothing is executed outside."""
    gone = old_host.folder.path / "gone"
    gone.mkdir()
    fd = os.open(gone, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    gone.rmdir()
    folder = replace(old_host.folder, job=fd)
    ran = await Host(launcher=old_host.launcher, folder=folder).run("true")
    os.close(fd)
    assert isinstance(ran.outcome, ExecFailed)
    assert (ran.outcome.stage, ran.outcome.errno) in {("cgroup", errno.ENOENT), ("cgroup", errno.ENODEV)}
