"""What happens to jobs is in the audit once, whatever happens to the audit."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from jobmaster.audit import trail as audit_trail
from jobmaster.audit.audit import Audit, open_audit
from jobmaster.audit.changes import BATCH
from jobmaster.audit.file import FileBounds
from jobmaster.errors import ConfigurationError
from jobmaster.journal import journal as journal_module
from jobmaster.journal.journal import Journal, open_journal
from jobmaster.journal.stored import Removed
from tests.audit.disk import faulty_disk
from tests.audit.entries import begun, call, calls_in, entries_in
from tests.audit.opened import folder_for
from tests.journal.jobs import NEVER_EXECUTED, RETURNED, STOPPED, launched

BOUNDS = FileBounds(size=20_000, kept=0)
DEADLINE = 30.0


@asynccontextmanager
async def auditing(folder: Path) -> AsyncIterator[tuple[Journal, Audit]]:
    """A journal and its audit."""
    with trio.fail_after(DEADLINE):
        async with (
            open_journal(folder / "journal.db") as journal,
            open_audit(folder_for(folder / "audit", BOUNDS), journal, "1") as audit,
        ):
            yield journal, audit


async def live(journal: Journal, events: tuple[object, ...] = RETURNED) -> str:
    """Records a job's life."""
    first = launched()
    for event in (first, *events):
        await journal.record(first.id, event)  # type: ignore[arg-type]  # those of the journal's tests
    return first.id


def changes_in(folder: Path) -> list[int]:
    """The numbers of the job events that are in the audit."""
    return [entry["journal_sequence"] for entry in entries_in(folder / "audit") if entry["kind"] == "job"]


async def test_each_change_is_copied(tmp_path: Path) -> None:
    """In the journal's order, with whose job it is, who ordered its stop, and how it ended."""
    async with auditing(tmp_path) as (journal, _):
        job_id = await live(journal, STOPPED)
    found = [entry for entry in entries_in(tmp_path / "audit") if entry["kind"] == "job"]
    assert [entry["journal_sequence"] for entry in found] == list(range(1, len(found) + 1))
    assert {entry["job"] for entry in found} == {job_id}
    told = {entry["event"]: entry for entry in found}
    assert set(told) >= {"launched", "executed", "stop_ordered", "main_process_died", "finished"}
    assert told["stop_ordered"]["by"] == "client1"
    assert told["finished"]["why"].startswith("stopped by client1")


async def test_a_removal_is_copied(tmp_path: Path) -> None:
    """A job that is forgotten is a change, too."""
    async with auditing(tmp_path) as (journal, _):
        await journal.remove([await live(journal)])  # type: ignore[list-item]  # a job's id
    assert entries_in(tmp_path / "audit")[-2]["event"] == "removed"


