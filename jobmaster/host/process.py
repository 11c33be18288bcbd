"""What /proc/PID/stat tells of a process that lives, or has died and is not yet reaped (proc_pid_stat(5))."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path
from typing import Final

_FLAGS, _PENDING = 9, 31
"""Fields of /proc/PID/stat, as the manual page numbers them."""
_PF_EXITING: Final = 0x4
"""include/linux/sched.h: it is getting shut down."""
_SIGKILL_BIT: Final = 1 << (signal.SIGKILL - 1)


_MOST_THREADS: Final = 64
"""Threads that are looked at; those that have ended are not listed, so a process that lives shows one of its first."""


def is_dying(pid: int) -> bool:
    """Whether a process has died or is bound to: each thread is exiting, or a SIGKILL waits for it.

    A fatal signal to a process becomes pending for every thread (kernel/signal.c, complete_signal), so mostly the main
    thread tells; a main thread may also end by itself (pthread_exit(3)) and leave the process to others. True also
    where that cannot be read.
    """
    if not _is_exiting(Path(f"/proc/{pid}/stat")):
        return False
    try:
        with os.scandir(f"/proc/{pid}/task") as threads:
            return all(_is_exiting(Path(thread.path, "stat")) for thread in itertools.islice(threads, _MOST_THREADS))
    except OSError:
        return True


def _is_exiting(stat: Path) -> bool:
    try:
        fields = stat.read_bytes().rpartition(b")")[2].split()
    except OSError:
        return True
    after_name = 3  # the number of the first field after the name
    flags, pending = int(fields[_FLAGS - after_name]), int(fields[_PENDING - after_name])
    return bool(flags & _PF_EXITING or pending & _SIGKILL_BIT)
