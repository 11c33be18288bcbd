"""Whether a process has died or is bound to, as /proc tells."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobmaster.host import process
from jobmaster.host.process import is_dying

# proc_pid_stat(5), of a sleeping process; the flags are field 9, the pending signals of the main thread field 31.
STAT = (
    "{pid} ({name}) S 1 2 3 0 -1 {flags} 94 0 0 0 0 0 0 0 20 0 1 0 5 2764800 218 18446744073709551615 1 2 3 0 0 "
    "{pending} 0 0 0 1 0 0 17 1 0 0 0 0 0 1 2 3 4 5 6 7 0\n"
)


@contextmanager
def sleeper(program: str = "sleep") -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing; reaped at the end."""
    with subprocess.Popen([program, "1000"]) as child:
        try:
            yield child
        finally:
            child.kill()


def wait_dead(pid: int) -> None:
    """Returns when a child is a zombie, and leaves it one."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_a_process_that_lives() -> None:
    """One that sleeps, and one that is stopped, is not dying."""
    with sleeper() as child:
        assert not is_dying(child.pid)
        child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        assert not is_dying(child.pid)
    assert not is_dying(os.getpid())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_zombie(number: signal.Signals) -> None:
    """One that has died and is not reaped is, whatever it died of; one that is gone, too."""
    with sleeper() as child:
        child.send_signal(number)
        wait_dead(child.pid)
        assert is_dying(child.pid)
    assert is_dying(child.pid)


@pytest.mark.parametrize("name", ["sleep", ") S 0 0", "a (b) c", "\n"])
def test_a_name_that_looks_like_fields(tmp_path: Path, name: str) -> None:
    """A program's name is its own choice, and changes nothing of what is read."""
    program = tmp_path / name
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    with sleeper(str(program)) as child:
        assert not is_dying(child.pid)
        child.kill()
        wait_dead(child.pid)
        assert is_dying(child.pid)


@pytest.mark.parametrize(
    ("flags", "pending", "dying"),
    [
        (0x400000, 0, False),
        (0x400000, 1 << signal.SIGKILL - 1, True),
        (0x400000, 1 << signal.SIGTERM - 1, False),
        (0x400000, 1 << signal.SIGTERM - 1 | 1 << signal.SIGKILL - 1, True),
        (0x400004, 0, True),
        (0x400000, 1 << signal.SIGKILL, False),
    ],
)
def test_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: int, pending: int, dying: bool) -> None:
    """PF_EXITING, or a SIGKILL that waits for the main thread: its end is certain, though it may take seconds."""
    stat = tmp_path / "stat"
    stat.write_text(STAT.format(pid=7, name="x) S 1", flags=flags, pending=pending))
    monkeypatch.setattr(process, "Path", lambda _: stat)
    assert is_dying(7) == dying
