"""Every way in which a job ends, made for real and read back through the API, with what the job has used."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
import trio
from purerpc.grpclib.exceptions import FailedPreconditionError

from jobmaster.client import Jobs
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.harness import is_alive, own_cgroup_root, run, serving, started, until_output
from tests.kernel.disk import DISK, device_number
from tests.kernel.machine import KILLS

pytestmark = pytest.mark.kernel

MEBIBYTE: Final = 1024**2
LIMIT: Final = 32 * MEBIBYTE
HOG: Final = "dd if=/dev/zero of=/dev/null bs=200M count=1"
CORES: Final = Path("/proc/sys/kernel/core_pattern")
DEADLINE: Final = 60.0
ROUNDS: Final = int(os.environ.get(KILLS, "40"))
"""Of the loop that tells kills apart, two jobs each: `JOBMASTER_KILLS=500 nox -s kernel -- tests/kernel/test_ends.py -k outside`."""


@contextmanager
def cores_in(folder: Path) -> Iterator[None]:
    """Has the kernel write cores there for the block."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o1777)
    before = CORES.read_text()
    CORES.write_text(f"{folder}/core.%p")
    try:
        yield
    finally:
        CORES.write_text(before)


def check_usage(record: pb.JobResponse) -> None:
    """What every job that ran has used of this kernel, which has all controllers and tells no pressure."""
    usage = record.usage
    took = record.ended.ToDatetime() - record.started.ToDatetime()
    assert usage.wall_usec.value == took // timedelta(microseconds=1)
    assert usage.cpu.user_usec.value + usage.cpu.system_usec.value > 0
    assert usage.memory.peak.value > 0
    assert usage.memory.HasField("anon_left")
    assert usage.memory.HasField("file_left")
    assert usage.memory.events.HasField("oom_group_kill")
    assert usage.pids_peak.value >= 1
    assert usage.HasField("io")
    assert not usage.HasField("cpu_stalled")


def kind_of(record: pb.JobResponse) -> str | None:
    """Why it ended, by name."""
    kind: str | None = record.cause.WhichOneof("kind")
    return kind


# --- one job, one end -------------------------------------------------------------------------------------------------


def _exited(record: pb.JobResponse) -> None:
    assert record.cause.exited.code == 3


def _signalled(record: pb.JobResponse) -> None:
    assert (record.cause.signalled.signal, record.cause.signalled.core_dumped) == (signal.SIGSEGV, True)


def _killed_from_outside(record: pb.JobResponse) -> None:
    assert (record.cause.signalled.signal, record.oom_kills) == (signal.SIGKILL, 0)


def _asked(record: pb.JobResponse) -> None:
    stopped = record.cause.stopped
    assert (stopped.by, stopped.reason, stopped.signal, stopped.killed) == ("client1", "enough", signal.SIGTERM, False)
    assert not stopped.returned


def _returned(record: pb.JobResponse) -> None:
    assert (record.cause.stopped.returned, record.cause.stopped.exit_code) == (True, 7)


def _grace_over(record: pb.JobResponse) -> None:
    assert (record.cause.stopped.signal, record.cause.stopped.killed) == (signal.SIGKILL, True)


def _whole_job(record: pb.JobResponse) -> None:
    killed = record.cause.oom_killed
    assert (killed.memory_max, killed.processes_killed, killed.limit_of) == (LIMIT, 2, pb.OOMLIMIT_JOB)
    assert killed.whole_job
    assert 0.9 * LIMIT < killed.memory_peak <= LIMIT
    assert record.usage.memory.events.oom.value >= 1
    assert record.usage.memory.events.oom_group_kill.value == 1


def _main_process(record: pb.JobResponse) -> None:
    killed = record.cause.oom_killed
    assert (killed.processes_killed, killed.limit_of, killed.whole_job) == (1, pb.OOMLIMIT_JOB, False)


def _child(record: pb.JobResponse) -> None:
    assert (record.state, record.cause.exited.code, record.oom_kills) == (pb.JOBSTATE_COMPLETED, 0, 1)
    assert record.job_msg == "exited with code 0; 1 of its processes was killed by the kernel for memory"
    assert record.usage.memory.events.oom_kill.value == 1


