"""What a job is limited to: what it asks for, within what the server's operator allows and the host enforces. Pure.

Theory of operation. Each limit is what the job asks for, else the server's default. Above the default stands a ceiling;
both are of the operator, and a job that asks for more than its ceiling is refused. The server's own options are both at
once: what an operator has set for every job, no client gets round by asking. A limit that a job asks for has to be
enforced by this host, or the job is refused; a default that is not enforced is only reported.

Below some rates a job does harm to others, or comes to nothing: these floors are for what jobs ask for. An operator may set
less, and is warned; a job may then have that default, and nothing else.

Weights have no ceiling: a job's cgroup is in its client's, so that they count between the jobs of one client alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Final

from jobmaster.errors import InvalidRequest, LimitNotEnforceable
from jobmaster.host.cgroup.controllers import Enforcement
from jobmaster.host.cgroup.limits import (
    MAX_BYTES_PER_SECOND,
    MAX_CORES,
    MAX_MEMORY_BYTES,
    MAX_OPERATIONS_PER_SECOND,
    MAX_PIDS,
    MAX_WEIGHT,
    Controller,
    IoLimits,
    Limits,
    LimitWrite,
    OomPolicy,
    limit_writes,
)
from jobmaster.job.limits import NO_LIMITS, IoRequest, LimitRequest
from jobmaster.job.record import LimitReport

MILLI: Final = 1000
REPORTED: Final = frozenset({"cpu.max", "memory.max", "pids.max", "io.max"})
"""The files of the limits that a record names; of others those that the job has asked for."""
LEAST_MILLICORES: Final = 50
"""With less, a slow host does not come to execute a job's command while its caller waits."""
# A journalling file system has everybody's fsync wait for what one job has written and its rate does not let through. With the
# server's own journal on that ext4, another client's Start took 32 s at 1 MiB/s and 1.3 s at 8; 39 s at 10 writes a second
# and 6 s at 100.
LEAST_BYTES_PER_SECOND: Final = 8 * 2**20
LEAST_OPERATIONS_PER_SECOND: Final = 200

