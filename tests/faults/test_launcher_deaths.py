"""Launchers that die, alone and with their server, under load; then both are started anew, as a service manager does."""

from __future__ import annotations

import ctypes
import os
import random
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from tests.faults.conftest import Extent
from tests.faults.left import nothing_is_left
from tests.faults.load import Load, applied
from tests.faults.points import POINTS, Action, Cause, Point
from tests.faults.service import LOOK_SECONDS, Service, running, send

pytestmark = pytest.mark.faults

PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture
def orphans_come_here() -> Iterator[None]:
    """Has this process inherit what its children leave, so that it can see how a server without a launcher ends."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    assert prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    assert prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0


async def test_launchers_die(
    tmp_path: Path,
    certificates: Path,
    marks: Path,
    extent: Extent,
    chance: random.Random,
    orphans_come_here: None,
) -> None:
    """What runs then ends, and is told as lost where nobody saw its end; nothing runs twice, and nothing is left."""
    points: list[Point | None] = [None, *(point for point in POINTS if point.cause is Cause.LOAD)]
    deaths = [(point, action) for point in points for action in (Action.KILL_LAUNCHER, Action.KILL_BOTH)]
    chance.shuffle(deaths)
    if extent.is_short:
        deaths = [(None, Action.KILL_LAUNCHER), (None, Action.KILL_BOTH)]
    async with running(tmp_path, certificates, "--grace", "0.5") as service:
        async with nothing_is_left(service), applied(service, marks, chance) as load:
            for point, action in deaths:
                await trio.sleep(chance.uniform(0.3, 1.5))
                await die(service, load, point, action)
        print(f"{len(deaths)} deaths, {len(load.starts)} jobs, {load.bytes_followed} bytes followed")


async def die(service: Service, load: Load, point: Point | None, action: Action) -> None:
    """Has the launcher die, at a point or now; the server ends, with an error if it was not killed too."""
    since = trio.current_time()
    server = await service.wait_ready()
    if point is not None:
        service.armed.arm(point, action)
    else:
        send(service.launcher.pid, signal.SIGKILL)
        if action is Action.KILL_BOTH:
            send(server, signal.SIGKILL)
    assert await service.wait_ended() == -signal.SIGKILL
    load.expect_ends(since, "server_lost")
    assert await status_of_orphan(server) == (1 if action is Action.KILL_LAUNCHER else -signal.SIGKILL)
    if action is Action.KILL_LAUNCHER:
        assert service.processes() == []
    await service.start()
    reap_orphans(service)


async def status_of_orphan(pid: int) -> int:
    """How a process ends whose parent has died."""
    with trio.fail_after(60):
        while True:
            with suppress(ChildProcessError):  # its parent is about to die
                found, status = os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222  # never waits
                if found:
                    return os.waitstatus_to_exitcode(status)
            await trio.sleep(LOOK_SECONDS)


def reap_orphans(service: Service) -> None:
    """Reaps what the jobs have left to this process."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for pid in {int(pid) for pid in children} - {service.launcher.pid}:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
