"""Limits: their bounds, the writes they become, and the texts they are parsed from."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.host.cgroup.limits import (
    MAX_BYTES_PER_SECOND,
    MAX_CORES,
    MAX_MEMORY_BYTES,
    MAX_OPERATIONS_PER_SECOND,
    MAX_PIDS,
    Controller,
    IoLimits,
    Limits,
    OomPolicy,
    limit_writes,
    parse_cores,
    parse_count,
)
from jobmaster.sizes import parse_size


def _texts(
    limits: Limits,
    policy: OomPolicy = OomPolicy.JOB,
    *,
    available: frozenset[Controller] = frozenset(Controller),
    device: str | None = None,
) -> list[tuple[str, str]]:
    writes = limit_writes(limits, policy, available=available, io_device=device)
    assert all(write.file.startswith(f"{write.controller}.") for write in writes)
    return [(write.file, write.text) for write in writes]


@pytest.mark.parametrize("cores", [0.0, 0.009, -1.0, math.inf, math.nan, MAX_CORES * 2.0])
def test_cores_the_kernel_refuses_are_refused(cores: float) -> None:
    """A quota outside the scheduler's bounds never becomes a Limits value."""
    with pytest.raises(ValueError, match="cpu_max must be from"):
        Limits(cpu_max=cores)


@pytest.mark.parametrize(
    ("field", "largest"),
    [("memory_max", MAX_MEMORY_BYTES), ("pids_max", MAX_PIDS)],
)
def test_counts_are_positive_and_bounded(field: str, largest: int) -> None:
    """Zero and one more than the kernel's bound are refused, the bound itself is not."""
    for value in (0, -1, largest + 1):
        with pytest.raises(ValueError, match=f"{field} must be from 1 to {largest}"):
            Limits(**{field: value})  # type: ignore[arg-type]  # the field's name is a parameter
    assert getattr(Limits(**{field: largest}), field) == largest  # type: ignore[arg-type]  # same


@pytest.mark.parametrize(
    ("field", "largest"),
    [
        ("read_bps", MAX_BYTES_PER_SECOND),
        ("write_bps", MAX_BYTES_PER_SECOND),
        ("read_iops", MAX_OPERATIONS_PER_SECOND),
        ("write_iops", MAX_OPERATIONS_PER_SECOND),
    ],
)
def test_rates_are_positive_and_below_what_means_unlimited(field: str, largest: int) -> None:
    """Zero and the kernel's "no limit" value are refused."""
    for value in (0, largest + 1):
        with pytest.raises(ValueError, match=f"{field} must be from 1 to {largest}"):
            IoLimits(**{field: value})
    assert IoLimits(**{field: largest}).limited


def test_every_limit_becomes_its_file() -> None:
    """All limits together give the interface files with the kernel's spelling, swap closed before memory."""
    limits = Limits(
        cpu_max=0.5, memory_max=2**20, pids_max=7, io=IoLimits(read_bps=10, write_bps=20, read_iops=30, write_iops=40)
    )
    assert _texts(limits, device="254:0") == [
        ("memory.oom.group", "1"),
        ("memory.swap.max", "0"),
        ("memory.max", "1048576"),
        ("pids.max", "7"),
        ("cpu.max", "50000 100000"),
        ("io.max", "254:0 rbps=10 wbps=20 riops=30 wiops=40"),
    ]


def test_an_unset_rate_is_written_as_max() -> None:
    """One io limit leaves the other three unlimited."""
    assert _texts(Limits(io=IoLimits(write_iops=5)), OomPolicy.PROCESS, device="8:0") == [
        ("io.max", "8:0 rbps=max wbps=max riops=max wiops=5")
    ]


def test_no_limits_still_kill_the_job_as_a_whole() -> None:
    """Where the memory controller is there, an out-of-memory of the host takes the whole job by default."""
    assert _texts(Limits()) == [("memory.oom.group", "1")]


def test_per_process_policy_leaves_the_group_file_alone() -> None:
    """Under the per-process policy only limits are written."""
    assert _texts(Limits(memory_max=4096), OomPolicy.PROCESS) == [("memory.swap.max", "0"), ("memory.max", "4096")]


def test_without_a_memory_controller_nothing_is_written_for_it() -> None:
    """The group kill is no limit that was asked for, so a host without the controller can run the job."""
    assert _texts(Limits(), available=frozenset()) == []


