"""The command line as a user types it, against a real server."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest
import trio

from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.harness import REPOSITORY, Server, until_output
from tests.harness import output_of as all_output

DEADLINE = 60  # seconds; only a hang reaches it


PIPE_SIZE = 65536  # bytes that a pipe holds unless it was told otherwise; pipe(7)


def command(server: Server, *arguments: str, name: str = "client1") -> list[str]:
    """The client as a program."""
    target = ["--server", f"localhost:{server.port}", "--certs-dir", str(server.certificates), "-n", name]
    return [sys.executable, "-m", "jobmaster", *target, *arguments]


@asynccontextmanager
async def started(*argv: str) -> AsyncIterator[trio.Process]:
    """A program with pipes for its output; killed at the end of the block, where it still runs."""
    async with trio.open_nursery() as nursery:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = await nursery.start(partial(trio.run_process, argv, check=False, cwd=REPOSITORY, **pipes))
        yield process
        nursery.cancel_scope.cancel()


async def exit_status(process: trio.Process) -> int:
    """How a program ended; an error where it does not."""
    with trio.fail_after(DEADLINE):
        return await process.wait()


@pytest.fixture
def full_device() -> Iterator[BinaryIO]:
    """A device that takes nothing."""
    with open("/dev/full", "wb", buffering=0) as full:
        yield full


def output_of(process: trio.Process) -> trio.lowlevel.FdStream:
    """The pipe of a program's standard output."""
    assert isinstance(process.stdout, trio.lowlevel.FdStream)
    return process.stdout


