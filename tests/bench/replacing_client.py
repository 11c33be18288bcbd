"""The loads under which the server is replaced: killed, or told to hand over. They need to be root on its host."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import Final, TypeVar

import trio

from jobmaster.client import Jobs, connect
from jobmaster.errors import TransportError
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.bench.lines import SCRIPT, Received
from tests.bench.load import CLIENT, Load, Outcome, WrongAnswer
from tests.processes import servers_of

_T = TypeVar("_T")

AT_ONCE: Final = 8
"""Starts and stops that are under way at a time."""
LOOK_SECONDS: Final = 0.01
REPLACED_SECONDS: Final = 120.0
"""How long a server may take to be followed by one that has its jobs, on the slowest of machines."""


async def adopt(jobs: Jobs, load: Load) -> Outcome:
    """Seconds from the kill until a client has been told of every job by the next server, as the one latency."""
    running = await _start(jobs, load.count, ("sleep", "100000"))
    (old,) = servers_of(load.launcher)
    with trio.fail_after(REPLACED_SECONDS):
        begun = perf_counter()
        await _kill(old)
        found = await _running_jobs(load)
        seconds = perf_counter() - begun
    _require_same(found, running)
    _require_next(load.launcher, old)
    await _each(running, partial(jobs.stop, force=True))
    return Outcome(seconds=seconds, server_seconds=0.0, latencies=(seconds,))


async def _kill(pid: int) -> None:
    """Returns when the process is dead: what connects after that is answered by the next one."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)


async def _running_jobs(load: Load) -> dict[str, int]:
    """Pids of the jobs that run, by job, as told over a new connection: an old one would be repaired after a pause."""
    while True:
        with suppress(TransportError):  # where the server takes longer than a handshake may
            async with connect("localhost", load.port, folder=load.certificates, name=CLIENT) as jobs:
                return await _pids(jobs)


async def upgrade(jobs: Jobs, load: Load) -> Outcome:
    """The longest silence of any follower over each upgrade, as the latencies; every byte of theirs is checked."""
    running = await _start(jobs, load.in_flight, ("sh", "-c", SCRIPT))
    received = [Received() for _ in running]
    silences: list[float] = []
    begun = perf_counter()
    async with trio.open_nursery() as nursery:
        for job_id, own in zip(running, received, strict=True):
            nursery.start_soon(_follow, jobs, job_id, own)
        await _wait_until(lambda: all(own.last_at is not None for own in received))
        await trio.sleep(load.pause)
        for _ in range(load.count):
            for own in received:
                own.begin_silence()
            await _replace(jobs, load, received)
            await trio.sleep(load.pause)
            silences.append(max(own.silence(perf_counter()) for own in received))
        _require_same(await _pids(jobs), running)
        await _each(running, partial(_end, jobs))
    for own in received:
        own.require_end()
    return Outcome(seconds=perf_counter() - begun, server_seconds=0.0, latencies=tuple(silences))


async def _replace(jobs: Jobs, load: Load, received: list[Received]) -> None:
    """Has the server replaced; returns when every follower has received something of the next one."""
    (old,) = servers_of(load.launcher)
    os.kill(load.launcher, signal.SIGUSR2)
    await _wait_until(lambda: servers_of(load.launcher) not in ([], [old]))
    await _pids(jobs)  # answered by a server that is ready
    _require_next(load.launcher, old)
    ready = perf_counter()
    await _wait_until(lambda: all(own.last_at is not None and own.last_at > ready for own in received))


async def _follow(jobs: Jobs, job_id: str, received: Received) -> None:
    async with jobs.stream_output(job_id) as chunks:
        async for chunk in chunks:
            received.take(bytes(chunk), perf_counter())


async def _end(jobs: Jobs, job_id: str) -> None:
    record = await jobs.stop(job_id)
    stopped = record.cause.stopped
    if not stopped.returned or stopped.exit_code:
        raise WrongAnswer(f"a job that ends by itself when it is told to has ended otherwise: {record.job_msg}")


def _require_next(launcher: int, old: int) -> None:
    """Checks that the launcher, which is what a supervisor of services knows, lives on with another server."""
    if len(servers_of(launcher)) != 1 or old in servers_of(launcher):
        raise WrongAnswer(f"process {launcher} has not replaced its server {old}")


def _require_same(found: Mapping[str, int], running: Mapping[str, int]) -> None:
    if found != running:
        raise WrongAnswer(f"of {len(running)} jobs {len(found.items() & running.items())} run on after the server")


async def _start(jobs: Jobs, count: int, command: tuple[str, ...]) -> dict[str, int]:
    """Starts jobs; their pids, by job."""
    ids: list[str] = []

    async def start(_: int) -> None:
        ids.append(await jobs.start(*command))

    await _each(range(count), start)
    pids = await _pids(jobs)
    return {job_id: pids[job_id] for job_id in ids}


async def _pids(jobs: Jobs) -> dict[str, int]:
    query = pb.ListRequest(states=[pb.JOBSTATE_RUNNING], page_size=1000)
    return {record.job_id_response.job_id: record.pid async for record in jobs.list(query)}


async def _each(items: Iterable[_T], act: Callable[[_T], Awaitable[object]]) -> None:
    """Does something to each, `AT_ONCE` of them at a time."""
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def limited(item: _T) -> None:
        async with limiter:
            await act(item)

    async with trio.open_nursery() as nursery:
        for item in items:
            nursery.start_soon(limited, item)


async def _wait_until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(REPLACED_SECONDS):
        while not condition():
            await trio.sleep(LOOK_SECONDS)
