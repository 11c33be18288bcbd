"""Files of output that somebody has damaged: the server lives, tells every byte that is left, and names what is missing."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import pytest
import trio

from jobmaster.client import Jobs, RpcFailedError
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.output.files import index_path
from jobmaster.output.index import ENTRY_SIZE, HEADER_SIZE, SLOTS
from tests.harness import Server, output_of, serving_program
from tests.known_output import KnownJob, Told, known_job

MEBIBYTE: Final = 1024**2
FITS: Final = 2 * MEBIBYTE + 1234
"""Bytes that the disk of these tests takes of a file, at first."""
BEFORE: Final = 3 * MEBIBYTE
"""Bytes that a job writes then."""
AFTER: Final = 600_000
"""Bytes that it writes when the disk takes all; they begin behind the gap."""

Damage = Callable[[Path], None]
"""Does something to an output's data or index, of which it is given the path of the data."""


@contextmanager
def file_size_limit(pid: int, count: int) -> Iterator[None]:
    """In this block no file of a process grows beyond `count` bytes (EFBIG, which counts as a full disk)."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


async def write_with_a_gap(server: Server, jobs: list[KnownJob]) -> None:
    """Has jobs write bytes that are kept, bytes that are lost, and bytes that are kept."""
    with file_size_limit(server.pid, FITS):
        for job in jobs:
            job.write(BEFORE)
        for job in jobs:
            assert (await job.settle()).output_bytes == FITS
    for job in jobs:
        with trio.fail_after(60):
            while (await job.settle()).output_bytes == FITS:
                job.write(1000)
                await trio.sleep(0.1)
        job.write(AFTER)
        await job.settle()


def cut(size: int, *, index: bool = False) -> Damage:
    """Cuts a file off."""
    return lambda path: os.truncate(index_path(path) if index else path, size)


def flipped(*offsets: int) -> Damage:
    """Flips a bit of the index at each of these offsets."""

    def flip(path: Path) -> None:
        data = bytearray(index_path(path).read_bytes())
        for offset in offsets:
            data[offset] ^= 1
        index_path(path).write_bytes(data)

    return flip


def longer(path: Path) -> None:
    """More entries than there are."""
    with index_path(path).open("ab") as index:
        index.write(bytes(range(256)) * 8)


def gone(path: Path) -> None:
    """No index."""
    index_path(path).unlink()


def replaced(kind: str) -> Damage:
    """Something else in the place of the index."""

    def replace(path: Path) -> None:
        index = index_path(path)
        index.rename(index.with_suffix(".elsewhere"))
        if kind == "link":
            index.symlink_to(index.with_suffix(".elsewhere"))
        elif kind == "fifo":
            os.mkfifo(index)
        else:
            index.mkdir()

    return replace


ENTRIES: Final = {f"entry {number}": flipped(HEADER_SIZE + number * ENTRY_SIZE + 3) for number in range(1, 6)}
HARMLESS: Final[dict[str, Damage]] = {
    "a slot of the header": flipped(SLOTS[0] + 20),
    "the other slot": flipped(SLOTS[1] + 20),
    "entries that are none": longer,
    **ENTRIES,
}
"""Damages of an index by which no byte is missing, and none is told as another."""
CUT: Final[dict[str, Damage]] = {
    "cut before the gap": cut(1_000_000),
    "cut in the gap": cut(FITS + 5000),
    "cut behind the gap": cut(BEFORE + AFTER // 2),
    "cut to nothing": cut(0),
}
"""Damages of the data: what is not there any more is told as missing."""
UNUSABLE: Final[dict[str, Damage]] = {
    "both slots": flipped(SLOTS[0] + 20, SLOTS[1] + 20),
    "an empty index": cut(0, index=True),
    "no index": gone,
    "no entry": cut(HEADER_SIZE, index=True),
    "entries cut off": cut(HEADER_SIZE + 2 * ENTRY_SIZE + 3, index=True),
    "a directory": replaced("directory"),
    "a link": replaced("link"),
    "a fifo": replaced("fifo"),
}
"""Damages of an index by which nobody knows any more where bytes are missing."""


async def followed(jobs: Jobs, job_id: str) -> tuple[Told, str | None]:
    """What a follower is told, and the status with which that ended, if it was no success."""
    told = Told()
    try:
        with trio.fail_after(60):
            await told.follow(jobs, job_id)
    except RpcFailedError as error:
        return told, str(error.status.status_code.name)
    return told, None


class Files:
    """An output's files as they were."""

    def __init__(self, log: Path, gap: tuple[int, int]) -> None:
        self.log = log
        self._index = index_path(log)
        self._gap = gap
        self._data = log.read_bytes()
        self._entries = self._index.read_bytes()

    def put_back(self) -> None:
        """Makes them so again, the gap a hole."""
        for path in self.log.parent.glob(f"{self.log.stem}*"):
            path.rmdir() if path.is_dir() else path.unlink()
        self._index.write_bytes(self._entries)
        start, end = self._gap
        with self.log.open("wb") as log:
            log.write(self._data[:start])
            log.seek(end)
            log.write(self._data[end:])


