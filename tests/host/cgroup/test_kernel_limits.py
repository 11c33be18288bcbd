"""Limits that the kernel really enforces: needs all four controllers on cgroup v2."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from jobmaster.host.cgroup.controllers import enable_controllers
from jobmaster.host.cgroup.devices import list_devices
from jobmaster.host.cgroup.limits import Controller, IoLimits, Limits, OomPolicy, limit_writes
from tests.host.cgroup.kernel import join, sleeper, wait_until_empty

if TYPE_CHECKING:
    from pathlib import Path

    from jobmaster.host.cgroup.tree import CgroupTree, JobCgroup

pytestmark = pytest.mark.kernel

# A child outgrows 32 MiB; the shell then says how it ended, if it lives to say so.
OOM_IN_A_CHILD = 'echo 0 > "$1/cgroup.procs"; "$2" -I -S -c "x = bytearray(200 * 1024 * 1024)"; echo "child $?"; exit 0'


def _create(
    tree: CgroupTree, limits: Limits, policy: OomPolicy = OomPolicy.JOB, device: str | None = None
) -> JobCgroup:
    writes = limit_writes(limits, policy, available=tree.controllers, io_device=device)
    return tree.create("client1", "job1", writes)


def _run(job: JobCgroup, script: str) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        ["sh", "-c", script, "sh", str(job.path), sys.executable], capture_output=True, text=True, check=False
    )
    wait_until_empty(job)
    return result


def test_out_of_memory_takes_the_whole_job(limiting_tree: CgroupTree) -> None:
    """Under the job policy the parent dies with its child, and the counters say that it was the OOM killer."""
    job = _create(limiting_tree, Limits(memory_max=32 * 2**20))
    result = _run(job, OOM_IN_A_CHILD)
    assert (result.returncode, result.stdout) == (-signal.SIGKILL, "")
    events = job.memory_events()
    assert events is not None
    assert events.killed
    assert events.oom_group_kill == 1
    assert job.remove()


def test_out_of_memory_takes_one_process(limiting_tree: CgroupTree) -> None:
    """Under the process policy the parent goes on, and the kill of its child is counted all the same."""
    job = _create(limiting_tree, Limits(memory_max=32 * 2**20), OomPolicy.PROCESS)
    result = _run(job, OOM_IN_A_CHILD)
    assert (result.returncode, result.stdout) == (0, "child 137\n")
    events = job.memory_events()
    assert events is not None
    assert (events.oom_kill, events.oom_group_kill) == (1, 0)


def test_a_job_cannot_fork_beyond_its_pids(limiting_tree: CgroupTree) -> None:
    """The fork beyond pids.max fails."""
    job = _create(limiting_tree, Limits(pids_max=2))
    fork = "import os; os.fork() or os._exit(0); os.fork() or os._exit(0)"
    script = f'echo 0 > "$1/cgroup.procs"; "$2" -I -S -c "{fork}"; echo "$?"'
    result = _run(job, script)
    assert "BlockingIOError" in result.stderr
    assert result.stdout == "1\n"


def test_a_job_is_throttled_to_its_cores(limiting_tree: CgroupTree) -> None:
    """A busy loop under a tenth of a core is throttled."""
    job = _create(limiting_tree, Limits(cpu_max=0.1))
    busy = "import time; end = time.process_time() + 0.1\nwhile time.process_time() < end: pass"
    _run(job, f'echo 0 > "$1/cgroup.procs"; exec "$2" -I -S -c "{busy}"')
    used = job.cpu_statistics()
    assert used is not None
    assert used.nr_throttled > 0
    assert used.throttled_usec > used.usage_usec


def test_the_kernel_takes_io_limits(limiting_tree: CgroupTree) -> None:
    """The kernel shows the io limits as they were asked for."""
    disks = list_devices()
    if not disks:
        pytest.skip("no disk here")
    device = str(disks[0].number)
    job = _create(limiting_tree, Limits(io=IoLimits(read_bps=1000, write_iops=7)), device=device)
    assert (job.path / "io.max").read_text() == f"{device} rbps=1000 wbps=max riops=max wiops=7\n"


def test_a_folder_with_processes_cannot_hand_controllers_on(limiting_tree: CgroupTree, kernel_mount: Path) -> None:
    """The rule of no internal processes is given as the reason, and the subfolders can still be joined."""
    folder = limiting_tree.jobs / "client1"
    (folder / "jobs").mkdir(parents=True)
    with sleeper() as process:
        join(folder, process)
        enforcement = enable_controllers(kernel_mount, folder / "jobs")
        assert enforcement.controllers == frozenset()
        reason = f"controller can't be enabled in {folder}: processes live in that cgroup itself"
        assert all(reason in (enforcement.why_not(controller) or "") for controller in Controller)
        assert (folder / "jobs" / "cgroup.type").read_text() == "domain\n"


def test_the_kernel_shows_the_limits(limiting_tree: CgroupTree) -> None:
    """What was asked for is what the kernel reads back, swap closed."""
    job = _create(limiting_tree, Limits(cpu_max=0.01, memory_max=2**26, pids_max=4 * 1024 * 1024))
    files = ("cpu.max", "memory.max", "memory.swap.max", "memory.oom.group", "pids.max")
    texts = {file: (job.path / file).read_text().strip() for file in files if (job.path / file).exists()}
    assert texts.get("memory.swap.max", "0") == "0"
    assert texts["cpu.max"] == "10000 1000000"
    assert texts["memory.max"] == str(2**26)
    assert texts["memory.oom.group"] == "1"
    assert texts["pids.max"] == str(4 * 1024 * 1024)
    assert (job.memory_current(), job.pids_current()) != (None, None)
