"""Real processes in real cgroups, for the tests that have a writable cgroup v2 to themselves."""

from __future__ import annotations

import os
import select
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jobmaster.host.cgroup.interface import write_interface

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from jobmaster.host.cgroup.tree import JobCgroup

DEADLINE_MILLISECONDS = 60_000

# Joins the cgroup named by $1, starts two children, one of them in a session of its own, says so, and waits.
FAMILY = 'echo 0 > "$1/cgroup.procs" && { sleep 1000 & setsid sleep 1000 & echo ready; exec sleep 1000; }'


@contextmanager
def family_in(folder: Path, script: str = FAMILY) -> Iterator[subprocess.Popen[str]]:
    """Processes that are all in ``folder`` when the block begins; the block has to kill those beside the first."""
    with subprocess.Popen(["sh", "-c", script, "sh", str(folder)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@contextmanager
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            yield process
        finally:
            process.kill()


def join(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Move a process into a cgroup."""
    write_interface(folder / "cgroup.procs", str(process.pid))


def wait_until_empty(cgroup: JobCgroup) -> None:
    """Return when no process lives in the cgroup; the kernel tells of each change of cgroup.events by POLLPRI."""
    descriptor = os.open(cgroup.path / "cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLPRI)
        while b"populated 1" in os.pread(descriptor, 4096, 0):
            assert poll.poll(DEADLINE_MILLISECONDS), f"{cgroup.path} is still populated"
    finally:
        os.close(descriptor)
