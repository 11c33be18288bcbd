"""What a job has used, as the kernel counted it in the job's cgroup until its end.

Every number that a host cannot tell is None, never 0: a kernel without the controller, the file or the key in it, or a
cgroup that was gone before anybody could read it. Times are in microseconds, as the kernel has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MOST_DEVICES: Final = 16
"""Devices of which a job's traffic is kept, those with the most bytes; how many there were beside them is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuUsage:
    """Of cpu.stat.

    Attributes:
        user, system: time on a processor.
        periods: of the limit, in which the job wanted to run; with `throttled_periods` and `throttled` only where the cpu
            controller counts for the job.
        throttled_periods: those in which it was held back.
        throttled: how long it was, over all processors.
    """

    user: int | None = None
    system: int | None = None
    periods: int | None = None
    throttled_periods: int | None = None
    throttled: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEventCounts:
    """Of memory.events, the same names. `oom_group_kill` is kernel 5.17 and later."""

    low: int | None = None
    high: int | None = None
    max: int | None = None
    oom: int | None = None
    oom_kill: int | None = None
    oom_group_kill: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUsage:
    """In bytes.

    Attributes:
        peak: the most that was charged to the job at any time, with page cache and the kernel's own (memory.peak, kernel 5.19).
        anon_left: what of its anonymous memory was still charged when its last process was gone (memory.stat): little or none,
            for that goes with the processes. The kernel keeps no peak of it.
        file_left: likewise of page cache and tmpfs, which stay when a process goes.
        events: what happened at its limits.
    """

    peak: int | None = None
    anon_left: int | None = None
    file_left: int | None = None
    events: MemoryEventCounts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUsage:
    """Traffic with one block device, which `device` names as MAJ:MIN: of io.stat, bytes and operations."""

    device: str
    read_bytes: int
    written_bytes: int
    reads: int
    writes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IoUsage:
    """Of all devices with any traffic; `omitted` are those beyond `MOST_DEVICES`."""

    devices: tuple[DeviceUsage, ...] = ()
    omitted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stalled:
    """How long some of the job's tasks, or all of them, waited for a resource (the totals of *.pressure)."""

    some: int | None = None
    full: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """In how much of the last ten seconds some tasks, or all of them, waited for a resource, in percent (avg10 of *.pressure)."""

    some: float
    full: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """All of it; a part is None where its controller does not count for the job.

    Attributes:
        pids_peak: the most tasks at any time (pids.peak).
        cpu_stalled, memory_stalled, io_stalled: kernels with pressure stall information alone tell it.
    """

    cpu: CpuUsage | None = None
    memory: MemoryUsage | None = None
    pids_peak: int | None = None
    io: IoUsage | None = None
    cpu_stalled: Stalled | None = None
    memory_stalled: Stalled | None = None
    io_stalled: Stalled | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a job has used until now, and how busy it is.

    Attributes:
        usage: from its beginning.
        memory: bytes that are charged to it now (memory.current).
        pids: tasks that it has now (pids.current).
    """

    usage: Usage
    memory: int | None = None
    pids: int | None = None
    cpu_pressure: Pressure | None = None
    memory_pressure: Pressure | None = None
    io_pressure: Pressure | None = None
