"""A launcher whose program was replaced on disk replaces itself, by exec in the same process.

A new program that failed would take every job with it (PDEATHSIG), so it is tried first: started as a child, it has to
read a copy of what the launcher knows. Else the old one goes on.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from jobmaster.launcher import snapshot
from jobmaster.launcher.child import HANDLED_SIGNALS
from jobmaster.launcher.packets import close_all
from jobmaster.launcher.streams import say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobmaster.launcher.snapshot import Snapshot

TRIAL_SECONDS: Final = 10.0
OK: Final = b"ok\n"
_FOLDER: Final = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  # pathlib costs 5 ms


class Program(NamedTuple):
    """The files of the launcher and its interpreter, as they are on disk; None where one cannot be read."""

    files: tuple[tuple[str, int, int, int], ...] | None


def on_disk() -> Program:
    """The program that would be executed now."""
    try:
        names = [name for name in sorted(os.listdir(_FOLDER)) if name.endswith(".py")]  # noqa: PTH208  # as above
        paths = (*(f"{_FOLDER}/{name}" for name in names), sys.executable)
        stats = [(path, os.stat(path)) for path in paths]  # noqa: PTH116  # as above
    except OSError:
        return Program(None)
    return Program(tuple((path, found.st_ino, found.st_size, found.st_mtime_ns) for path, found in stats))


def replace(known: Snapshot, command: Sequence[str], may_go: Callable[[], bool]) -> None:
    """Executes the program that is on disk, with all that is known; returns where it cannot.

    Args:
        known: with every descriptor that stays open; no server.
        command: starts a server.
        may_go: asked when signals are blocked; False where one has come that is to be dealt with first.
    """
    try:
        data = snapshot.encode(known)
        said = _try_out(data)
        if said is not None:
            say(f"jobmaster: the launcher's new program cannot take over, the old one goes on: {said}")
            return
        _execute(data, known, command, may_go)
    except OSError as error:
        say(f"jobmaster: the launcher cannot be replaced by its new program: {error.strerror}")


def _arguments(*more: str) -> list[str]:
    return [sys.executable, "-I", "-S", _FOLDER, *more]


def _execute(data: bytes, known: Snapshot, command: Sequence[str], may_go: Callable[[], bool]) -> None:
    fd = snapshot.write(data)
    descriptors = (fd, *known.descriptors())
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)  # until the new program handles them
    try:
        if may_go():
            for each in descriptors:
                os.set_inheritable(each, True)
            os.execv(sys.executable, _arguments("--table", str(fd), "--", *command))  # noqa: S606  # no shell is wanted
    finally:
        for each in descriptors:
            os.set_inheritable(each, False)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(fd)


def _try_out(data: bytes) -> str | None:
    """Whether the program that is on disk reads these bytes: None, or why not."""
    output, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    memfd = -1
    try:
        memfd = snapshot.write(data)
        os.set_inheritable(memfd, True)
        pid = os.posix_spawn(
            sys.executable,
            _arguments("--try-table", str(memfd)),
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)],
            setsigmask=(),
            setsigdef=HANDLED_SIGNALS,
        )
        return _wait(pid, output)
    finally:
        close_all([fd for fd in (output, write, memfd) if fd >= 0])


def _wait(pid: int, output: int) -> str | None:
    """What became of a trial; a program that takes too long is killed, and reaped with the orphans."""
    deadline = time.monotonic() + TRIAL_SECONDS
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    try:
        if not poll.poll(1000 * max(0.0, deadline - time.monotonic())):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            return f"it has not answered within {TRIAL_SECONDS:g} s"
    finally:
        os.close(pidfd)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, os.WNOHANG)[1])
    answer = b""
    with contextlib.suppress(BlockingIOError):
        answer = os.read(output, 100)
    return None if (code, answer) == (0, OK) else f"it ended with status {code}"
