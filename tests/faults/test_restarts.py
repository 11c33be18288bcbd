"""Servers that are told to end under load, and are killed while they do; then they are started anew."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
import trio

from tests.faults.conftest import Extent
from tests.faults.left import nothing_is_left
from tests.faults.load import Load, applied
from tests.faults.service import Service, running, send

pytestmark = pytest.mark.faults


async def test_servers_are_told_to_end(
    tmp_path: Path, certificates: Path, marks: Path, extent: Extent, chance: random.Random
) -> None:
    """What runs then ends by the shutdown and is told so, nothing runs twice, and nothing is left."""
    kills = [False, True] if extent.is_short else [False, True, True] * 10
    async with running(tmp_path, certificates, "--grace", "0.5") as service:
        async with nothing_is_left(service), applied(service, marks, chance) as load:
            for is_killed in kills:
                await trio.sleep(chance.uniform(0.3, 1.5))
                await restart(service, load, chance.uniform(0, 0.6) if is_killed else None)
        print(f"{len(kills)} restarts, {len(load.starts)} jobs, {load.bytes_followed} bytes followed")


async def restart(service: Service, load: Load, kill_after: float | None) -> None:
    """Has the server end its jobs; where it is killed while it does, another one has to."""
    since = trio.current_time()
    server = await service.wait_ready()
    service.launcher.send_signal(signal.SIGTERM)
    if kill_after is not None:
        await trio.sleep(kill_after)
        send(server, signal.SIGKILL)
    ended = {0} if kill_after is None else {0, 128 + signal.SIGKILL}  # that of a server that had ended its jobs
    assert await service.wait_ended() in ended, service.complaints()
    load.expect_ends(since, "server_shutdown")
    assert service.processes() == []
    assert not service.cgroup_root.exists()
    await service.start()
