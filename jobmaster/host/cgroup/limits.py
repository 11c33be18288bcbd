"""What a job may be limited to, and the writes to its cgroup that ask the kernel for it. Pure.

The bounds are the kernel's own, because it answers most values beyond them by silently limiting nothing.
File formats: Documentation/admin-guide/cgroup-v2.rst of the kernel.
"""

from __future__ import annotations

import enum
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from jobmaster.sizes import NUMBER_LENGTH, UNLIMITED

if TYPE_CHECKING:
    from collections.abc import Collection

CPU_PERIOD_MICROSECONDS: Final = 100_000
# kernel/sched/core.c: a quota is at least 1 ms (min_cfs_quota_period) and at most MAX_BW = 2**44 - 1 microseconds.
MIN_CORES: Final = 0.01
MAX_CORES: Final = (2**44 - 1) // CPU_PERIOD_MICROSECONDS
# mm/page_counter.c counts pages in a long; more bytes than fit in it read back as "max".
MAX_MEMORY_BYTES: Final = 2**63 - 1
# kernel/cgroup/pids.c: EINVAL from PIDS_MAX = PID_MAX_LIMIT + 1 on, with PID_MAX_LIMIT 4 Mi on 64-bit kernels.
MAX_PIDS: Final = 4 * 1024 * 1024
# block/blk-throttle.c: U64_MAX bytes and UINT_MAX operations a second mean "no limit".
MAX_BYTES_PER_SECOND: Final = 2**64 - 2
MAX_OPERATIONS_PER_SECOND: Final = 2**32 - 2

_NUMBER: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)


class Controller(enum.StrEnum):
    """A cgroup v2 controller that jobmaster uses, by the kernel's name."""

    CPU = "cpu"
    IO = "io"
    MEMORY = "memory"
    PIDS = "pids"


