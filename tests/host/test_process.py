"""Whether a process is dying, as the kernel tells of real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from jobmaster.host.process import is_dying

MAIN_THREAD_ENDS: Final = """
import ctypes, sys, threading, time
def report():
    while open("/proc/self/stat").read().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.001)
    print("ready", flush=True)
    sys.stdin.read()
threading.Thread(target=report).start()
ctypes.CDLL(None).pthread_exit(None)
"""
READY: Final = "import sys; print('ready', flush=True); sys.stdin.read()"


@contextmanager
def running(script: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has said that it is ready."""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("script", [READY, MAIN_THREAD_ENDS], ids=["one thread", "its main thread has ended"])
def test_a_process_that_lives(script: str) -> None:
    """A process lives as long as one of its threads does."""
    with running(script) as process:
        assert not is_dying(process.pid)


@pytest.mark.parametrize("script", [READY, MAIN_THREAD_ENDS], ids=["one thread", "its main thread has ended"])
def test_a_process_that_was_killed(script: str) -> None:
    """From SIGKILL on it is dying, also as a zombie, and when it is gone."""
    with running(script) as process:
        os.kill(process.pid, signal.SIGKILL)
        assert is_dying(process.pid)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert is_dying(process.pid)
        process.wait()
        assert not Path(f"/proc/{process.pid}").exists()
        assert is_dying(process.pid)
