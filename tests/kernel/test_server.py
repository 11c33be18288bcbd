"""The server's promises on a kernel that enforces every limit."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import trio
from purerpc.grpclib.exceptions import FailedPreconditionError

from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.harness import Server, ended, first_chunk, is_alive, run, serving, serving_program, until_output
from tests.kernel.disk import DISK, device_number

pytestmark = pytest.mark.kernel

MEBIBYTE = 1024**2
HOG = "dd if=/dev/zero of=/dev/null bs=200M count=1"
BUSY = "while :; do :; done"


async def until_file(path: Path, pattern: str, at_least: int) -> int:
    """The number that `pattern` finds in a file, once it is large enough."""
    while True:
        found = re.search(pattern, path.read_text())
        if found is not None and int(found[1]) >= at_least:
            return int(found[1])
        await trio.sleep(0.1)


async def test_every_limit_is_enforced(tmp_path: Path, certificates: Path) -> None:
    """--require-limits starts here, and a job's record says that each of its limits is enforced."""
    limits = ["--memory-max", "64M", "--cpu-max", "1", "--io-write-bps", "8M", "--iodevice-id", device_number(DISK)]
    async with serving(tmp_path, certificates, "--require-limits", *limits) as server, server.connect() as jobs:
        record, _output = await run(jobs, "true")
    assert {limit.name: limit.enforced for limit in record.limits} == dict.fromkeys(
        ["cpu", "io", "memory", "pids"], True
    )


async def test_memory_hog(tmp_path: Path, certificates: Path) -> None:
    """A job over its memory limit ends as a whole: state 2, -1, `killed`, out of memory, with the limit."""
    async with serving(tmp_path, certificates, "--memory-max", "50M") as server, server.connect() as jobs:
        record, output = await run(jobs, "sh", "-c", f"{HOG}; echo survived")
    assert (record.state, record.exit_code, record.signal_str) == (pb.JOBSTATE_TERMINATED_BY_API, -1, "killed")
    assert record.cause.oom_killed.memory_max == 50 * MEBIBYTE
    assert record.cause.oom_killed.processes_killed == record.oom_kills == 2  # the shell and its dd
    assert b"survived" not in output


@pytest.mark.parametrize("limit", ["1", "64K", "512K"])
async def test_a_memory_limit_that_is_too_small_for_any_job(tmp_path: Path, certificates: Path, limit: str) -> None:
    """Start says that the memory limit is too small where the kernel kills the job before its command is executed."""
    async with serving(tmp_path, certificates, "--memory-max", limit) as server, server.connect() as jobs:
        with pytest.raises(FailedPreconditionError, match="memory limit is too small"):
            await jobs.start("true")


async def test_oom_of_a_child(tmp_path: Path, certificates: Path) -> None:
    """With --oom-policy process a child dies, its parent goes on and returns 0, and the record has both."""
    arguments = ["--memory-max", "50M", "--oom-policy", "process"]
    async with serving(tmp_path, certificates, *arguments) as server, server.connect() as jobs:
        record, output = await run(jobs, "sh", "-c", f"{HOG}; echo child $?; exit 0")
    assert (record.state, record.exit_code, record.cause.exited.code) == (pb.JOBSTATE_COMPLETED, 0, 0)
    assert record.oom_kills == 1
    assert b"child 137" in output


async def test_oom_kill_is_told_while_the_job_runs(tmp_path: Path, certificates: Path) -> None:
    """The supervisor's poll shows a killed child in the record of a job that still runs."""
    arguments = ["--memory-max", "50M", "--oom-policy", "process"]
    async with serving(tmp_path, certificates, *arguments) as server, server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", f"{HOG}; sleep 1000")
        while not (record := await jobs.status(job_id)).oom_kills:
            await trio.sleep(0.1)
    assert record.state == pb.JOBSTATE_RUNNING


async def test_oom_kills_of_the_same_job_again(tmp_path: Path, certificates: Path) -> None:
    """Counters of a client's next cgroup that come to the same numbers as the last one's are news all the same."""
    arguments = ["--memory-max", "50M", "--oom-policy", "process"]
    async with serving(tmp_path, certificates, *arguments) as server, server.connect() as jobs:
        for _ in range(3):
            job_id = await jobs.start("sh", "-c", f"{HOG}; sleep 1000")
            with trio.fail_after(60):
                while not (await jobs.status(job_id)).oom_kills:
                    await trio.sleep(0.1)
            await jobs.stop(job_id)


async def test_external_kill_is_no_oom(tmp_path: Path, certificates: Path) -> None:
    """SIGKILL from elsewhere under a memory limit is a signal, not out of memory."""
    async with serving(tmp_path, certificates, "--memory-max", "50M") as server, server.connect() as jobs:
        record, _output = await run(jobs, "sh", "-c", "kill -KILL $$")
    assert (record.cause.WhichOneof("kind"), record.signal_str, record.oom_kills) == ("signalled", "killed", 0)


async def test_busy_loop_is_throttled(tmp_path: Path, certificates: Path) -> None:
    """A busy loop under half a CPU is throttled in most periods."""
    async with serving(tmp_path, certificates, "--cpu-max", "0.5") as server, server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", BUSY)
        statistics = server.cgroup_of(job_id) / "cpu.stat"
        await until_file(statistics, r"nr_periods (\d+)", 20)
        text = statistics.read_text()
        await jobs.stop(job_id)
    counts = {name: int(value) for name, value in re.findall(r"^(nr_\w+) (\d+)$", text, re.MULTILINE)}
    assert counts["nr_throttled"] * 2 > counts["nr_periods"]


