"""Whether a process is dying, on real ones."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from jobmaster.host.process import _is_exiting, is_dying

MEMORY: Final = "VmPeak:\t    5840 kB\nVmSize:\t    5840 kB\nVmRSS:\t    1916 kB\n"
# proc_pid_status(5), in parts.
STATUS: Final = (
    "Name:\tSigPnd:\\nx\nState:\tS (sleeping)\nPid:\t7\nGroups:\t \n{memory}Threads:\t1\n"
    "SigPnd:\t{pending:016x}\nShdPnd:\t0000000000000000\nSigBlk:\tffffffffffffffff\n"
)
EXIT_THREAD: Final = "import ctypes; ctypes.CDLL(None).pthread_exit(None)"
LEADERLESS: Final = f"""
import sys, threading
threading.Thread(target=sys.stdin.read).start()
print(flush=True)
{EXIT_THREAD}
"""
"""A process whose main thread ends while another lives."""


@contextmanager
def process(script: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a script that says a line."""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        try:
            assert running.stdout is not None
            running.stdout.readline()
            yield running
        finally:
            running.kill()


def test_one_that_lives() -> None:
    """A process that waits is not."""
    with process("import sys; print(flush=True); sys.stdin.read()") as running:
        assert not is_dying(running.pid)


def test_one_that_was_killed() -> None:
    """A zombie is, and so is one that is gone."""
    with process("import sys; print(flush=True); sys.stdin.read()") as running:
        running.kill()
        os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT)
        assert is_dying(running.pid)
        running.wait()
        assert is_dying(running.pid)


def test_one_whose_main_thread_has_ended() -> None:
    """A process lives as long as any thread of it, though its main one is a zombie by then."""
    with process(LEADERLESS) as running:
        while Path(f"/proc/{running.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            os.sched_yield()
        assert not is_dying(running.pid)
        running.kill()
        os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT)
        assert is_dying(running.pid)


def test_one_that_is_stopped() -> None:
    """A process in state T lives."""
    with process("import sys; print(flush=True); sys.stdin.read()") as running:
        running.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, running.pid, os.WSTOPPED)
        assert not is_dying(running.pid)


@pytest.mark.parametrize("name", [") S 0 0", "a (b) c", "\n"])
def test_one_whose_name_looks_like_fields(tmp_path: Path, name: str) -> None:
    """A program's name is its own choice, and changes nothing of what is read."""
    program = tmp_path / name
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    with subprocess.Popen([str(program), "1000"]) as running:
        assert not is_dying(running.pid)
        running.kill()
        os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT)
        assert is_dying(running.pid)


@pytest.mark.parametrize(
    ("memory", "pending", "dying"),
    [
        (MEMORY, 0, False),
        (MEMORY, 1 << signal.SIGKILL - 1, True),
        (MEMORY, 1 << signal.SIGTERM - 1, False),
        (MEMORY, 1 << signal.SIGTERM - 1 | 1 << signal.SIGKILL - 1, True),
        ("", 0, True),
        (MEMORY, 1 << signal.SIGKILL, False),
    ],
)
def test_what_is_read_of_a_thread(tmp_path: Path, memory: str, pending: int, dying: bool) -> None:
    """It has no memory any more, or a SIGKILL waits for it: its end is certain, though it may take seconds."""
    (tmp_path / "status").write_text(STATUS.format(memory=memory, pending=pending))
    assert _is_exiting(tmp_path / "status") == dying


def test_nothing_is_read_that_waits_for_an_execve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks is the event loop, and a job's execve(2) may never come to its end."""
    read: set[str] = set()
    read_bytes = Path.read_bytes

    def note(path: Path) -> bytes:
        read.add(path.name)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", note)
    with process(LEADERLESS) as running:
        while not is_dying(running.pid):
            running.kill()
    assert read == {"status"}
