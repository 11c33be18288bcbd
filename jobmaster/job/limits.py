"""The limits that a caller asks for its job, as integers. Pure; values that exist are valid as far as no host is needed.

What the kernel and the server's operator allow of them, `jobmaster.run.limits` decides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Final

from jobmaster.errors import InvalidRequest

MOST_DEVICES: Final = 16
"""Devices that one job may have limits of its own for."""
_DEVICE: Final = re.compile(r"(0|[1-9][0-9]{0,6}):(0|[1-9][0-9]{0,6})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class IoRequest:
    """Bounds on the traffic with one disk; None: the server's default.

    Attributes:
        device: its `MAJ:MIN`, or that of one of its partitions; empty: the server's own choice.
        read_bps, write_bps: bytes a second.
        read_iops, write_iops: operations a second.

    Raises:
        InvalidRequest: it is no device's number, or it bounds nothing.
    """

    device: str = ""
    read_bps: int | None = None
    write_bps: int | None = None
    read_iops: int | None = None
    write_iops: int | None = None

    def __post_init__(self) -> None:
        if self.device and _DEVICE.fullmatch(self.device) is None:
            raise InvalidRequest(
                f"{self.device[:40]!r} is not the number of a device: write MAJ:MIN, such as 254:0", field="limits.io"
            )
        if (self.read_bps, self.write_bps, self.read_iops, self.write_iops) == (None,) * 4:
            raise InvalidRequest("an io limit without a rate bounds nothing: give it one", field="limits.io")


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRequest:
    """What a caller asks for; None: the server's default.

    Attributes:
        cpu_millicores: thousandths of the time of one core.
        memory_max: bytes, page cache included; beyond it processes are killed.
        memory_high: bytes; beyond it they are slowed down and their memory is reclaimed.
        swap_max: bytes of swap beside the memory; 0: none.
        pids_max: processes and threads.
        cpu_weight, io_weight: share among the jobs of this client, from 1 to 10000; 100 is what others have.
        io: for disks, each once.

    Raises:
        InvalidRequest: it asks for more devices than there may be.
    """

    cpu_millicores: int | None = None
    memory_max: int | None = None
    memory_high: int | None = None
    swap_max: int | None = None
    pids_max: int | None = None
    cpu_weight: int | None = None
    io_weight: int | None = None
    io: tuple[IoRequest, ...] = ()

    def __post_init__(self) -> None:
        if len(self.io) > MOST_DEVICES:
            raise InvalidRequest(f"io limits for more than {MOST_DEVICES} devices", field="limits.io")

    def __bool__(self) -> bool:
        return self != NO_LIMITS

    def canonical(self) -> str:
        """What is asked for as text, the same for the same: what is not asked for is not in it."""
        asked = [f"{name}={value}" for name, value in _set(self) if name != "io"]
        disks = [" ".join(f"{name}={value}" for name, value in _set(each)) for each in self.io]
        return "; ".join([*asked, *sorted(disks)])


NO_LIMITS: Final = LimitRequest()
"""All as the server has it."""


def _set(request: LimitRequest | IoRequest) -> list[tuple[str, object]]:
    values = ((each.name, getattr(request, each.name)) for each in fields(request))
    return [(name, value) for name, value in values if value is not None]
