"""A server asked what it is, by our client and by grpcurl's kind of client: the command line."""

from __future__ import annotations

import json
import os
import sys

import trio

from jobmaster import __version__
from tests.harness import REPOSITORY, Server


async def command_line(server: Server, *words: str) -> str:
    """Standard output of the command line."""
    places = ("--server", f"localhost:{server.port}", "--certs-dir", str(server.certificates), "-n", "client1")
    done = await trio.run_process(
        [sys.executable, "-m", "jobmaster", *places, *words], capture_stdout=True, cwd=REPOSITORY
    )
    return done.stdout.decode()


async def test_info(server: Server) -> None:
    """Version, kernel, role, bounds and use are the server's and the caller's own; both forms tell them."""
    async with server.connect() as jobs, server.connect("client2") as others, server.connect("superuser") as admin:
        job_id = await jobs.start("sleep", "1000")
        info = await jobs.server_info()
        assert (info.version, info.kernel, info.client, info.role) == (
            __version__,
            os.uname().release,
            "client1",
            "user",
        )
        assert (info.running_jobs, info.max_jobs_of_client, info.max_jobs) == (1, 250, 1000)
        assert (info.output_max, info.grace_seconds) == (2**30, 10)
        assert [each.controller for each in info.enforcement] == ["cpu", "io", "memory", "pids"]
        assert all(each.enforced is not bool(each.reason) for each in info.enforcement)
        assert (await others.server_info()).running_jobs == 0
        assert (await admin.server_info()).role == "admin"
        text = await command_line(server, "info")
        assert "client     client1 (user)\njobs       1 running; 250 at most, 1000 of all clients\n" in text
        assert "output     1G at most are kept of a job's\n" in text
        document = json.loads(await command_line(server, "info", "--json"))
        assert (document["version"], document["runningJobs"]) == (__version__, 1)
        await jobs.stop(job_id)
        assert (await jobs.server_info()).running_jobs == 0