class OomPolicy(enum.Enum):
    """Who dies when a job runs out of memory."""

    JOB = "job"
    """Every process of the job, together (``memory.oom.group``)."""

    PROCESS = "process"
    """The one process the kernel picks; the job may go on without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IoLimits:
    """Bounds on the traffic with one disk; None is unlimited."""

    read_bps: int | None = None
    """Bytes read per second."""
    write_bps: int | None = None
    """Bytes written per second."""
    read_iops: int | None = None
    """Read operations per second."""
    write_iops: int | None = None
    """Write operations per second."""

    def __post_init__(self) -> None:
        """Refuse values that the kernel refuses or takes for "no limit"."""
        _check_count("read_bps", self.read_bps, MAX_BYTES_PER_SECOND)
        _check_count("write_bps", self.write_bps, MAX_BYTES_PER_SECOND)
        _check_count("read_iops", self.read_iops, MAX_OPERATIONS_PER_SECOND)
        _check_count("write_iops", self.write_iops, MAX_OPERATIONS_PER_SECOND)

    @property
    def limited(self) -> bool:
        """Whether anything is bounded at all."""
        return any(rate is not None for rate in (self.read_bps, self.write_bps, self.read_iops, self.write_iops))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on one job as a whole, with all its descendants; None is unlimited."""

    cpu_max: float | None = None
    """Cores: 0.5 is half of the time of one core."""
    memory_max: int | None = None
    """Bytes, page cache included; swap is not given on top."""
    pids_max: int | None = None
    """Tasks (threads count)."""
    io: IoLimits = field(default_factory=IoLimits)

    def __post_init__(self) -> None:
        """Refuse values that the kernel refuses or takes for "no limit"."""
        cores = self.cpu_max
        if cores is not None and not (math.isfinite(cores) and MIN_CORES <= cores <= MAX_CORES):
            raise ValueError(f"cpu_max must be from {MIN_CORES} to {MAX_CORES} cores, not {cores}")
        _check_count("memory_max", self.memory_max, MAX_MEMORY_BYTES)
        _check_count("pids_max", self.pids_max, MAX_PIDS)

    @property
    def controllers(self) -> frozenset[Controller]:
        """The controllers without which these limits can't be enforced."""
        asked = {
            Controller.CPU: self.cpu_max is not None,
            Controller.IO: self.io.limited,
            Controller.MEMORY: self.memory_max is not None,
            Controller.PIDS: self.pids_max is not None,
        }
        return frozenset(controller for controller, wanted in asked.items() if wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitWrite:
    """One text to write to one interface file of a job's cgroup."""

    controller: Controller
    file: str
    text: str


def limit_writes(
    limits: Limits, oom_policy: OomPolicy, *, available: Collection[Controller], io_device: str | None
) -> tuple[LimitWrite, ...]:
    """The writes for a fresh cgroup, in their order.

    A limit that was asked for is written whether or not its controller is ``available``: the missing file then
    tells. ``memory.oom.group`` is no limit, and is left out where the memory controller is neither there nor
    asked for.

    Args:
        limits: what was asked for.
        oom_policy: who dies of an out-of-memory.
        available: the controllers that are enabled for the job.
        io_device: the ``MAJ:MIN`` of the disk that ``limits.io`` is about.

    Raises:
        ValueError: ``limits.io`` bounds something and no device is given.
    """
    has_memory = Controller.MEMORY in available or limits.memory_max is not None
    return (
        *_oom_writes(oom_policy, has_memory=has_memory),
        *_memory_writes(limits.memory_max),
        *_pids_writes(limits.pids_max),
        *_cpu_writes(limits.cpu_max),
        *_io_writes(limits.io, io_device),
    )


def parse_cores(text: str) -> float | None:
    """Cores from ``0.5`` or ``2``; ``max`` is None.

    Raises:
        ValueError: the text is no such number.
    """
    if text == UNLIMITED:
        return None
    if _NUMBER.fullmatch(text) is None or len(text) > NUMBER_LENGTH:
        raise ValueError(f"{text!r} is not a number of cores: use a number such as 0.5 or 2, or max")
    return float(text)


def parse_count(text: str) -> int | None:
    """A whole number from ``100``; ``max`` is None.

    Raises:
        ValueError: the text is no such number.
    """
    if text == UNLIMITED:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > NUMBER_LENGTH:
        raise ValueError(f"{text!r} is not a count: use a whole number such as 100, or max")
    return int(text)


def _check_count(name: str, value: int | None, largest: int) -> None:
    if value is not None and not 1 <= value <= largest:
        raise ValueError(f"{name} must be from 1 to {largest}, not {value}")


def _oom_writes(policy: OomPolicy, *, has_memory: bool) -> tuple[LimitWrite, ...]:
    if not has_memory or policy is OomPolicy.PROCESS:
        return ()
    return (LimitWrite(controller=Controller.MEMORY, file="memory.oom.group", text="1"),)


def _memory_writes(memory_max: int | None) -> tuple[LimitWrite, ...]:
    if memory_max is None:
        return ()
    return (
        # With swap a job would outgrow its limit and drag the whole host into swapping before it is killed.
        LimitWrite(controller=Controller.MEMORY, file="memory.swap.max", text="0"),
        LimitWrite(controller=Controller.MEMORY, file="memory.max", text=str(memory_max)),
    )


def _pids_writes(pids_max: int | None) -> tuple[LimitWrite, ...]:
    if pids_max is None:
        return ()
    return (LimitWrite(controller=Controller.PIDS, file="pids.max", text=str(pids_max)),)


def _cpu_writes(cores: float | None) -> tuple[LimitWrite, ...]:
    if cores is None:
        return ()
    quota = round(cores * CPU_PERIOD_MICROSECONDS)
    return (LimitWrite(controller=Controller.CPU, file="cpu.max", text=f"{quota} {CPU_PERIOD_MICROSECONDS}"),)


def _io_writes(io: IoLimits, device: str | None) -> tuple[LimitWrite, ...]:
    if not io.limited:
        return ()
    if device is None:
        raise ValueError("an io limit needs the device it is about")
    rates = {"rbps": io.read_bps, "wbps": io.write_bps, "riops": io.read_iops, "wiops": io.write_iops}
    words = (f"{key}={UNLIMITED if rate is None else rate}" for key, rate in rates.items())
    return (LimitWrite(controller=Controller.IO, file="io.max", text=" ".join((device, *words))),)
