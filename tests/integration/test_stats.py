"""What a job uses, followed over mTLS and by the command line, on the real kernel."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from purerpc.grpclib.exceptions import InvalidArgumentError, NotFoundError

from tests.harness import REPOSITORY, Server, serving_program
from tests.integration.test_adoption import DEADLINE, wait_for_successor
from tests.integration.test_command_line import command

BURNS = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 1000"


async def test_a_job_is_followed(tmp_path: Path, certificates: Path) -> None:
    """Counts only grow, also over a server that crashes; the last ones are those of the record."""
    async with serving_program(tmp_path, certificates) as (server, _), server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", BURNS)
        told = []
        with trio.fail_after(DEADLINE):
            async with jobs.stats(job_id, interval_ms=100) as stats:
                async for each in stats:
                    told.append(each)
                    if len(told) == 3:
                        old = server.pid
                        os.kill(old, signal.SIGKILL)
                        await wait_for_successor(server, old)
                    if len(told) == 6:
                        await jobs.stop(job_id)
        assert [each.ended for each in told].count(True) == 1
        record = await jobs.status(job_id)
        assert told[-1].ended
        assert told[-1].usage == record.usage
        for earlier, later in pairwise(told):
            assert later.usage.cpu.user_usec.value >= earlier.usage.cpu.user_usec.value
        assert told[-1].usage.cpu.user_usec.value > 0


async def test_what_is_refused(server: Server) -> None:
    """An interval that is none, and a stranger's job."""
    async with server.connect() as jobs, server.connect("client2") as others, server.connect("superuser") as admins:
        job_id = await jobs.start("sleep", "1000")
        async with jobs.stats(job_id, interval_ms=99) as stats:
            with pytest.raises(InvalidArgumentError, match="from 100 to 60000"):
                await anext(stats)
        async with others.stats(job_id) as stats:
            with pytest.raises(NotFoundError):
                await anext(stats)
        async with admins.stats(job_id) as stats:
            assert not (await anext(stats)).ended


async def test_the_command_line(server: Server) -> None:
    """Lines of JSON for programs, a table for people; one line where that is asked for."""
    async with server.connect() as jobs:
        job_id = await jobs.start("sleep", "1000")
        run = partial(trio.run_process, cwd=REPOSITORY, capture_stdout=True)
        with trio.fail_after(DEADLINE):
            lines = (await run(command(server, "stats", "--no-follow", job_id))).stdout.splitlines()
            assert [int(json.loads(line)["usage"]["wallUsec"]) > 0 for line in lines] == [True]
            await jobs.stop(job_id)
            shown = (await run(command(server, "stats", "--table", job_id))).stdout.decode().splitlines()
        assert shown[0].startswith("TIME")
        assert shown[-1].endswith("ended")
