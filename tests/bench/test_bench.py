"""The benchmark as the program that people run: it measures all there is to measure and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import REPOSITORY, cgroup_mount, command_line

pytest.importorskip("grpc", reason="grpcio, of the dependency group bench, is not installed")


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


def test_all_is_measured(folder: Path, tmp_path: Path) -> None:
    """Every row has its numbers, on stdout and in the document, and nothing stays behind."""
    document = tmp_path / "result.json"
    with bench(folder, "--json", str(document)) as process:
        table, words = process.communicate()
    assert process.returncode == 0, words
    measured = json.loads(document.read_text())["measurements"]
    assert [entry["name"].partition(",")[0].partition(" of ")[0] for entry in measured] == [
        *("Start to running", "Start to running", "jobs", "StreamOutput", "StreamOutput"),
        *(
            "its server alone: jobmaster client beside grpcio client",
            "openssl speed aes-256-gcm",
            "5 followers",
            "the server's memory at its highest until then",
        ),
        *("a live line", "a live line", "Status", "Status"),
        *("jobmaster --help", "jobmaster --version", "jobmaster status"),
        *("8 idle jobs: CPU time", "8 idle jobs: memory", "8 idle jobs: memory"),
    ]
    for entry in measured:
        assert entry["name"] in table
        assert entry["jobmaster"]["best"] > 0
        assert entry["ratio"] is None or entry["ratio"] > 0
    assert left_behind(process, folder) == ([], [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_leaves_nothing(folder: Path, number: signal.Signals) -> None:
    """A benchmark that is interrupted while it measures ends its servers and clients and removes what it made."""
    with bench(folder) as process:
        assert process.stderr is not None
        assert "round 1" in process.stderr.readline()
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


def test_no_room(folder: Path) -> None:
    """A folder that is not there is an error that names it and the remedy."""
    with bench(folder / "absent") as process:
        _, words = process.communicate()
    assert process.returncode == 1
    assert "absent is no folder: name one with --folder" in words
