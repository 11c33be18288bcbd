"""The audit of a server: its two trails, and the journal copied into one of them."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import trio

from jobmaster.audit.changes import JobChanges, JobEvents
from jobmaster.audit.entry import UNKNOWN, Begun, Call, Opened, caller_of, command_of
from jobmaster.audit.file import Line
from jobmaster.audit.handshakes import RefusedConnections
from jobmaster.audit.names import BALLAST
from jobmaster.audit.opening import UNLOCK_SECONDS, AuditFiles, AuditFolder, Opening
from jobmaster.audit.scan import Position, document_of
from jobmaster.audit.spool import Spool
from jobmaster.audit.trail import Trail
from jobmaster.audit.unwritten import gap_of_missing, unwritten
from jobmaster.errors import ConfigurationError
from jobmaster.journal.ballast import Ballast

logger = logging.getLogger(__name__)

OPEN_SECONDS: Final = 10.0
"""How long the files may take to open where there is no server without them: more than the lock of an old one may take, and
the reading of gigabytes."""
FOLLOWER_OPEN_SECONDS: Final = 2.0
"""How long jobs wait for the files that an earlier server has left."""
END_SECONDS: Final = 2.0
"""How long, at the server's end, the changes of jobs may take to be copied, and a folder to be opened."""
LAST_SECONDS: Final = 1.0
"""How long the last entries may take from then on, where the disk has taken none of that time."""
_CUT_OFF: Final = "the server was cut off before the call had ended, or before that was written"
_IN_GAP: Final = "the entry of the call's end is among those that a gap counts"


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
async def open_audit(
    folder: AuditFolder, journal: JobEvents, server: str, *, must_be_open: bool = True
) -> AsyncIterator[Audit]:
    """The audit in a folder, for the block, in which the journal is open.

    It begins with what an earlier server left: calls of which only the beginning was written have an end that is unknown.
    At the block's end the last entries have END_SECONDS and little more, whatever the disk does.

    Args:
        folder: of its files.
        journal: of the jobs.
        server: the version of the program.
        must_be_open: whether the files have to be open in the block. Else it also begins where the disk does not answer, or
            the folder cannot be used: what is put is written once it can be, and Starts are refused until then.

    Raises:
        ConfigurationError: the files cannot be opened, or another server has them; only where they have to be open.
    """
    spool = None if folder.spool is None else Spool(folder.spool)
    left = [] if spool is None else spool.records()
    missing = [] if spool is None else gap_of_missing(spool)
    trail, handshakes = Trail(Ballast(folder.path / BALLAST), spool), Trail(None)
    changes, refusals = JobChanges(journal, trail), RefusedConnections(handshakes.put)
    journal.keep_events(lambda: min(changes.position, trail.synced_events))
    last = journal.last_seq

    def begin(files: AuditFiles) -> None:
        after = min(files.audit.position.journal_sequence, last)  # the journal may be one that was put back
        lines = [] if spool is None else [*unwritten(left, spool, files.audit.position.sequence), *missing]
        trail.use(files.audit, _head(files.audit.position, after, server, lines))
        handshakes.use(files.handshakes, _head(files.handshakes.position, 0, server))
        changes.begin(after)

    async with (
        _closing(Opening(folder, begin, trail.not_open, says_failures=not must_be_open), spool) as opening,
        _written(trail, handshakes) as written,
        _fed(opening, changes, refusals, written),
    ):
        with trio.move_on_after(OPEN_SECONDS if must_be_open else FOLLOWER_OPEN_SECONDS) as patience:
            await opening.wait_tried()
            if opening.failure is None:
                await trail.is_open.wait()
                await handshakes.is_open.wait()
        failure = _no_answer(folder.path) if patience.cancelled_caught else opening.failure
        if failure is None or not must_be_open:
            if patience.cancelled_caught:
                logger.error("%s; until then nothing is started, and entries wait in memory", failure)
            written.is_wanted = True
            yield Audit(trail, refusals)
            return
    raise failure  # outside the nurseries


def _no_answer(folder: Path) -> ConfigurationError:
    return ConfigurationError(
        f"the audit folder {folder} cannot be used: its disk does not answer; see to it, or name another --audit-folder"
    )


@dataclass(slots=True)
class _End:
    """How the end is reached.

    Attributes:
        is_wanted: the block has begun: what was put is to be written.
        deadline: of what puts entries, by Trio's clock.
    """

    is_wanted: bool = False
    deadline: float = -math.inf


@asynccontextmanager
async def _closing(opening: Opening, spool: Spool | None) -> AsyncIterator[Opening]:
    try:
        yield opening
    finally:
        if spool is not None:
            spool.close()
        with trio.move_on_after(UNLOCK_SECONDS, shield=True):
            await opening.unlock()


@asynccontextmanager
async def _written(*trails: Trail) -> AsyncIterator[_End]:
    """Writes the trails, side by side; the block's end is the end of what puts entries."""
    end = _End()
    async with trio.open_nursery() as nursery:
        for trail in trails:
            nursery.start_soon(trail.keep_writing)
        try:
            yield end
        finally:
            deadline = max(end.deadline, trio.current_time() + LAST_SECONDS) if end.is_wanted else -math.inf
            for trail in trails:
                trail.finish(deadline)
            nursery.cancel_scope.cancel()  # which does not end the writers


@asynccontextmanager
async def _fed(opening: Opening, changes: JobChanges, refusals: RefusedConnections, end: _End) -> AsyncIterator[None]:
    """Opens the files and puts what nobody else does."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(opening.keep_trying)
        nursery.start_soon(changes.copy)
        nursery.start_soon(refusals.keep_counting)
        try:
            yield
        finally:
            refusals.finish()
            end.deadline = trio.current_time() + END_SECONDS if end.is_wanted else -math.inf
            opening.finish(end.deadline)
            changes.finish(end.deadline)
            nursery.cancel_scope.cancel()  # which ends neither the opening nor the copying


def _head(position: Position, journal_sequence: int, server: str, left: Sequence[Line] = ()) -> list[Line]:
    """What a server writes first.

    Args:
        position: where the file ends.
        journal_sequence: of the last job event that is in it.
        server: the version of the program.
        left: what an earlier server has not written.
    """
    now = datetime.now(UTC)
    before = "nothing" if not position.sequence else "closed" if position.is_closed and not left else "cut off"
    lines = [*left, Line(Opened(journal_sequence=journal_sequence, at=now, before=before, server=server))]
    why = _IN_GAP if before == "closed" else _CUT_OFF  # all calls of a server have ended when it closes the audit
    ended = {line.begun for line in left}  # numbers, and lines as themselves
    for sequence, text in position.begun.items():
        if sequence not in ended:
            found = (document_of(text) if text is not None else None) or {}
            lines.append(Line(_cut_off(found, now, why), sequence))
    for line in left:
        if isinstance(line.entry, Begun) and line not in ended:
            begun = line.entry
            call = Call(
                at=now,
                caller=begun.caller,
                method=begun.method,
                job=begun.job,
                command=begun.command,
                outcome=UNKNOWN,
                why=_CUT_OFF,
            )
            lines.append(Line(call, line))
    position.begun = dict.fromkeys(position.begun)  # without the lines
    return lines


def _cut_off(found: dict[str, Any], now: datetime, why: str) -> Call:
    """The end of a call of which only the beginning is in the audit."""
    return Call(
        at=now,
        caller=caller_of(found),
        method=found.get("method"),
        job=found.get("job"),
        command=command_of(found),
        outcome=UNKNOWN,
        why=why,
    )
