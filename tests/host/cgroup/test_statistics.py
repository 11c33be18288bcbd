"""Parsers of the kernel's statistics files."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.errors import CgroupError
from jobmaster.host.cgroup.statistics import (
    CgroupEvents,
    CpuStatistics,
    IoStatistics,
    MemoryEvents,
    Pressure,
    PressureShare,
    parse_cgroup_events,
    parse_counter,
    parse_cpu_stat,
    parse_io_stat,
    parse_memory_events,
    parse_pressure,
)

if TYPE_CHECKING:
    from collections.abc import Callable

counters = st.integers(min_value=0, max_value=2**64 - 1)
memory_events = st.builds(
    MemoryEvents, low=counters, high=counters, max=counters, oom=counters, oom_kill=counters, oom_group_kill=counters
)


def _flat(values: dict[str, int]) -> str:
    return "".join(f"{name} {value}\n" for name, value in values.items())


@given(memory_events, st.randoms())
def test_memory_events_come_back_in_any_order(events: MemoryEvents, random: object) -> None:
    """What the kernel writes is what is read, whatever the order of lines."""
    lines = list(asdict(events).items())
    random.shuffle(lines)  # type: ignore[attr-defined]  # hypothesis types its random source as object
    assert parse_memory_events(_flat(dict(lines))) == events


def test_memory_events_of_an_old_kernel() -> None:
    """A kernel before 5.17 has no oom_group_kill: it counts as 0."""
    text = "low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\n"
    assert parse_memory_events(text) == MemoryEvents(high=1, max=2, oom=3, oom_kill=4)


def test_keys_of_a_newer_kernel_are_ignored() -> None:
    """An unknown key does not disturb, whatever its value looks like."""
    assert parse_memory_events("oom_kill 1\nsock_throttled 5\nnovelty a=b c=d\n") == MemoryEvents(oom_kill=1)


@pytest.mark.parametrize("line", ["oom_kill", "oom_kill ", "oom_kill x", "oom_kill -1", "oom_kill 1 2", "oom_kill 1_0"])
def test_a_malformed_counter_is_an_error(line: str) -> None:
    """A known key without a plain number is refused, not guessed, and the line is named."""
    with pytest.raises(CgroupError, match="oom_kill"):
        parse_memory_events(f"low 0\n{line}\n")


@given(memory_events, memory_events)
def test_the_difference_to_a_baseline_is_what_came_after_it(before: MemoryEvents, later: MemoryEvents) -> None:
    """Counting on from a baseline and taking the baseline away again gives what was counted."""
    sums = {name: count + asdict(later)[name] for name, count in asdict(before).items()}
    assert MemoryEvents(**sums).since(before) == later


def test_a_baseline_of_another_cgroup_is_a_mistake() -> None:
    """Counters never go back, so a negative difference is refused."""
    with pytest.raises(ValueError, match="never go back"):
        MemoryEvents(oom_kill=1).since(MemoryEvents(oom_kill=2))


def test_meeting_the_limit_is_no_kill() -> None:
    """Only oom_kill and oom_group_kill say that a process was killed; oom alone does not."""
    assert not MemoryEvents(oom=5, max=9, high=3).killed
    assert MemoryEvents(oom_kill=1).killed
    assert MemoryEvents(oom_group_kill=1).killed


def test_cpu_statistics_with_the_controller() -> None:
    """Times and throttling are read, keys not used are passed over."""
    text = (
        "usage_usec 5\nuser_usec 3\nsystem_usec 2\ncore_sched.force_idle_usec 0\n"
        "nr_periods 9\nnr_throttled 8\nthrottled_usec 7\nnr_bursts 0\nburst_usec 0\n"
    )
    expected = CpuStatistics(usage_usec=5, user_usec=3, system_usec=2, nr_periods=9, nr_throttled=8, throttled_usec=7)
    assert parse_cpu_stat(text) == expected


def test_cpu_statistics_without_the_controller() -> None:
    """The kernel accounts time without the cpu controller; throttling is then 0."""
    assert parse_cpu_stat("usage_usec 5\nuser_usec 3\nsystem_usec 2\n") == CpuStatistics(
        usage_usec=5, user_usec=3, system_usec=2
    )


def test_io_statistics_by_device() -> None:
    """Each device has its own counters; discards are not kept."""
    text = (
        "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n"
        "8:16 rbytes=10 wbytes=20 rios=30 wios=40 dbytes=0 dios=0 cost.usage=7\n"
    )
    assert parse_io_stat(text) == {
        "254:0": IoStatistics(rbytes=1, wbytes=2, rios=3, wios=4),
        "8:16": IoStatistics(rbytes=10, wbytes=20, rios=30, wios=40),
    }


def test_idle_devices_on_the_line_of_another() -> None:
    """Names of idle devices that the kernel leaves on the line give nothing and take nothing."""
    text = "7:1 7:0 254:0 rbytes=1 wbytes=0 rios=1 wios=0\n252:0 "
    assert parse_io_stat(text) == {"254:0": IoStatistics(rbytes=1, rios=1)}


def test_a_hidden_device_is_not_taken_for_another() -> None:
    """Counters of "(unknown)" are dropped and never counted for a device named before it."""
    assert parse_io_stat("(unknown) rbytes=1\n8:0 (unknown) rbytes=2\n8:16 rbytes=3\n") == {
        "8:16": IoStatistics(rbytes=3)
    }


def test_a_malformed_io_counter_is_an_error() -> None:
    """A known io counter that is no number is refused."""
    with pytest.raises(CgroupError, match="rbytes=many"):
        parse_io_stat("8:0 rbytes=many\n")


def test_cgroup_events() -> None:
    """The flags are read, frozen only where the kernel has it."""
    assert parse_cgroup_events("populated 1\nfrozen 0\n") == CgroupEvents(populated=True, frozen=False)
    assert parse_cgroup_events("frozen 1\npopulated 0\n") == CgroupEvents(populated=False, frozen=True)
    assert parse_cgroup_events("populated 0\n") == CgroupEvents(populated=False)


@pytest.mark.parametrize("text", ["", "frozen 0\n", "populated 2\n", "populated\n", "populated 01\n"])
def test_cgroup_events_that_do_not_tell_are_an_error(text: str) -> None:
    """Whether processes live in a cgroup is never assumed."""
    with pytest.raises(CgroupError, match="populated"):
        parse_cgroup_events(text)


def test_pressure() -> None:
    """Both lines are read; a kernel without the full line gives zeros for it."""
    some = "some avg10=1.50 avg60=0.25 avg300=0.00 total=123\n"
    full = "full avg10=0.10 avg60=0.00 avg300=0.00 total=45\n"
    share = PressureShare(avg10=1.5, avg60=0.25, total_usec=123)
    assert parse_pressure(some + full) == Pressure(some=share, full=PressureShare(avg10=0.1, total_usec=45))
    assert parse_pressure(some) == Pressure(some=share)


@pytest.mark.parametrize("text", ["some avg10=x avg60=0.00 avg300=0.00 total=0", "full avg10=0.00 total=-1"])
def test_malformed_pressure_is_an_error(text: str) -> None:
    """A share of time that is no number is refused."""
    with pytest.raises(CgroupError, match="not a"):
        parse_pressure(text)


def test_single_counters() -> None:
    """A single-value file is one number and nothing else."""
    assert parse_counter("4096\n") == 4096
    with pytest.raises(CgroupError, match="max"):
        parse_counter("max\n")


PARSERS: tuple[Callable[[str], object], ...] = (
    parse_memory_events,
    parse_cpu_stat,
    parse_cgroup_events,
    parse_io_stat,
    parse_pressure,
    parse_counter,
)
_WORDS = (
    "oom_kill",
    "usage_usec",
    "populated",
    "8:0",
    "rbytes=",
    "some",
    "avg10=",
    "0",
    "1",
    "9" * 5000,
    " ",
    "\n",
    "=",
)
broken_texts = st.text() | st.lists(st.sampled_from(_WORDS)).map("".join)


@given(broken_texts)
def test_parsers_raise_nothing_but_cgroup_errors(text: str) -> None:
    """Whatever a file holds, each parser gives a value or a CgroupError."""
    results = []
    for parse in PARSERS:
        try:
            results.append(parse(text))
        except CgroupError as error:
            results.append(error)
    assert len(results) == len(PARSERS)


@pytest.mark.parametrize(
    ("oom_kill", "oom_group_kill", "processes"),
    [(0, 0, 0), (1, 0, 1), (3, 0, 3), (2, 1, 1), (3, 1, 2), (1, 1, 1), (0, 1, 1)],
)
def test_killed_processes_are_counted_once(oom_kill: int, oom_group_kill: int, processes: int) -> None:
    """The process that a group kill counts twice counts once, and a kill is never counted as none."""
    events = MemoryEvents(oom=1, oom_kill=oom_kill, oom_group_kill=oom_group_kill)
    assert events.processes_killed == processes