async def test_an_ended_job(tmp_path: Path, certificates: Path) -> None:
    """However its files are damaged, what is left is told as it is, what is not as a gap, and nothing else as output."""
    async with serving_program(tmp_path, certificates) as (server, _process), server.connect(patience=0) as jobs:
        async with known_job(jobs) as job:
            await write_with_a_gap(server, [job])
            record = await job.ended()
        gap = FITS, FITS + record.output_bytes_lost
        files = Files(server.logs[0], gap)
        for name, damage in {**HARMLESS, **CUT, **UNUSABLE}.items():
            damage(files.log)
            left = files.log.stat().st_size
            told, status = await followed(jobs, job.id)
            lost = min(max(0, left - gap[0]), record.output_bytes_lost)
            assert told.end == job.written, name
            assert told.kept == left - lost, name
            assert told.gaps[pb.GAPREASON_NO_SPACE] + told.gaps[pb.GAPREASON_DISK_FAILED] == lost, name
            assert told.gaps[pb.GAPREASON_NOT_SYNCED] == job.written - left, name
            assert status == (None if lost == record.output_bytes_lost else "DATA_LOSS"), name
            files.put_back()
        assert await jobs.status(job.id) == record


async def test_running_jobs(tmp_path: Path, certificates: Path) -> None:
    """A server that finds the index of a running job damaged goes on with the job, and tells all that is kept of it."""
    damages = {**dict(list(HARMLESS.items())[1:4]), **UNUSABLE}
    async with (
        serving_program(tmp_path, certificates) as (server, _process),
        server.connect() as jobs,
        AsyncExitStack() as stack,
    ):
        known = [await stack.enter_async_context(known_job(jobs)) for _ in damages]
        await write_with_a_gap(server, known)
        lost = [(await jobs.status(job.id)).output_bytes_lost for job in known]
        async with no_server(server):
            for job, damage in zip(known, damages.values(), strict=True):
                damage(server.output / f"{job.id}.log")
        for job, missing, name in zip(known, lost, damages, strict=True):
            job.write(AFTER)
            record = await job.ended()
            told, status = await followed(jobs, job.id)
            assert (status, told.missing, record.output_bytes_lost) == (None, missing, missing), name
            told.agrees_with(record, job.written)


async def test_a_running_job_whose_output_is_cut(tmp_path: Path, certificates: Path) -> None:
    """It runs on; what is left is told as it is, what the index knows of the rest as missing, and what comes is kept."""
    async with serving_program(tmp_path, certificates) as (server, _process), server.connect() as jobs:
        async with known_job(jobs) as job:
            await write_with_a_gap(server, [job])
            async with no_server(server):
                os.truncate(server.logs[0], 1_000_000)
            job.write(AFTER)
            record = await job.ended()
        told = Told()
        async with jobs.follow_output(job.id) as chunks:
            async for chunk in chunks:
                if not told.gaps:
                    told.take(chunk)
        assert told.kept == 1_000_000
        assert told.gaps == {pb.GAPREASON_DISK_FAILED: record.output_bytes_lost}
        assert BEFORE - 1_000_000 <= record.output_bytes_lost < job.written
        assert record.output_bytes == 1_000_000 + AFTER


async def test_an_output_that_is_cut_while_it_is_written(tmp_path: Path, certificates: Path) -> None:
    """Who reads it is told that it was, and from which byte on."""
    async with (
        serving_program(tmp_path, certificates) as (server, _process),
        server.connect(patience=0) as jobs,
        known_job(jobs) as job,
    ):
        job.write(AFTER)
        await job.settle()
        os.truncate(server.logs[0], 1000)
        for read in (output_of(jobs, job.id), Told().follow(jobs, job.id)):
            with pytest.raises(RpcFailedError) as raised:
                await read
            assert raised.value.status.status_code.name == "DATA_LOSS"
            assert "from byte 1000 on is gone" in raised.value.status.status_message


@asynccontextmanager
async def no_server(server: Server) -> AsyncIterator[None]:
    """In this block the server is dead, and no other one is started."""
    (old,) = server.servers()
    os.kill(server.launcher, signal.SIGSTOP)
    os.kill(old, signal.SIGKILL)
    try:
        yield
    finally:
        os.kill(server.launcher, signal.SIGCONT)
    with trio.fail_after(60):
        while server.servers() in ([], [old]):
            await trio.sleep(0.01)
