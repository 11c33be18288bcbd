"""The tether, with real processes; a plain file plays cgroup.kill.

The tether holds the lock of its folder until it exits, so whoever gets the lock knows that the tether has done its
work.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from jobmaster.errors import ConfigurationError
from jobmaster.host.tether import hold_tether

DEADLINE: Final = 20.0

SERVER: Final = """\
import sys
from pathlib import Path
import trio
from jobmaster.host.tether import hold_tether

async def main():
    async with hold_tether(Path(sys.argv[1])):
        print("held", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)

trio.run(main)
"""

Server = subprocess.Popen[bytes]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for jobs with an untouched cgroup.kill."""
    (tmp_path / "cgroup.kill").touch()
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    """Another process that holds the tether on `folder` until it reads a line."""
    command = [sys.executable, "-c", SERVER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def kill_file(folder: Path) -> str:
    """What was written to cgroup.kill."""
    return (folder / "cgroup.kill").read_text()


def lock(folder: Path) -> int:
    """Waits for the folder's lock and takes it."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


async def wait_let_go(folder: Path) -> None:
    """Waits until no server and no tether has the folder."""
    with trio.fail_after(DEADLINE):
        os.close(await trio.to_thread.run_sync(lock, folder, abandon_on_cancel=True))


def tether_of(folder: Path) -> int:
    """The pid of the tether on a folder."""
    words = [b"jobmaster-tether", os.fsencode(folder)]
    pids = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):  # of a process that has ended meanwhile
            if path.read_bytes().split(b"\0")[-3:-1] == words:
                pids.append(int(path.parent.name))
    [pid] = pids
    return pid


async def test_a_killed_server_takes_its_jobs_along(folder: Path, server: Server) -> None:
    """When the server is killed with SIGKILL, the tether writes 1 to cgroup.kill and exits."""
    assert kill_file(folder) == ""
    server.kill()
    await wait_let_go(folder)
    assert kill_file(folder) == "1\n"


async def test_the_folder_is_free_only_when_its_jobs_are_gone(folder: Path, server: Server) -> None:
    """The tether holds the lock beyond the server's death, until it has written to cgroup.kill."""
    tether = os.pidfd_open(tether_of(folder))
    signal.pidfd_send_signal(tether, signal.SIGSTOP)
    server.kill()
    await trio.to_thread.run_sync(server.wait)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(fd)
        signal.pidfd_send_signal(tether, signal.SIGCONT)
        os.close(tether)
    await wait_let_go(folder)
    assert kill_file(folder) == "1\n"


async def test_a_server_that_ends_in_order_kills_nothing(folder: Path, server: Server) -> None:
    """After a farewell cgroup.kill is untouched, and no tether is left."""
    server.communicate(b"\n")
    await wait_let_go(folder)
    assert server.returncode == 0
    assert kill_file(folder) == ""


async def test_a_block_that_fails_says_farewell_too(folder: Path) -> None:
    """An error in the block is an end in order: it comes out, and cgroup.kill is untouched."""
    with pytest.raises(ZeroDivisionError):
        async with hold_tether(folder):
            raise ZeroDivisionError
    await wait_let_go(folder)
    assert kill_file(folder) == ""


async def test_a_cancelled_block_says_farewell_too(folder: Path) -> None:
    """Cancellation is an end in order as well."""
    with trio.CancelScope() as scope:
        async with hold_tether(folder):
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    await wait_let_go(folder)
    assert kill_file(folder) == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
async def test_the_tether_outlives_the_signals_of_a_terminal(folder: Path, server: Server, number: int) -> None:
    """A signal meant for the server's whole group does not end the tether before the server."""
    os.kill(tether_of(folder), number)
    server.kill()
    await wait_let_go(folder)
    assert kill_file(folder) == "1\n"


def test_the_tether_is_in_a_session_of_its_own(folder: Path, server: Server) -> None:
    """The tether is in neither the server's process group nor its session."""
    tether = tether_of(folder)
    assert os.getsid(tether) == tether != os.getsid(server.pid)
    assert os.getpgid(tether) == tether


def test_a_tether_that_was_killed(folder: Path, server: Server) -> None:
    """A server whose tether was killed still ends in order."""
    tether = os.pidfd_open(tether_of(folder))
    signal.pidfd_send_signal(tether, signal.SIGKILL)
    assert select.select([tether], [], [], DEADLINE)[0]
    os.close(tether)
    server.communicate(b"\n")
    assert server.returncode == 0


async def test_a_second_server_is_refused(folder: Path, server: Server, autojump_clock: MockClock) -> None:
    """While a server has the folder another one gives up, names it and says what to do."""
    with pytest.raises(ConfigurationError, match=f"has the cgroup {folder}; give this one its own --cgroup-root"):
        async with hold_tether(folder):
            pass
    assert server.poll() is None
    assert kill_file(folder) == ""


async def test_a_server_waits_for_the_tether_of_the_one_before(folder: Path) -> None:
    """A lock that is let go in time lets the next server in."""
    held = lock(folder)

    async def serve() -> None:
        async with hold_tether(folder):
            served.set()

    served = trio.Event()
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await wait_all_tasks_blocked()
            assert not served.is_set()
            os.close(held)
    assert served.is_set()


async def test_nothing_is_left_open(folder: Path) -> None:
    """A tether that was held, and one that was refused, leave no descriptor behind."""
    async with hold_tether(folder):
        pass
    before = os.listdir("/proc/self/fd")
    async with hold_tether(folder):
        assert os.listdir("/proc/self/fd") != before
    assert os.listdir("/proc/self/fd") == before
