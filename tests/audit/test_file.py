"""The files: what is appended is there whole and in order, whatever the disk does in between."""

from __future__ import annotations

import errno
import itertools
import json
import os
import stat
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobmaster.audit.entry import Entry
from jobmaster.audit.file import AuditFile, FileBounds, Line, lock_folder
from jobmaster.audit.names import AUDIT, complete_files, current_file
from jobmaster.errors import ConfigurationError
from tests.audit.entries import begun, call, calls_in, change, entries_in

BOUNDS: Final = FileBounds(size=1 << 20, kept=3)
SMALL: Final = FileBounds(size=2000, kept=3)


def open_file(folder: Path, bounds: FileBounds = BOUNDS) -> AuditFile:
    """The trail of calls in a folder."""
    return AuditFile.open(folder, AUDIT, bounds)


def append(file: AuditFile, *entries: Entry) -> list[Line]:
    """Appends entries together."""
    lines = [Line(entry) for entry in entries]
    file.append(lines)
    return lines


@contextmanager
def writing(write: Callable[[int, bytes], int]) -> Iterator[None]:
    """Writes go through this function in the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobmaster.audit.file.os.write", write)
        yield


def test_entries_are_numbered_and_kept(tmp_path: Path) -> None:
    """Each entry has the next number, also in a file that is opened again."""
    for expected in ([1, 2], [3, 4]):
        file = open_file(tmp_path)
        assert [line.sequence for line in append(file, call("OK"), call("NOT_FOUND"))] == expected
        file.close()
    assert [(entry["sequence"], entry["outcome"]) for entry in entries_in(tmp_path)] == [
        (1, "OK"),
        (2, "NOT_FOUND"),
        (3, "OK"),
        (4, "NOT_FOUND"),
    ]


def test_a_file_is_for_its_owner(tmp_path: Path) -> None:
    """Whatever the umask and an earlier mode, nobody else may read it; a symbolic link is not followed."""
    old = os.umask(0)
    try:
        open_file(tmp_path).close()
        assert stat.S_IMODE(current_file(tmp_path, AUDIT).stat().st_mode) == 0o600
        current_file(tmp_path, AUDIT).chmod(0o644)
        open_file(tmp_path).close()
        assert stat.S_IMODE(current_file(tmp_path, AUDIT).stat().st_mode) == 0o600
    finally:
        os.umask(old)
    current_file(tmp_path, AUDIT).rename(tmp_path / "elsewhere")
    current_file(tmp_path, AUDIT).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        open_file(tmp_path)


def test_an_end_names_its_beginning(tmp_path: Path) -> None:
    """Both in one batch, in two, and where the beginning was written by an earlier server."""
    file = open_file(tmp_path)
    first = Line(begun())
    file.append([first, Line(call(), begun=first)])
    second, third = append(file, begun(), begun())
    file.append([Line(call(), begun=second)])
    assert set(file.position.begun) == {third.sequence}
    file.close()
    again = open_file(tmp_path)
    assert set(again.position.begun) == {third.sequence}
    again.append([Line(call("unknown"), begun=third.sequence)])
    assert not again.position.begun
    again.close()
    assert [entry["begun"] for entry in calls_in(tmp_path)] == [1, 3, 4]


def test_files_are_exchanged(tmp_path: Path) -> None:
    """No file is larger than its bound, the oldest go, and what is kept has no hole."""
    file = open_file(tmp_path, SMALL)
    for _ in range(100):
        append(file, call())
    file.close()
    files = [*complete_files(tmp_path, AUDIT), current_file(tmp_path, AUDIT)]
    assert len(files) == SMALL.kept + 1
    assert max(path.stat().st_size for path in files) <= SMALL.size
    numbers = [entry["sequence"] for entry in entries_in(tmp_path)]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert [json.loads(path.read_bytes().partition(b"\n")[0])["kind"] for path in files] == ["rotated"] * len(files)


@pytest.mark.parametrize("what", ["moved", "removed", "replaced"])
def test_a_file_that_somebody_takes_away(tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture) -> None:
    """What comes then is written under its name, with the calls that are open, and files are exchanged as ever."""
    file = open_file(tmp_path, SMALL)
    (open_call,) = append(file, begun())
    current = current_file(tmp_path, AUDIT)
    current.rename(tmp_path / "elsewhere")
    if what == "removed":
        (tmp_path / "elsewhere").unlink()
    if what == "replaced":
        current.write_bytes(b"torn")
    append(file, call("FIRST"))
    assert f"{current} was moved or removed" in caplog.text
    assert calls_in(tmp_path)[0]["outcome"] == "FIRST"
    for number in range(30):
        append(file, call(f"N{number}"))
    file.close()
    assert len(complete_files(tmp_path, AUDIT)) == SMALL.kept
    assert len(caplog.records) == 1
    assert set(open_file(tmp_path, SMALL).position.begun) == {open_call.sequence}


def test_a_number_that_nobody_wrote(tmp_path: Path) -> None:
    """A line with a number of any length is no entry, and keeps no server from starting."""
    current_file(tmp_path, AUDIT).write_text(
        '{"version":1,"sequence":%s,"kind":"call","begun":1,"x":1}\n' % ("9" * 5000)
    )
    file = open_file(tmp_path)
    assert [line.sequence for line in append(file, call())] == [1]
    file.close()


@pytest.mark.parametrize("has_reader", [True, False])
def test_a_fifo_in_the_place_of_the_file(tmp_path: Path, *, has_reader: bool) -> None:
    """Nothing is written to it, nobody waits for it, and it is never taken for a file of the trail."""
    file = open_file(tmp_path, SMALL)
    append(file, call("FIRST"))
    current = current_file(tmp_path, AUDIT)
    current.unlink()
    os.mkfifo(current)
    reader = os.open(current, os.O_RDONLY | os.O_NONBLOCK) if has_reader else -1
    for _ in range(30):
        with pytest.raises(OSError, match=r"No such device|is no file"):
            append(file, call("LOST"))
    assert complete_files(tmp_path, AUDIT) == []
    assert entries_in(tmp_path) == []
    if has_reader:
        os.close(reader)
    current.unlink()
    append(file, call("LATER"))
    assert [entry["outcome"] for entry in calls_in(tmp_path)] == ["LATER"]
    file.close()


def test_all_files_are_kept_where_that_is_asked(tmp_path: Path) -> None:
    """With 0, none is removed."""
    file = open_file(tmp_path, FileBounds(size=2000, kept=0))
    for _ in range(100):
        append(file, call())
    file.close()
    assert len(calls_in(tmp_path)) == 100


def test_what_is_open_survives_the_exchange(tmp_path: Path) -> None:
    """A new file repeats which calls have not ended, and how far the journal was copied."""
    file = open_file(tmp_path, SMALL)
    first, _ = append(file, begun("J1"), change(77))
    for _ in range(30):
        append(file, call())
    file.close()
    again = open_file(tmp_path, SMALL)
    assert again.position.journal_sequence == 77
    assert list(again.position.begun) == [first.sequence]
    again.close()


def test_the_beginning_is_found_in_an_older_file(tmp_path: Path) -> None:
    """What a call was about is known where its beginning is still kept."""
    file = open_file(tmp_path, FileBounds(size=2000, kept=0))
    append(file, begun("J1"))
    for _ in range(30):
        append(file, call())
    file.close()
    ((_, line),) = open_file(tmp_path).position.begun.items()
    assert line is not None
    assert json.loads(line)["job"] == "J1"


def test_a_torn_line(tmp_path: Path) -> None:
    """The beginning of a line stays, is no entry, and takes none of the next one; a whole one counts without its line feed."""
    file = open_file(tmp_path)
    append(file, call("OK"), call("ABORTED"))
    file.close()
    path = current_file(tmp_path, AUDIT)
    whole = path.read_bytes()
    for cut, outcomes in ((10, ["OK", "CANCELLED"]), (1, ["OK", "ABORTED", "CANCELLED"])):
        path.write_bytes(whole[:-cut])
        file = open_file(tmp_path)
        append(file, call("CANCELLED"))
        file.close()
        assert [entry["outcome"] for entry in entries_in(tmp_path)] == outcomes
        assert [entry["sequence"] for entry in entries_in(tmp_path)] == list(range(1, len(outcomes) + 1))
        assert path.read_bytes().startswith(whole[:-cut])


@pytest.mark.parametrize("can_cut", [True, False])
def test_a_line_that_a_full_disk_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, can_cut: bool) -> None:
    """It is taken out, wherever it was cut; where that cannot be done, the next entry has a line of its own."""
    file = open_file(tmp_path)
    append(file, call("N0"))
    path, real, left = current_file(tmp_path, AUDIT), os.write, 0

    def write(descriptor: int, view: bytes) -> int:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = min(left, len(view))
        left -= count
        return real(descriptor, view[:count])

    def refuse(_descriptor: int, _size: int) -> None:
        raise OSError(errno.EPERM, "it is for appending alone")

    if not can_cut:
        monkeypatch.setattr("jobmaster.audit.file.os.ftruncate", refuse)
    length = path.stat().st_size
    for left in (1, length - 2, length + 20, 1):  # noqa: B007  # it is `write`'s
        lines = [Line(call("N1")), Line(call("N2"))]
        with writing(write), pytest.raises(OSError, match="No space"):
            file.append(lines)
        text = path.read_bytes()
        assert text.endswith(b"\n") == can_cut
        assert not can_cut or all(json.loads(line) for line in text.splitlines())
        if rest := [line for line in lines if line.sequence is None]:
            file.append(rest)
    file.close()
    assert [entry["outcome"] for entry in entries_in(tmp_path)] == ["N0", *["N1", "N2"] * 4]


@pytest.mark.parametrize("is_made", [False, True])
def test_a_crash_between_two_files(tmp_path: Path, is_made: bool) -> None:
    """Where the next file is not there yet, or is empty, the one before says how far all has come."""
    file = open_file(tmp_path)
    line, _ = append(file, begun(), call())
    file._complete()
    if is_made:
        current_file(tmp_path, AUDIT).touch()
    again = open_file(tmp_path)
    assert list(again.position.begun) == [line.sequence]
    append(again, call())
    again.close()
    assert [entry["kind"] for entry in entries_in(tmp_path)] == ["begun", "call", "rotated", "call"]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_disk_that_fails_anywhere(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Each entry is there once and in order, whichever write is cut short at whichever byte, or server killed after it."""
    folder = tmp_path_factory.mktemp("audit")
    bounds = FileBounds(size=data.draw(st.integers(700, 4000)), kept=0)
    budgets = iter(data.draw(st.lists(st.integers(0, 2500), max_size=8)))
    left = next(budgets, 1 << 30)
    real = os.write

    def write(descriptor: int, view: bytes) -> int:
        nonlocal left
        count = min(left, len(view))
        left -= count
        if count:
            return real(descriptor, view[:count])
        left = next(budgets, 1 << 30)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    numbers = itertools.count()
    written: list[str] = []
    with writing(write):
        file = open_file(folder, bounds)
        for _ in range(data.draw(st.integers(1, 6))):
            todo = [Line(call(f"N{next(numbers)}")) for _ in range(data.draw(st.integers(1, 6)))]
            wanted = [line.entry.outcome for line in todo]  # type: ignore[union-attr]  # they are calls
            while todo:
                with suppress(OSError):
                    file.append(todo)
                todo = [line for line in todo if line.sequence is None]
                if data.draw(st.booleans()):
                    file.close()
                    file = open_file(folder, bounds)
            written += wanted
        file.close()
    found = entries_in(folder)
    assert [entry["outcome"] for entry in found if entry["kind"] == "call"] == written
    assert [entry["sequence"] for entry in found] == list(range(1, len(found) + 1))


