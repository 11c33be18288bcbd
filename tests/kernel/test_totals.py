"""What the jobs of one client may have together, on a kernel that enforces it: several jobs that together cannot exceed it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trio
from purerpc.grpclib.exceptions import ResourceExhaustedError

from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.harness import until_output
from tests.integration.test_configuration import clients, configured

pytestmark = pytest.mark.kernel

M = 1024**2
BOTH = clients(client2="user", client1="user")
BUSY = "while :; do :; done"
HOLD = "head -c {} /dev/zero | tail -c {} >/dev/null; echo no; sleep 1000"
# A shell that cannot fork ends; the one around it has no fork to make by then.
FORK = "sh -c 'for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1000 & done; wait' & exec sleep 1000"


def count(of_client: Path, file: str, pattern: str) -> int:
    """The greatest number that `pattern` finds in a file of the client's cgroup and its jobs'; 0 where there is none.

    Before kernel 6.11 a fork that a limit above refuses is counted in the cgroup of the process alone.
    """
    found = [re.search(pattern, path.read_text()) for path in (of_client / file, *of_client.glob(f"*/{file}"))]
    return max((int(match[1]) for match in found if match is not None), default=0)


@pytest.mark.parametrize(
    ("total", "script", "file", "pattern", "at_least"),
    [
        ("cpu_max = 0.2", BUSY, "cpu.stat", r"nr_throttled (\d+)", 10),
        ("pids_max = 30", FORK, "pids.events", r"max (\d+)", 1),
        ("memory_max = '48M'", HOLD.format(24 * M, 24 * M), "memory.events", r"oom_kill (\d+)", 1),
    ],
)
async def test_three_jobs_together(
    tmp_path: Path, certificates: Path, total: str, script: str, file: str, pattern: str, at_least: int
) -> None:
    """Each alone would be within it, and has no such limit of its own; the client's cgroup tells that it was held."""
    async with (
        configured(tmp_path, certificates, f"{BOTH}[clients.client1.total]\n{total}\n") as running,
        running.server.connect("client1") as jobs,
        running.server.connect("client2") as others,
    ):
        ids = [await jobs.start("sh", "-c", script) for _ in range(3)]
        of_client = running.server.cgroup_of(ids[0]).parent
        with trio.fail_after(60):
            while count(of_client, file, pattern) < at_least:
                await trio.sleep(0.1)
        if file == "pids.events":
            assert int((of_client / "pids.current").read_text()) <= 30
            assert all((job / "pids.max").read_text() == "4096\n" for job in of_client.iterdir() if job.is_dir())
        if file == "memory.events":
            causes = []
            for job_id in ids:
                with trio.move_on_after(5):
                    causes.append((await jobs.wait(job_id)).cause)
            killed = [cause.oom_killed for cause in causes if cause.WhichOneof("kind") == "oom_killed"]
            assert killed
            assert {each.limit_of for each in killed} == {pb.OOMLIMIT_CLIENT}
        other = await others.start("sh", "-c", "echo up; sleep 1000")
        await until_output(others, other, b"up\n")


async def test_all_processes_are_there(tmp_path: Path, certificates: Path) -> None:
    """Another Start of the client is refused, and told that it is its own jobs, not the host; another client's starts."""
    async with (
        configured(tmp_path, certificates, f"{BOTH}[clients.client1.total]\npids_max = 3\n") as running,
        running.server.connect("client1", patience=0) as jobs,
        running.server.connect("client2") as others,
    ):
        job_id = await jobs.start("sh", "-c", "sleep 1000 & sleep 1000 & echo up; exec sleep 1000")
        await until_output(jobs, job_id, b"up\n")
        with pytest.raises(
            ResourceExhaustedError, match="jobs of client1 have all 3 processes and threads that they may"
        ):
            await jobs.start("true")
        await others.start("true")
        await jobs.stop(job_id, force=True)
        await jobs.start("true")


async def test_changes_while_jobs_run(tmp_path: Path, certificates: Path) -> None:
    """A reload writes other limits to the client's cgroup; one that would kill is not written, and no further job starts."""
    async with (
        configured(tmp_path, certificates, BOTH) as running,
        running.server.connect("client1", patience=0) as jobs,
    ):
        holder = await jobs.start("sh", "-c", "x=$(head -c 30000000 /dev/zero | tr '\\0' x); echo up; sleep 1000")
        await until_output(jobs, holder, b"up\n")
        of_client = running.server.cgroup_of(holder).parent
        assert (of_client / "memory.max").read_text() == "max\n"
        await running.reload(f"{BOTH}total.memory_max = '1G'\ntotal.pids_max = 77\n", "on other terms: client1")
        assert [(of_client / file).read_text() for file in ("memory.max", "pids.max")] == [f"{1024 * M}\n", "77\n"]
        await running.reload(f"{BOTH}total.memory_max = '16M'\n", "on other terms: client1")
        assert "memory.max 16M is not written" in running.said()
        assert [(of_client / file).read_text() for file in ("memory.max", "pids.max")] == [f"{1024 * M}\n", "max\n"]
        with pytest.raises(ResourceExhaustedError, match="hold more memory than they may have together"):
            await jobs.start("true")
        assert (await jobs.status(holder)).state == pb.JOBSTATE_RUNNING
        await jobs.stop(holder, force=True)
        await jobs.status(await jobs.start("true"))
