"""What /proc/PID/status tells of a process that lives, or has died and is not yet reaped (proc_pid_status(5)).

/proc/PID/stat tells it as well. But newer kernels have its reader wait where the process executes a program, until that has
closed its close-on-exec files: which a job on a disk that does not answer need never come to.
"""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path
from typing import Final

_SIGKILL_BIT: Final = 1 << (signal.SIGKILL - 1)
_MOST_THREADS: Final = 64
"""Threads that are looked at; those that have ended are not listed, so a process that lives shows one of its first."""


def is_dying(pid: int) -> bool:
    """Whether a process has died or is bound to: each thread is exiting, or a SIGKILL waits for it.

    A fatal signal to a process becomes pending for every thread (kernel/signal.c, complete_signal), so mostly the main
    thread tells; a main thread may also end by itself (pthread_exit(3)) and leave the process to others. True also
    where that cannot be read.
    """
    if not _is_exiting(Path(f"/proc/{pid}/status")):
        return False
    try:
        with os.scandir(f"/proc/{pid}/task") as threads:
            return all(_is_exiting(Path(thread.path, "status")) for thread in itertools.islice(threads, _MOST_THREADS))
    except OSError:
        return True


def _is_exiting(status: Path) -> bool:
    """A thread that exits gives up its memory first."""
    try:
        lines = status.read_bytes().splitlines()
    except OSError:
        return True
    fields = dict(line.split(b":", 1) for line in lines)  # a name's newlines are escaped
    return b"VmSize" not in fields or bool(int(fields[b"SigPnd"], 16) & _SIGKILL_BIT)
