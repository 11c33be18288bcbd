"""A server that is replaced by another one while its jobs go on."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest
import trio
from purerpc.grpclib.exceptions import RpcFailedError

from jobmaster.certs.credentials import client_context
from jobmaster.grpc.channel import open_channel
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.jobs.v1.jobs_grpc import JobServiceStub
from tests.harness import Server, ended, first_chunk, serving_program
from tests.integration.test_adoption import DEADLINE, wait_for_successor


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


@pytest.mark.parametrize("request_id", ["", "request"])
async def test_a_start_that_an_upgrade_refuses(tmp_path: Path, certificates: Path, request_id: str) -> None:
    """Its command is not executed afterwards, and nothing of it is told; with a request id it is, and found by that."""
    async with (
        serving_program(tmp_path, certificates) as (server, _),
        server.connect() as jobs,
        open_channel("localhost", server.port, client_context(certificates, "client1")) as channel,
    ):
        freezer = server.cgroup_of(await jobs.start("sleep", "1000")).parent / "cgroup.freeze"
        freezer.write_text("1")  # so that its process does not come to the command
        with tempfile.TemporaryDirectory() as shared, trio.fail_after(DEADLINE):
            Path(shared).chmod(0o777)
            mark, old = Path(shared, "mark"), server.pid
            request = pb.JobCreateRequest(command="touch", args=[str(mark)], request_id=request_id)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(refused, JobServiceStub(channel), request)  # type: ignore[no-untyped-call]  # generated
                async with jobs.watch(0) as events:
                    while (await anext(events)).launched.cmd.command != "touch":
                        pass
                os.kill(server.launcher, signal.SIGUSR2)
            await wait_for_successor(server, old)
            freezer.write_text("0")
            if request_id:
                job_id = await jobs.start("touch", str(mark), request_id=request_id)
                assert (await ended(jobs, job_id)).exit_code == 0
            while len(list(freezer.parent.glob("*/"))) > 1:
                await trio.sleep(0.01)
            commands = [job.cmd.command async for job in jobs.list()]
            assert (mark.exists(), commands) == ((True, ["touch", "sleep"]) if request_id else (False, ["sleep"]))


async def refused(stub: JobServiceStub, request: pb.JobCreateRequest) -> None:
    """A Start that is answered UNAVAILABLE."""
    with pytest.raises(RpcFailedError) as caught:
        await stub.Start(request)
    assert caught.value.status.status_code.name == "UNAVAILABLE"
