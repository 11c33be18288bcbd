"""Much output, and followers that are slow or cut off: each byte for byte, within the bounds of memory and disk."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import trio

from jobmaster.client import Jobs, connect
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.output.cap import Cap
from tests.harness import Server, serving_program
from tests.known_output import CODE, STREAM, Told, accounted_for
from tests.network import Network, network
from tests.two_streams import LETTERS, SCRIPT, Arrived, expected

MEBIBYTE: Final = 1024**2
GIBIBYTE: Final = 1024**3
IS_FULL: Final = "OUTPUTS_FULL" in os.environ
"""As in the nox session `outputs`: as much as the tests' names say; else a part of it."""
NUMBERS = f"""
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: left.clear())
left, number = [True], 0
while left:
    print(number, flush=True)
    number += 1
    time.sleep(0.001)
print("end", number, flush=True)
sys.exit({CODE})
"""
"""A program that prints numbered lines until it is told to end."""
SLACK = 2 * MEBIBYTE
"""Of a disk, for what is being sent to followers and what a file system adds."""
OUTPUT: Final = int(os.environ.get("OUTPUT_MIB", "160")) * MEBIBYTE
"""More than the server may have of memory; a gibibyte in the nox session `abuse`."""
MOST_MEMORY: Final = 150 * 1024
"""KiB."""
# Pseudo-random, so that a piece out of place shows; the generator is as quick as a disk.
WRITER: Final = (
    f"openssl enc -aes-128-ctr -pass pass:jobmaster -nosalt -iter 1 </dev/zero 2>/dev/null | head -c {OUTPUT}"
)


@pytest.fixture
def roomy_folder() -> Iterator[Path]:
    """A folder with room for the output, in memory where the host has it, so that the disk is not what is tried."""
    shared = Path("/dev/shm")
    roomy = shared.is_dir() and shutil.disk_usage(shared).free > 2 * OUTPUT
    with tempfile.TemporaryDirectory(dir=shared if roomy else None) as folder:
        yield Path(folder)


async def digest(jobs: Jobs, job_id: str, digests: list[str]) -> None:
    """Follows a job and notes the SHA-256 of what came."""
    total = hashlib.sha256()
    async with jobs.stream_output(job_id) as chunks:
        async for chunk in chunks:
            total.update(chunk)
    digests.append(total.hexdigest())


async def test_five_gibibytes_under_a_cap(roomy_folder: Path, certificates: Path) -> None:
    """The disk holds the cap and a chunk at most, head and tail are exact, and a slow follower is told of every byte."""
    size, cap = (5 * GIBIBYTE, Cap(64 * MEBIBYTE)) if IS_FULL else (48 * MEBIBYTE, Cap(4 * MEBIBYTE))
    command = f"{{ {STREAM} | head -c {size}; }}; exit {CODE}"
    most_on_disk = 0
    slow = Told()
    async with (
        serving_program(roomy_folder, certificates, "--output-max", str(cap.size)) as (server, _process),
        server.connect() as jobs,
        server.connect() as other,
    ):
        job_id = await jobs.start("sh", "-c", command)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow_slowly, slow, other, job_id, cap)
            (log,) = server.logs
            while (await jobs.status(job_id)).state == pb.JOBSTATE_RUNNING:
                most_on_disk = max(most_on_disk, log.stat().st_blocks * 512)
                await trio.sleep(0.01)
        record = await jobs.wait(job_id)
        late = await Told().follow(jobs, job_id)
    print(f"{most_on_disk} bytes on the disk; told slowly: {slow.kept} bytes, {slow.missing} in gaps")
    assert record.cause.exited.code == CODE
    late.agrees_with(record, size)
    assert cap.size - cap.chunk <= late.kept <= cap.size + cap.chunk
    assert most_on_disk <= cap.size + cap.chunk + SLACK
    assert (slow.end, set(slow.gaps)) == (size, {pb.GAPREASON_CAPPED})


async def follow_slowly(told: Told, jobs: Jobs, job_id: str, cap: Cap) -> None:
    """Takes some chunks, and no more before the job is two caps ahead."""
    async with jobs.follow_output(job_id) as chunks:
        number = 0
        async for chunk in chunks:
            told.take(chunk)
            number += 1
            if number % 20 == 0:
                await until_written(jobs, job_id, told.end + 2 * cap.size)


async def until_written(jobs: Jobs, job_id: str, count: int) -> None:
    """Returns when a job has written so many bytes, or has ended."""
    while accounted_for(record := await jobs.status(job_id)) < count and record.state == pb.JOBSTATE_RUNNING:
        await trio.sleep(0.01)


