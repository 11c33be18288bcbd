"""The guest offers what the other kernel tests build on; if one of these fails, look here first."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.disk import DISK, device_number

pytestmark = pytest.mark.kernel

CGROUP_ROOT = Path("/sys/fs/cgroup")
JOIN_THEN_RUN = 'echo 0 >"$1/cgroup.procs" && shift && exec "$@"'
ONE_MEBIBYTE = 1024**2


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup with all controllers, gone with its processes afterwards."""
    (CGROUP_ROOT / "cgroup.subtree_control").write_text("+cpu +io +memory +pids")
    folder = CGROUP_ROOT / "smoke"
    folder.mkdir()
    yield folder
    (folder / "cgroup.kill").write_text("1")
    folder.rmdir()


def in_cgroup(cgroup: Path, *command: str) -> list[str]:
    """The command line that joins the cgroup and becomes the command."""
    return ["sh", "-c", JOIN_THEN_RUN, "sh", str(cgroup), *command]


def direct_write(cgroup: Path, file: Path) -> tuple[int, float]:
    """Write 2 MiB past the page cache; the bytes that the cgroup counted for it, and the seconds it took.

    User-Mode Linux has no PSI, so no io.pressure that would tell the time stalled.
    """
    before, begin = written_bytes(cgroup), time.monotonic()
    write = ("dd", "if=/dev/zero", f"of={file}", "bs=64k", "count=32", "oflag=direct", "status=none")
    subprocess.run(in_cgroup(cgroup, *write), check=True)
    return written_bytes(cgroup) - before, time.monotonic() - begin


def written_bytes(cgroup: Path) -> int:
    """What the cgroup's processes have written to the disk."""
    written = re.search(rf"^{device_number(DISK)} .*wbytes=(\d+)", (cgroup / "io.stat").read_text(), re.MULTILINE)
    return int(written[1]) if written else 0


def test_controllers() -> None:
    """Cgroup v2 is at its usual place and has the controllers that limits need."""
    assert {"cpu", "io", "memory", "pids"} <= set((CGROUP_ROOT / "cgroup.controllers").read_text().split())


def test_disk_is_mounted() -> None:
    """The virtual disk holds a writable ext4 file system."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    assert [str(DISK), "ext4"] in mounts
    assert "/dev/ubda" in Path("/proc/self/mounts").read_text()


def test_limits_are_files_of_a_new_cgroup(cgroup: Path) -> None:
    """A new cgroup takes a limit of each controller."""
    limits = {"memory.max": "52428800", "pids.max": "16", "cpu.max": "10000 100000"}
    for name, value in limits.items():
        (cgroup / name).write_text(value)
    assert {name: (cgroup / name).read_text().strip() for name in limits} == limits


def test_disk_obeys_io_max(cgroup: Path) -> None:
    """Direct writes to the disk are counted, and the quickest of some is several times as long under a limit."""
    writes = [direct_write(cgroup, DISK / "smoke") for _ in range(5)]  # a busy host holds up any of them
    (cgroup / "io.max").write_text(f"{device_number(DISK)} wbps={ONE_MEBIBYTE}")
    _, limited = direct_write(cgroup, DISK / "smoke")
    assert min(written for written, _ in writes) >= 2 * ONE_MEBIBYTE
    assert limited > 3 * min(seconds for _, seconds in writes)


def test_cgroup_kill_ends_a_process_seen_through_its_pidfd(cgroup: Path) -> None:
    """Writing 1 to cgroup.kill ends what is inside with SIGKILL, and its pidfd becomes readable."""
    with subprocess.Popen(in_cgroup(cgroup, "sh", "-c", "echo up; exec sleep 3600"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        pidfd = os.pidfd_open(process.pid)
        (cgroup / "cgroup.kill").write_text("1")
        assert select.select([pidfd], [], [], 60)[0] == [pidfd]
        os.close(pidfd)
    assert process.returncode == -signal.SIGKILL


def test_other_users_can_run_commands() -> None:
    """Setpriv becomes user nobody, who can execute the host's programs."""
    identity = ["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]
    ran = subprocess.run(["setpriv", *identity, "id", "-u"], check=True, capture_output=True, text=True)
    assert ran.stdout == "65534\n"


def test_loopback_is_up() -> None:
    """A connection to 127.0.0.1 reaches a listener of the same machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as peer:
        accepted, address = listener.accept()
        accepted.close()
        assert address == peer.getsockname()
