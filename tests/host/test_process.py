"""Whether a process is dying, on real ones."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from jobmaster.host.process import is_dying

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
