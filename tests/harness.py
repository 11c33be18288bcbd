"""A real server for tests: in this process, where leaks can be counted, or as the program that users start."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from jobmaster.client import Jobs, connect
from jobmaster.client.jobs import PATIENCE
from jobmaster.grpc.client import ClientConnection, ClientStream
from jobmaster.host.cgroup.mounts import find_cgroup2, read_mounts
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.server.options import ServerOptions, parse
from jobmaster.server.program import serve
from tests.processes import servers_of

REPOSITORY = Path(__file__).resolve().parents[1]
_numbers = itertools.count(1)


def cgroup_mount() -> Path:
    """The writable cgroup2 mount of this host; a test that needs it is skipped where there is none."""
    mount = find_cgroup2(read_mounts())
    if mount is None or not os.access(mount.mount_point, os.W_OK):
        pytest.skip("needs root and a writable cgroup v2 mount")
    return mount.mount_point


@contextmanager
def own_cgroup_root(*, may_be_left: bool = False) -> Iterator[Path]:
    """The path of a cgroup root of the test's own; at the end no job's cgroup may be left under it.

    Args:
        may_be_left: the server is killed in the test, which leaves empty cgroups to the next one.
    """
    root = cgroup_mount() / f"jobmaster-test-{os.getpid()}-{next(_numbers)}"
    try:
        yield root
    finally:
        left = [folder for folder in root.glob("jobs/*/*") if folder.is_dir()]
        with suppress(FileNotFoundError):
            (root / "jobs" / "cgroup.kill").write_text("1")
        for folder in sorted(root.glob("**/"), key=lambda path: -len(path.parts)):
            with suppress(OSError):
                folder.rmdir()
    assert may_be_left or not left, f"cgroups were left behind: {left}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where a server is and what it was started with."""

    port: int
    certificates: Path
    output: Path
    cgroup_root: Path
    launcher: int = 0
    """The pid of the process that was started, where it is a program of its own; the server is its child."""

    @property
    def pid(self) -> int:
        """The pid of the server itself."""
        return server_of(self.launcher)

    def servers(self) -> list[int]:
        """The children of its launcher that are no jobs: the server, where there is one."""
        return servers_of(self.launcher)

    @property
    def logs(self) -> list[Path]:
        """The files of its jobs' output."""
        return sorted(self.output.glob("*.log"))

    def connect(self, name: str = "client1", *, patience: float = PATIENCE) -> AbstractAsyncContextManager[Jobs]:
        """A connection to it as one of the clients, whose calls are repeated in vain for so many seconds."""
        return connect("localhost", self.port, folder=self.certificates, name=name, patience=patience)

    def cgroup_of(self, job_id: str, owner: str = "client1") -> Path:
        """The cgroup of one of its jobs."""
        return self.cgroup_root / "jobs" / owner / job_id


class OneConnection:
    """A channel for purerpc's stubs over a connection that is there already."""

    def __init__(self, connection: ClientConnection) -> None:
        self._host, self._port, self._grpc_socket = "localhost", 1, self
        self._connection = connection

    async def start_request(
        self, _scheme: str, service: str, method: str, _message_type: str, authority: str, **_unused: object
    ) -> ClientStream:
        """Opens a call."""
        return await self._connection.start_call(service, method, authority)


def options_for(folder: Path, certificates: Path, root: Path, *arguments: str) -> ServerOptions:
    """Options of a server that keeps to `folder`."""
    return parse(command_line_for(folder, certificates, root, *arguments))


def command_line_for(folder: Path, certificates: Path, root: Path, *arguments: str) -> list[str]:
    """The arguments of such a server."""
    return [
        *("--listen", "localhost:0", "--output-dir", str(folder / "output")),
        *("--certs-dir", str(certificates), "--cgroup-root", str(root)),
        *arguments,
    ]


@asynccontextmanager
async def serving(folder: Path, certificates: Path, *arguments: str) -> AsyncIterator[Server]:
    """A server in this process for the block; it is told to end by cancellation."""
    with own_cgroup_root() as root:
        options = options_for(folder, certificates, root, *arguments)
        async with trio.open_nursery() as nursery:
            port = await nursery.start(serve, options)
            yield Server(port=port, certificates=certificates, output=options.output_folder, cgroup_root=root)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving_program(
    folder: Path,
    certificates: Path,
    *arguments: str,
    is_killed: bool = False,
    stderr: int | None = None,
    under: Sequence[str] = (),
    cwd: Path = REPOSITORY,
) -> AsyncIterator[tuple[Server, subprocess.Popen[bytes]]]:
    """The server as a program of its own, executed by the command `under` in the folder `cwd`.

    It is told to end at the end of the block, if it still runs.
    """
    with own_cgroup_root(may_be_left=is_killed) as root:
        async with started(folder, certificates, root, *arguments, stderr=stderr, under=under, cwd=cwd) as running:
            yield running


@asynccontextmanager
async def started(
    folder: Path,
    certificates: Path,
    root: Path,
    *arguments: str,
    stderr: int | None = None,
    under: Sequence[str] = (),
    cwd: Path = REPOSITORY,
    alone: bool = False,
) -> AsyncIterator[tuple[Server, subprocess.Popen[bytes]]]:
    """As `serving_program`, with a cgroup root that outlives it; the arguments stand alone where a file says the rest."""
    command = [
        *under,
        sys.executable,
        "-m",
        "jobmaster.serve",
        *(arguments if alone else command_line_for(folder, certificates, root, *arguments)),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, cwd=cwd) as process:
        try:
            port = await trio.to_thread.run_sync(_read_port, process)
            server = Server(
                port=port,
                certificates=certificates,
                output=folder / "output",
                cgroup_root=root,
                launcher=process.pid,
            )
            yield server, process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                with trio.fail_after(60, shield=True):
                    await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
            finally:
                process.kill()


def _read_port(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(b"ready on "):
            return int(line.rpartition(b":")[2])
    raise AssertionError(f"the server never got ready and exited with {process.wait()}")


async def output_of(jobs: Jobs, job_id: str) -> bytes:
    """All output of a job, once it has ended."""
    async with jobs.stream_output(job_id) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def ended(jobs: Jobs, job_id: str) -> pb.JobResponse:
    """The record of a job, once it has ended."""
    await output_of(jobs, job_id)
    return await jobs.status(job_id)


async def run(jobs: Jobs, command: str, *args: str) -> tuple[pb.JobResponse, bytes]:
    """Runs a command to its end: its record and all its output."""
    job_id = await jobs.start(command, *args)
    output = await output_of(jobs, job_id)
    return await jobs.status(job_id), output


async def until_output(jobs: Jobs, job_id: str, text: bytes) -> None:
    """Returns when a job has written `text`."""
    seen = b""
    async with jobs.stream_output(job_id) as chunks:
        async for chunk in chunks:
            seen += chunk
            if text in seen:
                return
    raise AssertionError(f"the job ended without {text!r}: {seen!r}")


async def first_chunk(jobs: Jobs, job_id: str) -> bytes:
    """The first of a job's output."""
    async with jobs.stream_output(job_id) as chunks:
        async for chunk in chunks:
            return chunk
    raise AssertionError("the job ended without output")


def server_of(launcher: int) -> int:
    """The pid of the server that a launcher has started."""
    (server,) = servers_of(launcher)
    return server


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # reaped before the file is opened, or before it is read
        return False
