"""Servers that die at each named crash point, under load."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from tests.faults.conftest import Extent
from tests.faults.left import nothing_is_left
from tests.faults.load import applied
from tests.faults.points import POINTS, Action, Cause, Point
from tests.faults.service import Service, running, send

pytestmark = pytest.mark.faults

SAMPLE = 3
"""Points of the short form."""


async def test_a_server_dies_at_each_point(
    tmp_path: Path, certificates: Path, marks: Path, extent: Extent, chance: random.Random
) -> None:
    """Wherever a server dies, by SIGKILL or by an exception, no job and no byte is lost or doubled by that."""
    deaths = [(point, action) for point in POINTS for action in (Action.KILL_SERVER, Action.RAISE)]
    chance.shuffle(deaths)
    if extent.is_short:
        deaths = deaths[:SAMPLE]
    async with running(tmp_path, certificates, "--grace", "0.5") as service:
        async with nothing_is_left(service), applied(service, marks, chance) as load:
            for point, action in deaths:
                await die_at(service, point, action)
        print(f"{len(deaths)} deaths, {len(load.starts)} jobs, {load.bytes_followed} bytes followed")


TRIGGERS = {Cause.UPGRADE: signal.SIGUSR2, Cause.SUCCESSION: signal.SIGKILL}


async def die_at(service: Service, point: Point, action: Action) -> None:
    """Has a server die at a point, and returns when the next one is ready."""
    service.armed.arm(point, action)
    while service.armed.fired(point) is None:
        server = await service.wait_ready()
        if point.cause in TRIGGERS:
            await service.wait(
                lambda: bool(service.processes()), "no job has come to run"
            )  # none is left to run otherwise
            send(server, TRIGGERS[point.cause])  # again, where the last one found no job
        await service.wait(
            lambda server=server: service.armed.fired(point) is not None or service.ready not in {None, server},  # type: ignore[misc]  # mypy does not infer lambdas with defaults
            f"no server has come to {point}",
        )
    await service.wait_ready(after=service.armed.fired(point))
