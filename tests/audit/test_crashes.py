"""Each call has its own end and no other, wherever in a write the disk fails or the server is killed."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from jobmaster.audit.audit import _head
from jobmaster.audit.file import AuditFile, FileBounds, Line
from jobmaster.audit.names import AUDIT
from jobmaster.audit.spool import LARGEST, Spool, new_spool
from jobmaster.audit.trail import Trail
from jobmaster.audit.unwritten import unwritten
from tests.audit.disk import faulty_disk
from tests.audit.entries import begun, call, change, entries_in

BOUNDS: Final = FileBounds(size=1 << 20, kept=0)
JOBS: Final = ("J1", "J2", "J3")


class Killed(BaseException):
    """The server is, before its next step."""


@contextmanager
def killed_after(steps: int) -> Iterator[Callable[[], bool]]:
    """Kills what writes in the block after so many steps: what it tells the spool, and a quarter of what it writes to the file.

    Yields what tells whether it was killed.
    """
    left = steps

    def step() -> None:
        nonlocal left
        if not left:
            raise Killed
        left -= 1

    def stepwise(function: Callable[..., Any]) -> Callable[..., Any]:
        def after_a_step(*args: Any) -> Any:
            step()
            return function(*args)

        return after_a_step

    def write(descriptor: int, data: bytes) -> int:
        for quarter in range(4):
            step()
            os_write(descriptor, data[len(data) * quarter // 4 : len(data) * (quarter + 1) // 4])
        return len(data)

    os_write = os.write
    with pytest.MonkeyPatch.context() as patch:
        for name in ("being_written", "done"):
            patch.setattr(Spool, name, stepwise(getattr(Spool, name)))
        patch.setattr("jobmaster.audit.file.os.write", write)
        with suppress(Killed):
            yield lambda: not left


@pytest.fixture
def memory() -> Iterator[int]:
    """That of a spool."""
    descriptor = new_spool()
    yield descriptor
    os.close(descriptor)


def open_file(folder: Path, spool: Spool) -> AuditFile:
    """The trail of calls, whose lines are in a spool."""
    file = AuditFile.open(folder, AUDIT, BOUNDS)
    file.spool = spool
    return file


def put_calls(trail: Trail) -> list[Line]:
    """Puts the beginnings and the ends of calls, with what happens to jobs between them."""
    lines = [trail.put(begun(job)) for job in JOBS]
    for number, (job, line) in enumerate(zip(JOBS, lines, strict=True), 1):
        trail.put(change(number))
        trail.put(call(why=job), begun=line)
    return trail._take()


def fill(spool: Spool) -> list[int]:
    """Adds what waits until nothing goes in; the places of it."""
    places = []
    for size in (LARGEST - 64, 0):
        while (place := spool.add(bytes(size))) is not None:
            places.append(place)
    return places


def follow(folder: Path, memory: int) -> None:
    """The next server writes what it finds, until it is killed."""
    spool = Spool(memory)
    file = open_file(folder, spool)
    try:
        file.append(_head(file.position, 0, "1", unwritten(spool.records(), spool, file.position.sequence)))
    finally:
        file.close()


def ends_in(folder: Path) -> list[tuple[str | None, str]]:
    """Of each call that has ended: the job that its beginning names, and the end's own word of that, or `unknown`."""
    found = entries_in(folder)
    jobs = {entry["sequence"]: entry["job"] for entry in found if entry["kind"] == "begun"}
    ends = [entry for entry in found if entry["kind"] == "call"]
    assert Counter(entry["begun"] for entry in ends) == Counter(list(jobs))
    return [(jobs[end["begun"]], "unknown" if end["outcome"] == "unknown" else end["why"]) for end in ends]


@pytest.mark.parametrize("again", range(0, 12, 3))
async def test_a_server_that_is_killed_at_any_step(tmp_path: Path, again: int) -> None:  # noqa: ASYNC124  # it needs Trio's loop
    """The one after it, which is killed too, and the third one write what is missing, each end for its own beginning."""
    steps = 0
    is_killed = True
    while is_killed:
        folder, memory = tmp_path / str(steps), new_spool()
        folder.mkdir()
        file = open_file(folder, spool := Spool(memory))
        lines = put_calls(Trail(None, spool))
        with killed_after(steps) as was_killed:
            file.append(lines)
            is_killed = was_killed()
        file.close()
        with killed_after(again):
            follow(folder, memory)
        follow(folder, memory)
        assert sorted(ends_in(folder)) == [(job, job) for job in JOBS], steps
        os.close(memory)
        steps += 1
    assert steps > len(JOBS)


