"""Jobs' cgroups in the real cgroup file system, with real processes. Needs no controllers, only a writable mount."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from jobmaster.host.cgroup.interface import read_if_offered, write_interface
from jobmaster.host.cgroup.limits import Controller, LimitWrite
from jobmaster.host.cgroup.mounts import find_cgroup2, read_mounts, read_own_path
from jobmaster.host.cgroup.processes import kill_each
from jobmaster.host.cgroup.startup import open_cgroups
from jobmaster.host.cgroup.tree import CgroupTree, JobCgroup, KernelFolders, LimitWriteError
from tests.host.cgroup.kernel import family_in, join, sleeper, wait_until_empty

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def job(kernel_tree: CgroupTree) -> JobCgroup:
    """An empty cgroup of a job."""
    return kernel_tree.create("client1", "job1", ())


def test_the_life_of_a_job(job: JobCgroup) -> None:
    """A process makes the cgroup populated and not removable; killed and not yet reaped it no longer counts."""
    assert not job.populated()
    with sleeper() as process:
        join(job.path, process)
        assert job.populated()
        assert job.processes() == [process.pid]
        assert not job.remove()
        job.kill()
        wait_until_empty(job)
        assert job.processes() == []
        assert job.remove()
        assert process.wait() == -signal.SIGKILL
    assert not job.path.parent.exists()


def test_kill_takes_the_whole_family(job: JobCgroup) -> None:
    """Children die with their parent, also one that left for a session of its own."""
    with family_in(job.path) as process:
        assert len(job.processes()) == 3
        job.kill()
        wait_until_empty(job)
        assert process.wait() == -signal.SIGKILL


def test_killing_one_by_one_takes_the_whole_family(job: JobCgroup) -> None:
    """A kernel without cgroup.kill loses nobody either, and the cgroup is thawed afterwards."""
    with family_in(job.path) as process:
        kill_each(job.path)
        wait_until_empty(job)
        assert process.wait() == -signal.SIGKILL
    assert (job.path / "cgroup.freeze").read_text() == "0\n"


def test_a_signal_reaches_every_process_of_every_sub_cgroup(job: JobCgroup) -> None:
    """A job that made a sub-cgroup is signalled in there too."""
    (job.path / "sub").mkdir()
    with sleeper() as outer, sleeper() as inner:
        join(job.path, outer)
        join(job.path / "sub", inner)
        assert job.processes() == sorted((outer.pid, inner.pid))
        assert job.signal(signal.SIGTERM) == 2
        assert (outer.wait(), inner.wait()) == (-signal.SIGTERM, -signal.SIGTERM)
    wait_until_empty(job)
    assert job.remove()


def test_more_processes_than_one_batch_are_signalled(job: JobCgroup) -> None:
    """A job of many processes is signalled completely, without holding a descriptor for each."""
    script = 'echo 0 > "$1/cgroup.procs"; i=0; while [ $i -lt 150 ]; do sleep 1000 & i=$((i+1)); done; echo ready; wait'
    with family_in(job.path, script) as process:
        before = len(os.listdir("/proc/self/fd"))
        assert job.signal(signal.SIGKILL) == 151
        assert len(os.listdir("/proc/self/fd")) == before
        assert process.wait() == -signal.SIGKILL
    wait_until_empty(job)


def test_a_pid_that_left_before_the_signal_is_not_hit(job: JobCgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is no longer in the cgroup when its pidfd is open gets nothing, as one with a reused pid."""
    real_open = os.pidfd_open
    with sleeper() as bystander:
        join(job.path, bystander)

        def leave_then_open(pid: int) -> int:
            join(job.path.parent.parent, bystander)
            return real_open(pid)

        monkeypatch.setattr(os, "pidfd_open", leave_then_open)
        assert job.signal(signal.SIGKILL) == 0
        bystander.terminate()
        assert bystander.wait() == -signal.SIGTERM


def test_a_threaded_sub_cgroup_is_seen_and_killed(job: JobCgroup) -> None:
    """In a threaded cgroup the kernel refuses cgroup.procs and cgroup.kill; its processes are found all the same."""
    sub = JobCgroup(path=job.path / "sub", folders=KernelFolders())
    sub.path.mkdir()
    write_interface(sub.path / "cgroup.type", "threaded")
    with sleeper() as process:
        join(job.path, process)
        write_interface(sub.path / "cgroup.threads", str(process.pid))
        assert read_if_offered(sub.path / "cgroup.procs") is None
        assert sub.processes() == job.processes() == [process.pid]
        sub.kill()
        assert process.wait() == -signal.SIGKILL
    wait_until_empty(job)
    assert job.remove()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_no_other_user_takes_the_lock(kernel_tree: CgroupTree, job: JobCgroup) -> None:
    """Jobs, or other users of the host, cannot open the folder that a server locks, but can read what a job's cgroup tells."""
    kernel_tree.jobs.chmod(0o755)  # as an earlier server left it
    kernel_tree.prepare()
    script = 'flock -n "$1" true && exit 9; cat "$2/cgroup.events"'
    command = ["sh", "-c", script, "sh", str(kernel_tree.jobs), str(job.path)]
    told = subprocess.run(command, user=65534, group=65534, extra_groups=(), capture_output=True, check=False)
    assert told.returncode == 0, told.stderr
    assert b"populated 0" in told.stdout
    assert b"Permission denied" in told.stderr