async def test_writer_is_held_to_its_rate(tmp_path: Path, certificates: Path) -> None:
    """A writer to the device stays at its io.max by the kernel's own count, and is faster without one."""
    free = await write_rate(tmp_path / "free", certificates)
    held = await write_rate(tmp_path / "held", certificates, "--io-write-bps", "1M")
    assert held < 1.3 * MEBIBYTE < free


async def write_rate(folder: Path, certificates: Path, *limits: str) -> float:
    """Bytes a second that a job's direct writes reach, by io.stat of its cgroup."""
    folder.mkdir()
    disk = DISK / folder.name
    disk.mkdir()
    disk.chmod(0o777)
    write = f"dd if=/dev/zero of={disk}/file bs=256K count=16 oflag=direct conv=notrunc"
    async with (
        serving(folder, certificates, "--iodevice-id", device_number(DISK), *limits) as server,
        server.connect() as jobs,
    ):
        job_id = await jobs.start("sh", "-c", f"echo go; {write}; echo written; sleep 1000")
        await until_output(jobs, job_id, b"go\n")
        begin = time.monotonic()
        await until_output(jobs, job_id, b"written\n")
        seconds = time.monotonic() - begin
        written = await until_file(
            server.cgroup_of(job_id) / "io.stat", rf"{device_number(DISK)} .*wbytes=(\d+)", 4 * MEBIBYTE
        )
        await jobs.stop(job_id)
    return written / seconds


async def test_process_limit(tmp_path: Path, certificates: Path) -> None:
    """A job cannot have more processes than its limit."""
    script = "i=0; while [ $i -lt 40 ]; do sleep 1000 & i=$((i+1)); done; echo all"
    async with serving(tmp_path, certificates, "--pids-max", "20") as server, server.connect() as jobs:
        record, output = await run(jobs, "sh", "-c", script)
    assert b"all" not in output
    assert b"fork" in output
    assert record.cause.exited.code != 0


async def test_fork_bomb_is_stopped(tmp_path: Path, certificates: Path) -> None:
    """Stop ends a fork bomb at its process limit."""
    arguments = ["--pids-max", "64", "--grace", "0.5"]
    async with serving(tmp_path, certificates, *arguments) as server, server.connect() as jobs:
        # A shell that cannot fork exits; the main process does not fork, and of the others some are always left.
        bomb = "trap '' TERM; bomb() { while :; do bomb & done; }; bomb 2>/dev/null & exec sleep 1000"
        job_id = await jobs.start("sh", "-c", bomb)
        await until_file(server.cgroup_of(job_id) / "pids.current", r"(\d+)", 50)
        record = await jobs.stop(job_id)
    assert record.cause.WhichOneof("kind") == "stopped"


async def test_stop_takes_escaped_grandchildren(tmp_path: Path, certificates: Path) -> None:
    """Stop ends grandchildren that called setsid and forked twice, also when they ignore SIGTERM."""
    script = 'setsid sh -c \'trap "" TERM; setsid sh -c "echo \\$\\$; exec sleep 1000" & wait\' & wait'
    async with serving(tmp_path, certificates, "--grace", "0.5") as server, server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", script)
        pid = int(await first_chunk(jobs, job_id))
        assert is_alive(pid)
        await jobs.stop(job_id)
        assert not is_alive(pid)
        assert not server.cgroup_of(job_id).exists()


async def test_cannot_leave_its_cgroup(tmp_path: Path, certificates: Path) -> None:
    """A job can neither move itself elsewhere, nor raise its limit, nor make a cgroup below its own."""
    async with serving(tmp_path, certificates, "--memory-max", "50M") as server, server.connect() as jobs:
        mount, own = server.cgroup_root.parent, f"{server.cgroup_root}/jobs/client1/$JOBMASTER_JOB_ID"
        script = (
            f"for f in {mount}/cgroup.procs {server.cgroup_root}/cgroup.procs; do echo $$ >$f && echo escaped; done; "
            f"echo max >{own}/memory.max && echo raised; mkdir {own}/sub && echo made; cat /proc/self/cgroup"
        )
        _record, output = await run(jobs, "sh", "-c", f"exec 2>/dev/null; {script}")
    assert not {b"escaped", b"raised", b"made"} & set(output.split())
    assert b"/jobs/client1/" in output


async def test_killed_server(tmp_path: Path, certificates: Path) -> None:
    """After SIGKILL of the server no process of a job is left."""
    async with serving_program(tmp_path, certificates, is_killed=True) as (server, process), server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", "setsid sleep 1000 & echo $!; wait")
        pids = [int(await first_chunk(jobs, job_id)), (await jobs.status(job_id)).pid]
        process.kill()
        with trio.fail_after(60):
            while any(is_alive(pid) for pid in pids):
                await trio.sleep(0.05)


async def test_cgroups_are_gone(server: Server) -> None:
    """Every cgroup of a job is gone after its end."""
    async with server.connect() as jobs:
        ids = [await jobs.start("sh", "-c", "setsid sleep 1000 & exit 0") for _ in range(10)]
        for job_id in ids:
            await ended(jobs, job_id)
    assert list((server.cgroup_root / "jobs").glob("*/")) == []