def test_a_limit_without_its_controller_is_written_all_the_same() -> None:
    """A limit that was asked for is never left out because its controller is missing: the write has to fail."""
    limits = Limits(cpu_max=1.0, memory_max=4096, pids_max=1, io=IoLimits(read_bps=1))
    assert _texts(limits, available=frozenset(), device="8:0") == _texts(limits, device="8:0")


def test_io_limits_need_a_device() -> None:
    """An io limit without a device is refused rather than dropped."""
    with pytest.raises(ValueError, match="needs the device"):
        _texts(Limits(io=IoLimits(read_bps=1)))


def test_limits_know_their_controllers() -> None:
    """Each kind of limit names the one controller it cannot do without."""
    assert Limits().controllers == frozenset()
    assert Limits(cpu_max=1.0).controllers == {Controller.CPU}
    assert Limits(memory_max=1, pids_max=1).controllers == {Controller.MEMORY, Controller.PIDS}
    assert Limits(io=IoLimits(write_bps=1)).controllers == {Controller.IO}


@given(st.floats(min_value=0.01, max_value=4096))
def test_every_valid_number_of_cores_gives_a_quota_the_kernel_takes(cores: float) -> None:
    """The quota is never below the kernel's 1000 microseconds and is right to one microsecond."""
    ((_, text),) = _texts(Limits(cpu_max=cores), OomPolicy.PROCESS)
    quota, period = map(int, text.split())
    assert quota >= 1000
    assert period == 100_000
    assert abs(quota - cores * period) <= 1


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("0", 0),
        ("1K", 1024),
        ("512M", 512 * 2**20),
        ("512MiB", 512 * 2**20),
        ("512mb", 512 * 2**20),
        ("512Mi", 512 * 2**20),
        ("2g", 2 * 2**30),
        ("1.5G", 3 * 2**29),
        ("3T", 3 * 2**40),
        ("100B", 100),
        ("max", None),
    ],
)
def test_sizes_are_binary(text: str, size: int | None) -> None:
    """Suffixes are powers of 1024, in either case, with or without i and B."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 1",
        "1 M",
        "-1",
        "+1",
        "1E",
        "M",
        "1I",
        "1iB",
        "1M\u0131",
        "1KK",
        "1.M",
        ".5M",
        "0x10",
        "1_000",
        "٣",
        "9" * 50,
    ],
)
def test_texts_that_are_no_size_are_refused(text: str) -> None:
    """Anything else is an error that names the text."""
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(("text", "cores"), [("0.5", 0.5), ("2", 2.0), ("max", None)])
def test_cores_are_parsed(text: str, cores: float | None) -> None:
    """Cores are a plain decimal number."""
    assert parse_cores(text) == cores


@pytest.mark.parametrize("text", ["", "nan", "inf", "1e3", "-1", "50%", "1_0", "1" * 41])
def test_texts_that_are_no_cores_are_refused(text: str) -> None:
    """What float() would take beyond decimal numbers is refused."""
    with pytest.raises(ValueError, match="is not a number of cores"):
        parse_cores(text)


@pytest.mark.parametrize(("text", "count"), [("100", 100), ("0", 0), ("max", None)])
def test_counts_are_parsed(text: str, count: int | None) -> None:
    """Counts are plain whole numbers."""
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "1.0", "-1", "1K", "²", "1" * 5000])
def test_texts_that_are_no_count_are_refused(text: str) -> None:
    """What int() would take beyond ASCII digits is refused."""
    with pytest.raises(ValueError, match="is not a count"):
        parse_count(text)


@given(st.integers(min_value=0, max_value=2**63))
def test_suffixes_are_in_order(number: int) -> None:
    """Each suffix is 1024 times the one before."""
    sizes = [parse_size(f"{number}{suffix}") for suffix in ("", "K", "M", "G", "T")]
    assert all(small is not None and large == small * 1024 for small, large in pairwise(sizes))


@given(st.text())
def test_parsers_raise_nothing_but_value_errors(text: str) -> None:
    """Whatever a user types, each parser gives a value or a ValueError."""
    for parse in (parse_size, parse_cores, parse_count):
        try:
            value = parse(text)
        except ValueError:
            continue
        assert value is None or value >= 0
