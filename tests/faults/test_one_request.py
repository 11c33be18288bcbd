"""Many Starts with one request id, at once and over the death of a server."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from jobmaster.client import Jobs
from tests.faults.conftest import Extent
from tests.faults.left import nothing_is_left
from tests.faults.points import Action, Point, When
from tests.faults.service import Service, running

pytestmark = pytest.mark.faults

STARTS = 100
OVER_A_DEATH = 10
"""Of them, those that are under way when the server is killed."""
CONNECTIONS = 5
POINTS = [
    Point(name, when)
    for name in ("cgroup", "log", "held", "launched", "commit", "go", "executed", "answer")
    for when in When
]
"""On the way of a Start."""


async def test_a_hundred_starts_of_one_request(
    tmp_path: Path, certificates: Path, marks: Path, extent: Extent, chance: random.Random
) -> None:
    """One process runs, and all have its job."""
    points = chance.sample(POINTS, 2 if extent.is_short else len(POINTS))
    async with (
        running(tmp_path, certificates, "--grace", "0.5") as service,
        nothing_is_left(service),
        AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(service.connect("client1")) for _ in range(CONNECTIONS)]
        for number, point in enumerate(points):
            name = f"request-{number}"
            job_ids = await start_all(service, clients, point, name, str(marks))
            assert len(set(job_ids)) == 1, f"{point}: {set(job_ids)}"
            record = await clients[0].wait(job_ids[0])
            assert record.cause.exited.code == 7, f"{point}: {record}"
            assert marks.read_text().split().count(name) == 1, f"{point}: {marks.read_text()}"
    print(f"{len(points)} deaths, {len(points) * STARTS} Starts")


async def start_all(service: Service, clients: list[Jobs], point: Point, name: str, marks: str) -> list[str]:
    """Makes all Starts: some, at one of which the server dies, and then the others; returns what all were answered."""
    job_ids: list[str] = []

    async def start(jobs: Jobs) -> None:
        job_ids.append(await jobs.start("sh", "-c", 'echo "$0" >> "$1"; exit 7', name, marks, request_id=name))

    server = await service.wait_ready()
    service.armed.arm(point, Action.KILL_SERVER)
    async with trio.open_nursery() as nursery:
        for number in range(OVER_A_DEATH):
            nursery.start_soon(start, clients[number % CONNECTIONS])
        await service.wait(lambda: service.armed.fired(point) is not None, f"no Start has come to {point}")
        for number in range(STARTS - OVER_A_DEATH):
            nursery.start_soon(start, clients[number % CONNECTIONS])
    await service.wait_ready(after=server)
    assert len(job_ids) == STARTS
    return job_ids
