"""Processes that cannot die: in uninterruptible sleep on a file system that is frozen, on which a write waits."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.harness import serving_program
from tests.kernel.disk import DISK

pytestmark = pytest.mark.kernel

IMAGE_BYTES = 16 * 1024**2
LOOP = Path("/run/loop")


@pytest.fixture
def frozen() -> Iterator[Path]:
    """A folder that everybody may write to, on a file system of its own; where it is frozen, it thaws in the end."""
    image, folder = DISK / "image", Path("/run/frozen")
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    folder.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    os.mknod(LOOP, 0o600 | stat.S_IFBLK, os.makedev(7, 0))  # the guest's first; its /dev is the host's, read-only
    subprocess.run(["losetup", LOOP, image], check=True)
    subprocess.run(["mount", LOOP, folder], check=True)
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", folder], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["umount", folder], check=True)
        subprocess.run(["losetup", "--detach", LOOP], check=True)
        LOOP.unlink()
        folder.rmdir()


def is_uninterruptible(pid: int) -> bool:
    """Whether a process sleeps so that no signal wakes it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "D"


def is_killed(pid: int) -> bool:
    """Whether a SIGKILL waits for a process to wake."""
    found = re.search(r"^SigPnd:\t(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> (signal.SIGKILL - 1) & 1)


async def test_an_upgrade_does_not_wait_for_it(tmp_path: Path, certificates: Path, frozen: Path) -> None:
    """The next server has taken over while the process sleeps on, and tells truly how the job ended when it has."""
    async with (
        serving_program(tmp_path, certificates, "--grace", "0.2") as (server, _),
        server.connect() as jobs,
        trio.open_nursery() as nursery,
    ):
        job_id = await jobs.start("sh", "-c", f"trap '' TERM; while :; do echo x >{frozen}/file; done")
        pid, old = (await jobs.status(job_id)).pid, server.pid
        await trio.run_process(["fsfreeze", "--freeze", frozen])
        with trio.fail_after(120):
            while not is_uninterruptible(pid):
                await trio.sleep(0.05)
            nursery.start_soon(jobs.stop, job_id)
            while not is_killed(pid):
                await trio.sleep(0.05)
            os.kill(server.launcher, signal.SIGUSR2)
            while server.servers() in ([], [old]):
                await trio.sleep(0.05)
            assert (await jobs.status(job_id)).state == pb.JOBSTATE_RUNNING
            assert is_uninterruptible(pid)
            await trio.run_process(["fsfreeze", "--unfreeze", frozen])
            record = await jobs.wait(job_id)
    assert record.cause.WhichOneof("kind") == "stopped"
    assert (record.cause.stopped.by, record.signal_str) == ("client1", "killed")
