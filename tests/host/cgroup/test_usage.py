"""What the processes of a cgroup have used: from the texts of the kernel, and from folders of files."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from jobmaster.errors import CgroupError
from jobmaster.host.cgroup.interface import write_interface
from jobmaster.host.cgroup.tree import CgroupTree
from jobmaster.host.cgroup.usage import read_ooms, read_usage, usage_of
from jobmaster.job.usage import (
    MOST_DEVICES,
    CpuUsage,
    DeviceUsage,
    IoUsage,
    MemoryEventCounts,
    MemoryUsage,
    Stalled,
    Usage,
)

PRESSURE = "some avg10=1.00 avg60=0.10 avg300=0.00 total={some}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total={full}\n"
TEXTS = {
    "cpu.stat": "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 5\nnr_throttled 2\nthrottled_usec 7\n",
    "memory.peak": "4096\n",
    "memory.stat": "anon 1\nfile 2\nkernel_stack 3\nfile_mapped 4\n",
    "memory.events": "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n",
    "pids.peak": "9\n",
    "io.stat": "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n254:1 rbytes=0 wbytes=0 rios=0 wios=0\n",
    "cpu.pressure": PRESSURE.format(some=11, full=0),
    "memory.pressure": PRESSURE.format(some=12, full=1),
    "io.pressure": PRESSURE.format(some=13, full=2),
}
WHOLE = Usage(
    cpu=CpuUsage(user=20, system=10, periods=5, throttled_periods=2, throttled=7),
    memory=MemoryUsage(
        peak=4096,
        anon_left=1,
        file_left=2,
        events=MemoryEventCounts(low=1, high=2, max=3, oom=4, oom_kill=5, oom_group_kill=6),
    ),
    pids_peak=9,
    io=IoUsage(devices=(DeviceUsage(device="254:0", read_bytes=1, written_bytes=2, reads=3, writes=4),)),
    cpu_stalled=Stalled(some=11, full=0),
    memory_stalled=Stalled(some=12, full=1),
    io_stalled=Stalled(some=13, full=2),
)


def fill(folder: Path, texts: dict[str, str]) -> Path:
    """A folder with these files."""
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


def test_all_that_a_kernel_tells(tmp_path: Path) -> None:
    """Each number is where it belongs; a device without traffic is none."""
    assert read_usage(fill(tmp_path / "job", TEXTS)) == WHOLE


@pytest.mark.parametrize("missing", TEXTS)
def test_a_file_that_is_not_there(missing: str) -> None:
    """Of what a kernel does not tell nothing is said, and of the rest the same."""
    texts = {name: text for name, text in TEXTS.items() if name != missing}
    usage = usage_of(texts)
    assert WHOLE.memory is not None
    assert usage.memory is not None
    changed = {
        "cpu.stat": (usage.cpu, None),
        "memory.peak": (usage.memory.peak, None),
        "memory.stat": ((usage.memory.anon_left, usage.memory.file_left), (None, None)),
        "memory.events": (usage.memory.events, None),
        "pids.peak": (usage.pids_peak, None),
        "io.stat": (usage.io, None),
        "cpu.pressure": (usage.cpu_stalled, None),
        "memory.pressure": (usage.memory_stalled, None),
        "io.pressure": (usage.io_stalled, None),
    }
    told, expected = changed[missing]
    assert told == expected


def test_keys_that_are_not_there() -> None:
    """An older kernel, or one without the controller, lacks keys of a file: they are unknown, not 0."""
    usage = usage_of(
        {
            "cpu.stat": "usage_usec 3\nuser_usec 2\nsystem_usec 1\n",
            "memory.events": "oom 0\noom_kill 0\n",
            "cpu.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n",
        }
    )
    assert usage.cpu == CpuUsage(user=2, system=1)
    assert usage.memory == MemoryUsage(events=MemoryEventCounts(oom=0, oom_kill=0))
    assert usage.cpu_stalled == Stalled(some=1)


def test_without_controllers() -> None:
    """A cgroup that only counts time tells time alone."""
    assert usage_of({"cpu.stat": TEXTS["cpu.stat"]}) == Usage(cpu=WHOLE.cpu)


def test_more_devices_than_are_kept() -> None:
    """Those with the most bytes are, and how many others there are."""
    lines = [f"8:{number} rbytes={number} wbytes={number} rios=1 wios=1\n" for number in range(MOST_DEVICES + 3)]
    io = usage_of({"io.stat": "".join(lines)}).io
    assert io is not None
    assert [each.device for each in io.devices] == [f"8:{number}" for number in range(MOST_DEVICES + 2, 2, -1)]
    assert io.omitted == 3


def test_a_cgroup_that_is_gone(tmp_path: Path) -> None:
    """Nothing is known of it, as of one that tells nothing."""
    assert read_usage(tmp_path / "gone") is None
    assert read_usage(fill(tmp_path / "silent", {})) is None


@pytest.mark.parametrize("file", ["memory.peak", "memory.stat", "memory.events", "cpu.stat", "io.stat", "io.pressure"])
def test_what_makes_no_sense(file: str) -> None:
    """A number that is none is not guessed."""
    with pytest.raises(CgroupError, match="counter"):
        usage_of({**TEXTS, file: re.sub("[0-9]+(?=\n)|=[0-9]+", "=x", TEXTS[file])})


def test_how_often_a_limit_was_met(tmp_path: Path) -> None:
    """By the cgroup's own count, which older kernels have not."""
    folder = fill(tmp_path / "client", {"memory.events": "oom 7\n", "memory.events.local": "low 0\nmax 9\noom 3\n"})
    assert read_ooms(folder) == 3
    assert read_ooms(tmp_path) is None


def test_time_of_processes_that_are_gone(kernel_tree: CgroupTree) -> None:
    """A real cgroup tells what its processes have used when the last one is gone."""
    job = kernel_tree.create("client1", "job", ())
    script = 'echo 0 >"$1/cgroup.procs"; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done'
    subprocess.run(["sh", "-c", script, "sh", str(job.path)], check=True)
    usage = read_usage(job.path)
    assert usage is not None
    assert usage.cpu is not None
    assert (usage.cpu.user or 0) + (usage.cpu.system or 0) > 0
    write_interface(job.path / "cgroup.kill", "1")
    assert job.remove()
    assert read_usage(job.path) is None