async def test_fifty_cuts(tmp_path: Path, certificates: Path) -> None:
    """Followers of a job that prints a line each millisecond miss and repeat none, whatever cuts them off, and how often."""
    cuts, kills = (50, 10) if IS_FULL else (8, 2)
    seed = random.randrange(1_000_000)
    print(f"to do it again: seed {seed}")
    chance = random.Random(seed)
    followed: list[bytes] = []
    connections = 0
    async with (
        serving_program(tmp_path, certificates, "--max-crashes", "1000") as (server, _process),
        network(server.port, ()) as between,
        connect("127.0.0.1", between.port, folder=certificates, name="client1") as jobs,
        server.connect() as other,
    ):
        job_id = await jobs.start("python3", "-S", "-c", NUMBERS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow_bytes, jobs, job_id, followed)
            nursery.start_soon(follow_chunks, jobs, job_id, followed)
            for number in chance.sample(range(cuts), cuts):
                await until_connected(between, connections)
                connections = between.connections
                await trio.sleep(chance.uniform(0, 0.2))
                if number < kills:
                    await kill(server)
                else:
                    between.cut()
            record = await other.stop(job_id)
    print(f"{between.connections} connections, {record.output_bytes} bytes")
    assert between.connections > cuts
    *lines, end, rest = followed[0].split(b"\n")
    assert lines == [b"%d" % number for number in range(len(lines))]
    assert (end, rest) == (b"end %d" % len(lines), b"")
    assert followed[1] == followed[0]
    assert (record.output_bytes, record.output_bytes_lost) == (len(followed[0]), 0)
    assert (record.cause.stopped.returned, record.cause.stopped.exit_code) == (True, CODE)


async def until_connected(between: Network, connections: int) -> None:
    """Returns when there is one connection more, and something has come by it."""
    with trio.fail_after(60):
        while between.connections <= connections:
            await trio.sleep(0.001)
        passed = between.passed
        while between.passed == passed:
            await trio.sleep(0.001)


async def kill(server: Server) -> None:
    """Kills the server, and returns when there is another one."""
    (old,) = server.servers()
    os.kill(old, signal.SIGKILL)
    with trio.fail_after(60):
        while server.servers() in ([], [old]):
            await trio.sleep(0.005)


async def follow_bytes(jobs: Jobs, job_id: str, followed: list[bytes]) -> None:
    """By all output."""
    async with jobs.stream_output(job_id) as chunks:
        followed.append(b"".join([chunk async for chunk in chunks]))


async def follow_chunks(jobs: Jobs, job_id: str, followed: list[bytes]) -> None:
    """By chunks with offsets."""
    received = bytearray()
    async with jobs.follow_output(job_id) as chunks:
        async for chunk in chunks:
            assert chunk.offset == len(received)
            received += chunk.data
    followed.append(bytes(received))


async def test_much_output_to_three_followers(roomy_folder: Path, certificates: Path) -> None:
    """Followers that join at the start, in the middle and after the end receive all of 1 GiB; the server stays small."""
    digests: list[str] = []
    async with serving_program(roomy_folder, certificates) as (server, _process):
        async with server.connect() as early, server.connect() as late, server.connect() as after:
            job_id = await early.start("sh", "-c", WRITER)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(digest, early, job_id, digests)
                while (await late.status(job_id)).output_bytes < OUTPUT // 4:
                    await trio.sleep(0.01)
                nursery.start_soon(digest, late, job_id, digests)
            record = await after.status(job_id)
            await digest(after, job_id, digests)
        memory = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{server.pid}/status").read_text())
        with (server.output / f"{job_id}.log").open("rb") as log:
            kept = hashlib.file_digest(log, "sha256").hexdigest()
    assert (record.output_bytes, record.output_bytes_lost) == (OUTPUT, 0)
    assert digests == [kept] * 3
    assert memory is not None
    assert int(memory[1]) < MOST_MEMORY


@pytest.mark.parametrize(
    ("rounds", "lines"),
    [pytest.param(100, 1, id="each line"), pytest.param(100, 5_000 if IS_FULL else 250, id="many lines")],
)
async def test_two_streams(server: Server, rounds: int, lines: int) -> None:
    """Of a million short lines from two threads each stream is exact, and what arrived first comes first, live and stored."""
    async with server.connect() as jobs:
        job_id = await jobs.start("python3", "-S", "-c", SCRIPT, str(rounds), str(lines), separate_streams=True)
        live, stored = [await arrived(jobs, job_id) for _ in range(2)]
        assert (await jobs.wait(job_id)).exit_code == 0
    for stream in LETTERS:
        assert live.streams[stream] == expected(stream, rounds * lines)
    assert live.rounds_in_order(rounds, lines)
    assert (stored.streams, stored.order) == (live.streams, live.order)


async def arrived(jobs: Jobs, job_id: str) -> Arrived:
    """All output of a job."""
    found = Arrived()
    async with jobs.follow_output(job_id) as chunks:
        async for chunk in chunks:
            found.take(chunk)
    return found
