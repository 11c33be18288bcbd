"""What processes have used, as the kernel tells it."""

from __future__ import annotations

import resource
import time
from pathlib import Path


def cpu_nanoseconds(pid: int) -> int:
    """CPU time of a process, threads that have ended included, by its clock (clock_getcpuclockid(3))."""
    clock = ~pid << 3 | 2  # kernel/time/posix-cpu-timers.c: CPUCLOCK_SCHED of that process
    return time.clock_gettime_ns(clock)


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM (proc_pid_stat(5), field 24)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[21]) * resource.getpagesize()
