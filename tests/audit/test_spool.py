"""What outlives a server that is killed before its entries were in a file: once, in order, whatever was being written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from jobmaster.audit.audit import open_audit
from jobmaster.audit.entry import encode
from jobmaster.audit.file import AuditFile, FileBounds, Line
from jobmaster.audit.names import AUDIT
from jobmaster.audit.opening import AuditFolder
from jobmaster.audit.spool import LARGEST, RING_BYTES, Spool, Spooled, is_spool, new_spool
from jobmaster.audit.unwritten import unwritten
from tests.audit.disk import faulty_disk
from tests.audit.entries import begun, call, entries_in
from tests.server.test_listener import NoJobs

BOUNDS = FileBounds(size=1 << 20, kept=0)


@pytest.fixture
def memory() -> Iterator[int]:
    """That of a spool."""
    descriptor = new_spool()
    yield descriptor
    os.close(descriptor)


def lines_in(memory: int) -> list[bytes]:
    """What a later server finds that was not done."""
    return [record.line for record in Spool(memory).records() if not record.is_done]


def test_what_was_added_is_found(memory: int) -> None:
    """Each line as it was, with its number and what it refers to; without those that are done."""
    spool = Spool(memory)
    first, second = spool.add(b"one"), spool.add(b"two two two")
    third, fourth = spool.add(b"", begun_at=first), spool.add(b"four", begun=6)
    assert first is not None
    assert second is not None
    assert third is not None
    assert fourth is not None
    spool.being_written(second, 7)
    spool.done(first)
    spool.being_written(third, 8)
    assert Spool(memory).records() == [
        Spooled(place=first, number=0, begun=None, begun_at=None, is_done=True, line=b"one"),
        Spooled(place=second, number=7, begun=None, begun_at=None, is_done=False, line=b"two two two"),
        Spooled(place=third, number=8, begun=None, begun_at=first, is_done=False, line=b""),
        Spooled(place=fourth, number=0, begun=6, begun_at=None, is_done=False, line=b"four"),
    ]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, LARGEST - 64), st.integers(0, 8)), max_size=120))
def test_a_ring_goes_round(steps: list[tuple[int, int]]) -> None:
    """Whatever lengths lines have and whenever they are done: those that wait are all found, in order, and nothing else waits."""
    descriptor = new_spool()
    try:
        spool = Spool(descriptor)
        waiting: list[tuple[int, bytes]] = []
        for number, (length, finished) in enumerate(steps):
            line = (b"%d " % number).ljust(length, b"x")
            if (place := spool.add(line)) is not None:
                waiting.append((place, line))
            else:
                assert sum(len(text) + 32 for _, text in waiting) > RING_BYTES - 2 * LARGEST
            for done, _ in waiting[:finished]:
                spool.done(done)
            del waiting[:finished]
            assert lines_in(descriptor) == [text for _, text in waiting]
    finally:
        os.close(descriptor)


def test_what_does_not_fit(memory: int) -> None:
    """A line that is too large is not taken, nor one behind others that wait; one that is done makes room."""
    spool = Spool(memory)
    assert spool.add(bytes(LARGEST)) is None
    places = []
    while (place := spool.add(bytes(LARGEST - 64))) is not None:
        places.append(place)
    assert len(places) == RING_BYTES // LARGEST
    spool.done(places[0])
    assert spool.add(bytes(LARGEST - 64)) is not None


def test_an_end_that_does_not_fit(memory: int) -> None:
    """It keeps nobody's room: the record of its beginning gives way as any other."""
    spool = Spool(memory)
    first = spool.add(b"begun")
    assert first is not None
    assert spool.add(bytes(LARGEST), begun_at=first) is None
    spool.done(first)
    for _ in range(2 * RING_BYTES // LARGEST):
        place = spool.add(bytes(LARGEST - 64))
        assert place is not None
        spool.done(place)


def test_a_memory_that_is_none(memory: int) -> None:
    """What another program wrote is no record; another size is no spool."""
    os.pwrite(memory, b"\xff" * 4096, 0)
    assert Spool(memory).records() == []
    assert is_spool(memory)
    os.ftruncate(memory, 4096)
    assert not is_spool(memory)


def auditing(folder: Path, memory: int) -> AuditFolder:
    """The folder of a server that has this memory."""
    return AuditFolder(path=folder, bounds=BOUNDS, prepare=lambda: None, spool=memory)


async def test_what_a_killed_server_has_not_written(tmp_path: Path, memory: int) -> None:
    """The next one writes it first, in its order, an end with its beginning; a call without an end has an unknown one."""
    spool = Spool(memory)
    first = Line(begun("J1"))
    first.place = spool.add(encode(first.entry, 0))
    for entry, reference in ((call("OK"), first.place), (call("READ"), None), (begun("J2"), None)):
        spool.add(encode(entry, 0), begun_at=reference)
    for _ in range(2):
        async with open_audit(auditing(tmp_path, memory), NoJobs(), "1"):
            pass
    found = [(entry["kind"], entry.get("begun"), entry.get("outcome")) for entry in entries_in(tmp_path)]
    assert found == [
        ("begun", None, None),
        ("call", 1, "OK"),
        ("call", None, "READ"),
        ("begun", None, None),
        ("opened", None, None),
        ("call", 4, "unknown"),
        ("closed", None, None),
        ("opened", None, None),
        ("closed", None, None),
    ]


async def test_a_server_that_was_killed_while_it_wrote(tmp_path: Path, memory: int) -> None:
    """What is in the file is not written again, though nobody was told of it; what is not there is."""
    spool = Spool(memory)
    file = AuditFile.open(tmp_path, AUDIT, BOUNDS)
    lines = [Line(begun("J1")), Line(call("READ"))]
    for line in lines:
        line.place = spool.add(encode(line.entry, 0))
    file.append(lines)
    end = Line(call("OK"), lines[0])
    end.place = spool.add(encode(end.entry, 0), begun_at=lines[0].place)
    assert end.place is not None
    spool.being_written(end.place, 3)  # and then the server dies
    for line in lines:
        assert line.place is not None
        spool.being_written(line.place, line.number or 0)
    file.close()
    async with open_audit(auditing(tmp_path, memory), NoJobs(), "1"):
        pass
    found = [(entry["kind"], entry.get("begun"), entry.get("outcome")) for entry in entries_in(tmp_path)]
    assert found[:4] == [("begun", None, None), ("call", None, "READ"), ("call", 1, "OK"), ("opened", None, None)]


@pytest.mark.parametrize("waiting", [5, 100])
async def test_what_an_earlier_server_had_nowhere_else(
    tmp_path: Path, memory: int, monkeypatch: pytest.MonkeyPatch, waiting: int
) -> None:
    """Entries that a disk has not taken, for which there was no room in the spool, or nowhere, are counted by the next server."""
    with monkeypatch.context() as patch, faulty_disk() as disk:
        patch.setattr("jobmaster.audit.spool.LARGEST", 0)
        patch.setattr("jobmaster.audit.trail.MAX_QUEUED", waiting)
        async with open_audit(auditing(tmp_path, memory), NoJobs(), "1") as audit:
            for _ in range(3):
                audit.trail.put(call("WRITTEN"))
            with trio.fail_after(30):
                while Spool(memory).missing.entries:
                    await trio.sleep(0.01)
            disk.error = errno.ENOSPC
            for _ in range(7):
                audit.trail.put(call("NOT WRITTEN"))
    assert Spool(memory).missing.entries == 7
    async with open_audit(auditing(tmp_path, memory), NoJobs(), "1"):
        pass
    assert Spool(memory).missing.entries == 0
    found = entries_in(tmp_path)
    assert [entry["outcome"] for entry in found if entry["kind"] == "call"] == ["WRITTEN"] * 3
    (gap,) = [entry for entry in found if entry["kind"] == "gap"]
    assert (gap["count"], gap["since"] <= gap["time"]) == (7, True)


def test_records_that_cannot_be_read(memory: int) -> None:
    """They are given up, and nothing else."""
    spool = Spool(memory)
    spool.add(b"no entry")
    spool.add(encode(call("READ"), 0))
    lines = unwritten(spool.records(), spool, 0)
    assert [line.entry for line in lines] == [call("READ")]
    assert [record.is_done for record in spool.records()] == [True, False]


@pytest.mark.parametrize("is_killed", [True, False])
async def test_an_end_that_a_gap_counts(
    tmp_path: Path, memory: int, monkeypatch: pytest.MonkeyPatch, *, is_killed: bool
) -> None:
    """The next server tells it as unknown, and whether a crash may be the reason; it does not say that the call did not end."""
    async with open_audit(auditing(tmp_path, memory), NoJobs(), "1") as audit:
        line = audit.trail.admit(begun("J1"))
        await audit.trail.wait_written(line)
        with monkeypatch.context() as patch:
            patch.setattr("jobmaster.audit.trail.MAX_QUEUED", 0)
            audit.trail.put(call("OK"), begun=line)
    if is_killed:
        file = AuditFile.open(tmp_path, AUDIT, BOUNDS)
        file.append([Line(call("READ"))])  # the entry that closes it is not the last one
        file.close()
    async with open_audit(auditing(tmp_path, memory), NoJobs(), "1"):
        pass
    (why,) = [entry["why"] for entry in entries_in(tmp_path) if entry.get("outcome") == "unknown"]
    cut_off = "the server was cut off before the call had ended, or before that was written"
    assert why == (cut_off if is_killed else "the entry of the call's end is among those that a gap counts")
