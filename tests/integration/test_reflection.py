"""The API as clients see it that have no .proto file: grpcurl and buf, which is built on another Go stack."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.harness import Server
from tests.integration.test_grpcurl import grpcurl_binary

JOBS: Final = "jobmaster.jobs.v1.JobService"
HEALTH: Final = "grpc.health.v1.Health"
SERVICES: Final = {JOBS, HEALTH, "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}
INVALID_ARGUMENT: Final = 3


def buf_binary() -> str:
    """The buf that the dependency group `tests` brings."""
    found = shutil.which("buf", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if found is None:
        pytest.skip("there is no buf: run the tests by nox, or install the dependency group `tests`")
    return found


async def grpcurl(server: Server, *arguments: str, data: object = None) -> subprocess.CompletedProcess[bytes]:
    """Runs grpcurl as client1, without a .proto file; `data` is the request."""
    folder = server.certificates
    command = [
        grpcurl_binary(),
        *("-cacert", str(folder / "server_ca_cert.pem")),
        *("-cert", str(folder / "client1_cert.pem"), "-key", str(folder / "client1_key.pem")),
        *(() if data is None else ("-d", json.dumps(data))),
        *("-max-time", "30", f"localhost:{server.port}"),
        *arguments,
    ]
    return await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)


async def buf(
    server: Server, path: str, *arguments: str, cache: Path, data: object = None
) -> subprocess.CompletedProcess[bytes]:
    """`buf curl` as client1, which asks the server for its schema."""
    folder = server.certificates
    command = [
        *(buf_binary(), "curl", "--protocol", "grpc", "--cacert", str(folder / "server_ca_cert.pem")),
        *("--cert", str(folder / "client1_cert.pem"), "--key", str(folder / "client1_key.pem")),
        *(() if data is None else ("--data", json.dumps(data))),
        *arguments,
        f"https://localhost:{server.port}/{path}",
    ]
    environment = os.environ | {"BUF_CACHE_DIR": str(cache)}
    with trio.fail_after(60):
        return await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False, env=environment)


async def test_grpcurl_lists_the_services(server: Server) -> None:
    """`list` names every service, `list SERVICE` its methods."""
    services = await grpcurl(server, "list")
    methods = await grpcurl(server, "list", JOBS)
    assert set(services.stdout.decode().split()) == SERVICES, services.stderr
    assert set(methods.stdout.decode().split()) == {f"{JOBS}.{name}" for name in _METHODS}


_METHODS: Final = (
    *("Start", "Status", "Stop", "Wait", "Remove", "List", "Watch", "Backup"),
    *("StreamOutput", "FollowOutput", "Attach", "ServerInfo", "Signal", "Pause", "Resume", "Stats", "Drain", "Undrain"),
)


@pytest.mark.parametrize(
    ("symbol", "words"),
    [
        (JOBS, "rpc StreamOutput ( .jobmaster.jobs.v1.JobIDRequest ) returns ( stream"),
        (f"{JOBS}.Start", "rpc Start ( .jobmaster.jobs.v1.JobCreateRequest )"),
        ("jobmaster.jobs.v1.JobResponse", '.jobmaster.jobs.v1.JobID job_id_response = 1 [json_name = "jobIDResponse"]'),
        ("jobmaster.jobs.v1.JobResponse", ".google.protobuf.Timestamp started = 9"),
        ("google.protobuf.Timestamp", "int64 seconds = 1"),
        ("grpc.reflection.v1alpha.ServerReflection", "rpc ServerReflectionInfo ( stream"),
    ],
)
async def test_grpcurl_describes(server: Server, symbol: str, words: str) -> None:
    """`describe` shows services, methods and messages, those of imported files too."""
    described = await grpcurl(server, "describe", symbol)
    assert words in described.stdout.decode(), described.stderr


async def test_grpcurl_describes_everything(server: Server) -> None:
    """`describe` without a name goes through every service."""
    described = await grpcurl(server, "describe")
    assert described.returncode == 0, described.stderr
    assert all(f"{service} is a service".encode() in described.stdout for service in SERVICES)


async def test_grpcurl_on_what_there_is_not(server: Server) -> None:
    """A symbol that there is not is said to be so, and is no failure of the connection."""
    described = await grpcurl(server, "describe", "no.such.Symbol")
    assert described.returncode == 1
    assert b"Symbol not found: no.such.Symbol" in described.stderr


async def test_grpcurl_calls(server: Server) -> None:
    """A job is started, followed and asked about by JSON alone."""
    started = await grpcurl(server, f"{JOBS}/Start", data={"command": "echo", "args": ["hello"]})
    about = {"jobIDRequest": json.loads(started.stdout)}
    output = await grpcurl(server, f"{JOBS}/StreamOutput", data=about)
    status = await grpcurl(server, f"{JOBS}/Status", data=about)
    assert json.loads(output.stdout) == {"output": "aGVsbG8K"}
    assert json.loads(status.stdout)["state"] == "JOBSTATE_COMPLETED"


async def test_grpcurl_shows_the_details_of_an_error(server: Server) -> None:
    """The details of an error are decoded with the server's own description of them."""
    result = await grpcurl(server, f"{JOBS}/Start", data={"command": "ls", "args": ["a", "b\0"]})
    text = " ".join(result.stderr.decode().split())
    assert result.returncode == 64 + INVALID_ARGUMENT
    assert '"reason": "INVALID_REQUEST"' in text
    assert '"field": "args[1]"' in text


async def test_grpcurl_checks_health(server: Server) -> None:
    """The server and its service are SERVING; a service that there is not is NOT_FOUND."""
    for service in ("", *SERVICES):
        checked = await grpcurl(server, f"{HEALTH}/Check", data={"service": service})
        assert json.loads(checked.stdout) == {"status": "SERVING"}, service
    unknown = await grpcurl(server, f"{HEALTH}/Check", data={"service": "no.such.Service"})
    assert b"Code: NotFound" in unknown.stderr


async def test_buf_lists_the_methods(server: Server, tmp_path: Path) -> None:
    """The whole schema is read by buf."""
    listed = await buf(server, "", "--list-methods", cache=tmp_path)
    assert {f"{JOBS}/{name}" for name in _METHODS} <= set(listed.stdout.decode().split()), listed.stderr


async def test_buf_calls(server: Server, tmp_path: Path) -> None:
    """A job is started and asked about by JSON alone."""
    started = await buf(server, f"{JOBS}/Start", cache=tmp_path, data={"command": "sleep", "args": ["1000"]})
    about = {"jobIDRequest": json.loads(started.stdout)}
    status = await buf(server, f"{JOBS}/Status", cache=tmp_path, data=about)
    assert json.loads(status.stdout)["state"] == "JOBSTATE_RUNNING", status.stderr


async def test_buf_shows_errors(server: Server, tmp_path: Path) -> None:
    """An error arrives with code, text and the kinds of its details."""
    result = await buf(server, f"{JOBS}/Start", cache=tmp_path, data={"command": ""})
    error = json.loads(result.stderr)
    assert (error["code"], error["message"]) == ("invalid_argument", "command is empty: name the program to run")
    assert [detail["type"] for detail in error["details"]] == ["google.rpc.ErrorInfo", "google.rpc.BadRequest"]
