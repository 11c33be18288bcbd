"""Jobs that hold the locks of their pipes while the server dies: another one follows, and goes on with all other jobs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
import trio

from jobmaster.client import Jobs, RpcFailedError
from jobmaster.grpc.purerpc_adapter import StatusCode
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.harness import REPOSITORY, output_of, serving_program, until_output
from tests.integration.test_upgrade import is_replaced

DEADLINE: Final = 60.0
PYTHON: Final = "/usr/bin/python3"
FILLS_STDOUT: Final = """
import os, signal, socket
idle, peer = socket.socketpair()
signal.signal(signal.SIGWINCH, lambda *_: peer.send(b"line\\n"))
if os.fork():
    os.wait()
while True:
    os.splice(idle.fileno(), 1, 1 << 16)
"""
"""A process of it, not the main one, splices to its output from a socket to which it sends a line when it is told to."""
EMPTIES_STDIN: Final = """
import array, fcntl, os, socket, termios
full, peer = socket.socketpair()
full.setblocking(False)
try:
    while True:
        full.send(bytes(4096))
except BlockingIOError:
    full.setblocking(True)
waiting = array.array("i", [0])
while waiting[0] < 65536:
    fcntl.ioctl(0, termios.FIONREAD, waiting)
while True:
    os.splice(0, full.fileno(), 1 << 20)
"""
"""It splices its input, of which a part has come, to a socket from which nothing is read."""
TAKES_PIPES: Final = """
import os, socket, sys, threading
full, peer = socket.socketpair()
full.setblocking(False)
try:
    while True:
        full.send(bytes(4096))
except BlockingIOError:
    full.setblocking(True)
idle, other = socket.socketpair()
listener = socket.socket(socket.AF_UNIX)
listener.bind("\\0" + sys.argv[1])
listener.listen()
print("up", flush=True)
def waits():
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/wchan") as file:
            where = file.read()
        if "sock" in where or "unix" in where:
            return True
while True:
    connection, _ = listener.accept()
    pipe = socket.recv_fds(connection, 1, 1)[1][0]
    ends = (idle.fileno(), pipe) if sys.argv[2] == "output" else (pipe, full.fileno())
    threading.Thread(target=os.splice, args=(*ends, 1 << 16)).start()
    while not waits():
        pass
    connection.send(b"k")
"""
"""It takes the lock of each pipe that another job passes to it, for as long as it lives."""
PASSES_PIPE: Final = """
import select, socket, sys
fd = ["input", "output"].index(sys.argv[2])
if fd == 0:
    select.select([0], [], [])
connection = socket.socket(socket.AF_UNIX)
connection.connect("\\0" + sys.argv[1])
socket.send_fds(connection, [b"x"], [fd])
connection.recv(1)
"""
KEEPS_CGROUP: Final = '        "cgroup": entry.cgroup,\n'
"""What an older program of the launcher has not written for the one that replaces it."""
COUNTS: Final = "trap 'echo last; exit 7' USR1; i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"


BLOCK: Final = bytes(65536)


class Source(AsyncIterator[bytes]):
    """Input: a block, and when something is so either its end, or more than anybody takes."""

    def __init__(self, ready: Callable[[], Awaitable[None]], more: int) -> None:
        self._ready = ready
        self._left = 1 + more
        self._given = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._given == 1:
            await self._ready()
        self._given += 1
        if self._left == 0:
            raise StopAsyncIteration
        self._left -= 1
        return BLOCK


def waits(pid: int, *where: str) -> bool:
    """Whether a thread of a process waits in a function of the kernel whose name has one of these parts."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            name = (task / "wchan").read_text()
            if any(part in name for part in where):
                return True
    return False


async def until_waits(pid: int, *where: str) -> None:
    """Waits for that."""
    with trio.fail_after(DEADLINE):
        while not waits(pid, *where):
            await trio.sleep(0.01)


async def until_held_up(pid: int, server: int) -> None:
    """Has a job that fills its output hold up a thread of the server."""
    while not waits(server, "pipe", "splice"):  # when it comes for a line after the next splice has begun
        os.kill(pid, signal.SIGWINCH)  # ignored until the job handles it
        with trio.move_on_after(0.5):
            await until_waits(server, "pipe", "splice")


async def start_holder(jobs: Jobs, kind: str, server: int, nursery: trio.Nursery) -> str:
    """Starts a job for whose pipe a thread of the server waits."""
    if kind == "output":
        job_id = await jobs.start(PYTHON, "-c", FILLS_STDOUT)
        await until_held_up((await jobs.status(job_id)).pid, server)
        return job_id
    job_id = await jobs.start(PYTHON, "-c", EMPTIES_STDIN, stdin=True)
    pid = (await jobs.status(job_id)).pid
    source = Source(lambda: until_waits(pid, "sock_alloc_send"), more=0 if kind == "ended input" else 1000)

    async def write() -> None:
        async with jobs.attach(job_id) as attachment, trio.open_nursery() as own:
            own.start_soon(attachment.send, source)  # noqa: ASYNC113  # what it sends may have no end
            async for _ in attachment:
                pass

    nursery.start_soon(write)
    await until_waits(server, "pipe_release" if kind == "ended input" else "splice_file_to_pipe")
    return job_id


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("output", signal.SIGKILL),
        ("input", signal.SIGKILL),
        ("ended input", signal.SIGKILL),
        ("output", signal.SIGUSR2),
        ("input", signal.SIGUSR2),
    ],
)
async def test_another_server_follows(tmp_path: Path, certificates: Path, kind: str, number: signal.Signals) -> None:
    """The job that holds the lock is ended, named and recorded as ended by the server; all others go on, with every byte."""
    with (tmp_path / "stderr").open("wb") as stderr, trio.fail_after(DEADLINE):
        async with (
            serving_program(tmp_path, certificates, stderr=stderr.fileno()) as (server, _),
            server.connect("client1") as jobs,
            server.connect("client2") as others,
        ):
            other = await others.start("sh", "-c", COUNTS)
            await until_output(others, other, b"1\n")
            old = server.pid
            async with trio.open_nursery() as nursery:
                holder = await start_holder(jobs, kind, old, nursery)
                os.kill(old if number == signal.SIGKILL else server.launcher, number)
                while not is_replaced(server, old):
                    await trio.sleep(0.01)
                record = await jobs.wait(holder)
                nursery.cancel_scope.cancel()
            os.kill((await others.status(other)).pid, signal.SIGUSR1)
            lines = (await output_of(others, other)).decode().split()
            assert lines == [*map(str, range(1, len(lines))), "last"]
            assert (await others.wait(other)).exit_code == 7
    assert (record.state, record.cause.stopped.by) == (pb.JOBSTATE_TERMINATED_BY_API, "")
    assert record.cause.stopped.reason.startswith("it held the lock of a pipe")
    assert f"they are ended: {holder}\n" in (tmp_path / "stderr").read_text()