def test_a_disk_without_space_keeps_no_server_from_starting(tmp_path: Path) -> None:
    """The file is opened later; any other failure is refused at once, with its reason."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobmaster.audit.file.os.open", full)
        file = open_file(tmp_path)
        with pytest.raises(OSError, match="no space"):
            file.append([Line(call())])
    append(file, call())
    file.close()
    assert len(calls_in(tmp_path)) == 1
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        open_file(tmp_path / "absent")


def test_one_server_for_a_folder(tmp_path: Path) -> None:
    """The lock is one process's; when it is closed, another's."""
    first = lock_folder(tmp_path)
    assert first is not None
    assert lock_folder(tmp_path) is None
    os.close(first)
    again = lock_folder(tmp_path)
    assert again is not None
    os.close(again)


@pytest.mark.parametrize("character", ["a", "é", "例", "\U0001f600"])
@pytest.mark.parametrize(("count", "length"), [(0, 0), (1, 8_000), (500, 5)])
def test_a_line_counts_as_what_it_costs(character: str, count: int, length: int) -> None:
    """Of whatever characters a command is: what waits for the disk is bounded by the memory that it takes."""
    tracemalloc.start()
    try:
        words = tuple(character * length + str(number) for number in range(count))
        line = Line(call(words=words))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 1.1 * line.cost
    assert line.cost < 1.2 * taken + 1_500
