"""Jobs outlive the server: a killed one, one that is upgraded, and what is left where the launcher dies too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NoReturn

import pytest
import trio

from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.journal.stored import Entry
from tests.harness import (
    REPOSITORY,
    Server,
    command_line_for,
    ended,
    first_chunk,
    is_alive,
    output_of,
    own_cgroup_root,
    serving,
    serving_program,
    started,
)
from tests.journal.jobs import RETURNED, database_in, launched, write

LINES: Final = 60
COUNTS: Final = f"i=0; while [ $i -lt {LINES} ]; do echo $i; i=$((i+1)); sleep 0.05; done; exit 42"
WHOLE: Final = "".join(f"{number}\n" for number in range(LINES)).encode()
DEADLINE: Final = 60.0
CLOCKS_DIFFER: Final = timedelta(seconds=0.1)
"""By how much the wall clock and the time since boot may, in a guest whose clocks go in ticks; a server takes longer to start."""
HASTY: Final = """
import sys
from jobmaster.server import succession
from jobmaster.server.program import main
succession.LOCK_SECONDS = 0.2
main((), sys.argv[1:])
"""
"""A server that does not wait long for an old one to end."""


async def wait_for_successor(server: Server, old: int) -> None:
    """Returns when the launcher has started another server."""
    with trio.fail_after(DEADLINE):
        while server.servers() in ([], [old]):
            await trio.sleep(0.01)


async def stays_alive(server: Server, pid: int) -> NoReturn:
    """Never returns while a server lives; fails where it dies, of which no client learns while others follow."""
    while server.servers() == [pid]:
        await trio.sleep(0.01)
    raise AssertionError("the server that follows has died")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_job_outlives_its_server(tmp_path: Path, certificates: Path, number: signal.Signals) -> None:
    """A server that dies is followed by one that goes on: nobody's follower misses a byte, and the exit code is true."""
    async with serving_program(tmp_path, certificates) as (server, _process), server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", COUNTS)
        pid = (await jobs.status(job_id)).pid
        received: list[bytes] = []

        async def follow() -> None:
            received.append(await output_of(jobs, job_id))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            assert await first_chunk(jobs, job_id)
            old = server.pid
            os.kill(old, number)
            await wait_for_successor(server, old)
        record = await ended(jobs, job_id)
        assert received == [WHOLE]
        assert (record.pid, record.exit_code, record.cause.exited.code, record.output_bytes) == (
            pid,
            42,
            42,
            len(WHOLE),
        )


async def test_a_stop_of_a_job_that_is_being_executed(tmp_path: Path, certificates: Path) -> None:
    """Who stops a job as soon as its launch is told has stopped it, though its server dies before it is executed."""
    async with serving_program(tmp_path, certificates) as (server, _process), server.connect() as jobs:
        freezer = server.cgroup_of(await jobs.start("sleep", "1000")).parent / "cgroup.freeze"
        freezer.write_text("1")
        records: list[pb.JobResponse] = []

        async def stop(job_id: str) -> None:
            records.append(await jobs.stop(job_id, "forbidden"))

        with trio.fail_after(DEADLINE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(jobs.start, "sleep", "1001")
                async with jobs.watch(0) as events:
                    async for event in events:
                        if "1001" in event.launched.cmd.args:
                            break
                job_id = event.job_id.job_id
                nursery.start_soon(stop, job_id)
                assert (await jobs.status(job_id)).job_msg == "starting"
                old = server.pid
                os.kill(old, signal.SIGKILL)
                await wait_for_successor(server, old)
                await jobs.status(job_id)  # by which it is adopted
                freezer.write_text("0")
        (record,) = records
        assert (record.cause.stopped.by, record.cause.stopped.reason) == ("client1", "forbidden")


async def test_modules_in_the_working_folder(tmp_path: Path, certificates: Path) -> None:
    """What a job writes where the server was started is executed by no server that follows."""
    folder = tmp_path / "everybodys"
    folder.mkdir(mode=0o777)
    async with serving_program(tmp_path, certificates, cwd=folder) as (server, _process), server.connect() as jobs:
        job_id = await jobs.start("sleep", "1000")
        (folder / "apsw.py").write_text("open('executed', 'w')")
        old = server.pid
        os.kill(old, signal.SIGKILL)
        await wait_for_successor(server, old)
        assert (await jobs.status(job_id)).state == pb.JOBSTATE_RUNNING
    assert not (folder / "executed").exists()


async def test_more_jobs_than_open_files_at_the_start(tmp_path: Path, certificates: Path) -> None:
    """The server that follows raises its limit before it is given the jobs' descriptors; the jobs keep the lower one."""
    under = ("prlimit", "--nofile=80:4096")
    async with serving_program(tmp_path, certificates, under=under) as (server, _process), server.connect() as jobs:
        job_ids = [await jobs.start("sleep", "1000") for _ in range(50)]
        old = server.pid
        os.kill(old, signal.SIGKILL)
        await wait_for_successor(server, old)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stays_alive, server, server.pid)
            assert {(await jobs.status(job_id)).state for job_id in job_ids} == {pb.JOBSTATE_RUNNING}
            nursery.cancel_scope.cancel()
        limit = await jobs.start("sh", "-c", "ulimit -n")
        await ended(jobs, limit)
        assert await output_of(jobs, limit) == b"80\n"