async def until_refused(jobs: Jobs) -> str:
    """Starts jobs, one after the other, until no other one may be started; returns what is said then."""
    while True:
        try:
            job_id = await jobs.start("true")
        except RpcFailedError as error:
            if error.status.status_code is not StatusCode.RESOURCE_EXHAUSTED:
                raise
            return str(error)
        await jobs.wait(job_id)


async def until_started(jobs: Jobs) -> None:
    """Tries until a job may be started."""
    while True:
        with suppress(RpcFailedError):
            await jobs.wait(await jobs.start("true"))
            return


async def test_after_an_older_launcher(tmp_path: Path, certificates: Path) -> None:
    """A job of which an older program of the launcher has not kept the cgroup is ended with all of its processes."""
    package = tmp_path / "program" / "jobmaster"
    shutil.copytree(REPOSITORY / "jobmaster", package)
    snapshot = package / "launcher" / "snapshot.py"
    newer = snapshot.read_text()
    assert newer.count(KEEPS_CGROUP) == 1
    snapshot.write_text(newer.replace(KEEPS_CGROUP, ""))
    with (tmp_path / "stderr").open("wb") as stderr, trio.fail_after(DEADLINE):
        async with (
            serving_program(tmp_path, certificates, stderr=stderr.fileno(), cwd=package.parent) as (server, _),
            server.connect("client1") as jobs,
        ):
            holder = await jobs.start(PYTHON, "-c", FILLS_STDOUT)
            snapshot.write_text(newer)
            old = server.pid
            os.kill(server.launcher, signal.SIGUSR2)
            while not is_replaced(server, old):
                await trio.sleep(0.01)
            await until_held_up((await jobs.status(holder)).pid, old := server.pid)
            os.kill(old, signal.SIGKILL)
            while not is_replaced(server, old):
                await trio.sleep(0.01)
            record = await jobs.wait(holder)
    assert record.cause.stopped.reason.startswith("it held the lock of a pipe")
    said = (tmp_path / "stderr").read_text()
    assert "the launcher's program has changed" in said
    assert f"they are ended: {holder}\n" in said


@pytest.mark.parametrize("kind", ["output", "input"])
async def test_pipes_that_are_passed_on(tmp_path: Path, certificates: Path, kind: str) -> None:
    """A job that has ended counts as long as a thread is left in its pipe, by whoever holds that up; others are not harmed."""
    async with (
        serving_program(tmp_path, certificates, "--max-jobs", "8") as (server, _),
        server.connect("client1") as jobs,
        server.connect("client2") as others,
    ):
        with trio.fail_after(DEADLINE):
            name = str(tmp_path / "passed")
            taker = await jobs.start(PYTHON, "-c", TAKES_PIPES, name, kind)
            await until_output(jobs, taker, b"up\n")
            passer = await jobs.start(PYTHON, "-c", PASSES_PIPE, name, kind, stdin=kind == "input")
            if kind == "input":
                taker_pid = (await jobs.status(taker)).pid
                source = Source(lambda: until_waits(taker_pid, "sock_alloc_send"), more=0)
                async with jobs.attach(passer) as attachment, trio.open_nursery() as nursery:
                    nursery.start_soon(attachment.send, source)  # noqa: ASYNC113  # it ends when its job has sent the pipe on
                    async for _ in attachment:
                        pass
            assert (await jobs.wait(passer)).exit_code == 0
            said = await until_refused(jobs)
            assert "client1 runs 1 jobs and has 1 that ended and left a stuck process or thread" in said
            assert (await others.wait(await others.start("true"))).exit_code == 0
            await jobs.stop(taker, force=True)
            await until_started(jobs)


async def ended(process: subprocess.Popen[bytes]) -> int:
    """How the launcher ended."""
    return await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)


async def test_a_signal_to_end_meanwhile(tmp_path: Path, certificates: Path) -> None:
    """It is kept for the server that follows, which ends the other jobs as they are used to."""
    async with serving_program(tmp_path, certificates) as (server, process), server.connect("client2") as others:
        with trio.fail_after(DEADLINE):
            other = await others.start(
                "sh", "-c", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done"
            )
            await until_output(others, other, b"up\n")
            async with server.connect("client1") as jobs, trio.open_nursery() as nursery:
                await start_holder(jobs, "output", server.pid, nursery)
                os.kill(server.pid, signal.SIGKILL)
                process.send_signal(signal.SIGTERM)
            assert await ended(process) == 0
    assert [output for path in server.logs if (output := path.read_bytes()).startswith(b"up\n") and b"bye\n" in output]