@pytest.mark.parametrize("is_killed", [True, False])
async def test_a_disk_that_becomes_full_at_any_byte(tmp_path: Path, *, is_killed: bool) -> None:  # noqa: ASYNC124  # it needs Trio's loop
    """What it did not take is written by the next server, or by the same one when there is room, each end for its own beginning."""
    for space in range(0, 2600, 130):
        folder, memory = tmp_path / str(space), new_spool()
        folder.mkdir()
        file = open_file(folder, spool := Spool(memory))
        lines = put_calls(Trail(None, spool))
        with faulty_disk() as disk:
            disk.space = space
            with suppress(OSError):
                file.append(lines)
        if not is_killed:
            file.append([line for line in lines if line.sequence is None])
        file.close()
        follow(folder, memory)
        assert sorted(ends_in(folder)) == [(job, job) for job in JOBS], space
        os.close(memory)


async def test_a_beginning_that_was_written_before_its_end(tmp_path: Path, memory: int) -> None:  # noqa: ASYNC124  # it needs Trio's loop
    """It stays until its end is written, whatever else comes: a later server knows which beginning the end has."""
    file = open_file(tmp_path, spool := Spool(memory))
    trail = Trail(None, spool)
    trail.put(call("READ"))
    line = trail.put(begun("J1"))
    end = trail.put(call(why="J1"), begun=line)
    file.append(trail._take()[:2])
    file.close()
    for place in fill(spool):
        spool.done(place)
    follower = Spool(memory)
    assert not fill(follower)
    assert end.place is not None
    assert [(each.place, each.begun) for each in unwritten(follower.records(), follower, 2)] == [(end.place, 2)]
    follower.done(end.place)
    assert fill(follower)


async def test_a_beginning_that_memory_had_no_room_for(tmp_path: Path, memory: int) -> None:  # noqa: ASYNC124  # it needs Trio's loop
    """Its end is not kept there either, as long as it may be written: a server later could not tell which end it has."""
    file = open_file(tmp_path, spool := Spool(memory))
    trail = Trail(None, spool)
    places = fill(spool)
    line = trail.put(begun("J1"))
    for place in places:
        spool.done(place)
    assert trail.put(call(why="J1"), begun=line).place is None
    file.append(trail._take()[:1])
    file.close()
    follow(tmp_path, memory)
    assert ends_in(tmp_path) == [("J1", "unknown")]


@pytest.mark.parametrize("is_admitted", [True, False])
async def test_the_end_of_a_call_whose_beginning_is_not_to_be_written(  # noqa: ASYNC124  # it needs Trio's loop
    memory: int, monkeypatch: pytest.MonkeyPatch, *, is_admitted: bool
) -> None:
    """It is kept, and has none: whether nobody had room for the beginning, or its Start was refused."""
    spool = Spool(memory)
    trail = Trail(None, spool)
    places = fill(spool)
    if is_admitted:
        monkeypatch.setattr(Trail, "_why_not", lambda _: None)
        line = trail.admit(begun("J1"))
        trail._fail(OSError(errno.ENOSPC, "full"))
    else:
        with monkeypatch.context() as patch:
            patch.setattr("jobmaster.audit.trail.MAX_QUEUED", 0)
            line = trail.put(begun("J1"))
    for place in places:
        spool.done(place)
    end = trail.put(call("UNAVAILABLE"), begun=line)
    assert [each.begun for each in unwritten(Spool(memory).records(), spool, 0)] == [None]
    assert end.place is not None


def test_a_number_that_is_in_no_file(memory: int) -> None:
    """An end that refers to one has no beginning: another entry will have the number."""
    spool = Spool(memory)
    trail = Trail(None, spool)
    trail.put(call("OK"), begun=7)
    assert [line.begun for line in unwritten(spool.records(), spool, 7)] == [7]
    assert [line.begun for line in unwritten(spool.records(), spool, 6)] == [None]


async def test_records_that_give_way_before_the_files_are_open(memory: int) -> None:  # noqa: ASYNC124  # it needs Trio's loop
    """Those that were done when a server began may be others by then, and stay as they are."""
    old = Spool(memory)
    for place in fill(old):
        old.done(place)
    spool = Spool(memory)
    left = spool.records()
    places = [spool.add(b"x" * length) for length in range(200)]
    while (added := spool.add(b"x" * (LARGEST // 2))) is not None:
        places.append(added)
    unwritten(left, spool, 0)
    found = spool.records()
    assert [record.place for record in found] == places
    assert not any(record.is_done for record in found)
    assert {*b"".join(record.line for record in found)} == {*b"x"}
