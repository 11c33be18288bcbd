"""`audit`: for programs the lines as they are, for people a table, from the files of this host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from jobmaster.audit.entry import (
    Begun,
    Call,
    Closed,
    Command,
    Entry,
    Gap,
    Handshake,
    JobChange,
    Opened,
    RefusalsCounted,
    Rotated,
    encode,
)
from jobmaster.audit.file import AuditFile, FileBounds, Line
from jobmaster.audit.names import AUDIT, HANDSHAKES, current_file
from jobmaster.cli.auditing import entry_line
from tests.audit.entries import AT, CALLER, START, begun, call, change
from tests.harness import REPOSITORY

JOB: Final = "3MmEfnxT9UObYv7lmYDMwKM3Rmn"


def write(folder: Path, entries: Sequence[Entry], trail: str = AUDIT) -> None:
    """Appends entries to a trail."""
    file = AuditFile.open(folder, trail, FileBounds(size=2000, kept=0))
    for entry in entries:
        file.append([Line(entry)])
    file.close()


def audit(*arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the program to its end."""
    command = [sys.executable, "-m", "jobmaster", "audit", *arguments]
    environment = {**os.environ, "TZ": "UTC"} | ({} if home is None else {"HOME": str(home)})
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY, env=environment)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (call(words=("sh", "-c", "a b")), ["client1", "Start", "OK", "sh -c 'a b'"]),
        (call("NOT_FOUND", why="no such job"), ["Start", "NOT_FOUND", "no such job"]),
        (Call(at=AT, caller=CALLER, method=None, outcome="HTTP_415", why="no gRPC"), ["?", "HTTP_415", "no gRPC"]),
        (
            Begun(at=AT, caller=CALLER, method=START, job=JOB, command=Command(("x",), 3)),
            ["Start", JOB, "begun", "x … (3 more)"],
        ),
        (change(1, "launched"), ["client1", "launched", "J"]),
        (
            JobChange(journal_sequence=1, at=AT, client="c", job="J", event="stop_ordered", by="superuser", why="old"),
            ["stop_ordered", "by superuser: old"],
        ),
        (Gap(at=AT, since=AT, count=3, why="full"), ["GAP", "3 entries are missing since 2026-11-29T10:17:28", "full"]),
        (Handshake(at=AT, caller=CALLER, why="expired"), ["refused", "127.0.0.1:46594: expired"]),
        (
            RefusalsCounted(at=AT, since=AT, count=5, reasons={"expired": 5}, peers={"x": 5}),
            ["refused", "5 more since", "5 of 'expired'"],
        ),
        (
            Opened(journal_sequence=0, at=AT, before="cut off", server="0.1.0"),
            ["server began", "jobmaster 0.1.0, after one that was cut off"],
        ),
        (Closed(at=AT), ["server ended"]),
        (Rotated(journal_sequence=0, at=AT, begun=()), ["rotated"]),
        (call(words=("a\x1b[2Jb",)), ["'a\\x1b[2Jb'"]),
    ],
)
def test_each_kind_for_people(entry: Entry, words: list[str]) -> None:
    """A line says what there is to say, without a character that a terminal would obey."""
    line = entry_line(json.loads(encode(entry, 42)), 0)
    place = line.index("42")
    for word in words:
        place = line.index(word, place)
    assert line.isprintable()


def test_a_narrow_terminal() -> None:
    """A line is as wide as it may be."""
    assert len(entry_line(json.loads(encode(call(words=("x" * 500,)), 42)), 80)) == 80


@pytest.mark.parametrize(
    "entry",
    [
        {"sequence": 1, "kind": "later"},
        {"sequence": 1, "kind": "call", "time": 5},
        {"sequence": 1, "kind": "call", "time": "0001-01-01T00:00:00+14:00"},
        {"sequence": 1, "kind": "counted", "reasons": [5]},
        {"sequence": 1, "kind": "begun", "command": 5},
    ],
)
def test_an_entry_of_another_program(entry: dict[str, Any]) -> None:
    """What is not understood is shown as far as it is."""
    assert entry_line(entry, 0).startswith("       1  ?")


def test_lines_for_programs(tmp_path: Path) -> None:
    """They are the files' own, in order, of all files; a table is what is asked for."""
    write(tmp_path, [call(f"N{number}") for number in range(30)])
    write(tmp_path, [Handshake(at=AT, caller=CALLER, why="expired")], HANDSHAKES)
    done = audit("--audit-folder", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    assert [entry["outcome"] for entry in entries if entry["kind"] == "call"] == [f"N{number}" for number in range(30)]
    header, *lines = audit("--audit-folder", str(tmp_path), "--table").stdout.splitlines()
    assert (header.split()[0], len(lines)) == ("SEQ", len(entries))
    (refused,) = audit("--audit-folder", str(tmp_path), "--handshakes").stdout.splitlines()
    assert json.loads(refused)["why"] == "expired"


def test_what_is_asked_for(tmp_path: Path) -> None:
    """By client, by job, by time."""
    write(tmp_path, [call(), begun(JOB), change(1)])
    folder = ("--audit-folder", str(tmp_path))

    def numbers(*arguments: str) -> list[int]:
        return [json.loads(line)["sequence"] for line in audit(*folder, *arguments).stdout.splitlines()]

    assert numbers("--client", "client1") == [1, 2, 3]
    assert numbers("--client", "client2") == []
    assert numbers("--job", JOB) == [2]
    assert numbers("--since", "2026-11-29T10:17:29Z") == []
    assert numbers("--until", "2026-11-29T10:17:29Z") == [1, 2, 3]


def test_what_is_added_is_followed(tmp_path: Path) -> None:
    """It goes on with what is written, over files that follow each other."""
    write(tmp_path, [call("FIRST")])
    command = [sys.executable, "-m", "jobmaster", "audit", "-f", "--audit-folder", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["outcome"] == "FIRST"
            write(tmp_path, [call(f"N{number}") for number in range(30)])
            seen: list[str] = []
            while "N29" not in seen:
                seen.append(json.loads(process.stdout.readline()).get("outcome"))
            assert [outcome for outcome in seen if outcome] == [f"N{number}" for number in range(30)]
        finally:
            process.kill()


def test_a_torn_line_is_told(tmp_path: Path) -> None:
    """What cannot be read is left out, and stderr says how many lines that are."""
    write(tmp_path, [call("ONE")])
    with current_file(tmp_path, AUDIT).open("ab") as file:
        file.write(b'{"version":1,"seq\n')
    done = audit("--audit-folder", str(tmp_path))
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    assert done.stderr == "jobmaster: 1 lines are damaged or of a later version, and left out\n"


def test_no_audit(tmp_path: Path) -> None:
    """A folder that is not there is named, with the remedy."""
    done = audit("--audit-folder", str(tmp_path / "absent"))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"there is no audit in {tmp_path / 'absent'}; name the server's folder with --audit-folder" in done.stderr
