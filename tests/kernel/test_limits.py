"""Limits that jobs ask for, on a kernel that enforces them: each of them holds a job that tries to exceed it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from purerpc.grpclib.exceptions import FailedPreconditionError, InvalidArgumentError

from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.harness import run, serving, serving_program, until_output
from tests.kernel.disk import DISK, device_number

pytestmark = pytest.mark.kernel

M = 1024**2
# What the memory of a shell is, another process uses so much of, in a page cache or on its own.
FILL = "head -c {} /dev/zero | tail -c {} >/dev/null"
WRITE = "dd if=/dev/zero of={}/file bs=256K count=96 oflag=direct conv=notrunc 2>/dev/null"
READ = "dd if={}/file of=/dev/null bs=256K iflag=direct 2>/dev/null"
BUSY = "while :; do :; done"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A limit, a script that tries to exceed it, and the counter by which the kernel tells that it was held.

    Attributes:
        limits: what the job asks for; of a disk, of the test's.
        value: as the job's record has it.
        script: what the job does; `{disk}` is a folder on that disk.
        file: of the job's cgroup.
        pattern: of the counter in it.
        at_least: how much is counted when the limit has held.
    """

    limits: pb.JobLimits
    value: str
    script: str
    file: str
    pattern: str
    at_least: int = 1


def io(**rates: int) -> pb.JobLimits:
    """The limits of the test's disk."""
    return pb.JobLimits(io=[pb.IoLimit(**rates)])  # type: ignore[arg-type]  # the fields' names are parameters


CASES = {
    "cpu": Case(
        limits=pb.JobLimits(cpu_millicores=200),
        value="cpu.max 20000 100000",
        script=BUSY,
        file="cpu.stat",
        pattern=r"nr_throttled (\d+)",
        at_least=10,
    ),
    "little cpu": Case(
        limits=pb.JobLimits(cpu_millicores=50),
        value="cpu.max 50000 1000000",
        script=BUSY,
        file="cpu.stat",
        pattern=r"nr_throttled (\d+)",
        at_least=2,
    ),
    "memory": Case(
        limits=pb.JobLimits(memory_max=32 * M),
        value=f"memory.max {32 * M}",
        script=f"dd if=/dev/zero of={{disk}}/file bs=1M count=64 2>/dev/null; {BUSY}",  # page cache, which is reclaimed
        file="memory.events",
        pattern=r"\nmax (\d+)",
    ),
    "out of memory": Case(
        limits=pb.JobLimits(memory_max=32 * M),
        value=f"memory.max {32 * M}",
        script=f"{FILL.format(200 * M, 200 * M)}; {BUSY}",
        file="memory.events",
        pattern=r"oom_kill (\d+)",
    ),
    "memory.high": Case(
        limits=pb.JobLimits(memory_max=512 * M, memory_high=16 * M),
        value=f"memory.high {16 * M}",
        script=f"dd if=/dev/zero of={{disk}}/file bs=1M count=64 2>/dev/null; {BUSY}",
        file="memory.events",
        pattern=r"high (\d+)",
    ),
    "swap": Case(
        limits=pb.JobLimits(memory_max=32 * M, swap_max=8 * M),
        value=f"memory.swap.max {8 * M}",
        script=f"{FILL.format(200 * M, 200 * M)}; {BUSY}",
        file="memory.swap.events",
        pattern=r"max (\d+)",
    ),
    "pids": Case(
        limits=pb.JobLimits(pids_max=10),
        value="pids.max 10",
        script=f"(for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1000 & done) 2>/dev/null; {BUSY}",
        file="pids.events",
        pattern=r"max (\d+)",
    ),
}


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder on the guest's disk that jobs can write."""
    folder = DISK / tmp_path.name
    folder.mkdir()
    folder.chmod(0o777)
    return folder


@contextmanager
def swap_on(file: Path) -> Iterator[None]:
    """The guest has 256 MiB of swap for the block."""
    with file.open("wb") as opened:
        for _ in range(256):
            opened.write(bytes(M))
    file.chmod(0o600)
    subprocess.run(["mkswap", str(file)], check=True, capture_output=True)
    subprocess.run(["swapon", str(file)], check=True)
    try:
        yield
    finally:
        subprocess.run(["swapoff", str(file)], check=True)
        file.unlink()


