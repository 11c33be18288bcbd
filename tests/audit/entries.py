"""Entries for tests, and what is in a trail's files."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from jobmaster.audit.entry import Begun, Call, Caller, Command, Entry, JobChange
from jobmaster.audit.names import AUDIT
from jobmaster.audit.reading import TrailReader, Wanted

AT: Final = datetime(2026, 11, 29, 10, 17, 28, 960906, UTC)
CALLER: Final = Caller(client="client1", serial="5663", fingerprint="d70d", peer="127.0.0.1:46594")
EVERYTHING: Final = Wanted()
START: Final = "jobmaster.jobs.v1.JobService/Start"


def call(outcome: str = "OK", *, why: str = "", words: tuple[str, ...] = ()) -> Call:
    """The end of a call."""
    command = Command(words) if words else None
    return Call(at=AT, caller=CALLER, method=START, command=command, outcome=outcome, why=why, seconds=0.5)


def begun(job: str | None = None) -> Begun:
    """The beginning of a call."""
    return Begun(at=AT, caller=CALLER, method=START, job=job, command=Command(("sleep", "1")))


def change(journal_sequence: int, event: str = "launched") -> Entry:
    """Something that happened to a job."""
    return JobChange(journal_sequence=journal_sequence, at=AT, client="client1", job="J", event=event)


def entries_in(folder: Path, trail: str = AUDIT, wanted: Wanted = EVERYTHING) -> list[dict[str, Any]]:
    """All entries of a trail that are wanted."""
    reader = TrailReader(folder, trail, wanted)
    try:
        return [entry for _, entry in reader.entries()]
    finally:
        reader.close()


def calls_in(folder: Path) -> list[dict[str, Any]]:
    """The ends of calls."""
    return [entry for entry in entries_in(folder) if entry["kind"] == "call"]
