"""The audit of a server: its two trails, and the journal copied into one of them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import trio

from jobmaster.audit.changes import JobChanges, JobEvents
from jobmaster.audit.entry import UNKNOWN, Call, Caller, Command, Opened
from jobmaster.audit.file import FileBounds, lock_folder
from jobmaster.audit.handshakes import RefusedConnections
from jobmaster.audit.names import AUDIT, BALLAST, HANDSHAKES
from jobmaster.audit.scan import document_of
from jobmaster.audit.trail import Trail, open_trail
from jobmaster.errors import ConfigurationError
from jobmaster.journal.ballast import Ballast
from jobmaster.threads import run_in_thread

LOCK_SECONDS: Final = 5.0
"""How long a new server waits for the lock of an old one, which a disk may hold."""
_CUT_OFF: Final = "the server ended before the call did"


@dataclass(frozen=True, slots=True)
class Audit:
    """What is written down.

    Attributes:
        trail: calls, and what happens to jobs.
        refusals: connections that are refused.
    """

    trail: Trail
    refusals: RefusedConnections


@asynccontextmanager
async def open_audit(folder: Path, bounds: FileBounds, journal: JobEvents, server: str) -> AsyncIterator[Audit]:
    """The audit in a folder that is there, for the block, in which the journal is open.

    It begins with what an earlier server left: calls of which only the beginning was written have an end that is unknown.

    Raises:
        ConfigurationError: the files cannot be read or written, or another server has them.
    """
    async with (
        _locked(folder),
        open_trail(folder, AUDIT, bounds, ballast=Ballast(folder / BALLAST)) as trail,
        open_trail(folder, HANDSHAKES, bounds) as handshakes,
        trio.open_nursery() as nursery,
    ):
        after = min(trail.position.journal_sequence, journal.last_seq)  # the journal may be one that was put back
        _begin(trail, after, server)
        _begin(handshakes, 0, server)
        changes, refusals = JobChanges(journal, trail, after), RefusedConnections(handshakes.put)
        journal.keep_events(lambda: min(changes.position, trail.synced_events))
        nursery.start_soon(changes.copy)
        nursery.start_soon(refusals.keep_counting)
        try:
            yield Audit(trail, refusals)
        finally:
            refusals.finish()
            changes.finish()
            nursery.cancel_scope.cancel()  # which does not end the copying


def _begin(trail: Trail, journal_sequence: int, server: str) -> None:
    position = trail.position
    now = datetime.now(UTC)
    before = "nothing" if not position.sequence else "closed" if position.is_closed else "cut off"
    trail.put(Opened(journal_sequence=journal_sequence, at=now, before=before, server=server))
    for sequence, line in position.begun.items():
        trail.put(_cut_off(line, now), begun=sequence)
    position.begun = dict.fromkeys(position.begun)  # without the lines


def _cut_off(line: bytes | None, now: datetime) -> Call:
    """The end of a call whose server did not see it."""
    found = (document_of(line) if line is not None else None) or {}
    caller = Caller(
        client=found.get("client"),
        serial=found.get("serial"),
        fingerprint=found.get("fingerprint"),
        peer=found.get("peer", ""),
    )
    words, omitted = found.get("command"), found.get("command_omitted")
    return Call(
        at=now,
        caller=caller,
        method=found.get("method"),
        job=found.get("job"),
        command=Command(tuple(map(str, words)), omitted or 0) if isinstance(words, list) else None,
        outcome=UNKNOWN,
        why=_CUT_OFF,
    )


@asynccontextmanager
async def _locked(folder: Path) -> AsyncIterator[None]:
    """Holds the folder's lock for the block. A thread that a disk holds may have it longer than its server."""
    limiter = trio.CapacityLimiter(1)
    lock = None
    try:
        with trio.move_on_after(LOCK_SECONDS):
            while lock is None:
                lock = await run_in_thread(limiter, lock_folder, folder)
                if lock is None:
                    await trio.sleep(0.05)  # flock(2) tells by no event
    except OSError as error:
        raise ConfigurationError(f"the audit folder {folder} cannot be used: {error.strerror}") from error
    if lock is None:
        raise ConfigurationError(f"another jobmaster server has the audit folder {folder}; give this one its own")
    try:
        yield
    finally:
        os.close(lock)