@pytest.mark.parametrize("name", CASES)
async def test_every_limit_holds(tmp_path: Path, certificates: Path, disk: Path, name: str) -> None:
    """A job that tries to exceed a limit is held by the kernel, which counts that; its record names the limit."""
    case = CASES[name]
    arguments = ["--iodevice-id", device_number(DISK), "--oom-policy", "process"]
    with swap_on(disk / "swap") if name == "swap" else nullcontext():
        async with (
            serving(tmp_path, certificates, *arguments) as server,
            server.connect() as jobs,
        ):
            job_id = await jobs.start("sh", "-c", case.script.format(disk=disk), limits=case.limits)
            cgroup, record = server.cgroup_of(job_id), await jobs.status(job_id)
            with trio.fail_after(240):
                while count(cgroup / case.file, case.pattern) < case.at_least:
                    await trio.sleep(0.1)
    assert [limit.value for limit in record.limits if limit.requested and limit.enforced].count(case.value) == 1


def count(file: Path, pattern: str) -> int:
    """The number that `pattern` finds in a file; 0 where there is none."""
    found = re.search(pattern, file.read_text())
    return 0 if found is None else int(found[1])


@pytest.mark.parametrize(
    ("rates", "unit", "rate", "script"),
    [
        ({"write_bps": 8 * M}, "wbytes", 8 * M, WRITE),
        ({"read_bps": 8 * M}, "rbytes", 8 * M, READ),
        ({"write_iops": 200}, "wios", 200, WRITE.replace("256K count=96", "4K count=800")),
        ({"read_iops": 200}, "rios", 200, READ.replace("256K", "4K count=800")),
    ],
)
async def test_every_rate_holds(
    tmp_path: Path, certificates: Path, disk: Path, rates: dict[str, int], unit: str, rate: int, script: str
) -> None:
    """Traffic with a disk stays at its rate by the kernel's own count, and is faster without one."""
    (disk / "file").write_bytes(bytes(24 * M))
    (disk / "file").chmod(0o666)
    number = device_number(DISK)
    async with serving(tmp_path, certificates) as server, server.connect() as jobs:

        async def seconds(limits: pb.JobLimits | None) -> tuple[float, int]:
            """How long the traffic takes, and how much it is."""
            line = f"echo go; {script.format(disk)}; echo done; sleep 1000"
            job_id = await jobs.start("sh", "-c", line, limits=limits)
            await until_output(jobs, job_id, b"go\n")
            begin = trio.current_time()
            await until_output(jobs, job_id, b"done\n")
            taken = trio.current_time() - begin
            traffic = count(server.cgroup_of(job_id) / "io.stat", rf"{number} .*\b{unit}=(\d+)")
            await jobs.stop(job_id, force=True)
            return taken, traffic

        held, traffic = await seconds(pb.JobLimits(io=[pb.IoLimit(device=number, **rates)]))
        free, _ = await seconds(None)
    assert traffic >= 2 * rate
    assert traffic / held < 1.3 * rate < traffic / free


async def test_start_with_every_limit(tmp_path: Path, certificates: Path) -> None:
    """All limits together are in the cgroup as they were asked for, and in the record; what is left out is the server's."""
    number = device_number(DISK)
    limits = pb.JobLimits(
        cpu_millicores=1500,
        memory_max=64 * M + 1,
        memory_high=32 * M,
        swap_max=16 * M,
        cpu_weight=50,
        io=[pb.IoLimit(read_bps=10 * M, write_iops=500)],
    )
    async with serving(tmp_path, certificates, "--iodevice-id", number) as server, server.connect() as jobs:
        job_id = await jobs.start("sleep", "1000", limits=limits)
        cgroup, record = server.cgroup_of(job_id), await jobs.status(job_id)
        files = ("cpu.max", "cpu.weight", "memory.max", "memory.high", "memory.swap.max", "pids.max")
        texts = [(cgroup / file).read_text().strip() for file in files]
        rates = (cgroup / "io.max").read_text()
    assert texts == ["150000 100000", "50", str(64 * M), str(32 * M), str(16 * M), "4096"]
    assert rates == f"{number} rbps=10485760 wbps=max riops=max wiops=500\n"
    assert [limit.value for limit in record.limits if not limit.requested] == ["pids.max 4096"]


