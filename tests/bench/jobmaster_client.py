"""The loads by jobmaster's own client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from time import perf_counter
from typing import Final, assert_never

import trio

from jobmaster.client import Jobs, connect
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.bench.load import CLIENT, WARM_UP, Kind, Load, Outcome, require_bytes, require_success
from tests.bench.stopwatch import Stopwatch

POLL_SECONDS: Final = 0.05


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
            case Kind.WRITE:
                return await _write(jobs, load)
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
    with Stopwatch(load.server) as watch:
        received = await _follow(jobs, load.job_id)
    require_bytes(received, load.count)
    return Outcome.of(watch)


async def _write(jobs: Jobs, load: Load) -> Outcome:
    """Nobody follows the job, so that a profile of the server has one stream in it."""
    with Stopwatch(load.server) as watch:
        job_id = await jobs.start("head", "-c", str(load.count), "/dev/zero")
        record = await jobs.status(job_id)
        while record.state == pb.JOBSTATE_RUNNING:
            await trio.sleep(POLL_SECONDS)
            record = await jobs.status(job_id)
    require_bytes(record.output_bytes, load.count)
    return Outcome.of(watch, job_id=job_id)


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
