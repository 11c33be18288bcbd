"""Servers that die at random moments, by SIGKILL, by an exception in their root nursery and for an upgrade, under load."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
import trio

from tests.faults.conftest import Extent
from tests.faults.left import nothing_is_left
from tests.faults.load import applied
from tests.faults.server import RAISE_SIGNAL
from tests.faults.service import Service, running, send

pytestmark = pytest.mark.faults


async def test_servers_die_at_random_moments(
    tmp_path: Path, certificates: Path, marks: Path, extent: Extent, chance: random.Random
) -> None:
    """No job is lost, doubled or ended by the death of a server, and no byte of its output; nothing is left at the end."""
    deaths = [signal.SIGKILL] * extent.kills + [RAISE_SIGNAL, signal.SIGUSR2] * (max(1, extent.kills // 4))
    chance.shuffle(deaths)
    async with running(tmp_path, certificates, "--grace", "0.5") as service:
        async with nothing_is_left(service), applied(service, marks, chance) as load:
            for number in deaths:
                await die(service, number, chance)
        print(f"{len(deaths)} deaths, {len(load.starts)} jobs, {load.bytes_followed} bytes followed")


async def die(service: Service, number: int, chance: random.Random) -> None:
    """Has the server die a while after it was ready, or its successor before that; all but SIGKILL find one that is ready."""
    if number != signal.SIGKILL or chance.random() < 0.85:
        await trio.sleep(chance.uniform(0, 0.7))
        await service.replace(number)
        return
    old = await service.wait_ready()
    send(old, number)
    await service.wait(lambda: service.server not in {None, old}, "no server has followed")
    next_one = service.server
    assert next_one is not None
    await trio.sleep(chance.uniform(0, 0.5))
    send(next_one, number)
    await service.wait_ready(after=next_one)