async def test_a_job_that_is_removed_before_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its events are copied all the same, also by a later server, and then are gone; so are those of one never executed."""
    monkeypatch.setattr(journal_module, "PURGE_SECONDS", 0)
    with faulty_disk() as disk:
        async with auditing(tmp_path) as (journal, _):
            disk.error = errno.EIO  # nothing is copied
            job_id = await live(journal, STOPPED)
            await journal.remove([job_id])  # type: ignore[list-item]  # a job's id
            never = launched()
            await journal.record(never.id, never)
            await journal.record(never.id, NEVER_EXECUTED)
            monkeypatch.setattr("jobmaster.audit.audit.END_SECONDS", 0.1)
            monkeypatch.setattr("jobmaster.audit.audit.LAST_SECONDS", 0.1)
            last = journal.last_seq
    async with auditing(tmp_path) as (journal, audit):
        await audit.trail.wait_written(audit.trail.admit(begun()))
        while len(changes_in(tmp_path)) < last:
            await trio.sleep(0.01)
        kept = await journal.all_events(0)
        await journal.remove([await live(journal)])  # type: ignore[list-item]  # likewise
        left = await journal.all_events(0)
    entries = [entry for entry in entries_in(tmp_path / "audit") if entry["kind"] == "job"]
    assert [entry["journal_sequence"] for entry in entries[:last]] == list(range(1, last + 1))
    assert {entry["client"] for entry in entries} == {"client1"}
    told = [entry["event"] for entry in entries if entry["job"] == job_id]
    assert (told[0], told[-2:]) == ("launched", ["finished", "removed"])
    assert [entry["event"] for entry in entries if entry["job"] == never.id] == ["launched", "removed"]
    assert job_id in {event.job_id for event in kept.events if not isinstance(event.event, Removed)}
    assert job_id not in {event.job_id for event in left.events if not isinstance(event.event, Removed)}


async def test_what_happened_without_an_audit(tmp_path: Path) -> None:
    """It is copied when there is one: more than one batch of it."""
    async with open_journal(tmp_path / "journal.db") as journal:
        for _ in range(BATCH):
            await live(journal)
        last = journal.last_seq
    for _ in range(2):
        async with auditing(tmp_path):
            pass
    assert changes_in(tmp_path) == list(range(1, last + 1))


async def test_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No change is lost or there twice, though writes fail again and again, and files follow each other."""
    monkeypatch.setattr(audit_trail, "RETRY_SECONDS", 0.01)
    with faulty_disk() as disk:
        async with auditing(tmp_path) as (journal, audit):
            for round_ in range(10):
                disk.error = errno.EIO if round_ % 2 else None
                disk.space = 300 * round_ if round_ % 3 == 0 else None
                for _ in range(5):
                    await live(journal)
                    audit.trail.put(call())
            disk.error = disk.space = None
        last = journal.last_seq
    assert changes_in(tmp_path) == list(range(1, last + 1))
    assert len(calls_in(tmp_path / "audit")) == 50


async def test_a_journal_that_was_put_back(tmp_path: Path) -> None:
    """Where the journal is older than the audit, what happens from then on is copied."""
    async with auditing(tmp_path) as (journal, _):
        await live(journal)
        last = journal.last_seq
    for file in tmp_path.glob("journal.db*"):
        file.unlink()
    async with auditing(tmp_path) as (journal, _):
        await live(journal)
    assert changes_in(tmp_path) == [*range(1, last + 1), *range(1, last + 1)]


async def test_calls_that_were_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that had begun have an end that is unknown, once; and it is said that the server was cut off."""
    with faulty_disk() as disk:
        monkeypatch.setattr("jobmaster.audit.audit.LAST_SECONDS", 0.1)
        monkeypatch.setattr("jobmaster.audit.audit.END_SECONDS", 0.1)
        async with auditing(tmp_path) as (_, audit):
            line = audit.trail.admit(begun("J1"))
            await audit.trail.wait_written(line)
            ended = audit.trail.put(begun("J2"))
            await audit.trail.wait_written(audit.trail.admit(call("OK")))
            audit.trail.put(call("OK"), begun=ended)
            await trio.sleep(0.05)
            disk.error = errno.EIO  # nothing of its end is written
    for _ in range(2):
        async with auditing(tmp_path):
            pass
    found = entries_in(tmp_path / "audit")
    unknown = [entry for entry in found if entry.get("outcome") == "unknown"]
    assert [(entry["begun"], entry["job"], entry["client"], entry["command"]) for entry in unknown] == [
        (2, "J1", "client1", ["sleep", "1"])
    ]
    assert [entry["before"] for entry in found if entry["kind"] == "opened"] == ["nothing", "cut off", "closed"]


async def test_one_server_for_an_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one is told to take another folder."""
    monkeypatch.setattr("jobmaster.audit.opening.LOCK_SECONDS", 0.1)
    async with auditing(tmp_path) as (journal, _):
        with pytest.raises(ConfigurationError, match="another jobmaster server has the audit folder"):
            async with open_audit(folder_for(tmp_path / "audit", BOUNDS), journal, "1"):
                pass
