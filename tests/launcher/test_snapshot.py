"""What a launcher knows, as bytes for the program that replaces it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.launcher import snapshot
from jobmaster.launcher.kept import Kept
from jobmaster.launcher.origin import Origin
from jobmaster.launcher.protocol import Order, Phase, ProtocolError
from jobmaster.launcher.snapshot import Snapshot
from jobmaster.launcher.succession import MOST_GRACE, Succession
from jobmaster.launcher.table import Entry, Outcome, Table


def an_example() -> Snapshot:
    """A launcher with a child of each kind."""
    table = Table()
    running = Entry(id="running", pid=10, pidfd=11, output=12, errors=13, keeps={"stdin": 14, "input": 15})
    running.cgroup = "/sys/fs/cgroup/é\udcff"
    running.start_time = 2**40
    running.order = Order(id="running", kind="stop", at="2024-01-01T00:00:00+00:00", by=None, reason="é\0\ud800")
    dead = Entry(id="dead", pid=20, pidfd=21, output=22, errors=None)
    dead.outcome = Outcome(phase=Phase.FAILED, stage="exec", errno=8)
    dead.wait_status = 0x7F00
    dead.died_at = 2**60
    released = Entry(id="released", pid=30, pidfd=31, output=32, errors=None)
    released.is_released = True
    for entry in (running, dead, released):
        table.add(entry)
    kept = Kept()
    kept.kill, kept.locks, kept.listeners = (
        40,
        {"jobs": 41, "state": 42},
        [("localhost:6443", 43), ("localhost:6443", 44)],
    )
    succession = Succession()
    succession.on_ready(1.5, max_gap=7, max_crashes=8, grace=3)
    succession.on_end(2.25, was_ready=True, handed_over=False)
    origin = Origin((1, 13), oom_score=-5, open_files=(1024, -1))
    return Snapshot(origin, table, kept, succession, servers=3, told="READY=1")


def test_nothing_is_lost() -> None:
    """What is written and read again is written as the same bytes; no server knows of any child."""
    data = snapshot.encode(an_example())
    found = snapshot.decode(data)
    assert snapshot.encode(found) == data
    assert sorted(found.descriptors()) == [11, 12, 13, 14, 15, 21, 22, 31, 32, 40, 41, 42, 43, 44]
    assert [message.id for message, _ in found.table.rows()] == ["running", "running", "dead"]
    assert found.kept.listeners == [("localhost:6443", 43), ("localhost:6443", 44)]
    assert found.table.by_pid(20) is None
    assert [entry.died_at for entry in found.table] == [None, 2**60, None]
    assert (found.origin.open_files, found.succession.gap_since) == ((1024, -1), 2.25)


def test_a_newer_program_is_understood() -> None:
    """Fields that this version does not know are ignored."""
    document = json.loads(snapshot.encode(an_example()))
    for part in (document, document["origin"], document["kept"], document["succession"], *document["entries"]):
        part["of_a_later_version"] = [1]
    assert snapshot.encode(snapshot.decode(json.dumps(document).encode())) == snapshot.encode(an_example())


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text(), st.lists).map(lambda v: json.dumps(v).encode()))
def test_no_bytes_do_anything_else(data: bytes) -> None:
    """What is no snapshot is a ProtocolError."""
    with pytest.raises(ProtocolError):
        snapshot.decode(data)


def test_what_is_missing() -> None:
    """A snapshot without one of its fields is none."""
    document = json.loads(snapshot.encode(an_example()))
    for part in (document, document["origin"], document["kept"], document["succession"], document["entries"][0]):
        for name in part.keys() - {"keeps", "cgroup", "died_at", "grace"}:
            value = part.pop(name)
            with pytest.raises(ProtocolError):
                snapshot.decode(json.dumps(document).encode())
            part[name] = value


def test_an_older_program_kept_less() -> None:
    """A snapshot of a launcher that did not know of a child's streams, its cgroup, its time of death or the grace has none of them."""
    document = json.loads(snapshot.encode(an_example()))
    for values in document["entries"]:
        del values["keeps"], values["cgroup"], values["died_at"]
    del document["succession"]["grace"]
    found = snapshot.decode(json.dumps(document).encode())
    assert [(entry.keeps, entry.cgroup, entry.died_at) for entry in found.table] == 3 * [({}, "", None)]
    assert found.succession.grace == MOST_GRACE


def test_cgroups_that_an_older_program_did_not_keep(tmp_path: Path) -> None:
    """They are found by the folders of clients and jobs beside the cgroup.kill that is kept; one that is gone stays unknown."""
    (tmp_path / "client1" / "running").mkdir(parents=True)
    (tmp_path / "client2").mkdir()
    (tmp_path / "cgroup.kill").touch()
    known = an_example()
    known.kept.kill = os.open(tmp_path / "cgroup.kill", os.O_WRONLY)
    for entry in known.table:
        entry.cgroup = "/known" if entry.id == "dead" else ""
    known.find_cgroups()
    assert [entry.cgroup for entry in known.table] == [str(tmp_path / "client1" / "running"), "/known", ""]
    os.close(known.kept.kill)
    known.kept.kill = None
    assert known.kept.find_cgroups() == {}


def test_cgroups_that_are_gone(tmp_path: Path) -> None:
    """None is found in a folder that was removed."""
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "cgroup.kill").touch()
    kept = Kept()
    kept.kill = os.open(tmp_path / "jobs" / "cgroup.kill", os.O_WRONLY)
    shutil.rmtree(tmp_path / "jobs")
    assert kept.find_cgroups() == {}
    os.close(kept.kill)


def test_through_a_memfd() -> None:
    """Large ones too."""
    known = an_example()
    for number in range(2000):
        known.table.add(Entry(id=f"{number:0>200}", pid=100 + number, pidfd=5, output=6, errors=None))
    fd = snapshot.write(snapshot.encode(known))
    try:
        assert snapshot.encode(snapshot.read(fd)) == snapshot.encode(known)
    finally:
        os.close(fd)
