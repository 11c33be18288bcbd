"""The benchmark as the program that people run: it measures all there is to measure and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.bench.load import Client, Kind, Load
from tests.bench.measurements import MEASUREMENTS
from tests.bench.servers import Clients, Unable
from tests.harness import REPOSITORY, cgroup_mount
from tests.processes import command_line

pytest.importorskip("grpc", reason="grpcio, of the dependency group bench, is not installed")


ADDED = "what durability full adds to Start"
SHORT_LINES = "10000 short lines by two threads to two streams"
UPGRADES = "1 upgrades without a pause under 2 writing jobs"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for the benchmark's output, in which nothing may be left."""
    cgroup_mount()
    if os.geteuid() != 0:
        pytest.skip("the benchmark runs as root")
    own = tmp_path / "output"
    own.mkdir()
    yield own
    assert list(own.iterdir()) == []


def bench(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The small benchmark, started."""
    command = [sys.executable, "-m", "tests.bench", "--quick", "--folder", str(folder), *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, start_new_session=True
    )


def left_behind(process: subprocess.Popen[str], folder: Path) -> tuple[list[Path], list[str]]:
    """Cgroups of this run, and command lines of its processes, which all name its folder or its cgroup."""
    name = f"jobmaster-bench-{process.pid}-"
    pids = (int(entry) for entry in os.listdir("/proc") if entry.isdecimal())
    commands = [command_line(pid).replace(b"\0", b" ").decode(errors="replace") for pid in pids]
    return list(cgroup_mount().glob(f"{name}*")), [command for command in commands if name in command]


BESIDE_GRPCIO = {
    "start": ["Start to running", "Start to running"],
    "jobs": ["jobs"],
    "stream": [
        *("StreamOutput", "StreamOutput", "its server alone: jobmaster client beside grpcio client"),
        "openssl speed aes-256-gcm",
    ],
    "input": ["stdin"],
    "following": ["FollowOutput over a plain index", "FollowOutput over a dense index"],
    "index": ["a line each millisecond", "a line each millisecond"],
    "streams": [f"{SHORT_LINES} beside one pipe", f"{SHORT_LINES} beside one pipe"],
    "followers": ["5 followers", "the server's memory at its highest until then"],
    "latency": ["a live line", "a live line"],
    "status": ["Status", "Status"],
    "command-line": ["jobmaster --help", "jobmaster --version", "jobmaster status"],
    "idle": ["8 idle jobs: CPU time", "8 idle jobs: memory", "8 idle jobs: memory"],
}
OF_WHAT_LASTS = {
    "durability": ["Start to running", "Start to running", ADDED],
    "journal": [
        *("500 ended jobs beside 400: server started to ready",),
        *("500 ended jobs beside 400: journal", "500 ended jobs beside 400: memory"),
        *("500 ended jobs beside 400: Status", "500 ended jobs beside 400: List"),
    ],
    "adoption": ["server killed to 4 running jobs adopted and told"],
    "upgrade": [f"{UPGRADES}: longest silence", f"{UPGRADES}: longest silence over the median upgrade"],
}


def test_nothing_is_left_out() -> None:
    """Between them, the runs below measure all that can be measured, and nothing twice."""
    assert [*BESIDE_GRPCIO, *OF_WHAT_LASTS] == list(MEASUREMENTS)


@pytest.mark.parametrize("wanted", [BESIDE_GRPCIO, OF_WHAT_LASTS])
def test_what_is_wanted_is_measured(folder: Path, tmp_path: Path, wanted: dict[str, list[str]]) -> None:
    """Every row that is wanted, and no other, has its numbers, on stdout and in the document; nothing stays behind."""
    document = tmp_path / "result.json"
    with bench(folder, "--json", str(document), "--only", *wanted) as process:
        table, words = process.communicate()
    assert process.returncode == 0, words
    measured = json.loads(document.read_text())["measurements"]
    names = [entry["name"].partition(",")[0].partition(" of ")[0] for entry in measured]
    assert names == [name for rows in wanted.values() for name in rows]
    for entry in measured:
        assert entry["name"] in table
        if not entry["name"].startswith(ADDED):  # a difference, which few rounds may make negative
            assert entry["jobmaster"]["best"] > 0
            assert entry["ratio"] is None or entry["ratio"] > 0
    assert left_behind(process, folder) == ([], [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_leaves_nothing(folder: Path, number: signal.Signals) -> None:
    """A benchmark that is interrupted while it measures ends its servers and clients and removes what it made."""
    with bench(folder) as process:
        assert process.stderr is not None
        assert any("round 1" in line for line in process.stderr)  # the peer may log something before
        process.send_signal(number)
        _, words = process.communicate()
    assert process.returncode == 128 + number, words
    assert left_behind(process, folder) == ([], [])


def test_profile(folder: Path) -> None:
    """A profile has the server's event loop in it, and nothing stays behind."""
    with bench(folder, "--profile", "unary") as process:
        text, words = process.communicate()
    assert process.returncode == 0, words
    assert "Ordered by: internal time" in text
    assert "select.epoll" in text


def test_a_load_that_fails(tmp_path: Path) -> None:
    """It is told, not measured, and the next one has a process again."""
    load = Load(kind=Kind.STATUS, client=Client.JOBMASTER, port=1, server=1, certificates=tmp_path, count=1)
    with closing(Clients("failing")) as clients:
        for _ in range(2):
            with pytest.raises(Unable, match="failed"):
                clients.run(load)


def test_no_room(folder: Path) -> None:
    """A folder that is not there is an error that names it and the remedy."""
    with bench(folder / "absent") as process:
        _, words = process.communicate()
    assert process.returncode == 1
    assert "absent is no folder: name one with --folder" in words
