"""The contract as the real grpcurl binary sees it."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from functools import partial
from typing import Any

import pytest
import trio

from tests.harness import REPOSITORY, Server

SERVICE = "jobmaster.jobs.v1.JobService"


def grpcurl_binary() -> str:
    """The grpcurl that the nox session provides."""
    found = shutil.which("grpcurl")
    assert found is not None, "grpcurl is not on PATH: run the tests by nox, which installs it"
    return found


def command_line(server: Server, method: str, request: dict[str, Any], name: str = "client1") -> list[str]:
    """A grpcurl call as one of the clients."""
    folder = server.certificates
    return [
        grpcurl_binary(),
        *("-cacert", str(folder / "server_ca_cert.pem")),
        *("-cert", str(folder / f"{name}_cert.pem"), "-key", str(folder / f"{name}_key.pem")),
        *("-import-path", str(REPOSITORY / "proto"), "-proto", "jobmaster/jobs/v1/jobs.proto"),
        *("-d", json.dumps(request), f"localhost:{server.port}", f"{SERVICE}/{method}"),
    ]


async def call(server: Server, method: str, request: dict[str, Any]) -> Any:
    """The JSON answer of a unary call."""
    result = await trio.run_process(command_line(server, method, request), capture_stdout=True, capture_stderr=True)
    return json.loads(result.stdout)


def about(job_id: str) -> dict[str, Any]:
    """A JobIDRequest."""
    return {"jobIDRequest": {"jobID": job_id}}


async def test_start_status_stop(server: Server) -> None:
    """Start, Status (1, no `ended`), Stop (2, -1, signal named), and Stop again the same."""
    job_id = (await call(server, "Start", {"command": "sleep", "args": ["1000"]}))["jobID"]
    running = await call(server, "Status", about(job_id))
    stopped = await call(server, "Stop", about(job_id))
    again = await call(server, "Stop", about(job_id))
    assert running["state"] == "JOBSTATE_RUNNING"
    assert "ended" not in running
    assert (stopped["state"], stopped["exitCode"], stopped["signalStr"]) == (
        "JOBSTATE_TERMINATED_BY_API",
        -1,
        "terminated",
    )
    assert "ended" in stopped
    assert again == stopped


async def test_exit_code(server: Server) -> None:
    """Status of `sh -c 'exit 7'` is state 3 with exitCode 7."""
    job_id = (await call(server, "Start", {"command": "sh", "args": ["-c", "exit 7"]}))["jobID"]
    await trio.run_process(command_line(server, "StreamOutput", about(job_id)), capture_stdout=True)
    record = await call(server, "Status", about(job_id))
    assert (record["state"], record["exitCode"]) == ("JOBSTATE_COMPLETED", 7)
    assert record["jobIDResponse"]["jobID"] == job_id
    assert record["cmd"] == {"command": "sh", "args": ["-c", "exit 7"]}


async def test_stream_output_is_live(server: Server) -> None:
    """StreamOutput delivers what a job has written while the job still runs, and ends when it is stopped."""
    job_id = (await call(server, "Start", {"command": "sh", "args": ["-c", "echo early; sleep 1000"]}))["jobID"]
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(trio.run_process, command_line(server, "StreamOutput", about(job_id)), stdout=subprocess.PIPE)
        )
        seen = b""
        while b"}" not in seen:
            seen += await process.stdout.receive_some()
        assert base64.b64decode(json.loads(seen)["output"]) == b"early\n"
        assert (await call(server, "Status", about(job_id)))["state"] == "JOBSTATE_RUNNING"
        await call(server, "Stop", about(job_id))


@pytest.mark.parametrize(
    ("method", "request_", "code", "words"),
    [
        ("Status", about("nope"), "NotFound", "no such job"),
        ("Start", {"command": ""}, "InvalidArgument", "command is empty"),
        ("Start", {"command": "no-such-command"}, "FailedPrecondition", "not found"),
    ],
)
async def test_errors(server: Server, method: str, request_: dict[str, Any], code: str, words: str) -> None:
    """Errors come with their status and a text that says what is wrong."""
    result = await trio.run_process(
        command_line(server, method, request_), capture_stdout=True, capture_stderr=True, check=False
    )
    assert f"Code: {code}".encode() in result.stderr
    assert words.encode() in result.stderr
