"""Disks of the output that are full, fail, refuse or do not answer: jobs and server live, and every byte is accounted for.

The journal and the audit are on the same disk, as they are by default.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from jobmaster.client import Jobs, RpcFailedError
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.journal import writer
from jobmaster.run import job_files
from tests.harness import Server, is_alive, serving, serving_program
from tests.kernel.volumes import MEBIBYTE, ext4_volume, flaky_volume, memory_volume, read_only
from tests.known_output import KnownJob, Told, known_job

pytestmark = pytest.mark.kernel

DEADLINE = 150.0
FILLED = ("--output-free", "0")
"""Options of a server whose disk is to be filled."""


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of this process that is soon out of patience with a disk, and soon tries it again."""
    monkeypatch.setattr(job_files, "ACQUIRE_SECONDS", 1.0)
    monkeypatch.setattr(writer, "DURABLE_SECONDS", 1.0)
    monkeypatch.setattr(writer, "LAST_RETRY_SECONDS", 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A server, a job with a live follower, and another job, that is stopped while the disk fails.

    Attributes:
        calls: those that may have to wait for the disk.
    """

    server: Server
    jobs: Jobs
    job: KnownJob
    live: Told
    other: str
    calls: trio.Nursery

    async def others_are_served(self) -> None:
        """Records are told, and a job is ended at once, whatever the disk does; that is told when it is on the disk."""
        with trio.fail_after(DEADLINE):
            pid = (await self.jobs.status(self.other)).pid
            self.calls.start_soon(self.jobs.stop, self.other)
            while is_alive(pid):
                await trio.sleep(0.02)
            assert (await self.jobs.status(self.job.id)).state == pb.JOBSTATE_RUNNING


@asynccontextmanager
async def trial(server: Server) -> AsyncIterator[Trial]:
    """One for the block, with a disk that works at its end; then the job ends, and its followers were told everything."""
    async with server.connect() as jobs, known_job(jobs) as job:
        other = await jobs.start("sleep", "1000")
        live = Told()
        async with trio.open_nursery() as calls:
            calls.start_soon(live.follow, jobs, job.id)
            yield Trial(server=server, jobs=jobs, job=job, live=live, other=other, calls=calls)
            calls.cancel_scope.deadline = trio.current_time() + DEADLINE
            record = await job.ended()
            late = await Told().follow(jobs, job.id)
        for told in (live, late):
            told.agrees_with(record, job.written)
        assert (await jobs.status(other)).cause.WhichOneof("kind") == "stopped"


async def start(server: Server) -> str | None:
    """Starts a job, once: None, or the status with which it was refused."""
    async with server.connect("client2", patience=0) as jobs:
        try:
            with trio.fail_after(DEADLINE):
                await jobs.start("true")
        except RpcFailedError as error:
            return str(error.status.status_code.name)
    return None


async def until_started(server: Server) -> None:
    """Returns when jobs are started again."""
    with trio.fail_after(DEADLINE):
        while await start(server) is not None:
            await trio.sleep(0.1)


async def told_after_restart(folder: Path, certificates: Path, job: KnownJob) -> None:
    """The next server tells the same of a job."""
    async with serving(folder, certificates, *FILLED) as server, server.connect() as jobs:
        (await Told().follow(jobs, job.id)).agrees_with(await jobs.status(job.id), job.written)


@asynccontextmanager
async def filled_by_a_job(server: Server, work: Path) -> AsyncIterator[None]:
    """A job of client3 has filled the disk with its own folder, for the block."""
    async with server.connect("client3") as jobs:
        job_id = await jobs.start("sh", "-c", "cat /dev/zero > fill; exec sleep 1000")
        pid = (await jobs.status(job_id)).pid
        with trio.fail_after(DEADLINE):  # soon after, the journal's ballast has made room again
            while Path(f"/proc/{pid}/comm").read_text() != "sleep\n":
                await trio.sleep(0.05)
        yield
        await jobs.stop(job_id)
        with trio.fail_after(DEADLINE):
            while (work / job_id).exists():
                await trio.sleep(0.02)


@pytest.mark.parametrize(
    ("kept_for_root", "why"),
    [("5", "the jobs' own folders has less than 5 % free"), ("0", "5 % free|nothing is started|cannot write")],
)
async def test_a_job_fills_the_disk_by_its_own_folder(certificates: Path, kept_for_root: str, why: str) -> None:
    """Server, journal and others' jobs go on, and no job is started, which is told; with the folder removed all goes on by itself."""
    with ext4_volume(64 * MEBIBYTE, make=("-m", kept_for_root), options="nodelalloc") as volume:
        volume.folder.chmod(0o711)
        work = volume.folder / "work"
        given = (*FILLED, "--work-dir", str(work))
        async with serving(volume.folder, certificates, *given) as server, trial(server) as on:
            on.job.write(MEBIBYTE)
            await on.job.settle()
            async with filled_by_a_job(server, work):
                await on.others_are_served()
                with trio.fail_after(DEADLINE):
                    while (await on.jobs.status(on.other)).state == pb.JOBSTATE_RUNNING:
                        await trio.sleep(0.02)
                async with server.connect("client2", patience=0) as jobs:
                    with pytest.raises(RpcFailedError, match=why):
                        await jobs.start("true")
                on.job.write(MEBIBYTE)
                await on.job.settle()
            await until_started(server)
            await until_kept(on, 100_000)
        await told_after_restart(volume.folder, certificates, on.job)


async def test_a_full_tmpfs(certificates: Path) -> None:
    """What a full disk does not take is told as such, and with room all goes on."""
    with memory_volume(12 * MEBIBYTE) as volume:
        async with serving(volume.folder, certificates, *FILLED) as server, trial(server) as on:
            on.job.write(3 * MEBIBYTE)
            await on.job.settle()
            on.job.write(16 * MEBIBYTE)
            record = await on.job.settle()
            assert record.output_bytes_lost > 4 * MEBIBYTE
            await on.others_are_served()
            assert await start(server) == "UNAVAILABLE"
            volume.remount(f"size={32 * MEBIBYTE}")
            await until_kept(on, 100_000)
            await until_started(server)
            on.job.write(1_000_000)
            on.job.finish()
        assert on.live.gaps == {pb.GAPREASON_NO_SPACE: on.live.missing}
        await told_after_restart(volume.folder, certificates, on.job)


async def until_kept(on: Trial, count: int) -> None:
    """Has the job write until the disk has taken something again."""
    before = (await on.job.settle()).output_bytes
    with trio.fail_after(DEADLINE):
        while True:
            on.job.write(count)
            if (await on.job.settle()).output_bytes > before:
                return
            await trio.sleep(0.2)


async def test_a_quota(certificates: Path) -> None:
    """What a quota does not let an output have is told as no space, and nothing else is touched."""
    make = ("-O", "quota,project", "-E", "quotatype=prjquota")
    under = ("setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource")  # with which no quota counts
    with ext4_volume(64 * MEBIBYTE, make=make, options="prjquota") as volume:
        async with (
            serving_program(volume.folder, certificates, *FILLED, under=under) as (server, _process),
            trial(server) as on,
        ):
            (log,) = (path for path in server.logs if path.stem == on.job.id)
            volume.limit(log, 7, 4 * MEBIBYTE)
            on.job.write(9 * MEBIBYTE)
            record = await on.job.settle()
            assert record.output_bytes_lost > 4 * MEBIBYTE
            await on.others_are_served()
            assert await start(server) is None
            volume.limit_project(7, 0)
            await until_kept(on, 100_000)
        assert on.live.gaps == {pb.GAPREASON_NO_SPACE: on.live.missing}


async def test_a_disk_that_becomes_read_only(certificates: Path) -> None:
    """What is written meanwhile is told as lost, and with a disk that can be written all goes on."""
    with ext4_volume(64 * MEBIBYTE, options="nodelalloc") as volume:  # else data are taken, and written later
        async with serving(volume.folder, certificates, *FILLED) as server, trial(server) as on:
            on.job.write(1_000_000)
            await on.job.settle()
            with read_only(volume):
                on.job.write(1_234_567)
                record = await on.job.settle()
                assert record.output_bytes_lost == 1_234_567
                await on.others_are_served()
                assert await start(server) == "UNAVAILABLE"
            await until_kept(on, 100_000)
            await until_started(server)
        await told_after_restart(volume.folder, certificates, on.job)


async def test_a_frozen_disk(certificates: Path) -> None:
    """Nothing is lost of what a disk takes late, and what needs no disk does not wait for it."""
    with ext4_volume(64 * MEBIBYTE) as volume:
        async with serving(volume.folder, certificates, *FILLED) as server, trial(server) as on:
            on.job.write(1_000_000)
            await on.job.settle()
            volume.freeze()
            on.job.write(5 * MEBIBYTE)
            await on.others_are_served()
            assert await start(server) == "UNAVAILABLE"
            volume.thaw()
            record = await on.job.settle()
            assert record.output_bytes_lost == 0
            await until_started(server)
        await told_after_restart(volume.folder, certificates, on.job)


async def test_a_disk_that_fails(certificates: Path) -> None:
    """Writes that were errors are told as lost, to a byte, and to the next server too; the job runs on to its true end."""
    with flaky_volume(64 * MEBIBYTE, make=("-O", "^has_journal"), options="sync") as (volume, disk):
        async with serving_program(volume.folder, certificates, *FILLED) as (server, _process), trial(server) as on:
            on.job.write(1_000_000)
            await on.job.settle()
            disk.fail()
            on.job.write(3 * MEBIBYTE)
            record = await on.job.settle()
            assert record.output_bytes_lost == 3 * MEBIBYTE
            await on.others_are_served()
            disk.mend()
            os.kill(server.pid, signal.SIGKILL)
            await until_kept(on, 100_000)
        assert on.live.gaps == {pb.GAPREASON_DISK_FAILED: on.live.missing}
