"""Reading back: all files in order, also while they are written, and only what is wanted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobmaster.audit.entry import Call, Caller, Gap, Opened
from jobmaster.audit.file import AuditFile, FileBounds, Line
from jobmaster.audit.names import AUDIT, complete_files, current_file
from jobmaster.audit.reading import TrailReader, Wanted
from jobmaster.errors import ConfigurationError
from tests.audit.entries import AT, begun, call, calls_in, change, entries_in

SMALL = FileBounds(size=2000, kept=0)


def open_file(folder: Path) -> AuditFile:
    """A trail of small files."""
    return AuditFile.open(folder, AUDIT, SMALL)


def test_all_files_are_read_in_order(tmp_path: Path) -> None:
    """The complete ones first, each entry once."""
    file = open_file(tmp_path)
    for number in range(50):
        file.append([Line(call(f"N{number}"))])
    file.close()
    assert len(complete_files(tmp_path, AUDIT)) > 3
    assert [entry["outcome"] for entry in calls_in(tmp_path)] == [f"N{number}" for number in range(50)]


def test_what_is_added_is_read_on(tmp_path: Path) -> None:
    """Whether the file goes on, or was followed by another, or by several."""
    file = open_file(tmp_path)
    reader = TrailReader(tmp_path, AUDIT, Wanted())
    told: list[str] = []
    count = 0
    for more in (0, 1, 1, 5, 5, 40, 0, 1):
        for _ in range(more):
            file.append([Line(call(f"N{count}"))])
            count += 1
        told += [entry["outcome"] for _, entry in reader.entries() if entry["kind"] == "call"]
        assert told == [f"N{number}" for number in range(count)]
    reader.close()
    file.close()


def test_a_line_that_is_being_written(tmp_path: Path) -> None:
    """It is told when it is whole; one that will never be is passed over and counted."""
    file = open_file(tmp_path)
    file.append([Line(call("ONE")), Line(call("TWO"))])
    file.close()
    path = current_file(tmp_path, AUDIT)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    reader = TrailReader(tmp_path, AUDIT, Wanted())
    assert [entry["outcome"] for _, entry in reader.entries()] == ["ONE"]
    with path.open("ab") as end:
        end.write(whole[-20:])
    assert [entry["outcome"] for _, entry in reader.entries()] == ["TWO"]
    with path.open("ab") as end:
        end.write(b"\0\0\0\n{}\n[1]\n\n" + whole.splitlines()[0].replace(b'"sequence":1', b'"sequence":3') + b"\n")
    assert [entry["sequence"] for _, entry in reader.entries()] == [3]
    assert reader.unreadable == 3
    reader.close()


def test_only_what_is_wanted(tmp_path: Path) -> None:
    """By client, job and time; what is missing is told whatever is asked for."""
    other = Caller(client="client2", serial=None, fingerprint=None, peer="x")
    hour = timedelta(hours=1)
    file = open_file(tmp_path)
    entries = (
        Opened(journal_sequence=0, at=AT, before="closed", server="1"),
        call(),
        begun("J"),
        change(1),
        Call(at=AT + hour, caller=other, method=None, outcome="OK"),
        Gap(at=AT + hour, since=AT, count=1, why="x"),
        Opened(journal_sequence=0, at=AT + 2 * hour, before="cut off", server="1"),
    )
    file.append([Line(entry) for entry in entries])
    file.close()

    def numbers(**wanted: object) -> list[int]:
        return [entry["sequence"] for entry in entries_in(tmp_path, wanted=Wanted(**wanted))]  # type: ignore[arg-type]

    assert numbers() == [1, 2, 3, 4, 5, 6, 7]
    assert numbers(client="client1") == [2, 3, 4, 6, 7]
    assert numbers(client="client2") == [5, 6, 7]
    assert numbers(job="J") == [3, 4, 6, 7]
    assert numbers(client="client2", job="J") == [6, 7]
    assert numbers(since=AT + hour) == [5, 6, 7]
    assert numbers(until=AT + hour) == [1, 2, 3, 4]
    assert numbers(since=AT + hour, until=AT + 2 * hour) == [5, 6]


def test_old_files_are_passed_over(tmp_path: Path) -> None:
    """A file whose successor begins before the time that is wanted has nothing of it."""
    file = open_file(tmp_path)
    for number in range(50):
        file.append([Line(call(f"N{number}"))])
    file.close()
    complete_files(tmp_path, AUDIT)[0].write_bytes(b"not to be looked at\n")
    for since, unreadable in ((AT, 1), (datetime.now(UTC) + timedelta(hours=1), 0)):
        reader = TrailReader(tmp_path, AUDIT, Wanted(since=since))
        list(reader.entries())
        assert reader.unreadable == unreadable
        reader.close()


def test_what_cannot_be_read(tmp_path: Path) -> None:
    """A folder that is not there is told; what a later version wrote is left out, and counted."""
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        entries_in(tmp_path / "absent")
    file = open_file(tmp_path)
    file.append([Line(call())])
    file.close()
    with current_file(tmp_path, AUDIT).open("ab") as end:
        end.write(b'{"version":2,"sequence":2,"kind":"call"}\n')
    reader = TrailReader(tmp_path, AUDIT, Wanted())
    assert [entry["sequence"] for _, entry in reader.entries()] == [1]
    assert reader.unreadable == 1
    reader.close()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_disk_that_changes_bytes(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever byte it is, the other lines are read, the server starts, and goes on after the last number that it finds."""
    folder = tmp_path_factory.mktemp("audit")
    file = open_file(folder)
    for _ in range(12):
        first = Line(begun("J"))
        file.append([first, Line(change(1)), Line(call(), begun=first)])
    file.close()
    before = [entry["sequence"] for entry in entries_in(folder)]
    path = data.draw(st.sampled_from([*complete_files(folder, AUDIT), current_file(folder, AUDIT)]))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    found = [entry["sequence"] for entry in entries_in(folder)]
    assert len(set(before) - set(found)) <= 2  # where a line feed was changed
    again = open_file(folder)
    (line,) = lines = [Line(call("AFTER"))]
    again.append(lines)
    again.close()
    assert line.sequence is not None
    assert entries_in(folder)[-1]["outcome"] == "AFTER"
