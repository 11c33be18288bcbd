"""The measurement of many connections, small: it measures, and it says so when the server fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.harness import REPOSITORY, cgroup_mount
from tests.scale.active import Latencies
from tests.scale.connections import Result, Size, as_document, as_text
from tests.scale.frames import ACK, GOAWAY, PING, SETTINGS, Frame, answer_to, connection_frame, take_frames
from tests.scale.idle import Alive, Opened

LATENCIES = Latencies.of([0.001, 0.002, 0.003])
GOOD = Result(
    size=Size(idle=10, active=2, seconds=1),
    opened=Opened(opened=10, failed=0, seconds=2, first_failure=""),
    memory_before=1000,
    memory_after=11_000,
    opening_cpu_seconds=0.1,
    before=LATENCIES,
    beside=LATENCIES,
    idle_cpu_share=0.01,
    surplus="refused",
    alive=Alive(alive=10, lost=0, pings_answered=0),
    has_room_again=True,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for the server's files."""
    cgroup_mount()
    if os.geteuid() != 0:
        pytest.skip("the server that is measured runs as root")
    own = tmp_path / "scale"
    own.mkdir()
    return own


def measure(folder: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """The program, run to its end."""
    command = [sys.executable, "-m", "tests.scale.connections", "--folder", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False, timeout=300)


def test_idle_connections_live_beside_callers(folder: Path, tmp_path: Path) -> None:
    """With as many connections as it takes, the server answers callers, refuses one more and loses none."""
    document = tmp_path / "result.json"
    ended = measure(folder, ["--idle", "100", "--active", "10", "--seconds", "2", "--json", str(document)])
    assert ended.returncode == 0, ended.stderr
    measured = json.loads(document.read_text())
    assert measured["opened"]["opened"] == measured["alive"]["alive"] == 100
    assert measured["alive"]["lost"] == 0
    assert measured["surplus"] == "refused"
    assert measured["has_room_again"]
    assert measured["beside"]["calls"] == 20
    assert measured["bytes_each"] > 0
    assert "idle connections                 100 of 100" in ended.stdout
    assert list(folder.iterdir()) == []


def test_no_folder(folder: Path) -> None:
    """A folder that is not there is an error that names it and the remedy."""
    ended = measure(folder / "absent", ["--idle", "1", "--active", "2"])
    assert ended.returncode == 1
    assert "absent is no folder: name one with --folder" in ended.stderr


@pytest.mark.parametrize(
    ("result", "failure"),
    [
        (replace(GOOD, surplus="taken"), "the connection that is too many was taken"),
        (replace(GOOD, alive=Alive(alive=9, lost=1, pings_answered=0)), "only 9 idle connections live"),
        (
            replace(GOOD, opened=Opened(opened=9, failed=1, seconds=2, first_failure="closed")),
            "only 9 connections opened (closed)",
        ),
        (replace(GOOD, has_room_again=False), "there was no room when callers had left"),
    ],
)
def test_failures_are_told(result: Result, failure: str) -> None:
    """What the server did wrong is in the document, by name; a good result has no failures."""
    assert as_document(result)["failures"] == [failure]
    assert as_document(GOOD)["failures"] == []


def test_table() -> None:
    """Memory is what was added for each connection, and latencies are in milliseconds."""
    text = as_text(replace(GOOD, memory_after=1000 + 10 * 2048))
    assert "memory for each idle connection  2.0 KiB" in text
    assert "p50 2.00 ms, p99 2.98 ms, worst 3.0 ms" in text


@pytest.mark.parametrize(("idle", "active", "seconds"), [(0, 2, 1.0), (1, 1, 1.0), (1, 2, 0.5)])
def test_size_that_measures_nothing(idle: int, active: int, seconds: float) -> None:
    """A size from which no number would come does not exist."""
    with pytest.raises(ValueError, match="there have to be"):
        Size(idle=idle, active=active, seconds=seconds)


def test_frames_in_pieces() -> None:
    """Frames come out whole and once, however the bytes were cut."""
    data = connection_frame(SETTINGS) + connection_frame(PING, payload=b"12345678")
    held = bytearray()
    frames: list[Frame] = []
    for byte in data:
        held.append(byte)
        frames += take_frames(held)
    assert frames == [Frame(SETTINGS, 0, b""), Frame(PING, 0, b"12345678")]
    assert not held


@pytest.mark.parametrize(
    ("frame", "answer"),
    [
        (Frame(SETTINGS, 0, b""), connection_frame(SETTINGS, ACK)),
        (Frame(SETTINGS, ACK, b""), b""),
        (Frame(PING, 0, b"12345678"), connection_frame(PING, ACK, b"12345678")),
        (Frame(PING, ACK, b"12345678"), b""),
        (Frame(GOAWAY, 0, bytes(8)), b""),
    ],
)
def test_answers(frame: Frame, answer: bytes) -> None:
    """SETTINGS and PINGs are acknowledged, and acknowledgements are not."""
    assert answer_to(frame) == answer
