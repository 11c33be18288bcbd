"""An audit whose files cannot be opened, or not yet: who waits for them, for how long, and what becomes of the entries."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from jobmaster.audit import audit as audit_module
from jobmaster.audit import opening, trail
from jobmaster.audit.audit import Audit, open_audit
from jobmaster.audit.entry import Caller
from jobmaster.audit.file import AuditFile, FileBounds, lock_folder
from jobmaster.audit.names import HANDSHAKES
from jobmaster.audit.opening import AuditFolder
from jobmaster.errors import AuditUnavailable, ConfigurationError
from jobmaster.journal.ballast import Ballast
from jobmaster.journal.journal import Journal, open_journal
from jobmaster.server.preparation import prepare_folder
from tests.audit.entries import begun, call, calls_in, entries_in
from tests.journal.jobs import RETURNED, launched

BOUNDS: Final = FileBounds(size=1 << 20, kept=2)
DEADLINE: Final = 30.0
STEPS: Final = ("prepare", "lock_folder", "open", "fill")
"""What an opening does to its disk, one after the other."""


@pytest.fixture
def answers() -> Iterator[threading.Event]:
    """Cleared, the disk does not answer."""
    event = threading.Event()
    yield event
    event.set()


def held_up(step: str, folder: Path, answers: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a step of each opening wait for an answer."""
    journals_ballast = folder / "journal.ballast"
    owner: Any = {"lock_folder": opening, "open": AuditFile, "fill": Ballast}.get(step)
    if owner is None:
        return
    function = getattr(owner, step)

    def wait(*args: Any) -> Any:
        if getattr(args[0], "_path", None) != journals_ballast:
            answers.wait(DEADLINE)
        return function(*args)

    monkeypatch.setattr(owner, step, wait)


def place(folder: Path, answers: threading.Event | None = None) -> AuditFolder:
    """A folder that is made when there is an answer."""

    def prepare() -> None:
        if answers is not None:
            answers.wait(DEADLINE)
        prepare_folder("audit", folder / "audit")

    return AuditFolder(path=folder / "audit", bounds=BOUNDS, prepare=prepare)


@asynccontextmanager
async def auditing(folder: Path, answers: threading.Event | None = None) -> AsyncIterator[tuple[Journal, Audit]]:
    """A journal, and its audit as a later server has it."""
    with trio.fail_after(DEADLINE):
        async with (
            open_journal(folder / "journal.db") as journal,
            open_audit(place(folder, answers), journal, "1", must_be_open=False) as audit,
        ):
            yield journal, audit


async def live(journal: Journal) -> None:
    """Records a job's life."""
    first = launched()
    for event in (first, *RETURNED):
        await journal.record(first.id, event)


async def until_admitted(audit: Audit) -> None:
    """Returns when Starts are taken."""
    while not audit.trail.is_writable:
        await trio.sleep(0.01)


