"""What ends every job when the server is killed: a tiny process that outlives it for a moment.

The tether is a shell outside the jobs' cgroups that blocks reading a pipe whose write end the server alone holds.
When the server dies, however it dies, the kernel closes that end, the read returns, and the tether writes 1 to
`cgroup.kill` of the jobs' folder. It ignores the signals of a terminal or a service manager, and it holds the lock of
the jobs' folder, so that a new server on the same folder starts after the old one's jobs are gone.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import trio

from jobmaster.errors import ConfigurationError
from jobmaster.host.process import ChildProcess

logger = logging.getLogger(__name__)

_SCRIPT: Final = """\
trap '' HUP INT TERM QUIT
echo ready
read -r farewell
[ "$farewell" = farewell ] || echo 1 >"$1/cgroup.kill"
"""

LOCK_SECONDS: Final = 5.0
"""How long a new server waits for an old one's tether."""
FAREWELL_SECONDS: Final = 2.0


@asynccontextmanager
async def hold_tether(jobs_folder: Path) -> AsyncIterator[ChildProcess]:
    """Holds the tether on `jobs_folder` while the block runs; the block gets its process.

    Raises:
        ConfigurationError: another server has this folder.
    """
    lock = await _lock(jobs_folder)
    try:
        async with _tether_process(jobs_folder, lock) as process:
            yield process
    finally:
        os.close(lock)


async def _lock(folder: Path) -> int:
    """Takes the exclusive flock(2) of a folder; it lasts as long as any process holds the descriptor."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with trio.move_on_after(LOCK_SECONDS):
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    await trio.sleep(0.05)
                else:
                    return fd
        raise ConfigurationError(
            f"another jobmaster server has the cgroup {folder}; give this one its own --cgroup-root"
        )
    except BaseException:
        os.close(fd)
        raise


@asynccontextmanager
async def _tether_process(folder: Path, lock: int) -> AsyncIterator[ChildProcess]:
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        process = await trio.to_thread.run_sync(_spawn, folder, read_end, lock)
    except BaseException:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + FAREWELL_SECONDS):
            with suppress(BrokenPipeError):  # it has been killed
                os.write(write_end, b"farewell\n")
            os.close(write_end)
            await process.wait_died()
        process.send_signal(signal.SIGKILL)
        process.reap()
        process.close()


async def tell_when_lost(process: ChildProcess) -> None:
    """Logs that the tether has been killed, should it be."""
    await process.wait_died()
    logger.error("the tether (pid %d) was killed: should the server be killed too, its jobs would go on", process.pid)


def _spawn(folder: Path, read_end: int, lock: int) -> ChildProcess:
    tether = subprocess.Popen(
        ["/bin/sh", "-c", _SCRIPT, "jobmaster-tether", str(folder)],
        stdin=read_end,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={},
        pass_fds=(lock,),
        start_new_session=True,
    )
    assert tether.stdout is not None  # noqa: S101  # for the type checker: PIPE was asked for
    with tether.stdout as ready:
        ready.readline()  # its signals are ignored from here on
    tether.returncode = 0  # the pidfd's owner reaps it
    return ChildProcess(tether.pid)
