"""Children with streams of their own: a stdin, stderr beside stdout, a terminal; and what a next server gets of them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
import trio

from jobmaster.errors import HostError, LauncherOutdated
from jobmaster.launcher import packets, protocol
from jobmaster.launcher.protocol import Phase, Table, TableEnd
from jobmaster.run.launcher import Child, Launch
from tests.run.launching import DEADLINE, ENVIRONMENT, NOBODY, Host, read_to_end
from tests.run.test_inheritance import descriptors, inheriting, is_same


@asynccontextmanager
async def started(
    host: Host, *argv: str, streams: Mapping[str, int], keeps: Mapping[str, int] | None = None
) -> AsyncIterator[tuple[Child, int]]:
    """A child that was let go, and the read end of its output; its own ends of the streams are closed here."""
    launch = Launch(
        id="streams", argv=argv, environment=ENVIRONMENT, working_folder="/", account=NOBODY, open_files=256
    )
    read, write = os.pipe2(os.O_CLOEXEC)
    child = await host.launcher.start(
        launch, cgroup=host.folder.job, output_read=read, output_write=write, streams=streams, keeps=keeps or {}
    )
    packets.close_all((write, *streams.values()))
    child.go()
    try:
        yield child, read
    finally:
        child.release()
        os.close(read)


async def test_a_stdin_ends_when_all_have_closed_it(host: Host) -> None:
    """The launcher's duplicate keeps a stdin open after the server has closed its own, until it is told to close it."""
    stdin, own = os.pipe2(os.O_CLOEXEC)
    async with started(host, "cat", streams={"stdin": stdin}, keeps={"stdin": own}) as (child, output):
        os.write(own, b"typed")
        os.close(own)
        await trio.lowlevel.wait_readable(output)
        assert (os.read(output, 100), child.has_died()) == (b"typed", False)
        await host.launcher.close_kept(child.id, "stdin")
        assert await read_to_end(output) == b""
        assert (await child.wait_status()).wait_status == 0


async def test_no_stdin_is_dev_null(host: Host) -> None:
    """A child without one reads the end at once."""
    assert (await host.run("sh", "-c", "readlink /proc/self/fd/0; cat")).output == b"/dev/null\n"


async def test_stdout_and_stderr_apart(host: Host) -> None:
    """Each has its own pipe, which the job's user may open by name."""
    read, write = os.pipe2(os.O_CLOEXEC)
    command = "echo out; echo err >&2; echo named > /dev/stderr"
    async with started(host, "sh", "-c", command, streams={"stderr": write}) as (_, output):
        assert await read_to_end(output) == b"out\n"
        assert await read_to_end(read) == b"err\nnamed\n"
    os.close(read)


async def read_terminal(master: int) -> bytes:
    """All that was written to a terminal until nobody has it open any more; the kernel brings it part by part."""
    said = b""
    with trio.fail_after(DEADLINE):
        while True:
            await trio.lowlevel.wait_readable(master)
            try:
                said += os.read(master, 1000)
            except OSError:  # EIO
                return said


async def test_a_terminal(host: Host) -> None:
    """All three standard streams are the terminal, which controls the job's session and is its user's."""
    master, slave = os.openpty()
    command = "tty; test -t 0 && test -t 1 && test -t 2 && echo all; echo mine > $(tty); echo ctty > /dev/tty"
    async with started(host, "sh", "-c", command, streams={"terminal": slave}) as (child, output):
        assert (await child.wait_status()).wait_status == 0
        assert await read_to_end(output) == b""
    lines = (await read_terminal(master)).decode().split()
    assert lines == [lines[0], "all", "mine", "ctty"]
    assert lines[0].startswith("/dev/pts/")
    os.close(master)


async def test_a_child_has_nothing_else(host: Host) -> None:
    """Neither what is kept of its streams nor its own ends of them are open beside its standard streams."""
    pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(2)]
    (stdin, stdin_write), (stderr, stderr_write) = pipes
    streams, keeps = {"stdin": stdin, "stderr": stderr_write}, {"stdin": stdin_write, "stderr": stderr}
    async with started(host, "sh", "-c", "echo /proc/self/fd/*", streams=streams, keeps=keeps) as (_, output):
        shown = (await read_to_end(output)).split()
    assert {name.rpartition(b"/")[2] for name in shown} <= {b"0", b"1", b"2", b"3"}  # 3: the folder that it reads
    packets.close_all((stdin_write, stderr))


async def test_closing_what_is_not_kept(host: Host) -> None:
    """Closing what is not kept (any more) is answered, so that nobody waits for ever."""
    with trio.fail_after(DEADLINE):
        await host.launcher.close_kept("nobody", "stdin")


async def test_an_older_launcher() -> None:
    """It is asked for no streams: the start is refused, and says what helps."""
    launch = Launch(id="a", argv=("cat",), environment={}, working_folder="/", account=None, open_files=1)
    async with inheriting((protocol.Hello(version=2), ()), (TableEnd(), ()), hello=False) as (launcher, _):
        with pytest.raises(LauncherOutdated, match="SIGUSR2"):
            await launcher.start(launch, cgroup=0, output_read=0, output_write=0, streams={"stdin": 0})


async def test_a_next_server_gets_what_was_kept() -> None:
    """By name, whether the child lives or not; what nobody takes is closed."""
    read, pidfd = descriptors()
    row = Table(id="a", pid=os.getpid(), start_time=3, phase=Phase.EXECUTED, keeps=("stdin", "input"))
    dead = row._replace(id="b", wait_status=0)
    said = ((row, (read, pidfd, 1, 2)), (dead, (read, 2, 1)), (TableEnd(), ()))
    async with inheriting(*said) as (launcher, _):
        a, b = launcher.inherited.children["a"].keeps, launcher.inherited.children["b"].keeps
        assert is_same(a["stdin"], 1)
        assert is_same(a["input"], 2)
        assert is_same(b["stdin"], 2)
        taken = (*a.values(), *b.values())
    for fd in taken:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    packets.close_all((read, pidfd))


async def test_what_was_kept_did_not_all_come() -> None:
    """A row whose descriptors could not all be opened is refused as a whole."""
    read, pidfd = descriptors()
    row = Table(id="a", pid=os.getpid(), start_time=3, phase=Phase.EXECUTED, keeps=("stdin", "input"))
    with pytest.raises(HostError, match="LimitNOFILE"):
        async with inheriting((row, (read, pidfd, 1)), (TableEnd(), ())):
            pass
    packets.close_all((read, pidfd))
