"""Many jobs that do not read what is written to them: what that costs the server, and the other calls of a client."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import pytest
import trio

from jobmaster.client import Jobs
from jobmaster.grpc.memory import MAX_WIDE, MAX_WIDE_OF_CALLER
from jobmaster.grpc.server import CONNECTION_WINDOW
from jobmaster.grpc.server_call import STREAM_WINDOW, WIDER
from jobmaster.run.stdin import CAPACITY, WIDE_CAPACITY
from tests.harness import Server, serving_program

DEADLINE: Final = 120.0
BLOCK: Final = bytes(100_000)
ROUND_TRIPS: Final = 50
"""Calls over another connection during which a writer that is not stalled goes on."""
PAGE: Final = 4096
"""Bytes; a queue begins and ends inside of one."""
MEBIBYTE: Final = 1024 * 1024
EVERYBODY: Final = ("client1", "client2", "client3", "superuser")


class Source(AsyncIterator[bytes]):
    """Input without an end, which counts what was asked of it."""

    def __init__(self) -> None:
        self.blocks = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        self.blocks += 1
        return BLOCK


@asynccontextmanager
async def stalled(server: Server, jobs: Jobs, count: int, name: str = "client1") -> AsyncIterator[list[str]]:
    """So many jobs that read nothing, each with a writer over the one connection, which has sent all that is taken."""
    source = Source()

    async def write(job_id: str) -> None:
        async with jobs.attach(job_id) as attachment, trio.open_nursery() as own:
            own.start_soon(attachment.send, source)  # noqa: ASYNC113  # the source never ends
            async for _ in attachment:
                pass

    job_ids = [await jobs.start("sleep", "1000", stdin=True) for _ in range(count)]
    async with trio.open_nursery() as nursery:
        for job_id in job_ids:
            nursery.start_soon(write, job_id)
        async with server.connect(name) as other:
            sent = -1
            while sent < (sent := source.blocks):
                for _ in range(ROUND_TRIPS):
                    await other.status(job_ids[0])
        yield job_ids
        nursery.cancel_scope.cancel()


def queues_of(server: int) -> list[int]:
    """Bytes of memory of each queue of input that a server has."""
    found = []
    for entry in Path(f"/proc/{server}/fd").iterdir():
        with suppress(FileNotFoundError):  # another one, which the server has closed
            if "jobmaster-stdin" in os.readlink(entry):
                found.append(entry.stat().st_blocks * 512)
    return sorted(found, reverse=True)


def memory_of(server: int) -> int:
    """Bytes of memory of a server."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{server}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.parametrize("count", [24, 60])
async def test_other_calls_get_through(server: Server, count: int) -> None:
    """Stalled writers, whose windows together are more than a connection's, hold up no other call on that connection."""
    assert count * STREAM_WINDOW > CONNECTION_WINDOW
    with trio.fail_after(DEADLINE):
        async with server.connect() as jobs, stalled(server, jobs, count) as job_ids:
            others = [await jobs.start("cat", str(number), stdin=True) for number in range(3)]
            for job_id in [*job_ids, *others]:
                await jobs.stop(job_id, force=True)


async def test_input_that_is_no_longer_read(server: Server) -> None:
    """What was sent to jobs that have closed their stdin meanwhile holds up no other call on that connection."""
    count = 2 * CONNECTION_WINDOW // STREAM_WINDOW
    with trio.fail_after(DEADLINE):
        async with server.connect() as jobs, trio.open_nursery() as nursery:
            script = "head -c 1 >/dev/null; exec 0<&-; echo closed; sleep 1000"
            job_ids = [await jobs.start("sh", "-c", script, stdin=True) for _ in range(count)]
            for job_id in job_ids:
                await nursery.start(write_until_closed, jobs, job_id)
            for job_id in job_ids:
                await jobs.stop(job_id, force=True)


async def write_until_closed(jobs: Jobs, job_id: str, *, task_status: trio.TaskStatus[None]) -> None:
    """Writes to a job, and has started when it reads no more."""
    async with jobs.attach(job_id) as attachment, trio.open_nursery() as own:
        own.start_soon(attachment.send, Source())
        async for chunk in attachment:
            if chunk.data:
                task_status.started()


@pytest.mark.parametrize("clients", [EVERYBODY[:1], EVERYBODY])
async def test_memory_of_stalled_writers(tmp_path: Path, certificates: Path, clients: Sequence[str]) -> None:
    """Few queues and windows of one client, and of all, are large, though every writer sends all that is taken."""
    each = 8
    large = min(MAX_WIDE, MAX_WIDE_OF_CALLER * len(clients))
    held = large * (WIDER + STREAM_WINDOW) + each * len(clients) * STREAM_WINDOW
    async with serving_program(tmp_path, certificates) as (server, _process):
        before = memory_of(server.pid)
        with trio.fail_after(DEADLINE):
            await stall_by(server, clients, each)
            sizes = queues_of(server.pid)
            assert len(sizes) == each * len(clients)
            assert min(sizes[:large]) > CAPACITY + PAGE
            assert max(sizes) <= WIDE_CAPACITY + PAGE
            assert max(sizes[large:]) <= CAPACITY + PAGE
            assert memory_of(server.pid) - before < held + 16 * MEBIBYTE


async def stall_by(server: Server, clients: Sequence[str], each: int) -> None:
    """Stalls so many writers of each client; they leave, and others come, for whom no grant is left. The jobs go on."""
    for name in clients:
        async with server.connect(name) as jobs, stalled(server, jobs, each // 2, name):
            pass
    for name in clients:
        async with server.connect(name) as jobs, stalled(server, jobs, each // 2, name):
            pass


async def test_grants_come_back(tmp_path: Path, certificates: Path) -> None:
    """When the jobs whose queues are large have ended, those of others may be."""
    async with serving_program(tmp_path, certificates) as (server, _process), server.connect() as jobs:
        with trio.fail_after(DEADLINE):
            for _ in range(2):
                async with stalled(server, jobs, MAX_WIDE_OF_CALLER) as job_ids:
                    assert [size > CAPACITY + PAGE for size in queues_of(server.pid)] == [True] * MAX_WIDE_OF_CALLER
                for job_id in job_ids:
                    await jobs.stop(job_id, force=True)
