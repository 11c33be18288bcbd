"""What the processes of a cgroup have used in all, and whose memory limit they met: what a job's end tells.

Counters of a cgroup are those of all below it, too. Several files are read at one moment, in a thread: memory.stat, cpu.stat
and io.stat make the kernel gather what its processors have counted apart, for which kernels before 6.8 may hold a lock of the
whole hierarchy (kernel/cgroup/rstat.c, mm/memcontrol.c).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from jobmaster.host.cgroup.interface import NOT_OFFERED, CgroupFileError, read_from, read_if_offered
from jobmaster.host.cgroup.statistics import (
    flat_counters,
    parse_counter,
    parse_io_stat,
    parse_pressure,
    pressure_totals,
)
from jobmaster.job.usage import (
    MOST_DEVICES,
    CpuUsage,
    DeviceUsage,
    IoUsage,
    MemoryEventCounts,
    MemoryUsage,
    Pressure,
    Sample,
    Stalled,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_FILES: Final = (
    *("cpu.stat", "memory.peak", "memory.stat", "memory.events", "pids.peak", "io.stat"),
    *("cpu.pressure", "memory.pressure", "io.pressure"),
)
_FILES_OF_NOW: Final = ("memory.current", "pids.current")


def read_usage(folder: Path) -> Usage | None:
    """What the kernel tells of a cgroup now; None where that is gone, or tells nothing.

    Raises:
        CgroupError: a file can't be read or makes no sense.
    """
    texts = _read_all(folder)
    return usage_of(texts) if texts else None


def read_sample(folder: Path) -> Sample | None:
    """As `read_usage`, with what holds now alone."""
    texts = _read_all(folder, _FILES + _FILES_OF_NOW)
    if not texts:
        return None
    return Sample(
        usage=usage_of(texts),
        memory=_count(texts, "memory.current"),
        pids=_count(texts, "pids.current"),
        cpu_pressure=_pressure(texts.get("cpu.pressure")),
        memory_pressure=_pressure(texts.get("memory.pressure")),
        io_pressure=_pressure(texts.get("io.pressure")),
    )


def usage_of(texts: Mapping[str, str]) -> Usage:
    """From the texts of those interface files that there are.

    Raises:
        CgroupError: one makes no sense.
    """
    return Usage(
        cpu=_cpu(texts["cpu.stat"]) if "cpu.stat" in texts else None,
        memory=_memory(texts),
        pids_peak=_count(texts, "pids.peak"),
        io=_io(texts["io.stat"]) if "io.stat" in texts else None,
        cpu_stalled=_stalled(texts.get("cpu.pressure")),
        memory_stalled=_stalled(texts.get("memory.pressure")),
        io_stalled=_stalled(texts.get("io.pressure")),
    )


def read_ooms(folder: Path) -> int | None:
    """How often the memory limit of a cgroup itself was met; None where the kernel does not tell (before 5.2).

    The kernel counts `oom` at the cgroup whose limit is met and at those above it, not at those below: mm/memcontrol.c, in
    which mem_cgroup_oom has the event counted at the memcg that is over its limit, and memory.events.local leaves out what
    came from below. A host that is out of memory itself counts none.

    Raises:
        CgroupError: the file can't be read or makes no sense.
    """
    text = read_if_offered(folder / "memory.events.local")
    return None if text is None else flat_counters(text, ("oom",)).get("oom")


def _read_all(folder: Path, names: Sequence[str] = _FILES) -> dict[str, str]:
    try:
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in NOT_OFFERED:
            return {}
        raise CgroupFileError(folder, error) from error
    try:
        texts = ((name, _read_if_offered(folder, name, descriptor)) for name in names)
        return {name: text for name, text in texts if text is not None}
    finally:
        os.close(descriptor)


def _read_if_offered(folder: Path, name: str, descriptor: int) -> str | None:
    try:
        return read_from(descriptor, name)
    except OSError as error:
        if error.errno in NOT_OFFERED:
            return None
        raise CgroupFileError(folder / name, error) from error


def _cpu(text: str) -> CpuUsage:
    found = flat_counters(text, ("user_usec", "system_usec", "nr_periods", "nr_throttled", "throttled_usec"))
    return CpuUsage(
        user=found.get("user_usec"),
        system=found.get("system_usec"),
        periods=found.get("nr_periods"),
        throttled_periods=found.get("nr_throttled"),
        throttled=found.get("throttled_usec"),
    )


def _memory(texts: Mapping[str, str]) -> MemoryUsage | None:
    if not texts.keys() & {"memory.peak", "memory.stat", "memory.events"}:
        return None
    left = flat_counters(texts.get("memory.stat", ""), ("anon", "file"))
    names = ("low", "high", "max", "oom", "oom_kill", "oom_group_kill")
    events = texts.get("memory.events")
    return MemoryUsage(
        peak=_count(texts, "memory.peak"),
        anon_left=left.get("anon"),
        file_left=left.get("file"),
        events=None if events is None else MemoryEventCounts(**flat_counters(events, names)),
    )


def _count(texts: Mapping[str, str], file: str) -> int | None:
    return parse_counter(texts[file]) if file in texts else None


def _io(text: str) -> IoUsage:
    devices = [
        DeviceUsage(device=device, read_bytes=each.rbytes, written_bytes=each.wbytes, reads=each.rios, writes=each.wios)
        for device, each in parse_io_stat(text).items()
        if each.rios or each.wios or each.rbytes or each.wbytes
    ]
    devices.sort(key=lambda each: (-each.read_bytes - each.written_bytes, each.device))
    return IoUsage(devices=tuple(devices[:MOST_DEVICES]), omitted=max(0, len(devices) - MOST_DEVICES))


def _stalled(text: str | None) -> Stalled | None:
    if text is None:
        return None
    totals = pressure_totals(text)
    return Stalled(some=totals.get("some"), full=totals.get("full"))


def _pressure(text: str | None) -> Pressure | None:
    if not text:
        return None
    found = parse_pressure(text)
    return Pressure(some=found.some.avg10, full=found.full.avg10)