def waiting_in(pipe: trio.lowlevel.FdStream) -> int:
    """How many bytes a pipe holds that nobody has read."""
    answer = fcntl.ioctl(pipe.fileno(), termios.FIONREAD, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


async def jobmaster(server: Server, *arguments: str, name: str = "client1") -> subprocess.CompletedProcess[bytes]:
    """Runs the client to its end."""
    argv = command(server, *arguments, name=name)
    return await trio.run_process(argv, capture_stdout=True, capture_stderr=True, check=False, cwd=REPOSITORY)


async def start(server: Server, *argv: str) -> str:
    """Starts a job by a call of this process, which pays no imports as a program does: its id."""
    async with server.connect() as jobs:
        return await jobs.start(*argv)


async def started_as_typed(server: Server, *argv: str) -> str:
    """Starts a job by the program: its id, which is all that is printed."""
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
    job_id = await started_as_typed(server, *argv)
    async with server.connect() as jobs:
        assert await all_output(jobs, job_id) == output


async def test_output_under_its_other_name(server: Server) -> None:
    """`streamoutput` prints it as well."""
    result = await jobmaster(server, "streamoutput", await start(server, "echo", "-n", "a  b"))
    assert (result.returncode, result.stdout) == (0, b"a  b")


async def test_logs_and_status(server: Server) -> None:
    """`logs` prints the output and nothing else; `status` a block for people and, with --json, a line for programs."""
    job_id = await started_as_typed(server, "sh", "-c", "echo hello; exit 7")
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


async def test_rm(server: Server) -> None:
    """`rm` removes the ended jobs among those that are named, says why not the others, and exits 1 then."""
    first, second, running = [await start(server, *argv) for argv in (["true"], ["true"], ["sleep", "1000"])]
    async with server.connect() as jobs:
        for job_id in (first, second):
            await jobs.wait(job_id)
    result = await jobmaster(server, "rm", first, running, second)
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr.startswith(f"jobmaster: {running}: the job has not ended".encode())
    assert [path.stem for path in server.logs] == [running]
    async with server.connect() as jobs:
        await jobs.stop(running)
    result = await jobmaster(server, "rm", running)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


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


async def test_first_word_with_a_dash(server: Server) -> None:
    """A command that looks like an option is a command; the server says that it has no such program."""
    result = await jobmaster(server, "start", "-x")
    assert result.returncode == 1
    assert b"'-x' not found in the jobs' PATH" in result.stderr


async def test_nowhere_to_print_the_id(server: Server, full_device: BinaryIO) -> None:
    """Where standard output takes nothing no job is started."""
    result = await trio.run_process(
        command(server, "start", "true"), stdout=full_device, capture_stderr=True, check=False, cwd=REPOSITORY
    )
    assert result.returncode == 1
    assert b"No space left on device: there is nowhere to print the id of a job, so none was started" in result.stderr
    assert server.logs == []


async def test_the_id_is_never_lost(server: Server, tmp_path: Path) -> None:
    """Where standard output fails after the job was started, standard error has the id."""
    with (tmp_path / "stdout").open("wb") as file:
        result = await trio.run_process(
            ["bash", "-c", 'ulimit -f 0; exec "$@"', "bash", *command(server, "start", "sleep", "1000")],
            stdout=file,
            capture_stderr=True,
            check=False,
            cwd=REPOSITORY,
        )
    assert result.returncode == 1
    text, _, job_id = result.stderr.decode().strip().partition(": started the job ")
    assert text == "jobmaster: standard output: File too large"
    async with server.connect() as jobs:
        await jobs.stop(job_id)


async def test_output_into_a_non_blocking_pipe(server: Server) -> None:
    """A pipe that its owner made non-blocking gets every byte."""
    job_id = await start(server, "seq", "1", "100000")
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    async with trio.open_nursery() as nursery, trio.lowlevel.FdStream(reading) as stream:
        run = partial(trio.run_process, command(server, "logs", job_id), stdout=writing, cwd=REPOSITORY)
        await nursery.start(run)
        os.close(writing)
        received = b"".join([chunk async for chunk in stream])
    assert received == b"".join(b"%d\n" % number for number in range(1, 100001))


async def test_output_into_a_full_device(server: Server, full_device: BinaryIO) -> None:
    """`logs` ends with the reason where its output goes nowhere."""
    job_id = await start(server, "echo", "hello")
    result = await trio.run_process(
        command(server, "logs", job_id), stdout=full_device, capture_stderr=True, check=False, cwd=REPOSITORY
    )
    assert (result.returncode, result.stderr) == (1, b"jobmaster: standard output: No space left on device\n")


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
    async with started(*command(server, "logs", job_id)) as process:
        assert await output_of(process).receive_some() == b"up\n"
        process.send_signal(signal.SIGINT)
        assert await exit_status(process) == 130
    async with server.connect() as jobs:
        assert (await jobs.status(job_id)).state == pb.JOBSTATE_RUNNING


async def test_interrupted_while_its_reader_stalls(server: Server) -> None:
    """Ctrl-C ends `logs` also where the pipe it writes to is full and nobody reads."""
    job_id = await start(server, "sh", "-c", "while :; do echo line; done")
    async with started(*command(server, "logs", job_id)) as process:
        while waiting_in(output_of(process)) < PIPE_SIZE:
            await trio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert await exit_status(process) == 130


@pytest.mark.parametrize("verb", ["start", "stop", "status", "logs"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
async def test_interrupted_in_a_call(certificates: Path, verb: str, number: signal.Signals, code: int) -> None:
    """Ctrl-C ends any call with 130, SIGTERM as it ends any program, and neither with a word."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    target = ["--server", f"127.0.0.1:{port}", "--certs-dir", str(certificates), "-n", "client1"]
    async with listener, started(sys.executable, "-m", "jobmaster", *target, verb, "x") as process:
        async with await listener.accept():  # a server that never answers
            process.send_signal(number)
            assert await exit_status(process) == code
        assert process.stderr is not None
        assert (await output_of(process).receive_some(), await process.stderr.receive_some()) == (b"", b"")


async def test_interrupted_in_a_stop(server: Server) -> None:
    """Ctrl-C ends a `stop` that waits for the grace period of a job that does not want to end."""
    job_id = await start(server, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done")
    async with server.connect() as jobs:
        await until_output(jobs, job_id, b"up\n")
        async with started(*command(server, "stop", job_id)) as process:
            while "stopping" not in (await jobs.status(job_id)).job_msg:
                await trio.sleep(0.01)
            process.send_signal(signal.SIGINT)
            assert await exit_status(process) == 130
