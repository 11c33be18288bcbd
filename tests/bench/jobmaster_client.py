"""The loads by jobmaster's own client."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from hashlib import sha256
from pathlib import Path
from random import Random
from time import perf_counter, time_ns
from typing import Final, assert_never

import trio

from jobmaster.client import Jobs, connect
from jobmaster.client.calls import Stream
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.bench.load import (
    CLIENT,
    PAGE,
    WARM_UP,
    Kind,
    Load,
    Outcome,
    kept_id,
    kept_owner,
    require_bytes,
    require_digest,
    require_jobs,
    require_success,
)
from tests.bench.replacing_client import adopt, upgrade
from tests.bench.stopwatch import Stopwatch

POLL_SECONDS: Final = 0.05
PATIENCE: Final = 10.0
"""Seconds for which a call may be made in vain."""
BLOCK: Final = Random(0).randbytes(64 * 1024)
"""Input comes in blocks of that size, as from a pipe."""
DIGEST: Final = 'import hashlib, sys; print(hashlib.file_digest(sys.stdin.buffer, "sha256").hexdigest())'
"""Prints the SHA-256 of its input, by OpenSSL: `sha256sum` of Debian knows no processor's instructions for it, takes 5 s of CPU
time for a GiB, and would be what is measured."""


def run(load: Load) -> Outcome:
    """Connects, warms up and does the load."""
    return trio.run(_run, load)


async def _run(load: Load) -> Outcome:
    async with connect("localhost", load.port, folder=load.certificates, name=CLIENT) as jobs:
        match load.kind:
            case Kind.START:
                return await _start(jobs, load)
            case Kind.JOBS:
                return await _jobs(jobs, load)
            case Kind.STATUS:
                return await _status(jobs, load)
            case Kind.STREAM:
                return await _stream(jobs, load)
            case Kind.FOLLOW_STORED:
                return await _follow_stored(jobs, load)
            case Kind.STDIN:
                return await _feed(jobs, load)
            case Kind.FOLLOW:
                return await _follow_together(jobs, load)
            case Kind.LATENCY:
                return await _latency(jobs, load)
            case Kind.WRITE:
                return await _write(jobs, load)
            case Kind.RECORDS:
                return await _records(jobs, load)
            case Kind.PAGES:
                return await _pages(jobs, load)
            case Kind.ADOPT:
                return await adopt(jobs, load)
            case Kind.UPGRADE:
                return await upgrade(jobs, load)
            case unreachable:
                assert_never(unreachable)


async def _start(jobs: Jobs, load: Load) -> Outcome:
    await _run_jobs(jobs, WARM_UP)
    ids, latencies = [], []
    with Stopwatch(load.server) as watch:
        for _ in range(load.count):
            begun = perf_counter()
            ids.append(await jobs.start("true"))
            latencies.append(perf_counter() - begun)
    await _check(jobs, ids)
    return Outcome.of(watch, latencies=latencies)


async def _jobs(jobs: Jobs, load: Load) -> Outcome:
    await _run_jobs(jobs, WARM_UP)
    ids: list[str] = []

    async def work(count: int) -> None:
        own = [await jobs.start("true") for _ in range(count)]
        for job_id in own:
            await _follow(jobs, job_id)
        ids.extend(own)

    with Stopwatch(load.server) as watch:
        await _together(load, work)
    await _check(jobs, ids)
    return Outcome.of(watch)


async def _status(jobs: Jobs, load: Load) -> Outcome:
    (job_id,) = await _run_jobs(jobs, 1)

    async def ask(count: int) -> None:
        for _ in range(count):
            await jobs.status(job_id)

    await ask(WARM_UP)
    with Stopwatch(load.server) as watch:
        await _together(load, ask)
    return Outcome.of(watch)


async def _stream(jobs: Jobs, load: Load) -> Outcome:
    """By StreamOutput itself: `Jobs.stream_output` asks by FollowOutput."""
    stream = Stream(jobs._calls, "StreamOutput", pb.JobIDRequest, pb.JobOutputResponse, PATIENCE)
    request = pb.JobIDRequest(job_id_request=pb.JobID(job_id=load.job_id))
    received = 0
    with Stopwatch(load.server) as watch:
        while (message := await stream.receive(lambda: request)) is not None:
            assert isinstance(message, pb.JobOutputResponse)
            received += len(message.output)
    require_bytes(received, load.count)
    return Outcome.of(watch)


async def _follow_stored(jobs: Jobs, load: Load) -> Outcome:
    received = 0
    with Stopwatch(load.server) as watch:
        async with jobs.follow_output(load.job_id) as chunks:
            async for chunk in chunks:
                received += len(chunk.data)
    require_bytes(received, load.count)
    return Outcome.of(watch)


async def _feed(jobs: Jobs, load: Load) -> Outcome:
    """The digest shows that all of it has come."""
    whole, rest = divmod(load.count, len(BLOCK))
    digest = sha256()
    for _ in range(whole):
        digest.update(BLOCK)
    digest.update(BLOCK[:rest])

    async def source() -> AsyncGenerator[bytes, None]:  # noqa: ASYNC124  # as `send` takes it
        for _ in range(whole):
            yield BLOCK
        yield BLOCK[:rest]

    job_id = await jobs.start("sh", "-c", f"cat | python3 -S -c '{DIGEST}'", stdin=True)
    output = b""
    with Stopwatch(load.server) as watch:
        async with jobs.attach(job_id) as attachment, aclosing(source()) as blocks, trio.open_nursery() as nursery:
            nursery.start_soon(attachment.send, blocks)
            async for chunk in attachment:
                output += chunk.data
    require_digest(output.split()[0].decode(), digest.hexdigest())
    return Outcome.of(watch)


async def _follow_together(jobs: Jobs, load: Load) -> Outcome:
    """The job begins to write when all followers are there."""
    job_id = await jobs.start("sh", "-c", f"sleep 2; exec head -c {load.count} /dev/zero")
    received: list[int] = []

    async def follow() -> None:
        received.append(await _follow(jobs, job_id))

    watching = connect("localhost", load.port, folder=load.certificates, name=CLIENT)
    async with (
        watching as watcher,
        trio.open_nursery() as nursery,
    ):  # a connection has a hundred calls, all of them taken
        for _ in range(load.in_flight):
            nursery.start_soon(follow)
        while not (await watcher.status(job_id)).output_bytes:
            await trio.sleep(POLL_SECONDS / 10)
        watch = Stopwatch(load.server)
        with watch:
            while nursery.child_tasks:
                await trio.sleep(POLL_SECONDS / 10)
    for count in received:
        require_bytes(count, load.count)
    return Outcome.of(watch, server_peak_bytes=_peak_memory(load.server))


async def _latency(jobs: Jobs, load: Load) -> Outcome:
    """Each line is the time at which it was written; both ends read the same clock."""
    others = [await jobs.start("sleep", "600") for _ in range(load.in_flight)]
    job_id = await jobs.start("sh", "-c", "while :; do date +%s%N; sleep 0.02; done")
    latencies: list[float] = []
    with Stopwatch(load.server) as watch:
        async with jobs.stream_output(job_id) as chunks:
            async for chunk in chunks:
                now = time_ns()
                latencies += [(now - int(line)) / 1e9 for line in bytes(chunk).split()]
                if len(latencies) >= load.count:
                    break
    for other in [job_id, *others]:
        await jobs.stop(other)
    return Outcome.of(watch, latencies=latencies)


def _peak_memory(pid: int) -> int:
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


async def _write(jobs: Jobs, load: Load) -> Outcome:
    """Nobody follows the job, so that a profile of the server has one stream in it."""
    with Stopwatch(load.server) as watch:
        command = load.command or ("head", "-c", str(load.count), "/dev/zero")
        job_id = await jobs.start(*command, separate_streams=load.separate)
        record = await jobs.status(job_id)
        while record.state == pb.JOBSTATE_RUNNING:
            await trio.sleep(POLL_SECONDS)
            record = await jobs.status(job_id)
    require_bytes(record.output_bytes, load.count)
    return Outcome.of(watch, job_id=job_id)


async def _records(jobs: Jobs, load: Load) -> Outcome:
    own = [number for number in range(1, load.kept + 1) if kept_owner(number) == CLIENT]
    numbers = Random(0).choices(own, k=WARM_UP + load.count)

    async def ask(number: int) -> None:
        record = await jobs.status(kept_id(number))
        require_success(record.state, record.exit_code, pb.JOBSTATE_COMPLETED)

    for number in numbers[:WARM_UP]:
        await ask(number)
    return await _timed(load, [partial(ask, number) for number in numbers[WARM_UP:]])


async def _pages(jobs: Jobs, load: Load) -> Outcome:
    async def ask() -> None:
        require_jobs(len([record async for record in jobs.list(limit=PAGE)]), PAGE)

    for _ in range(WARM_UP):
        await ask()
    return await _timed(load, [ask] * load.count)


async def _timed(load: Load, calls: Sequence[Callable[[], Awaitable[None]]]) -> Outcome:
    """One after another."""
    latencies = []
    with Stopwatch(load.server) as watch:
        for call in calls:
            begun = perf_counter()
            await call()
            latencies.append(perf_counter() - begun)
    return Outcome.of(watch, latencies=latencies)


async def _together(load: Load, work: Callable[[int], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        for share in load.shares():
            nursery.start_soon(partial(work, share))


async def _run_jobs(jobs: Jobs, count: int) -> list[str]:
    ids = [await jobs.start("true") for _ in range(count)]
    await _check(jobs, ids)
    return ids


async def _check(jobs: Jobs, ids: list[str]) -> None:
    for job_id in ids:
        await _follow(jobs, job_id)
        record = await jobs.status(job_id)
        require_success(record.state, record.exit_code, pb.JOBSTATE_COMPLETED)


async def _follow(jobs: Jobs, job_id: str) -> int:
    async with jobs.stream_output(job_id) as chunks:
        received = 0
        async for chunk in chunks:
            received += len(chunk)
        return received
