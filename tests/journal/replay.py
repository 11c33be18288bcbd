"""The records that follow from a journal's events, to be held against those that it keeps."""

from __future__ import annotations

from collections import defaultdict
from functools import reduce

from jobmaster.job.identifier import JobId
from jobmaster.job.record import JobRecord, Launched, apply, record_of
from jobmaster.journal.database import Database
from jobmaster.journal.stored import JournalledEvent, Removed


def events_in(database: Database) -> list[JournalledEvent]:
    """All events."""
    found: list[JournalledEvent] = []
    position = 0
    while position < database.last_seq:
        piece = database.events(position, limit=1_000)
        found += piece.events
        position = piece.position
    return found


def replayed(events: list[JournalledEvent]) -> dict[JobId, JobRecord]:
    """The records that follow from the events."""
    lives = defaultdict(list)
    for event in events:
        if not isinstance(event.event, Removed):
            lives[event.job_id].append(event.event)
    return {job_id: _record(*life) for job_id, life in lives.items()}


def _record(first: object, *events: object) -> JobRecord:
    assert isinstance(first, Launched)
    return reduce(apply, events, record_of(first))  # type: ignore[arg-type]
