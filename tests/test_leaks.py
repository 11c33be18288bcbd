"""Standing suite: after any mix of jobs nothing is left: no task, thread beyond the pool, process, descriptor, cgroup."""

from __future__ import annotations

import gc
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

import pytest
import trio
import trio.testing

from jobmaster.client import Jobs, RpcFailedError
from jobmaster.grpc.client import ClientStream
from jobmaster.grpc.server_call import ServerCall
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.journal import journal
from jobmaster.output.log import OutputLog
from jobmaster.output.pump import Pump
from jobmaster.run.supervisor import Supervisor
from jobmaster.wire.connection import Connection
from jobmaster.wire.lifetime import SERVER_POLICY
from tests.harness import Server, ended, run, serving, until_output

SETTLING_SECONDS: Final = 60.0
"""For threads that are ending something; only what is left for good is there so long."""
STEADY: Final = 10
ROUNDS: Final = 3 if "JOBMASTER_GUEST" in os.environ else 8
"""Of every kind of job; in a guest a round takes seconds, and what it adds shows in each."""


def descriptors() -> dict[str, str]:
    """The open descriptors of this process and what each is."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found


def children() -> set[int]:
    """The children of this process, zombies too."""
    found: set[int] = set()
    for thread in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):
            found |= {int(pid) for pid in (thread / "children").read_text().split()}
    return found


Measured = TypeVar("Measured")


async def settled(measure: Callable[[], Measured], expected: Measured) -> Measured:
    """What is measured, at the latest after a time in which nothing is left to do: a thread may be closing something."""
    with trio.move_on_after(SETTLING_SECONDS):
        while measure() != expected:
            await trio.sleep(0.01)
    return measure()


async def nothing_ends(measure: Callable[[], object]) -> None:
    """Returns when what is measured has been the same for a while."""
    last, same = measure(), 0
    while same < STEADY:
        await trio.testing.wait_all_tasks_blocked(0.01)
        now = measure()
        last, same = now, same + 1 if now == last else 0


def left() -> tuple[int, int, set[int]]:
    """How many descriptors and tasks there are, and the children."""
    return len(descriptors()), trio.lowlevel.current_statistics().tasks_living, children()


async def every_kind_of_job(jobs: Jobs) -> None:
    """Jobs that end well, badly, by signal, by stop, that never start, and followers that leave early."""
    await run(jobs, "true")
    await run(jobs, "sh", "-c", "exit 3")
    await run(jobs, "sh", "-c", "kill -9 $$")
    await run(jobs, "sh", "-c", "setsid sleep 1000 & exit 0")
    await run(jobs, "sh", "-c", "exec >/dev/null 2>&1; exit 0")
    await ended(jobs, await jobs.start("sh", "-c", "sleep 1000 & echo up", terminal=pb.Terminal()))
    for argv in (("",), ("no-such-command",), ("true", "x" * 200_000)):
        for terminal in (None, pb.Terminal()):
            with suppress(RpcFailedError):
                await jobs.start(*argv, terminal=terminal)
    job_id = await jobs.start("sh", "-c", "echo up; sleep 1000")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ended, jobs, job_id)
        for _ in range(3):
            await until_output(jobs, job_id, b"up\n")
        await jobs.stop(job_id)


@pytest.fixture
def _unchecked_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal whose check, a minute after the start, does not end in the middle of a long test."""
    monkeypatch.setattr(journal, "CHECK_AFTER_SECONDS", math.inf)


@pytest.mark.usefixtures("_unchecked_journal")
async def test_nothing_is_left_of_jobs(server: Server) -> None:
    """Many rounds of every kind of job leave the server with the descriptors, tasks, children and cgroups of one."""
    async with server.connect() as jobs:
        await every_kind_of_job(jobs)
        await nothing_ends(left)
        before, open_before = left(), descriptors()
        for _ in range(ROUNDS):
            await every_kind_of_job(jobs)
        assert await settled(left, before) == before, set(descriptors().items()) - set(open_before.items())
    assert list((server.cgroup_root / "jobs").glob("*/")) == []


async def test_nothing_is_left_of_a_server(tmp_path: Path, certificates: Path) -> None:
    """A server that is cancelled in the middle of its jobs leaves no descriptor, task, child, cgroup or thread."""
    before, open_before = left(), descriptors()
    for round_ in range(3):
        (tmp_path / str(round_)).mkdir()
        async with serving(tmp_path / str(round_), certificates) as server, server.connect() as jobs:
            for _ in range(5):
                await jobs.start("sh", "-c", "setsid sleep 1000 & sleep 1000")
            await run(jobs, "true")
    assert await settled(left, before) == before, set(descriptors().items()) - set(open_before.items())
    assert threading.active_count() < 40


async def test_a_follower_that_is_killed_leaves_no_task(server: Server) -> None:
    """A follower whose connection is cut costs the server no task, long before it would be asked whether it lives."""
    async with server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", "echo up; sleep 1000")
        await until_output(jobs, job_id, b"up\n")
        await trio.testing.wait_all_tasks_blocked(0.05)
        before = trio.lowlevel.current_statistics().tasks_living
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(_follow_on_own_connection, server, job_id)
            while trio.lowlevel.current_statistics().tasks_living < before + 20:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        with trio.fail_after(SERVER_POLICY.quiet / 2):
            while trio.lowlevel.current_statistics().tasks_living > before:
                await trio.sleep(0.01)


async def _follow_on_own_connection(server: Server, job_id: str) -> None:
    async with server.connect() as jobs:
        await ended(jobs, job_id)


@contextmanager
def no_collection() -> Iterator[None]:
    """Keeps the cycle collector out of the block, with no garbage at its beginning."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def held() -> int:
    """TLS streams, connections and calls that have not been freed."""
    return sum(isinstance(each, (trio.SSLStream, Connection, ClientStream, ServerCall)) for each in gc.get_objects())


async def test_nothing_waits_for_the_cycle_collector(server: Server) -> None:
    """A connection, served or refused, and a call, however it ends, are freed at once: collections are far apart."""
    async with server.connect() as jobs:
        await run(jobs, "true")
        job_id = await jobs.start("sleep", "1000")
        with no_collection():
            before = held()
            for _ in range(5):
                await visit_in_every_way(server, job_id)
            assert await settled(held, before) == before


async def test_no_job_waits_for_the_cycle_collector(server: Server) -> None:
    """What runs a job is freed when the job has ended, however it does, and its record alone is kept."""
    async with server.connect() as jobs:
        await every_kind_of_job(jobs)
        await nothing_ends(held_of_jobs)
        with no_collection():
            before = held_of_jobs()
            for _ in range(3):
                await every_kind_of_job(jobs)
            assert await settled(held_of_jobs, before) == before


def held_of_jobs() -> int:
    """What runs a job that has not been freed."""
    return sum(isinstance(each, (Supervisor, OutputLog, Pump)) for each in gc.get_objects())


async def visit_in_every_way(server: Server, job_id: str) -> None:
    """A stranger, a client that says nothing, and one whose calls succeed, fail and are left."""
    tcp = await trio.open_tcp_stream("localhost", server.port)
    async with tcp:
        await tcp.send_all(b"this is not TLS")
        with suppress(trio.BrokenResourceError):
            while await tcp.receive_some():
                pass
    async with server.connect():
        pass
    async with server.connect() as jobs:
        await jobs.status(job_id)
        with suppress(RpcFailedError):
            await jobs.status("no such job")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ended, jobs, job_id)
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