_RATES: Final = tuple(each.name for each in fields(IoLimits))
_BOUNDS: Final[Mapping[str, tuple[int, int]]] = {
    "cpu_millicores": (LEAST_MILLICORES, MAX_CORES * MILLI),
    "memory_max": (1, MAX_MEMORY_BYTES),
    "memory_high": (1, MAX_MEMORY_BYTES),
    "swap_max": (0, MAX_MEMORY_BYTES),
    "pids_max": (1, MAX_PIDS),
    "cpu_weight": (1, MAX_WEIGHT),
    "io_weight": (1, MAX_WEIGHT),
    "read_bps": (LEAST_BYTES_PER_SECOND, MAX_BYTES_PER_SECOND),
    "write_bps": (LEAST_BYTES_PER_SECOND, MAX_BYTES_PER_SECOND),
    "read_iops": (LEAST_OPERATIONS_PER_SECOND, MAX_OPERATIONS_PER_SECOND),
    "write_iops": (LEAST_OPERATIONS_PER_SECOND, MAX_OPERATIONS_PER_SECOND),
}
_CONTROLLERS: Final[Mapping[str, tuple[Controller, str]]] = {
    "cpu_millicores": (Controller.CPU, "cpu.max"),
    "memory_max": (Controller.MEMORY, "memory.max"),
    "memory_high": (Controller.MEMORY, "memory.high"),
    "swap_max": (Controller.MEMORY, "memory.swap.max"),
    "pids_max": (Controller.PIDS, "pids.max"),
    "cpu_weight": (Controller.CPU, "cpu.weight"),
    "io_weight": (Controller.IO, "io.weight"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """The most that a job may ask for; None: as much as the kernel takes.

    Attributes:
        cpu_millicores: thousandths of a core.
        memory_max, swap_max: bytes.
        pids_max: processes and threads.
        io: of the server's own choice of a disk; others have none.
    """

    cpu_millicores: int | None = None
    memory_max: int | None = None
    swap_max: int | None = None
    pids_max: int | None = None
    io: IoLimits = field(default_factory=IoLimits)

    @classmethod
    def of(cls, limits: Limits) -> Ceilings:
        """The limits of every job, as the server's options set them."""
        return cls(
            cpu_millicores=None if limits.cpu_max is None else millicores(limits.cpu_max),
            memory_max=limits.memory_max,
            swap_max=0 if limits.memory_max is not None and limits.swap_max is None else limits.swap_max,
            pids_max=limits.pids_max,
            io=limits.io,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What this host can do about limits.

    Attributes:
        enforcement: of each controller.
        io_device: the disk that is meant where none is named; None where there is none.
        no_io_weights_because: why no disk heeds io weights; None where one does.
    """

    enforcement: Enforcement
    io_device: str | None = None
    no_io_weights_because: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitPolicy:
    """What the server decides the limits of a job by.

    Attributes:
        defaults: where a job asks for nothing.
        ceilings: the most that it may ask for.
        capabilities: of the host.
        oom_policy: who dies of an out-of-memory.
    """

    capabilities: Capabilities
    defaults: Limits = field(default_factory=Limits)
    ceilings: Ceilings = field(default_factory=Ceilings)
    oom_policy: OomPolicy = OomPolicy.JOB


def policy_of_client(policy: LimitPolicy, own: Mapping[str, float | None]) -> LimitPolicy:
    """The policy for the jobs of a client that has ceilings of its own.

    A ceiling of its own takes the place of the server's, be it lower or higher; a default is never above it. With a ceiling of
    the memory there is no swap, unless one of the swap says how much.

    Args:
        policy: of the server.
        own: as of `ClientTerms.ceilings`.
    """
    values = {name: value for name, value in own.items() if name not in (*_RATES, "cpu_max")}
    if own.get("memory_max") is not None and policy.ceilings.swap_max is None:
        values.setdefault("swap_max", 0)
    if "cpu_max" in own:
        values["cpu_millicores"] = None if own["cpu_max"] is None else round(own["cpu_max"] * MILLI)
    rates = {name: None if value is None else int(value) for name, value in own.items() if name in _RATES}
    whole = {name: None if value is None else int(value) for name, value in values.items()}
    ceilings = replace(policy.ceilings, **whole, io=replace(policy.ceilings.io, **rates))
    return replace(policy, ceilings=ceilings, defaults=_below(policy, ceilings))


def _below(policy: LimitPolicy, ceilings: Ceilings) -> Limits:
    """The defaults, none of them above its ceiling."""
    defaults = policy.defaults
    cores = None if ceilings.cpu_millicores is None else ceilings.cpu_millicores / MILLI
    memory = _less(defaults.memory_max, ceilings.memory_max)
    has_implied_swap = defaults.swap_max is None and memory is not None  # none, as of `Limits`
    high = defaults.memory_high
    io = {name: _less(getattr(defaults.io, name), getattr(ceilings.io, name)) for name in _RATES}
    return replace(
        defaults,
        cpu_max=cores
        if defaults.cpu_max is None or (cores is not None and cores < defaults.cpu_max)
        else defaults.cpu_max,
        memory_max=memory,
        memory_high=None if high is None else _less(high, memory),
        swap_max=None if has_implied_swap else _less(defaults.swap_max, ceilings.swap_max),
        pids_max=_less(defaults.pids_max, ceilings.pids_max),
        io=IoLimits(**io) if policy.capabilities.io_device is not None else defaults.io,
    )


def _less(one: int | None, other: int | None) -> int | None:
    """The lower of two bounds, where None is none."""
    return min((each for each in (one, other) if each is not None), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLimits:
    """What is written to a job's cgroup, and what its record says of it."""

    writes: tuple[LimitWrite, ...] = ()
    reports: tuple[LimitReport, ...] = ()


def resolve(request: LimitRequest, policy: LimitPolicy, disks: Mapping[str, str | None]) -> JobLimits:
    """The limits of a job.

    Args:
        request: what it asks for.
        policy: of the server.
        disks: of each device that the request names, the disk that is meant; None where there is none.

    Raises:
        InvalidRequest: a value that no job may have, or more than the ceiling; names both.
        LimitNotEnforceable: this host cannot enforce what is asked for; names the controller.
    """
    asked = _asked_values(request)
    for name, value in asked.items():
        if value != _default(name, policy.defaults):
            _check(f"limits.{name}", value, name, getattr(policy.ceilings, name, None))
        _require(*_CONTROLLERS[name], policy.capabilities)
    devices = _devices(request, policy, disks)
    limits = _limits(asked, devices, policy)
    files = {_CONTROLLERS[name][1] for name in asked}
    return _in_force(limits, policy, requested=files | {f"io.max {device}" for device in devices})


def _asked_values(request: LimitRequest) -> dict[str, int]:
    values = {name: getattr(request, name) for name in _CONTROLLERS}
    return {name: value for name, value in values.items() if value is not None}


def _default(name: str, defaults: Limits) -> int | None:
    """What a job has that does not ask, in the same unit."""
    if name != "cpu_millicores":
        return getattr(defaults, name)  # type: ignore[no-any-return]  # all of them are counts
    return None if defaults.cpu_max is None else millicores(defaults.cpu_max)


def millicores(cores: float) -> int:
    """Thousandths of a core."""
    return round(cores * MILLI)


def _check(field_name: str, value: int, name: str, ceiling: int | None) -> None:
    """Refuses what a job may not ask for, which is not its default."""
    least, most = _BOUNDS[name]
    if ceiling is not None and ceiling < least:
        raise InvalidRequest(
            f"{name} is {ceiling} on this server, neither more nor less: not {value}", field=field_name
        )
    if not least <= value <= most:
        raise InvalidRequest(f"{name} is from {least} to {most}, not {value}", field=field_name)
    if ceiling is not None and value > ceiling:
        raise InvalidRequest(f"{name} is {ceiling} at most on this server, not {value}", field=field_name)


def _require(controller: Controller, file: str, capabilities: Capabilities) -> None:
    reason = capabilities.enforcement.why_not(controller)
    if reason is None and file == "io.weight":
        reason = capabilities.no_io_weights_because
    if reason is not None:
        raise LimitNotEnforceable(f"the server's host cannot enforce {file} of the {controller} controller: {reason}")


def _devices(request: LimitRequest, policy: LimitPolicy, disks: Mapping[str, str | None]) -> dict[str, IoRequest]:
    """What is asked for each disk."""
    own = policy.capabilities.io_device
    found: dict[str, IoRequest] = {}
    for position, each in enumerate(request.io):
        where = f"limits.io[{position}]"
        disk = disks.get(each.device) if each.device else own
        is_own = disk == own
        ceilings, defaults = (policy.ceilings.io, policy.defaults.io) if is_own else (IoLimits(), IoLimits())
        for name, value in _asked_rates(each):
            if value != getattr(defaults, name):
                _check(f"{where}.{name}", value, name, getattr(ceilings, name))
        _require(Controller.IO, "io.max", policy.capabilities)
        if disk is None and each.device:
            raise InvalidRequest(f"the server's host has no block device {each.device}", field=f"{where}.device")
        if disk is None:
            raise LimitNotEnforceable(
                "the server's outputs are on no disk that the io controller could limit: name a device"
            )
        if disk in found:
            raise InvalidRequest(f"the disk {disk} has two io limits: give it one", field=f"{where}.device")
        found[disk] = each
    return found


def _asked_rates(request: IoRequest) -> list[tuple[str, int]]:
    rates = ((name, getattr(request, name)) for name in _RATES)
    return [(name, rate) for name, rate in rates if rate is not None]


def _limits(asked: Mapping[str, int], devices: Mapping[str, IoRequest], policy: LimitPolicy) -> Limits:
    defaults = policy.defaults
    cores = asked.get("cpu_millicores")
    values = {name: asked.get(name, getattr(defaults, name)) for name in _CONTROLLERS if name != "cpu_millicores"}
    if values["memory_high"] is not None:
        _check_high(values["memory_high"], values["memory_max"], is_asked="memory_high" in asked)
        values["memory_high"] = min(values["memory_high"], values["memory_max"])
    own = policy.capabilities.io_device
    return Limits(
        cpu_max=defaults.cpu_max if cores is None else cores / MILLI,
        **values,
        io=_merged(devices[own], defaults.io) if own is not None and own in devices else defaults.io,
        other_io=tuple((device, _merged(each, IoLimits())) for device, each in devices.items() if device != own),
    )


def _check_high(high: int, most: int | None, *, is_asked: bool) -> None:
    if most is None:
        raise InvalidRequest("memory_high needs a memory_max too: ask for both", field="limits.memory_high")
    if is_asked and high > most:
        raise InvalidRequest(
            f"memory_high is the job's memory_max at most, {most}, not {high}", field="limits.memory_high"
        )


def _merged(request: IoRequest, defaults: IoLimits) -> IoLimits:
    return replace(defaults, **dict(_asked_rates(request)))


def _in_force(limits: Limits, policy: LimitPolicy, *, requested: Collection[str]) -> JobLimits:
    enforcement = policy.capabilities.enforcement
    writes = limit_writes(
        limits, policy.oom_policy, available=enforcement.controllers, io_device=policy.capabilities.io_device
    )
    return JobLimits(
        writes=tuple(write for write in writes if write.controller in enforcement.controllers),
        reports=tuple(_reports(writes, enforcement, requested)),
    )


def _reports(
    writes: Collection[LimitWrite], enforcement: Enforcement, requested: Collection[str]
) -> Iterator[LimitReport]:
    for write in writes:
        what = f"io.max {write.text.split()[0]}" if write.file == "io.max" else write.file
        is_requested = what in requested
        if is_requested or write.file in REPORTED:
            yield LimitReport(
                name=str(write.controller),
                value=f"{write.file} {write.text}",
                not_enforced_because=enforcement.why_not(write.controller),
                requested=is_requested,
            )


def default_limits(policy: LimitPolicy) -> JobLimits:
    """The limits of a job that asks for none."""
    return resolve(NO_LIMITS, policy, {})
