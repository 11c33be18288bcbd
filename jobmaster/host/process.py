"""What /proc/PID/stat tells of a process that lives, or has died and is not yet reaped (proc_pid_stat(5))."""

from __future__ import annotations

import signal
from itertools import islice
from pathlib import Path
from typing import Final

_FLAGS, _PENDING = 9, 31
"""Fields of /proc/PID/stat, as the manual page numbers them."""
_PF_EXITING: Final = 0x4
"""include/linux/sched.h: it is getting shut down."""
_SIGKILL_BIT: Final = 1 << (signal.SIGKILL - 1)


_MOST_THREADS: Final = 64
"""Threads that are looked at: those of a process that lives do not stay among the dying, they are gone."""


def is_dying(pid: int) -> bool:
    """Whether a process has died or is bound to: each thread of it is exiting, or has a SIGKILL waiting for it.

    A fatal signal to a process becomes pending for every thread (kernel/signal.c, complete_signal), so the main thread
    tells, unless that alone has ended, as it may. True also where nothing can be read.
    """
    if not _is_thread_dying(Path(f"/proc/{pid}")):
        return False
    try:
        threads = list(islice(Path(f"/proc/{pid}/task").iterdir(), _MOST_THREADS))
    except OSError:
        return True
    return all(map(_is_thread_dying, threads))


def _is_thread_dying(folder: Path) -> bool:
    try:
        fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return True
    after_name = 3  # the number of the first field after the name
    flags, pending = int(fields[_FLAGS - after_name]), int(fields[_PENDING - after_name])
    return bool(flags & _PF_EXITING or pending & _SIGKILL_BIT)