async def test_a_folder_that_is_not_there(tmp_path: Path, certificates: Path) -> None:
    """Where the journal's folder is away as a server is followed, none is begun in its place; put back, the job goes on."""
    async with serving_program(tmp_path, certificates) as (server, _process), server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", COUNTS)
        old = server.pid
        server.output.rename(tmp_path / "away")
        os.kill(old, signal.SIGKILL)
        await wait_for_successor(server, old)
        (first,) = server.servers() or [0]
        with trio.fail_after(DEADLINE):
            while server.servers() == [first]:
                await trio.sleep(0.01)
        assert not server.output.exists()
        (tmp_path / "away").rename(server.output)
        assert await output_of(jobs, job_id) == WHOLE
        assert (await ended(jobs, job_id)).cause.exited.code == 42


async def test_a_time_that_is_over_while_there_is_no_server(tmp_path: Path, certificates: Path) -> None:
    """A job lives on until a server follows, however late, which ends it at once and says why; its code is kept."""
    async with serving_program(tmp_path, certificates) as (server, _process), server.connect() as jobs:
        script = "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done"
        job_id = await jobs.start("sh", "-c", script, max_run_ms=1_000, warn_before_ms=1, warn_signal=signal.SIGUSR1)
        assert await first_chunk(jobs, job_id)
        pid = (await jobs.status(job_id)).pid
        begun = time.clock_gettime(time.CLOCK_BOOTTIME)
        server.output.rename(tmp_path / "away")
        os.kill(server.pid, signal.SIGKILL)
        with trio.fail_after(DEADLINE):
            while time.clock_gettime(time.CLOCK_BOOTTIME) < begun + 1.1:
                await trio.sleep(0.01)
        assert is_alive(pid)
        (tmp_path / "away").rename(server.output)
        record = await ended(jobs, job_id)
        assert record.cause.timed_out == pb.Cause.TimedOut(max_run_ms=1_000, signal=15, returned=True, exit_code=7)
        assert (record.state, record.exit_code) == (pb.JOBSTATE_TERMINATED_BY_API, -1)


async def test_a_stop_where_no_server_can_be_started(tmp_path: Path, certificates: Path) -> None:
    """The launcher itself gives the jobs SIGTERM and the grace period, and kills who is left then."""
    with tempfile.TemporaryDirectory() as shared:  # which the jobs' user can reach
        Path(shared).chmod(0o777)
        said = Path(shared, "said")
        await end_without_a_server(tmp_path, certificates, said)
        assert said.read_text() == "bye\n"


async def end_without_a_server(tmp_path: Path, certificates: Path, said: Path) -> None:
    """Stops a launcher that can start no server, and that has a job which says so there and one that does not end."""
    async with serving_program(tmp_path, certificates, "--grace", "2", is_killed=True) as (server, process):
        async with server.connect() as jobs:
            script = f"trap 'sleep 0.5; echo bye > {said}; exit 0' TERM; echo up; while :; do sleep 0.1; done"
            for each in (script, "trap '' TERM; echo up; while :; do sleep 1; done"):
                await first_chunk(jobs, await jobs.start("sh", "-c", each))
        old = server.pid
        server.output.rename(tmp_path / "away")
        os.kill(old, signal.SIGKILL)
        await wait_for_successor(server, old)
        process.send_signal(signal.SIGTERM)
        with trio.fail_after(DEADLINE):
            assert await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True) == 1


