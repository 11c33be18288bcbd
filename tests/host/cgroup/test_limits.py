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
    LimitWrite,
    OomPolicy,
    is_in_force,
    limit_writes,
    no_io_limits,
    parse_cores,
    parse_count,
)
from jobmaster.sizes import parse_size

M = 2**20


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
    assert all(IoLimits(**{field: value}).limited for value in (1, largest))


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"memory_high": 4096}, "memory_high needs a memory_max too"),
        ({"memory_high": 8192, "memory_max": 4096}, "memory_high, 8192, is more than memory_max, 4096"),
        ({"swap_max": -1}, "swap_max must be from 0"),
        ({"cpu_weight": 0}, "cpu_weight must be from 1 to 10000"),
        ({"io_weight": 10_001}, "io_weight must be from 1 to 10000"),
    ],
)
def test_limits_that_contradict_each_other(limits: dict[str, int], words: str) -> None:
    """A memory.high without an end, or beyond it, and weights that the kernel has not, are refused."""
    with pytest.raises(ValueError, match=words):
        Limits(**limits)  # type: ignore[arg-type]  # the fields' names are parameters


def test_every_limit_becomes_its_file() -> None:
    """All limits together give the interface files with the kernel's spelling, swap closed before memory."""
    limits = Limits(
        cpu_max=0.5,
        memory_max=2**20,
        pids_max=7,
        io=IoLimits(read_bps=10 * M, write_bps=20 * M, read_iops=300, write_iops=400),
    )
    assert _texts(limits, device="254:0") == [
        ("memory.oom.group", "1"),
        ("memory.swap.max", "0"),
        ("memory.max", "1048576"),
        ("pids.max", "7"),
        ("cpu.max", "50000 100000"),
        ("io.max", "254:0 rbps=10485760 wbps=20971520 riops=300 wiops=400"),
    ]


def test_what_a_job_can_ask_for_besides() -> None:
    """Swap on top of the memory, memory.high, weights, and rates of several disks have files or lines of their own."""
    limits = Limits(
        memory_max=2**20,
        memory_high=2**19,
        swap_max=2**18,
        cpu_weight=50,
        io_weight=200,
        io=IoLimits(read_iops=200),
        other_io=(("8:0", IoLimits(write_bps=10 * M)), ("8:16", IoLimits(read_bps=10 * M))),
    )
    assert _texts(limits, OomPolicy.PROCESS, device="254:0") == [
        ("memory.swap.max", "262144"),
        ("memory.max", "1048576"),
        ("memory.high", "524288"),
        ("cpu.weight", "50"),
        ("io.max", "254:0 rbps=max wbps=max riops=200 wiops=max"),
        ("io.max", "8:0 rbps=max wbps=10485760 riops=max wiops=max"),
        ("io.max", "8:16 rbps=10485760 wbps=max riops=max wiops=max"),
        ("io.weight", "default 200"),
    ]


@pytest.mark.parametrize(
    ("file", "text", "found", "holds"),
    [
        ("memory.max", "1048577", "1048576\n", True),
        ("memory.max", "1", "0\n", True),
        ("memory.max", "1048576", "1044480\n", False),
        ("memory.max", "1048576", "1052672\n", False),
        ("memory.high", "1048576", "max\n", False),
        ("memory.swap.max", "0", "0\n", True),
        ("memory.oom.group", "1", "0\n", False),
        ("pids.max", "7", "7\n", True),
        ("pids.max", "7", "max\n", False),
        ("cpu.max", "50000 100000", "50000 100000\n", True),
        ("cpu.max", "50000 100000", "max 100000\n", False),
        ("cpu.weight", "50", "51\n", False),
        ("io.weight", "default 50", "default 50\n8:0 70\n", True),
        ("io.weight", "default 50", "default 100\n8:0 50\n", False),
        (
            "io.max",
            "8:0 rbps=max wbps=9 riops=max wiops=max",
            "254:0 rbps=1\n8:0 rbps=max wbps=9 riops=max wiops=max\n",
            True,
        ),
        ("io.max", "8:0 rbps=max wbps=9 riops=max wiops=max", "8:0 rbps=max wbps=max riops=9 wiops=max\n", False),
        ("io.max", "8:0 rbps=max wbps=9 riops=max wiops=max", "", False),
    ],
)
def test_a_limit_that_the_kernel_has_ignored_is_seen(file: str, text: str, found: str, *, holds: bool) -> None:
    """Memory may be less by a part of a page; anything else has to read as it was written."""
    write = LimitWrite(controller=Controller(file.split(".")[0]), file=file, text=text)
    assert is_in_force(write, found) == holds


def test_what_lifts_io_limits() -> None:
    """Every disk that has one gets a line without any rate."""
    text = "254:0 rbps=max wbps=9 riops=max wiops=max\n8:0 rbps=1 wbps=max riops=max wiops=max\n"
    assert no_io_limits(text) == (
        "254:0 rbps=max wbps=max riops=max wiops=max",
        "8:0 rbps=max wbps=max riops=max wiops=max",
    )
    assert no_io_limits("") == ()


def test_an_unset_rate_is_written_as_max() -> None:
    """One io limit leaves the other three unlimited."""
    assert _texts(Limits(io=IoLimits(write_iops=500)), OomPolicy.PROCESS, device="8:0") == [
        ("io.max", "8:0 rbps=max wbps=max riops=max wiops=500")
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
    limits = Limits(cpu_max=1.0, memory_max=4096, pids_max=1, io=IoLimits(read_bps=10 * M))
    assert _texts(limits, available=frozenset(), device="8:0") == _texts(limits, device="8:0")


def test_io_limits_need_a_device() -> None:
    """An io limit without a device is refused rather than dropped."""
    with pytest.raises(ValueError, match="needs the device"):
        _texts(Limits(io=IoLimits(read_bps=10 * M)))


@given(st.floats(min_value=0.05, max_value=4096))
def test_every_valid_number_of_cores_gives_a_quota_the_kernel_takes(cores: float) -> None:
    """The quota is enough for a job's start in one piece, as the kernel takes it, and is right to one microsecond."""
    ((_, text),) = _texts(Limits(cpu_max=cores), OomPolicy.PROCESS)
    quota, period = map(int, text.split())
    assert quota >= 10_000
    assert period == (1_000_000 if cores < 0.1 else 100_000)
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
