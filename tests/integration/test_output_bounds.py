"""A server whose outputs may take little of the disk, as its users see it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import trio

from jobmaster.client import RpcFailedError
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.harness import Server, serving_program
from tests.integration.test_command_line import jobmaster
from tests.integration.test_run import until_ready
from tests.processes import servers_of

SIZE = 600 * 1024


async def run(server: Server, *arguments: str) -> str:
    """Runs a job to its end: its id."""
    async with server.connect() as jobs:
        job_id = await jobs.start(*arguments)
        await jobs.wait(job_id)
    return job_id


async def until(server: Server, job_id: str, is_so: Callable[[pb.JobResponse], object]) -> pb.JobResponse:
    """The first record of a job of which that holds."""
    async with server.connect() as jobs:
        with trio.fail_after(30):
            while not is_so(record := await jobs.status(job_id)):
                await trio.sleep(0.05)
    return record


async def until_pruned(server: Server, job_id: str) -> pb.OutputPruned:
    """What is told of the removal of a job's output, when it is removed."""
    return (await until(server, job_id, lambda record: record.HasField("output_pruned"))).output_pruned


async def test_outputs_that_take_too_much(tmp_path: Path, certificates: Path) -> None:
    """The oldest goes, and readers are told, also by a later server; where running jobs alone take it all, none is started."""
    async with serving_program(tmp_path, certificates, "--output-folder-max", "1M") as (server, _process):
        first = await run(server, "head", "-c", str(SIZE), "/dev/zero")
        second = await run(server, "head", "-c", str(SIZE), "/dev/zero")
        pruned = await until_pruned(server, first)
        assert pruned.bytes == SIZE
        assert pruned.reason == "the outputs of all jobs take as much as they may (1M)"

        os.kill(servers_of(server.launcher)[0], signal.SIGKILL)
        await until_ready(server)
        read = await jobmaster(server, "logs", first)
        assert (read.returncode, read.stdout) == (0, b"")
        assert b"614400 bytes" in read.stderr
        assert b"was removed to make room" in read.stderr
        streamed = await jobmaster(server, "streamoutput", first)
        assert streamed.returncode == 1
        assert b"does not have 614400 bytes" in streamed.stderr
        assert len((await jobmaster(server, "logs", second)).stdout) == SIZE
        shown = await jobmaster(server, "status", first)
        assert b"614400 bytes, removed" in shown.stdout

        script = (
            f"trap go=1 USR1; head -c {2 * SIZE} /dev/zero; i=0; "
            "while [ -z $go ]; do sleep 0.05; echo; i=$((i+1)); done; exit $((i%256))"
        )
        async with server.connect() as jobs:
            running = await jobs.start("sh", "-c", script)
            await until_pruned(server, second)
            with trio.fail_after(30), suppress(RpcFailedError):
                while await jobs.start("true"):
                    await trio.sleep(0.05)
        refused = await jobmaster(server, "start", "true")
        assert refused.returncode == 1
        assert b"RESOURCE_EXHAUSTED" in refused.stderr
        assert (
            b"the outputs of all jobs take as much as they may (1M), and what can be removed of it is" in refused.stderr
        )
        record = await until(server, running, lambda record: record.output_bytes_lost)
        assert record.output_bytes >= 2 * SIZE
        os.kill(servers_of(server.launcher)[0], signal.SIGKILL)
        await until_ready(server)
        os.kill(record.pid, signal.SIGUSR1)
        async with server.connect() as jobs:
            record = await jobs.wait(running)
        kept = record.output_pruned.bytes if record.HasField("output_pruned") else record.output_bytes
        lines = kept + record.output_bytes_lost - 2 * SIZE
        assert lines > 0
        assert lines % 256 == record.exit_code