def _timed_out(record: pb.JobResponse) -> None:
    timed_out = record.cause.timed_out
    assert (timed_out.max_run_ms, timed_out.signal, timed_out.killed) == (300, signal.SIGTERM, False)


def _capped(record: pb.JobResponse) -> None:
    assert record.cause.output_capped.output_max == 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a job ends, and what is then told.

    Attributes:
        options: of the server.
        is_stopped: by a client, when it has written "go".
        is_capped: it ends when its output is large.
        max_run_ms: how long it may run.
    """

    script: str
    kind: str
    check: Callable[[pb.JobResponse], None]
    options: Sequence[str] = ()
    is_stopped: bool = False
    is_capped: bool = False
    max_run_ms: int = 0


MEMORY: Final = ("--memory-max", str(LIMIT))
EACH: Final = (*MEMORY, "--oom-policy", "process")
ENDS: Final = {
    "exited": End(script="exit 3", kind="exited", check=_exited),
    "signalled": End(script="ulimit -c unlimited; kill -SEGV $$", kind="signalled", check=_signalled),
    "killed from outside": End(script="kill -KILL $$", kind="signalled", check=_killed_from_outside, options=MEMORY),
    "asked": End(script="echo go; exec sleep 1000", kind="stopped", check=_asked, is_stopped=True),
    "returned": End(
        script="trap 'exit 7' TERM; echo go; while :; do sleep 0.1; done",
        kind="stopped",
        check=_returned,
        is_stopped=True,
    ),
    "grace over": End(
        script="trap '' TERM; echo go; while :; do sleep 0.1; done",
        kind="stopped",
        check=_grace_over,
        options=("--grace", "0.5"),
        is_stopped=True,
    ),
    "out of memory, the whole job": End(script=f"{HOG}; true", kind="oom_killed", check=_whole_job, options=MEMORY),
    "out of memory, the main process": End(script=f"exec {HOG}", kind="oom_killed", check=_main_process, options=EACH),
    "out of memory, a child": End(script=f"{HOG}; exit 0", kind="exited", check=_child, options=EACH),
    "timed out": End(script="exec sleep 1000", kind="timed_out", check=_timed_out, max_run_ms=300),
    "output capped": End(script="exec yes", kind="output_capped", check=_capped, is_capped=True),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_each_end(tmp_path: Path, certificates: Path, end: End) -> None:
    """A job that ends so is told to have ended so, with what it has used."""
    with cores_in(DISK / "cores"):
        async with serving(tmp_path, certificates, *end.options) as server, server.connect() as jobs:
            most = 256 * 1024 if end.is_capped else 0
            job_id = await jobs.start(
                "sh", "-c", end.script, output_max=most, output_full="end", max_run_ms=end.max_run_ms
            )
            if end.is_stopped:
                await until_output(jobs, job_id, b"go\n")
                await jobs.stop(job_id, "enough")
            record = await jobs.wait(job_id)
    assert kind_of(record) == end.kind
    end.check(record)
    check_usage(record)


async def test_a_command_that_was_never_executed(tmp_path: Path, certificates: Path) -> None:
    """It is told to who starts it, and leaves no record and no cgroup."""
    async with serving(tmp_path, certificates) as server, server.connect() as jobs:
        with pytest.raises(FailedPreconditionError, match="not found"):
            await jobs.start("no-such-command")
        assert [record async for record in jobs.list()] == []
        assert list((server.cgroup_root / "jobs").glob("*/")) == []


# --- usage ------------------------------------------------------------------------------------------------------------


async def test_what_a_job_has_used(tmp_path: Path, certificates: Path) -> None:
    """Times, peaks, traffic and throttling are those of what the job did, and of its children."""
    file = DISK / "used"
    script = (
        f"dd if=/dev/zero of={file} bs=256K count=16 oflag=direct conv=notrunc 2>/dev/null; "
        "dd if=/dev/zero of=/dev/null bs=24M count=1 2>/dev/null; "
        "for i in 1 2 3 4 5; do sleep 0.5 & done; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; wait"
    )
    file.touch()
    file.chmod(0o666)
    device = device_number(DISK)
    async with (
        serving(tmp_path, certificates, "--cpu-max", "0.2", "--iodevice-id", device) as server,
        server.connect() as jobs,
    ):
        record, _output = await run(jobs, "sh", "-c", script)
    usage = record.usage
    check_usage(record)
    assert usage.cpu.throttled_periods.value > 0
    assert usage.cpu.throttled_usec.value > 0
    assert 24 * MEBIBYTE <= usage.memory.peak.value < 40 * MEBIBYTE
    assert usage.pids_peak.value >= 6
    (traffic,) = (each for each in usage.io.devices if each.device == device)
    assert 4 * MEBIBYTE <= traffic.written_bytes < 5 * MEBIBYTE
    assert traffic.writes >= 16


async def test_page_cache_that_a_job_leaves(tmp_path: Path, certificates: Path) -> None:
    """Of the memory at the end, anonymous memory is gone with the processes and page cache is told apart."""
    file = DISK / "cached"
    file.touch()
    file.chmod(0o666)
    async with serving(tmp_path, certificates) as server, server.connect() as jobs:
        record, _output = await run(jobs, "dd", "if=/dev/zero", f"of={file}", "bs=1M", "count=8")
    assert record.usage.memory.file_left.value >= 8 * MEBIBYTE
    assert record.usage.memory.anon_left.value < MEBIBYTE


# --- whose limit ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "limit_of"),
    [(1, pb.OOMLIMIT_CLIENT), (2, pb.OOMLIMIT_JOBS), (3, pb.OOMLIMIT_HOST)],
    ids=["client", "all jobs", "above"],
)
async def test_a_limit_above_the_job(tmp_path: Path, certificates: Path, depth: int, limit_of: pb.OomLimit) -> None:
    """A job that is killed for the limit of a cgroup above it is told to be, each time anew; one for its own is not."""
    async with serving(tmp_path, certificates, "--memory-max", str(2 * LIMIT)) as server, server.connect() as jobs:
        other = await jobs.start("sleep", "1000")
        folder = server.cgroup_of(other).parents[depth - 1]
        for _ in range(2):
            (folder / "memory.max").write_text(str(LIMIT))
            record, _output = await run(jobs, "sh", "-c", f"{HOG}; true")
            (folder / "memory.max").write_text("max")
            assert record.cause.oom_killed.limit_of == limit_of
            assert record.cause.oom_killed.whole_job
            record, _output = await run(jobs, "sh", "-c", f"{HOG}; true")
            assert record.cause.oom_killed.limit_of == pb.OOMLIMIT_JOB
        assert (await jobs.status(other)).state == pb.JOBSTATE_RUNNING


async def test_the_host_itself_is_out_of_memory(tmp_path: Path, certificates: Path) -> None:
    """A job without a limit that takes all memory of the host is told to have met no limit of jobmaster's; others live."""
    hogs = (
        "i=0; while [ $i -lt 20 ]; do dd if=/dev/zero of=/dev/null bs=100M count=100000 2>/dev/null & i=$((i+1)); done"
    )
    async with serving(tmp_path, certificates) as server, server.connect() as jobs:
        other = await jobs.start("sleep", "1000")
        record, _output = await run(jobs, "sh", "-c", f"{hogs}; wait")
        assert (await jobs.status(other)).state == pb.JOBSTATE_RUNNING
    killed = record.cause.oom_killed
    assert (killed.memory_max, killed.limit_of, killed.whole_job) == (0, pb.OOMLIMIT_HOST, True)
    assert 1 <= killed.processes_killed <= 21  # the server, which ends what is left, may be faster with some
    assert killed.memory_peak > 1024 * MEBIBYTE


