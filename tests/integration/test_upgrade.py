"""A server that is replaced by another one while its jobs go on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import trio

from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.harness import Server, first_chunk, serving_program


def is_replaced(server: Server, old: int) -> bool:
    """Whether there is another server than the old one."""
    try:
        return server.pid != old
    except (ValueError, FileNotFoundError):  # there is none just now
        return False


async def test_an_upgrade_ends_no_job(tmp_path: Path, certificates: Path) -> None:
    """At SIGUSR2 to the launcher another server goes on with the jobs; their followers see all bytes, once."""
    async with serving_program(tmp_path, certificates) as (server, _), server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", "trap 'echo down; exit 7' USR1; echo up; while :; do sleep 0.01; done")
        await first_chunk(jobs, job_id)
        pid, old = (await jobs.status(job_id)).pid, server.pid
        output = b""
        async with jobs.stream_output(job_id) as chunks:
            async for chunk in chunks:
                output += chunk
                if output == b"up\n":
                    os.kill(server.launcher, signal.SIGUSR2)
                    with trio.fail_after(60):
                        while not is_replaced(server, old):
                            await trio.sleep(0.01)
                    os.kill(pid, signal.SIGUSR1)
        assert output == b"up\ndown\n"
        record = await jobs.wait(job_id)
        assert (record.pid, record.state, record.exit_code) == (pid, pb.JOBSTATE_COMPLETED, 7)