async def test_an_io_weight_that_no_disk_heeds(tmp_path: Path, certificates: Path) -> None:
    """Where the kernel has no io.weight, or no disk with iocost, one that is asked for is refused, naming the controller."""
    async with serving(tmp_path, certificates) as server, server.connect() as jobs:
        with pytest.raises(FailedPreconditionError, match=r"io\.weight of the io controller"):
            await jobs.start("true", limits=pb.JobLimits(io_weight=50))


def drivers() -> set[str]:
    """The drivers of such numbers that the kernel has loaded; another test may have had need of one."""
    return set(re.findall(r"^(loop|md_mod|nbd) ", Path("/proc/modules").read_text(), re.MULTILINE))


async def test_a_disk_that_is_not_there(tmp_path: Path, certificates: Path) -> None:
    """A number that has no device is refused, and the kernel makes none and loads no module for it."""
    before = drivers()
    async with serving(tmp_path, certificates) as server, server.connect() as jobs:
        for number in ("7:77", "9:0", "43:0"):
            with pytest.raises(InvalidArgumentError, match=f"no block device {number}"):
                await jobs.start("true", limits=pb.JobLimits(io=[pb.IoLimit(device=number, read_bps=10 * M)]))
    assert not Path("/sys/dev/block/7:77").exists()
    assert drivers() == before


async def test_a_throttled_job_dies(tmp_path: Path, certificates: Path, disk: Path) -> None:
    """Killed processes whose writes would take half a minute at their rate have it lifted, and are gone with the job."""
    (disk / "file").write_bytes(bytes(24 * M))
    (disk / "file").chmod(0o666)
    write = WRITE.format(disk).replace("bs=256K count=96", "bs=24M count=1")
    script = f"for i in 1 2 3 4 5 6 7 8 9 10; do {write} & done; wait"
    limits = pb.JobLimits(io=[pb.IoLimit(device=device_number(DISK), write_bps=8 * M)])
    async with serving(tmp_path, certificates) as server, server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", script, limits=limits)
        cgroup = server.cgroup_of(job_id)
        with trio.fail_after(60):
            while count(cgroup / "io.stat", rf"{device_number(DISK)} .*\bwbytes=(\d+)") < M:
                await trio.sleep(0.1)
        record = await jobs.stop(job_id, force=True)
        assert record.cause.WhichOneof("kind") == "stopped"
        assert not cgroup.exists()


async def test_what_a_job_has_written_holds_nobody_up(tmp_path: Path, certificates: Path, disk: Path) -> None:
    """What a job leaves unwritten at its end is written at the disk's rate: a sync by others does not wait for the job's."""
    number = device_number(DISK)
    limits = pb.JobLimits(io=[pb.IoLimit(device=number, write_bps=8 * M)])
    async with serving(tmp_path, certificates) as server, server.connect() as jobs:
        record, _ = await run(jobs, "sh", "-c", "true")
        job_id = await jobs.start(
            "sh", "-c", f"dd if=/dev/zero of={disk}/file bs=1M count=200 2>/dev/null; exit 3", limits=limits
        )
        record = await jobs.wait(job_id)
        begin = trio.current_time()
        await trio.run_process(["sync"])
        taken = trio.current_time() - begin
    assert record.exit_code == 3
    assert taken < 200 / 8 / 2


async def test_limits_over_a_killed_server(tmp_path: Path, certificates: Path) -> None:
    """A job that is adopted has its limits as they were, in the cgroup and in the record."""
    limits = pb.JobLimits(cpu_millicores=500, memory_max=64 * M, pids_max=20)
    async with serving_program(tmp_path, certificates) as (server, _), server.connect() as jobs:
        job_id = await jobs.start("sleep", "1000", limits=limits)
        before, killed = await jobs.status(job_id), server.pid
        os.kill(killed, signal.SIGKILL)
        with trio.fail_after(60):
            while server.servers() in ([], [killed]):
                await trio.sleep(0.1)
        after = await jobs.status(job_id)
        cgroup = server.cgroup_of(job_id)
        texts = [(cgroup / file).read_text().strip() for file in ("cpu.max", "memory.max", "pids.max")]
        await jobs.stop(job_id, force=True)
    assert list(before.limits) == list(after.limits) != []
    assert texts == ["50000 100000", str(64 * M), "20"]