# --- kills told apart -------------------------------------------------------------------------------------------------


async def test_kills_for_memory_and_from_outside(tmp_path: Path, certificates: Path) -> None:
    """Of jobs that die of SIGKILL side by side, those that the kernel killed for memory are told from all others."""
    told: dict[str, list[str | None]] = {"memory": [], "outside": []}
    begin = time.monotonic()
    async with serving(tmp_path, certificates, "--memory-max", "4M") as server, server.connect() as jobs:

        async def repeat(what: str, script: str) -> None:
            for _ in range(ROUNDS):
                job_id = await jobs.start("sh", "-c", script)
                told[what].append(kind_of(await jobs.wait(job_id)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(repeat, "memory", "exec dd if=/dev/zero of=/dev/null bs=8M count=1")
            nursery.start_soon(repeat, "outside", "kill -KILL $$")
    print(f"{ROUNDS} of each in {time.monotonic() - begin:.0f} s")
    assert told == {"memory": ["oom_killed"] * ROUNDS, "outside": ["signalled"] * ROUNDS}


# --- servers that end -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def next_server(folder: Path, certificates: Path, root: Path) -> AsyncIterator[Jobs]:
    """A client of the server that is started after another one."""
    async with started(folder, certificates, root) as (server, _process), server.connect() as jobs:
        yield jobs


async def test_a_server_that_shuts_down(tmp_path: Path, certificates: Path) -> None:
    """Its jobs are told to have ended with it, with what they have used."""
    with own_cgroup_root() as root:
        async with started(tmp_path, certificates, root) as (server, process), server.connect() as jobs:
            job_id = await jobs.start("sleep", "1000")
            process.send_signal(signal.SIGTERM)
            await trio.to_thread.run_sync(process.wait)
        async with next_server(tmp_path, certificates, root) as jobs:
            record = await jobs.status(job_id)
    assert record.cause.server_shutdown.signal == signal.SIGTERM
    check_usage(record)


async def test_a_server_that_dies_with_its_launcher(tmp_path: Path, certificates: Path) -> None:
    """What a job has used that nobody saw to its end is told by its cgroup, which waits for the next server."""
    with own_cgroup_root(may_be_left=True) as root:
        async with started(tmp_path, certificates, root) as (server, process), server.connect() as jobs:
            job_id = await jobs.start("sh", "-c", "echo go; sleep 1000 & wait")
            await until_output(jobs, job_id, b"go\n")
            pid = (await jobs.status(job_id)).pid
            for number in (server.pid, process.pid):
                os.kill(number, signal.SIGKILL)
            await _until_dead(pid)
        async with next_server(tmp_path, certificates, root) as jobs:
            record = await jobs.status(job_id)
    assert kind_of(record) == "server_lost"
    check_usage(record)


async def test_a_job_that_ends_without_a_server(tmp_path: Path, certificates: Path) -> None:
    """The server that follows a killed one tells what a job has used that ended meanwhile, out of memory as well."""
    with own_cgroup_root() as root:
        async with started(tmp_path, certificates, root, *MEMORY) as (server, _process), server.connect() as jobs:
            returns = await jobs.start("sh", "-c", f"until [ -e {DISK}/now ]; do sleep 0.1; done; exit 5")
            hogs = await jobs.start("sh", "-c", f"until [ -e {DISK}/now ]; do sleep 0.1; done; {HOG}; true")
            pids = [(await jobs.status(job_id)).pid for job_id in (returns, hogs)]
            os.kill(server.launcher, signal.SIGSTOP)  # so that none follows yet
            os.kill(server.pid, signal.SIGKILL)
            (DISK / "now").touch()
            for pid in pids:
                await _until_dead(pid)
            os.kill(server.launcher, signal.SIGCONT)
            exited, killed = [await jobs.wait(job_id) for job_id in (returns, hogs)]
            (DISK / "now").unlink()
    assert exited.cause.exited.code == 5
    check_usage(exited)
    assert killed.cause.oom_killed.whole_job
    assert killed.cause.oom_killed.limit_of == pb.OOMLIMIT_JOB
    check_usage(killed)


async def _until_dead(pid: int) -> None:
    with trio.fail_after(DEADLINE):
        while is_alive(pid):
            await trio.sleep(0.05)