def test_killing_everything_leaves_the_supervisor(kernel_tree: CgroupTree) -> None:
    """Every job dies of one write, and a process beside the jobs' folder does not."""
    jobs = [kernel_tree.create(client, "job1", ()) for client in ("client1", "client2")]
    (kernel_tree.root / "supervisor").mkdir()
    with sleeper() as supervisor, sleeper() as first, sleeper() as second:
        join(kernel_tree.root / "supervisor", supervisor)
        join(jobs[0].path, first)
        join(jobs[1].path, second)
        kernel_tree.kill_all()
        assert (first.wait(), second.wait()) == (-signal.SIGKILL, -signal.SIGKILL)
        supervisor.terminate()
        assert supervisor.wait() == -signal.SIGTERM


def test_a_sweep_clears_what_an_earlier_server_left(kernel_tree: CgroupTree, job: JobCgroup) -> None:
    """Leftover processes are killed, and what is left of them is gone with the next sweep."""
    with family_in(job.path) as process:
        assert set(kernel_tree.sweep()) <= {job.path}
        assert process.wait() == -signal.SIGKILL
        if job.path.exists():
            wait_until_empty(job)
    assert kernel_tree.sweep() == ()
    assert [entry.name for entry in kernel_tree.jobs.iterdir() if entry.is_dir()] == []


def test_reading_an_open_file_of_a_removed_cgroup(job: JobCgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cgroup that is removed between open and read answers ENODEV, which means gone."""
    real_read = os.read

    def remove_then_read(descriptor: int, size: int) -> bytes:
        job.remove()
        return real_read(descriptor, size)

    monkeypatch.setattr(os, "read", remove_then_read)
    assert job.cpu_statistics() is None
    assert not job.path.exists()


def test_a_limit_without_its_controller_leaves_nothing(kernel_tree: CgroupTree) -> None:
    """The real kernel has no limit file where no controller is enabled: refused, and nothing is left behind."""
    write = LimitWrite(controller=Controller.PIDS, file="pids.max", text="10")
    with pytest.raises(LimitWriteError) as caught:
        kernel_tree.create("client1", "job1", (write,))
    assert caught.value.controller is Controller.PIDS
    assert caught.value.missing
    assert [entry.name for entry in kernel_tree.jobs.iterdir() if entry.is_dir()] == []


def test_time_is_accounted_without_any_controller(job: JobCgroup) -> None:
    """The cpu time of a process shows in its cgroup, controllers or not."""
    busy = 'echo 0 > "$1/cgroup.procs" && ulimit -t 5 && { echo ready; while :; do :; done; }'
    with family_in(job.path, busy) as process:
        while process.poll() is None and _used(job) == 0:  # some kernels count by the timer's tick
            pass
        job.kill()
    wait_until_empty(job)
    assert _used(job) > 0


def _used(job: JobCgroup) -> int:
    used = job.cpu_statistics()
    assert used is not None
    return used.usage_usec


@pytest.mark.parametrize("own", [True, False])
def test_the_server_leaves_its_own_cgroup(kernel_mount: Path, kernel_root: Path, tmp_path: Path, *, own: bool) -> None:
    """Processes of the root move to the leaf if the root is the server's own cgroup, and stay if it is not."""
    mount = find_cgroup2(read_mounts())
    assert mount is not None
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "mountinfo").write_text(f"1 1 {mount.device} / {kernel_mount} rw - cgroup2 cgroup2 rw\n")
    (tmp_path / "self" / "cgroup").write_text(f"0::/{kernel_root.name}\n" if own else "0::/elsewhere\n")
    with sleeper() as server:
        join(kernel_root, server)
        open_cgroups(kernel_root, proc=tmp_path)
        inside = "supervisor" if own else "."
        assert (kernel_root / inside / "cgroup.procs").read_text() == f"{server.pid}\n"


def test_opening_an_explicit_root(kernel_root: Path) -> None:
    """Start-up makes the folders, asks for every controller, and leaves this process where it is."""
    before = read_own_path()
    opened = open_cgroups(kernel_root / "explicit")
    assert opened.tree.jobs.is_dir()
    assert opened.tree.controllers == opened.enforcement.controllers
    assert read_own_path() == before
    job = opened.tree.create("client1", "job1", ())
    assert {c for c in Controller if (job.path / f"{c}.max").exists()} == opened.enforcement.controllers
    assert job.remove()