async def test_a_job_that_ends_without_a_server(tmp_path: Path, certificates: Path) -> None:
    """What a job writes, and how it ends, while there is no server is told by the next one."""
    async with serving_program(tmp_path, certificates) as (server, _process), server.connect() as jobs:
        job_id = await jobs.start(
            "sh", "-c", "trap 'echo after; kill -SEGV $$' USR1; echo before; while :; do sleep 1; done"
        )
        await first_chunk(jobs, job_id)
        main = (await jobs.status(job_id)).pid
        old = server.pid
        os.kill(server.launcher, signal.SIGSTOP)
        os.kill(old, signal.SIGKILL)
        os.kill(main, signal.SIGUSR1)
        await is_gone([main])
        os.kill(server.launcher, signal.SIGCONT)
        record = await ended(jobs, job_id)
        assert (record.cause.signalled.signal, record.signal_str) == (signal.SIGSEGV, "segmentation fault")
        assert await output_of(jobs, job_id) == b"before\nafter\n"


async def test_when_a_job_has_ended_without_a_server(tmp_path: Path, certificates: Path) -> None:
    """Its end is told as of its death, not as of the moment at which a server came to see it."""
    async with serving_program(tmp_path, certificates) as (server, _process), server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", "trap 'exit 3' USR1; echo before; while :; do sleep 0.01; done")
        await first_chunk(jobs, job_id)
        main = (await jobs.status(job_id)).pid
        old = server.pid
        server.output.rename(tmp_path / "away")
        os.kill(old, signal.SIGKILL)
        os.kill(main, signal.SIGUSR1)
        with trio.fail_after(DEADLINE):
            while Path(f"/proc/{main}").exists():  # until the launcher has reaped it
                await trio.sleep(0.01)
        gone = datetime.now(UTC)
        (tmp_path / "away").rename(server.output)
        record = await ended(jobs, job_id)
        assert record.cause.exited.code == 3
        assert record.started.ToDatetime(UTC) < record.ended.ToDatetime(UTC) < gone + CLOCKS_DIFFER


def pid_of(server: Server, job_id: str) -> list[int]:
    """The processes of a job's cgroup."""
    text = (server.cgroup_root / "jobs" / "client1" / job_id / "cgroup.procs").read_text()
    return [int(word) for word in text.split()]


async def is_gone(pids: list[int]) -> None:
    """Returns when these processes have died."""
    with trio.fail_after(DEADLINE):
        while any(is_alive(pid) for pid in pids):
            await trio.sleep(0.01)


async def test_ended_jobs_are_there_after_a_restart(tmp_path: Path, certificates: Path) -> None:
    """Records and output of ended jobs are those of the next server too, also after an ordinary end."""
    async with serving_program(tmp_path, certificates) as (server, process), server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", "echo kept; exit 7")
        before = await ended(jobs, job_id)
        running = await jobs.start("sleep", "1000")
        process.send_signal(signal.SIGTERM)
        with trio.fail_after(DEADLINE):
            await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
    async with serving_program(tmp_path, certificates) as (server, _process), server.connect() as jobs:
        assert await jobs.status(job_id) == before
        assert await output_of(jobs, job_id) == b"kept\n"
        assert (await jobs.status(running)).cause.server_shutdown.signal == signal.SIGTERM


async def test_a_lost_job_is_told_as_lost(tmp_path: Path, certificates: Path) -> None:
    """Where server and launcher are killed at once, the next server ends what is left and says that it was lost."""
    with own_cgroup_root() as root:
        async with started(tmp_path, certificates, root) as (server, _process), server.connect() as jobs:
            job_id = await jobs.start("sh", "-c", "echo written; setsid sleep 1000 & wait")
            await first_chunk(jobs, job_id)
            pids = pid_of(server, job_id)
            for pid in (server.launcher, server.pid):
                os.kill(pid, signal.SIGSTOP)
            for pid in (server.pid, server.launcher):
                os.kill(pid, signal.SIGKILL)
        async with started(tmp_path, certificates, root) as (server, _process), server.connect() as jobs:
            record = await jobs.status(job_id)
            assert record.cause.server_lost.reason
            assert await output_of(jobs, job_id) == b"written\n"
            await is_gone(pids)


