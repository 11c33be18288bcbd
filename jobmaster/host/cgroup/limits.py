"""What a job may be limited to, and the writes to its cgroup that ask the kernel for it. Pure.

The bounds are the kernel's own, because it answers most values beyond them by silently limiting nothing.
File formats: Documentation/admin-guide/cgroup-v2.rst of the kernel.
"""

from __future__ import annotations

import enum
import math
import mmap
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from jobmaster.sizes import NUMBER_LENGTH, UNLIMITED

if TYPE_CHECKING:
    from collections.abc import Collection

CPU_PERIOD_MICROSECONDS: Final = 100_000
# kernel/sched/core.c: a period is at most 1 s (max_cfs_quota_period). The longest one is for few cores: what a job uses up at
# its start, before its command is executed (4 ms; in User-Mode Linux 60 to 170), it has then in one piece.
LONG_CPU_PERIOD_MICROSECONDS: Final = 1_000_000
FEW_CORES: Final = 0.1
"""Below these the long period is taken."""
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
# include/linux/cgroup.h: CGROUP_WEIGHT_MIN and _MAX; CGROUP_WEIGHT_DFL is 100.
MAX_WEIGHT: Final = 10_000

_RATES: Final = ("rbps", "wbps", "riops", "wiops")
"""As ``io.max`` calls them, in the order of `IoLimits`."""
_IN_PAGES: Final = frozenset({"memory.max", "memory.high", "memory.swap.max"})
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
        """Refuse values that the kernel takes for "no limit"."""
        for name in ("read_bps", "write_bps"):
            _check_count(name, getattr(self, name), MAX_BYTES_PER_SECOND)
        for name in ("read_iops", "write_iops"):
            _check_count(name, getattr(self, name), MAX_OPERATIONS_PER_SECOND)

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
    """Bytes, page cache included."""
    memory_high: int | None = None
    """Bytes beyond which the job is slowed down, at most `memory_max`, without which there is none."""
    swap_max: int | None = None
    """Bytes beside the memory; None: none where there is a `memory_max`, else unlimited."""
    pids_max: int | None = None
    """Tasks (threads count)."""
    cpu_weight: int | None = None
    """Share of the CPU among cgroups with one parent; None is the kernel's 100."""
    io_weight: int | None = None
    """Share of the disks, likewise."""
    io: IoLimits = field(default_factory=IoLimits)
    """Of the server's own choice of a disk."""
    other_io: tuple[tuple[str, IoLimits], ...] = ()
    """Of other disks, by ``MAJ:MIN``."""

    def __post_init__(self) -> None:
        """Refuse values that the kernel refuses or takes for "no limit"."""
        cores = self.cpu_max
        if cores is not None and not (math.isfinite(cores) and MIN_CORES <= cores <= MAX_CORES):
            raise ValueError(f"cpu_max must be from {MIN_CORES} to {MAX_CORES} cores, not {cores}")
        _check_count("memory_max", self.memory_max, MAX_MEMORY_BYTES)
        _check_count("memory_high", self.memory_high, MAX_MEMORY_BYTES)
        _check_count("swap_max", self.swap_max, MAX_MEMORY_BYTES, least=0)
        _check_count("pids_max", self.pids_max, MAX_PIDS)
        _check_count("cpu_weight", self.cpu_weight, MAX_WEIGHT)
        _check_count("io_weight", self.io_weight, MAX_WEIGHT)
        if self.memory_high is not None and self.memory_max is None:  # the job would be slowed down without an end
            raise ValueError("memory_high needs a memory_max too")
        if self.memory_high is not None and self.memory_max is not None and self.memory_high > self.memory_max:
            raise ValueError(f"memory_high, {self.memory_high}, is more than memory_max, {self.memory_max}")


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
        *_memory_writes(limits),
        *_count_writes(Controller.PIDS, "pids.max", limits.pids_max),
        *_cpu_writes(limits.cpu_max),
        *_count_writes(Controller.CPU, "cpu.weight", limits.cpu_weight),
        *_io_writes(limits.io, io_device),
        *(write for device, io in limits.other_io for write in _io_writes(io, device)),
        *_count_writes(Controller.IO, "io.weight", limits.io_weight, form="default {}"),
    )


def is_in_force(write: LimitWrite, text: str) -> bool:
    """Whether the kernel has taken a limit, by what its file says after the write.

    Memory is reckoned in pages, rounded down (mm/page_counter.c, page_counter_memparse). A file of io limits and weights has
    a line for each device, the other files have one line.
    """
    if write.controller is Controller.IO:
        return write.text in map(str.strip, text.splitlines())
    found = text.strip()
    if write.file in _IN_PAGES and found.isdecimal():
        asked = int(write.text)
        return asked - asked % mmap.PAGESIZE <= int(found) <= asked
    return found == write.text


def no_io_limits(text: str) -> tuple[str, ...]:
    """What to write to ``io.max`` that reads so, a device each, so that nothing is limited any more."""
    devices = [line.split()[0] for line in text.splitlines() if line.strip()]
    rates = " ".join(f"{key}={UNLIMITED}" for key in _RATES)
    return tuple(f"{device} {rates}" for device in devices)


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


def _check_count(name: str, value: int | None, largest: int, *, least: int = 1) -> None:
    if value is not None and not least <= value <= largest:
        raise ValueError(f"{name} must be from {least} to {largest}, not {value}")


def _oom_writes(policy: OomPolicy, *, has_memory: bool) -> tuple[LimitWrite, ...]:
    if not has_memory or policy is OomPolicy.PROCESS:
        return ()
    return (LimitWrite(controller=Controller.MEMORY, file="memory.oom.group", text="1"),)


def _memory_writes(limits: Limits) -> tuple[LimitWrite, ...]:
    swap = limits.swap_max
    if swap is None and limits.memory_max is not None:
        # With swap a job would outgrow its limit and drag the whole host into swapping before it is killed.
        swap = 0
    return (
        *_count_writes(Controller.MEMORY, "memory.swap.max", swap),
        *_count_writes(Controller.MEMORY, "memory.max", limits.memory_max),
        *_count_writes(Controller.MEMORY, "memory.high", limits.memory_high),
    )


def _count_writes(controller: Controller, file: str, value: int | None, *, form: str = "{}") -> tuple[LimitWrite, ...]:
    if value is None:
        return ()
    return (LimitWrite(controller=controller, file=file, text=form.format(value)),)


def _cpu_writes(cores: float | None) -> tuple[LimitWrite, ...]:
    if cores is None:
        return ()
    period = LONG_CPU_PERIOD_MICROSECONDS if cores < FEW_CORES else CPU_PERIOD_MICROSECONDS
    return (LimitWrite(controller=Controller.CPU, file="cpu.max", text=f"{round(cores * period)} {period}"),)


def _io_writes(io: IoLimits, device: str | None) -> tuple[LimitWrite, ...]:
    if not io.limited:
        return ()
    if device is None:
        raise ValueError("an io limit needs the device it is about")
    rates = zip(_RATES, (io.read_bps, io.write_bps, io.read_iops, io.write_iops), strict=True)
    words = (f"{key}={UNLIMITED if rate is None else rate}" for key, rate in rates)
    return (LimitWrite(controller=Controller.IO, file="io.max", text=" ".join((device, *words))),)
