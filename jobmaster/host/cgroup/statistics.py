"""What the kernel says of a cgroup: parsers of its statistics files. Pure.

One rule for all of them. A line that begins with an unknown word is ignored (newer kernels add keys), a known key
that is missing counts as 0 (older kernels lack some), and a known key whose value is not what its format says is a
:class:`~jobmaster.errors.CgroupError`: a number that decides why a job ended is not guessed.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jobmaster.errors import CgroupError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_DEVICE: Final = re.compile(r"[0-9]+:[0-9]+", re.ASCII)
_PERCENT: Final = re.compile(r"[0-9]+\.[0-9]+", re.ASCII)
# A 64-bit counter has 20 digits at most; int() itself refuses thousands of digits with another error.
_COUNTER: Final = re.compile(r"[0-9]{1,20}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEvents:
    """Counters of ``memory.events``: of the cgroup and everything under it, since it was made.

    ``oom`` counts allocations that met the limit and is no kill. ``oom_kill`` counts processes killed by any
    out-of-memory killer, ``oom_group_kill`` (kernel 5.17) whole groups killed because of ``memory.oom.group``.
    """

    low: int = 0
    high: int = 0
    max: int = 0
    oom: int = 0
    oom_kill: int = 0
    oom_group_kill: int = 0

    def __post_init__(self) -> None:
        """Refuse negative counts: they come from a baseline that is not of the same cgroup."""
        if min(self.low, self.high, self.max, self.oom, self.oom_kill, self.oom_group_kill) < 0:
            raise ValueError(f"counters of one cgroup never go back: {self}")

    def since(self, baseline: MemoryEvents) -> MemoryEvents:
        """What has happened after ``baseline`` was read from the same cgroup."""
        return MemoryEvents(
            low=self.low - baseline.low,
            high=self.high - baseline.high,
            max=self.max - baseline.max,
            oom=self.oom - baseline.oom,
            oom_kill=self.oom_kill - baseline.oom_kill,
            oom_group_kill=self.oom_group_kill - baseline.oom_group_kill,
        )

    @property
    def killed(self) -> bool:
        """Whether an out-of-memory killer took a process; meeting the limit alone (``oom``) is no kill."""
        return self.oom_kill > 0 or self.oom_group_kill > 0

    @property
    def processes_killed(self) -> int:
        """How many processes an out-of-memory killer took, at least 1 when it took any.

        A group kill counts the process that the killer picked first once more when it goes through the group
        (mm/oom_kill.c, oom_kill_process and oom_kill_memcg_member), so ``oom_kill`` is too high by one for each.
        """
        return max(self.oom_kill - self.oom_group_kill, int(self.killed))


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuStatistics:
    """Counters of ``cpu.stat``; times in microseconds, throttling counters 0 without the cpu controller."""

    usage_usec: int = 0
    user_usec: int = 0
    system_usec: int = 0
    nr_periods: int = 0
    nr_throttled: int = 0
    throttled_usec: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class IoStatistics:
    """Counters of one device in ``io.stat``: bytes and operations, read and written."""

    rbytes: int = 0
    wbytes: int = 0
    rios: int = 0
    wios: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupEvents:
    """State flags of ``cgroup.events``. Zombies do not populate a cgroup; ``frozen`` is kernel 5.2."""

    populated: bool
    frozen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PressureShare:
    """How much of the last 10, 60 and 300 seconds was stalled, in percent, and in all, in microseconds."""

    avg10: float = 0.0
    avg60: float = 0.0
    avg300: float = 0.0
    total_usec: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """A ``*.pressure`` file: time in which ``some`` task, or every one (``full``), waited for the resource."""

    some: PressureShare = PressureShare()
    full: PressureShare = PressureShare()


def parse_memory_events(text: str) -> MemoryEvents:
    """The counters of ``memory.events``.

    Raises:
        CgroupError: a known counter is malformed.
    """
    counters = flat_counters(text, ("low", "high", "max", "oom", "oom_kill", "oom_group_kill"))
    return MemoryEvents(**counters)


def parse_cpu_stat(text: str) -> CpuStatistics:
    """The counters of ``cpu.stat``.

    Raises:
        CgroupError: a known counter is malformed.
    """
    names = ("usage_usec", "user_usec", "system_usec", "nr_periods", "nr_throttled", "throttled_usec")
    return CpuStatistics(**flat_counters(text, names))


def parse_cgroup_events(text: str) -> CgroupEvents:
    """The flags of ``cgroup.events``.

    Raises:
        CgroupError: a flag is neither 0 nor 1, or ``populated``, which every kernel has, is missing.
    """
    flags = {name: _flag(name, value) for name, value in _known_lines(text, ("populated", "frozen"))}
    if "populated" not in flags:
        raise CgroupError(f"cgroup.events says nothing of populated: {text!r}")
    return CgroupEvents(**flags)


def parse_io_stat(text: str) -> dict[str, IoStatistics]:
    """The counters of ``io.stat`` by ``MAJ:MIN``; devices without any counter are left out.

    Raises:
        CgroupError: a known counter is malformed.
    """
    devices = {}
    for line in text.split("\n"):
        device, words = _io_line(line.split())
        counters = dict(_counters_of_words(words, ("rbytes", "wbytes", "rios", "wios"), line))
        if device is not None and counters:
            devices[device] = IoStatistics(**counters)
    return devices


def parse_pressure(text: str) -> Pressure:
    """The shares of a ``*.pressure`` file; a missing line (``full`` of cpu before kernel 5.13) is all 0.

    Raises:
        CgroupError: a known share is malformed.
    """
    shares = {kind: _pressure_share(rest) for kind, rest in _known_lines(text, ("some", "full"))}
    return Pressure(**shares)


def parse_counter(text: str) -> int:
    """The number of a single-value file such as ``memory.peak``.

    Raises:
        CgroupError: it is not one number.
    """
    return _counter(text.strip(), text)


def flat_counters(text: str, names: Iterable[str]) -> dict[str, int]:
    """Those of the named counters that a flat keyed file such as ``memory.stat`` has; for who must tell "not there" from 0.

    Raises:
        CgroupError: one of them is malformed.
    """
    return {name: _counter(value, f"{name} {value}") for name, value in _known_lines(text, names)}


def pressure_totals(text: str) -> dict[str, int]:
    """Microseconds that ``some`` task, or every one (``full``), waited in all, of a ``*.pressure`` file; what it has of these.

    Raises:
        CgroupError: a total is malformed.
    """
    words = ((kind, word) for kind, rest in _known_lines(text, ("some", "full")) for word in rest.split())
    return {kind: _counter(word[6:], word) for kind, word in words if word.startswith("total=")}


def _known_lines(text: str, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    known = frozenset(names)
    for line in text.split("\n"):
        name, _, value = line.partition(" ")
        if name in known:
            yield name, value


def _counter(value: str, context: str) -> int:
    if _COUNTER.fullmatch(value) is None:
        raise CgroupError(f"not a counter of the kernel: {context!r}")
    return int(value)


def _flag(name: str, value: str) -> bool:
    if value not in {"0", "1"}:
        raise CgroupError(f"not a flag of the kernel: {f'{name} {value}'!r}")
    return value == "1"


def _io_line(words: list[str]) -> tuple[str | None, list[str]]:
    # Kernels print the name of an idle device without ending its line, so that several names can precede the
    # counters of the last one ("7:1 7:0 254:0 rbytes=…", canonical/lxd#10052), and "(unknown)" for a hidden path of
    # a multipath device (canonical/lxd#18609).
    names = list(itertools.takewhile(lambda word: "=" not in word, words))
    device = names[-1] if names and _DEVICE.fullmatch(names[-1]) else None
    return device, words[len(names) :] if device is not None else []


def _counters_of_words(words: Iterable[str], names: Iterable[str], line: str) -> Iterator[tuple[str, int]]:
    known = frozenset(names)
    for word in words:
        name, _, value = word.partition("=")
        if name in known:
            yield name, _counter(value, line)


def _pressure_share(rest: str) -> PressureShare:
    values = dict(word.partition("=")[::2] for word in rest.split())
    return PressureShare(
        avg10=_percent(values.get("avg10", "0.00"), rest),
        avg60=_percent(values.get("avg60", "0.00"), rest),
        avg300=_percent(values.get("avg300", "0.00"), rest),
        total_usec=_counter(values.get("total", "0"), rest),
    )


def _percent(value: str, context: str) -> float:
    if _PERCENT.fullmatch(value) is None:
        raise CgroupError(f"not a share of time: {context!r}")
    return float(value)