async def test_an_output_that_a_killed_server_was_to_remove(tmp_path: Path, certificates: Path) -> None:
    """Of a job that was given up the record goes with its end; its output goes with the next server, if not with its own."""
    folder = tmp_path / "output"
    folder.mkdir(mode=0o700)
    database, job = database_in(folder), launched()
    write(database, job, *RETURNED[:-1])
    database.write([Entry.of(job.id, RETURNED[-1], forget=True)])
    database.close()  # killed then, with the file and its index there
    left = [folder / f"{job.id}.{kind}" for kind in ("log", "index")]
    for path in left:
        path.write_bytes(b"written")
    async with serving(tmp_path, certificates) as server, server.connect() as jobs:
        await output_of(jobs, await jobs.start("echo", "served"))
        with trio.fail_after(DEADLINE):
            while any(path.exists() for path in left):
                await trio.sleep(0.05)


async def test_a_journal_that_is_removed(tmp_path: Path, certificates: Path) -> None:
    """Jobs that run and are not in the journal any more are ended by the next server, which names them on stderr."""
    log = tmp_path / "stderr"
    with log.open("wb") as stderr:
        async with (
            serving_program(tmp_path, certificates, stderr=stderr.fileno()) as (server, _process),
            server.connect() as jobs,
        ):
            job_id = await jobs.start("sleep", "1000")
            main = (await jobs.status(job_id)).pid
            for path in server.output.glob("journal.db*"):
                path.unlink()
            old = server.pid
            os.kill(old, signal.SIGKILL)
            await wait_for_successor(server, old)
            await is_gone([main])
            assert await output_of(jobs, await jobs.start("echo", "served")) == b"served\n"
    complaints = [line for line in log.read_text().splitlines() if job_id in line]
    assert len(complaints) == 1
    assert "was the journal removed or replaced?" in complaints[0]


async def test_a_second_server_is_refused(tmp_path: Path, certificates: Path) -> None:
    """Two servers on one state folder: the second says so and exits 2, and harms nothing of the first."""
    async with serving_program(tmp_path, certificates) as (server, _process), server.connect() as jobs:
        job_id = await jobs.start("sleep", "1000")
        with own_cgroup_root() as root:
            within = root / "within"
            command = [sys.executable, "-c", HASTY, *command_line_for(tmp_path, certificates, within)]
            second = await trio.to_thread.run_sync(
                lambda: subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
            )
            assert not within.exists()
        assert second.returncode == 2
        assert "another jobmaster server has the folder" in second.stderr
        assert (await jobs.status(job_id)).state == 1


async def test_a_part_of_an_output_outlives_servers(tmp_path: Path, certificates: Path) -> None:
    """Over servers that die, each byte comes once, in order, at its offset, with its time; and later parts are found."""
    async with serving_program(tmp_path, certificates) as (server, _process), server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", COUNTS)
        received: list[pb.OutputChunk] = []

        async def follow() -> None:
            async with jobs.follow_output(job_id, pb.FollowOutputRequest(timestamps=True)) as chunks:
                async for chunk in chunks:
                    received.append(chunk)  # noqa: PERF401  # what has come counts as it comes

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            for _ in range(2):
                assert await first_chunk(jobs, job_id)
                old = server.pid
                os.kill(old, signal.SIGKILL)
                await wait_for_successor(server, old)
        offset = 0
        for chunk in received:
            assert (chunk.offset, chunk.HasField("gap"), chunk.HasField("time")) == (offset, False, True)
            offset += len(chunk.data)
        assert b"".join(chunk.data for chunk in received) == WHOLE
        times = [chunk.time.ToMicroseconds() for chunk in received]
        assert times == sorted(times)
        query = pb.FollowOutputRequest(last_lines=3, no_follow=True)
        async with jobs.follow_output(job_id, query) as chunks:
            assert b"".join([chunk.data async for chunk in chunks]) == b"".join(WHOLE.splitlines(keepends=True)[-3:])
