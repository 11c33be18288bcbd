"""A server whose outputs may take little of the disk, as its users see it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import trio

from tests.harness import Server, serving_program
from tests.integration.test_command_line import jobmaster
from tests.integration.test_run import until_ready
from tests.processes import servers_of

SIZE = 600 * 1024


async def run(server: Server, *arguments: str) -> str:
    """Runs a job to its end: its id."""
    started = await jobmaster(server, "run", "-d", *arguments)
    job_id = started.stdout.decode().strip()
    await jobmaster(server, "wait", job_id)
    return job_id


async def status(server: Server, job_id: str) -> Any:
    """Its record."""
    return json.loads((await jobmaster(server, "status", "--json", job_id)).stdout)


async def until_pruned(server: Server, job_id: str) -> Any:
    """Its record, when its output is removed."""
    with trio.fail_after(30):
        while not (record := await status(server, job_id)).get("outputPruned"):
            await trio.sleep(0.2)
    return record["outputPruned"]


async def test_outputs_that_take_too_much(tmp_path: Path, certificates: Path) -> None:
    """The oldest goes, and readers are told, also by a later server; where running jobs alone take it all, none is started."""
    async with serving_program(tmp_path, certificates, "--output-folder-max", "1M") as (server, _process):
        first = await run(server, "head", "-c", str(SIZE), "/dev/zero")
        second = await run(server, "head", "-c", str(SIZE), "/dev/zero")
        pruned = await until_pruned(server, first)
        assert pruned["bytes"] == str(SIZE)
        assert pruned["reason"] == "the outputs of all jobs take as much as they may (1M)"

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

        script = f"head -c {2 * SIZE} /dev/zero; for i in $(seq 200); do sleep 0.05; echo; done"
        running = (await jobmaster(server, "run", "-d", "sh", "-c", script)).stdout.decode().strip()
        await until_pruned(server, second)
        with trio.fail_after(30):
            while (refused := await jobmaster(server, "start", "true")).returncode == 0:
                await trio.sleep(0.2)
        assert b"RESOURCE_EXHAUSTED" in refused.stderr
        assert (
            b"the outputs of all jobs take as much as they may (1M), and what can be removed of it is" in refused.stderr
        )
        with trio.fail_after(30):
            while not int((record := await status(server, running))["outputBytesLost"]):
                await trio.sleep(0.2)
        assert int(record["outputBytes"]) >= 2 * SIZE
        os.kill(servers_of(server.launcher)[0], signal.SIGKILL)
        await jobmaster(server, "wait", running)
        record = await status(server, running)
        kept = int(record.get("outputPruned", {}).get("bytes", record["outputBytes"]))
        assert kept + int(record["outputBytesLost"]) == 2 * SIZE + 200
