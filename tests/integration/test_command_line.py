"""The command line as a user types it, against a real server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.harness import REPOSITORY, Server


async def jobmaster(server: Server, *arguments: str, name: str = "client1") -> subprocess.CompletedProcess[bytes]:
    """Runs the client as a program."""
    target = ["--server", f"localhost:{server.port}", "--certs-dir", str(server.certificates), "-n", name]
    command = [sys.executable, "-m", "jobmaster", *target, *arguments]
    return await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False, cwd=REPOSITORY)


async def start(server: Server, *argv: str) -> str:
    """Starts a job: its id, which is all that is printed."""
    result = await jobmaster(server, "start", *argv)
    assert (result.returncode, result.stderr) == (0, b"")
    job_id = result.stdout.decode()
    assert job_id.endswith("\n")
    assert len(job_id) == 28
    return job_id.strip()


@pytest.mark.parametrize(
    ("argv", "output"),
    [
        (("echo", "-n", "a  b"), b"a  b"),
        (("printf", "%s|", "--json", "-n", "x", "--", "y z", ""), b"--json|-n|x|--|y z||"),
        (("--", "printf", "%s|", "--"), b"--|"),
        (("sh", "-c", 'printf "%s" "$0 $1"', "one", "--server"), b"one --server"),
    ],
)
async def test_command_is_untouched(server: Server, argv: tuple[str, ...], output: bytes) -> None:
    """Everything after `start` is the command, options and empty words included."""
    job_id = await start(server, *argv)
    result = await jobmaster(server, "streamoutput", job_id)
    assert (result.returncode, result.stdout) == (0, output)


async def test_logs_and_status(server: Server) -> None:
    """`logs` prints the output and nothing else; `status` a block for people and, with --json, a line for programs."""
    job_id = await start(server, "sh", "-c", "echo hello; exit 7")
    assert (await jobmaster(server, "logs", job_id)).stdout == b"hello\n"
    block = (await jobmaster(server, "status", job_id)).stdout.decode()
    assert "exit code  7" in block
    assert "JOBSTATE_COMPLETED (exited with code 7)" in block
    line = (await jobmaster(server, "status", "--json", job_id)).stdout
    assert line.count(b"\n") == 1
    assert json.loads(line)["exitCode"] == 7
    assert json.loads(line)["jobIDResponse"] == {"jobID": job_id}


async def test_stop(server: Server) -> None:
    """`stop` waits for the end and prints the record."""
    job_id = await start(server, "sleep", "1000")
    result = await jobmaster(server, "stop", "--json", job_id)
    assert json.loads(result.stdout)["signalStr"] == "terminated"


@pytest.mark.parametrize(
    ("arguments", "name", "code", "words"),
    [
        (("status", "nope"), "client1", 1, b"no such job (NOT_FOUND)"),
        (("start", "no-such-command"), "client1", 1, b"not found in the jobs' PATH"),
        (("start",), "client1", 2, b"name the command to run"),
        (("frobnicate",), "client1", 2, b"invalid choice"),
        (("status", "nope"), "stranger", 2, b"stranger_cert.pem"),
    ],
)
async def test_failures(server: Server, arguments: tuple[str, ...], name: str, code: int, words: bytes) -> None:
    """A failure says on stderr what is wrong, prints nothing on stdout, and exits 1 when refused, 2 for usage."""
    result = await jobmaster(server, *arguments, name=name)
    assert (result.returncode, result.stdout) == (code, b"")
    assert words in result.stderr
    assert b"Traceback" not in result.stderr


async def test_server_that_is_not_there(certificates: Path) -> None:
    """Where no server answers, the client says where it looked and exits 1."""
    target = ["--server", "127.0.0.1:1", "--certs-dir", str(certificates), "-n", "client1"]
    result = await trio.run_process(
        [sys.executable, "-m", "jobmaster", *target, "status", "x"], capture_stderr=True, check=False, cwd=REPOSITORY
    )
    assert result.returncode == 1
    assert b"cannot connect to 127.0.0.1:1" in result.stderr


async def test_reader_that_has_seen_enough(server: Server) -> None:
    """A closed pipe ends `logs` without a traceback."""
    job_id = await start(server, "sh", "-c", "while :; do echo line; done")
    target = f"--server localhost:{server.port} --certs-dir {server.certificates} -n client1"
    result = await trio.run_process(
        ["sh", "-c", f"{sys.executable} -m jobmaster {target} logs {job_id} | head -n 1"],
        capture_stdout=True,
        capture_stderr=True,
        cwd=REPOSITORY,
    )
    assert (result.stdout, result.stderr) == (b"line\n", b"")


async def test_interrupted(server: Server) -> None:
    """Ctrl-C ends `logs` with 130 and leaves the job alone."""
    job_id = await start(server, "sh", "-c", "echo up; sleep 1000")
    target = ["--server", f"localhost:{server.port}", "--certs-dir", str(server.certificates), "-n", "client1"]
    command = [sys.executable, "-m", "jobmaster", *target, "logs", job_id]
    async with trio.open_nursery() as nursery:
        run = partial(trio.run_process, command, stdout=subprocess.PIPE, check=False, cwd=REPOSITORY)
        process = await nursery.start(run)
        assert await process.stdout.receive_some() == b"up\n"
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
    assert b"JOBSTATE_RUNNING" in (await jobmaster(server, "status", job_id)).stdout
