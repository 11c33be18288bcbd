"""Which ids a host uses."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from jobmaster.host.uid_range import UidRange
from jobmaster.host.user_ids import are_mapped, has_name, ids_in_use, subordinate_ids

UIDS = UidRange(first=5_000, last=5_999)


def test_this_process() -> None:
    """The ids that processes of this host have are in use."""
    in_use = ids_in_use()
    assert {os.getuid(), os.getgid(), *os.getgroups()} <= in_use.of_processes


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_process_of_another_user() -> None:
    """A real process has real, effective and supplementary ids, and with it they go."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, user=5_001, group=5_002, extra_groups=[5_003]) as process:
        in_use = ids_in_use()
        assert process.stdin is not None
        process.stdin.close()
    assert [number in in_use for number in (5_001, 5_002, 5_003, 5_004)] == [True, True, True, False]
    assert 5_001 not in ids_in_use()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a process groups")
def test_a_process_of_many_groups() -> None:
    """Its last group counts as its first one, however long the line of them is."""
    groups = range(1_000_000, 1_010_000)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, user=5_001, extra_groups=[*groups]) as process:
        in_use = ids_in_use()
        assert process.stdin is not None
        process.stdin.close()
    assert {5_001, *groups} <= in_use.of_processes


def test_tables_of_subordinate_ids(tmp_path: Path) -> None:
    """Both tables count; where there is none, none does."""
    proc = tmp_path / "proc"
    proc.mkdir()
    assert 100_000 not in ids_in_use(proc=proc, etc=tmp_path)
    (tmp_path / "subuid").write_text("alice:100000:65536\n")
    (tmp_path / "subgid").write_text("alice:300000:2\n")
    in_use = ids_in_use(proc=proc, etc=tmp_path)
    assert [n in in_use for n in (99_999, 100_000, 165_535, 165_536, 300_001, 300_002)] == [
        *(False, True, True, False),
        *(True, False),
    ]


def test_lines_that_are_none() -> None:
    """Holes and nonsense are passed over; a line that is commented out counts, which only leaves its numbers unused."""
    table = b"# alice:1:2\n\nbob:x:1\nbob:1\nbob:7:1:9\n\xff:10:2"
    assert subordinate_ids(table) == [range(1, 3), range(10, 12)]


def test_a_process_that_goes_meanwhile(tmp_path: Path) -> None:
    """Its ids are in use no more."""
    (tmp_path / "123").mkdir()
    (tmp_path / "self").mkdir()
    assert ids_in_use(proc=tmp_path, etc=tmp_path).of_processes == frozenset()


def test_names() -> None:
    """Root has one, as a user or as a group; a number out of the blue has none."""
    assert has_name(0)
    assert not has_name(2_147_000_000)


def test_a_group_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that is only a group's has a name too."""
    monkeypatch.setattr("grp.getgrgid", lambda _number: object())
    assert has_name(2_147_000_000)


@pytest.mark.parametrize(
    ("uid_map", "gid_map", "is_mapped"),
    [
        ("0 0 4294967295", "0 0 4294967295", True),
        ("0 100000 65536", "0 100000 65536", True),
        ("0 100000 5999", "0 100000 65536", False),
        ("0 100000 65536", "0 100000 5000", False),
        ("5500 9 500\n0 7 1\n5000 7000 500\n", "0 0 6000", True),
        ("5501 9 500\n5000 7000 500", "0 0 6000", False),
        ("", "", False),
    ],
)
def test_namespaces(tmp_path: Path, uid_map: str, gid_map: str, is_mapped: bool) -> None:
    """Every id of the range has to be there, as a user and as a group, in one piece or several."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "uid_map").write_text(uid_map)
    (tmp_path / "self" / "gid_map").write_text(gid_map)
    assert are_mapped(UIDS, proc=tmp_path) is is_mapped
