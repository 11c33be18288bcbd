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
from jobmaster.job.identifier import JobId
from jobmaster.journal import journal as journal_module
from jobmaster.journal.journal import Journal, open_journal
from jobmaster.journal.stored import Removed
from tests.audit.disk import faulty_disk
from tests.audit.entries import begun, call, calls_in, entries_in
from tests.audit.opened import folder_for
from tests.journal.jobs import RETURNED, STOPPED, launched

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


def told_of(folder: Path, job_id: str) -> list[str]:
    """What the audit tells of a job, from its own disk."""
    return [
        entry["event"] for entry in entries_in(folder / "audit") if entry["kind"] == "job" and entry["job"] == job_id
    ]


@pytest.mark.parametrize("is_given_up", [False, True])
async def test_a_job_that_is_removed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_given_up: bool
) -> None:
    """All that happened to it is copied, though the disk takes nothing until it is gone; who watches sees the removal alone."""
    monkeypatch.setattr(audit_trail, "RETRY_SECONDS", 0.01)
    with faulty_disk() as disk:
        async with auditing(tmp_path) as (journal, _):
            disk.error = errno.EIO
            if is_given_up:
                job_id = await live(journal, RETURNED[:-1])
                journal.post(JobId(job_id), RETURNED[-1], forget=True)
                await journal.settle()
            else:
                job_id = await live(journal)
                await journal.remove([JobId(job_id)])
            assert [event.event for event in (await journal.events(0)).events] == [Removed()]
            disk.error = None
    assert told_of(tmp_path, job_id) == ["launched", "executed", "main_process_died", "finished", "removed"]


async def test_what_a_power_cut_may_take_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event of a removed job is there until its copy is on the disk, and then goes."""
    monkeypatch.setattr(audit_trail, "SYNC_SECONDS", 3600.0)
    monkeypatch.setattr(journal_module, "PURGE_SECONDS", 0.0)
    async with auditing(tmp_path) as (journal, audit):
        await journal.remove([JobId(await live(journal))])
        while audit.trail._file.position.journal_sequence < journal.last_seq:  # noqa: ASYNC110  # a thread writes it
            await trio.sleep(0.001)
        await journal.remove([])
        assert len((await journal.events_to_copy(0, BATCH)).events) == 5
    async with auditing(tmp_path) as (journal, audit):
        audit.trail.synced_events = journal.last_seq
        await journal.remove([])
        assert [event.event for event in (await journal.events_to_copy(0, BATCH)).events] == [Removed()]


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