@pytest.mark.parametrize("step", STEPS)
async def test_a_disk_that_does_not_answer_a_first_server(
    tmp_path: Path, answers: threading.Event, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It is told so, with what to do, wherever the disk holds it up."""
    monkeypatch.setattr(audit_module, "OPEN_SECONDS", 0.05)
    held_up(step, tmp_path, answers, monkeypatch)
    folder = place(tmp_path, answers if step == "prepare" else None)
    async with open_journal(tmp_path / "journal.db") as journal:
        with pytest.raises(
            ConfigurationError, match=r"audit cannot be used: its disk does not answer; .*--audit-folder"
        ):
            async with open_audit(folder, journal, "1"):
                pytest.fail("it has begun")


@pytest.mark.parametrize("step", STEPS)
async def test_a_disk_that_answers_a_later_server_later(
    tmp_path: Path, answers: threading.Event, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It begins all the same, starts nothing, and then everything is written once, behind what the server before has left."""
    answers.set()
    async with auditing(tmp_path) as (journal, audit):
        await audit.trail.wait_written(audit.trail.admit(begun("J1")))
        await live(journal)
    monkeypatch.setattr(audit_module, "FOLLOWER_OPEN_SECONDS", 0.05)
    answers.clear()
    held_up(step, tmp_path, answers, monkeypatch)
    async with auditing(tmp_path, answers if step == "prepare" else None) as (journal, audit):
        with pytest.raises(AuditUnavailable, match="its disk does not answer, and so nothing is started"):
            audit.trail.admit(begun())
        audit.trail.put(call("STOP"))
        audit.refusals.refused(Caller(client=None, serial=None, fingerprint=None, peer="::1"), "::1", "expired")
        await live(journal)
        answers.set()
        await until_admitted(audit)
        await audit.trail.wait_written(audit.trail.admit(begun("J2")))
        last = journal.last_seq
    found = entries_in(tmp_path / "audit")
    second = next(number for number, entry in enumerate(found) if entry.get("before") == "closed")
    assert [(entry["kind"], entry.get("outcome")) for entry in found[second : second + 3]] == [
        ("opened", None),
        ("call", "unknown"),
        ("call", "STOP"),
    ]
    assert [entry["journal_sequence"] for entry in found if entry["kind"] == "job"] == list(range(1, last + 1))
    assert [entry["sequence"] for entry in found] == list(range(1, len(found) + 1))
    assert "expired" in [entry.get("why") for entry in entries_in(tmp_path / "audit", HANDSHAKES)]


async def test_a_folder_that_a_later_server_cannot_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on, and writes when the folder is as it has to be."""
    monkeypatch.setattr(opening, "RETRY_SECONDS", 0.01)
    (tmp_path / "audit").symlink_to(tmp_path / "elsewhere")
    async with auditing(tmp_path) as (_, audit):
        with pytest.raises(AuditUnavailable, match="its folder cannot be used, and so nothing is started"):
            audit.trail.admit(begun())
        audit.trail.put(call("STOP"))
        (tmp_path / "audit").unlink()
        await until_admitted(audit)
    assert [entry["outcome"] for entry in calls_in(tmp_path / "audit")] == ["STOP"]


async def test_a_folder_that_an_earlier_server_gives_up_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later server begins before that, and writes after it."""
    monkeypatch.setattr(opening, "LOCK_SECONDS", 0.05)
    monkeypatch.setattr(opening, "RETRY_SECONDS", 0.01)
    (tmp_path / "audit").mkdir()
    lock = lock_folder(tmp_path / "audit")
    assert lock is not None
    async with auditing(tmp_path) as (_, audit):
        assert not audit.trail.is_writable
        audit.trail.put(call("STOP"))
        os.close(lock)
        await until_admitted(audit)
    assert [entry["outcome"] for entry in calls_in(tmp_path / "audit")] == ["STOP"]


async def test_entries_that_are_too_many_before_it_is_open(
    tmp_path: Path, answers: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are counted in a gap, which says why."""
    monkeypatch.setattr(audit_module, "FOLLOWER_OPEN_SECONDS", 0.05)
    monkeypatch.setattr(trail, "MAX_QUEUED", 10)
    async with auditing(tmp_path, answers) as (_, audit):
        for number in range(15):
            audit.trail.put(call(f"N{number}"))
        answers.set()
        await until_admitted(audit)
    found = [entry for entry in entries_in(tmp_path / "audit") if entry["kind"] in {"call", "gap"}]
    assert [entry["kind"] for entry in found] == ["call"] * 10 + ["gap"]
    assert (found[-1]["count"], found[-1]["why"]) == (5, "its disk does not answer")


async def test_the_end_of_a_server_whose_audit_was_never_open(
    tmp_path: Path, answers: threading.Event, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It comes in time, and the log is told what was not written."""
    monkeypatch.setattr(audit_module, "FOLLOWER_OPEN_SECONDS", 0.05)
    monkeypatch.setattr(audit_module, "END_SECONDS", 0.05)
    monkeypatch.setattr(audit_module, "LAST_SECONDS", 0.05)
    async with auditing(tmp_path, answers) as (_, audit):
        first = audit.trail.put(begun("J1"))
        audit.trail.put(call("OK"), begun=first)
    assert "its disk does not answer" in caplog.text
    assert (
        "entries of the audit were not written, the oldest of 2026-11-29T10:17:28+00:00: 1 Begun, 1 Call" in caplog.text
    )
