"""What servers and launcher may leave behind, while they live and at their end: nothing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import trio

from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.server.config_file import KEPT_NAME
from tests.faults.service import LOOK_SECONDS, Service

SETTLE_SECONDS: Final = 10.0
WRITE_AHEAD_LOG: Final = "journal.db-wal"
KEPT: Final = frozenset({"journal.db", WRITE_AHEAD_LOG, "journal.ballast", "audit", "cgroup", "uids.json", KEPT_NAME})
"""What is in the state folder that is no output; the log is empty."""


@asynccontextmanager
async def nothing_is_left(service: Service) -> AsyncIterator[None]:
    """After the block, when no job runs: no descriptor or process; and when the service has ended, nothing but records."""
    before = service.descriptors(service.launcher.pid)
    of_server = service.descriptors(await service.wait_ready())
    yield
    await _settled(service, before, of_server)
    known = await _known(service)
    assert await service.stop() == 0, service.complaints()
    assert not service.cgroup_root.exists()
    there = {path.name: path.stat().st_size for path in (service.folder / "output").iterdir()}
    wanted = KEPT | {f"{job_id}.log" for job_id in known}
    indexes = {f"{job_id}.index" for job_id in known}  # of the outputs that have any
    unknown = {name: size for name, size in there.items() if name not in wanted | indexes}
    missing = wanted - there.keys()
    assert not unknown, f"files are left: {unknown}"
    assert not missing, f"files are missing: {missing}"
    assert there[WRITE_AHEAD_LOG] == 0


async def _settled(service: Service, of_launcher: Counter[str], of_server: Counter[str]) -> None:
    """Returns when no process is left, and no descriptor but those that both had before there was a job."""
    server = await service.wait_ready()
    left = ""
    with trio.move_on_after(SETTLE_SECONDS):
        while left := (
            f"processes {service.processes()}" * bool(service.processes())
            + _more("launcher", service.descriptors(service.launcher.pid), of_launcher)
            + _more("server", service.descriptors(server), of_server)
        ):
            await trio.sleep(LOOK_SECONDS)
    assert not left, f"left: {left}\n{sockets_of(service.launcher.pid)}\n{sockets_of(server)}"


def _more(process: str, now: Counter[str], before: Counter[str]) -> str:
    return f" {process}: {now - before}" * bool(now - before)


def sockets_of(pid: int) -> str:
    """The kernel's lines for the sockets that a process has open: their kind, state and addresses."""
    inodes = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            inodes.add(os.readlink(path).removeprefix("socket:[").removesuffix("]"))
    lines = (
        f"{kind} {line}"
        for kind in ("tcp", "tcp6", "unix")
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()
    )
    return "\n".join(line for line in lines if inodes & set(line.split()))


async def _known(service: Service) -> list[str]:
    async with service.connect("superuser") as jobs:
        return [record.job_id_response.job_id async for record in jobs.list(pb.ListRequest())]
