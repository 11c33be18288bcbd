"""The journal as the rest of the server uses it: what happens is recorded, and what has happened is asked for."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import trio

from jobmaster.errors import JournalUnavailable, ServerBusy
from jobmaster.job.identifier import JobId
from jobmaster.job.record import JobEvent
from jobmaster.job.request import RequestError
from jobmaster.journal.backup import Copy, remove_left_copy
from jobmaster.journal.ballast import Ballast
from jobmaster.journal.connection import BALLAST, JournalFault, Synchronous, damaged
from jobmaster.journal.database import REMOVED_AT_ONCE, Database
from jobmaster.journal.stored import (
    AsideJob,
    EndedOutput,
    Entry,
    Events,
    JobQuery,
    OpenJob,
    Page,
    Retention,
    StoredJob,
    StoredRequest,
)
from jobmaster.journal.writer import Writer
from jobmaster.threads import run_in_thread

logger = logging.getLogger(__name__)

T = TypeVar("T")

READERS: Final = trio.CapacityLimiter(4)
"""Threads that read; they wait for each other and for the writer."""
MAINTAINERS: Final = trio.CapacityLimiter(1)
"""Threads that remove what is not kept any longer."""
COPIERS: Final = trio.CapacityLimiter(1)
"""Threads that copy the file."""
MOST_COPIES: Final = 4
"""Copies that are read at a time, each as large as the journal."""
COPY_PAUSE_SECONDS: Final = 0.002
"""Between two steps of a copy."""
READ_SECONDS: Final = 10.0
"""How long an answer may take."""
CHECK_AFTER_SECONDS: Final = 60.0
"""From the start to the check of a file that was closed cleanly."""
CLOSE_SECONDS: Final = 5.0
"""How long the last checkpoint may take."""
PURGE_SECONDS: Final = 60.0
"""Between two rounds of forgetting what is remembered of removed jobs."""


class Journal:
    """What happened to every job. Made by `open_journal`."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer
        self._purge_after = 0.0
        self._is_copying = False
        self._copies = 0
        self.damages: tuple[str, ...] = ()
        """What is damaged in the file, for the operator, as far as it has been looked at."""

    # --- what happens -------------------------------------------------------------------------------------------------

    async def record(
        self, job_id: JobId, event: JobEvent, request_error: RequestError | None = None, *, forget: bool = False
    ) -> int:
        """Returns the event's sequence number once it is durable.

        A caller that is cancelled before the event is taken for writing has a launch withdrawn, and nothing is written;
        any other event is written in its turn without it. Later the call returns as if it had not been cancelled, or raises
        JournalUnavailable where the disk does not take the event in time, which may then still be written; and the next
        checkpoint raises Cancelled.

        Args:
            job_id: whose.
            event: what happened.
            request_error: of a job that was never executed: what its request id is to be answered from now on.
            forget: the job and its request id are forgotten with this event, its end: nobody was told of it.

        Raises:
            JournalUnavailable: it is not durable. A launch becomes so only where the error `is_doubtful`, and whoever gave
                it then posts its end; any other event is tried again.
            EntryRefused, InvalidTransition: a bug: it cannot happen to this job.
        """
        return await self._writer.record(Entry.of(job_id, event, request_error=request_error, forget=forget))

    def post(
        self, job_id: JobId, event: JobEvent, request_error: RequestError | None = None, *, forget: bool = False
    ) -> None:
        """Has an event written in its turn, and does not wait for it; arguments as of `record`.

        Raises:
            JournalUnavailable: MAX_QUEUED events wait already; it will not be written.
        """
        self._writer.post(Entry.of(job_id, event, request_error=request_error, forget=forget))

    async def settle(self) -> None:
        """Returns when everything that was given until now is written, or cannot be."""
        await self._writer.settle()

    @property
    def is_writable(self) -> bool:
        """Whether launches are taken."""
        return self._writer.is_writable

    @property
    def unwritten(self) -> list[JobId]:
        """The jobs of which something is not written yet; after the journal's end, of which something never was."""
        return self._writer.unwritten

    # --- what has happened --------------------------------------------------------------------------------------------
    # Each raises JournalUnavailable where the disk does not answer. A caller that leaves leaves its thread, too.

    async def find(self, job_id: JobId) -> StoredJob | None:
        """The job called so."""
        return await self._read(self._database.find, job_id)

    async def page(self, query: JobQuery) -> Page:
        """The newest jobs that a query wants."""
        return await self._read(self._database.page, query)

    async def events(self, after: int, owner: str | None = None, limit: int = 100) -> Events:
        """What happened after the sequence number `after`, to the jobs of `owner` (None: of anybody)."""
        return await self._read(self._database.events, after, owner, limit)

    async def events_to_copy(self, after: int, limit: int) -> Events:
        """What happened after the sequence number `after` to all jobs, those that have been removed included."""
        return await self._read(partial(self._database.events, after, limit=limit, of_removed=True))

    def keep_events(self, copied: Callable[[], int]) -> None:
        """From now on no event is removed but those that somebody has copied: up to the number that this returns.

        It is asked in any thread. Where copying stands still, so do Starts (`Trail.is_writable`), which bounds what is kept.
        """
        self._database.copied = copied

    async def open_jobs(self) -> list[OpenJob]:
        """The jobs that have not ended, as the replay of their events gives them; the oldest is first."""
        return await self._read(self._database.open_jobs)

    async def ended_outputs(self, after: int) -> list[EndedOutput]:
        """The ended jobs with a key greater than `after`, some at a time, in the order of their keys; none at the end."""
        return await self._read(self._database.ended_outputs, after)

    async def aside(self) -> list[AsideJob]:
        """The jobs whose events or records cannot be read."""
        return await self._read(self._database.aside)

    async def request(self, owner: str, request_id: str) -> StoredRequest | None:
        """What a client's request id stands for."""
        return await self._read(self._database.request, owner, request_id)

    @property
    def last_seq(self) -> int:
        """The greatest sequence number that was given."""
        return self._database.last_seq

    async def wait_after(self, seq: int) -> None:
        """Returns when there are events after `seq`.

        Raises:
            JournalUnavailable: the journal is closed.
        """
        await self._writer.wait_after(seq)

    async def _read(self, question: Callable[..., T], *args: Any) -> T:
        return await _ask(READERS, question, *args)

    # --- what is forgotten --------------------------------------------------------------------------------------------

    async def expired(self, retention: Retention) -> list[tuple[JobId, str]]:
        """The ended jobs that are to go next, each with its owner; at most REMOVED_AT_ONCE.

        They are as old as `AgeClock` says, which goes on where this is called from time to time.
        """
        with suppress(JournalUnavailable):  # which is logged; it keeps nothing from being removed
            await _ask(MAINTAINERS, self._database.store_age)
        return await self._read(self._database.expired, retention)

    async def remove(self, job_ids: Sequence[JobId], *, given_up: bool = False) -> None:
        """Removes ended jobs with their events.

        Args:
            job_ids: the jobs.
            given_up: nobody was told of them: their request ids are forgotten, which else are remembered for a day, and
                their outputs are `discarded`, which else are gone already.

        Raises:
            JournalUnavailable: not all are removed; it may be tried again with the same.
        """
        remove = partial(self._database.remove, given_up=given_up)
        for start in range(0, len(job_ids), REMOVED_AT_ONCE):
            await _ask(MAINTAINERS, remove, job_ids[start : start + REMOVED_AT_ONCE])
            self._writer.has_grown()
        if trio.current_time() >= self._purge_after:
            self._purge_after = trio.current_time() + PURGE_SECONDS
            while await _ask(MAINTAINERS, self._database.purge):
                pass

    async def discarded(self, after: str = "") -> list[JobId]:
        """Jobs that are forgotten and whose output may still be there, some of them: those behind the id `after`."""
        return await self._read(self._database.discarded, after)

    async def forget_discarded(self, job_ids: Sequence[JobId]) -> None:
        """The outputs of these jobs are gone."""
        await _ask(MAINTAINERS, self._database.forget_discarded, job_ids)

    # --- the whole file -----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def backup(self) -> AsyncIterator[int]:
        """A complete copy of the database for the block, as a descriptor to read it from.

        One is made at a time; a reader who takes its time keeps nobody else from one.

        Raises:
            ServerBusy: one is being made, or MOST_COPIES are being read.
            JournalUnavailable: the disk has no space for a copy, or fails.
        """
        if self._copies >= MOST_COPIES:
            raise ServerBusy(f"{self._copies} copies of the server's journal are being sent, as many as may be")
        self._copies += 1
        try:
            async with self._copied() as copy:
                await _ask(COPIERS, copy.open)
                descriptor = copy.take()
            try:
                yield descriptor
            finally:
                with trio.move_on_after(READ_SECONDS, shield=True):
                    await run_in_thread(COPIERS, os.close, descriptor, abandon=True)
        finally:
            self._copies -= 1

    async def check(self) -> list[str]:
        """What is damaged in the file, for the operator; looks at a copy of it, so that nobody waits.

        Raises:
            ServerBusy, JournalUnavailable: as `backup`.
        """
        async with self._copied() as copy:
            try:
                return await run_in_thread(COPIERS, copy.damages, abandon=True)
            except (JournalFault, OSError) as error:
                logger.error("%s", error)
                raise _unreadable("a copy of it failed") from error

    async def look_for_damages(self) -> None:
        """Checks the file once, when the server's start is over; where that cannot be, later."""
        complaint = ""
        while True:
            await trio.sleep(CHECK_AFTER_SECONDS)
            try:
                self.damages = tuple(await self.check())
            except (ServerBusy, JournalUnavailable) as error:
                if str(error) != complaint:
                    complaint = str(error)
                    logger.warning("the journal could not be checked, and will be: %s", error)
            else:
                break
        if self.damages:
            logger.error("%s", damaged(self._database.path, "; ".join(self.damages)))

    @asynccontextmanager
    async def _copied(self) -> AsyncIterator[Copy]:
        if self._is_copying:
            raise ServerBusy("the server's journal is being copied for somebody else; try again later")
        self._is_copying = True
        copy = Copy(self._database)
        try:
            await _ask(COPIERS, copy.begin)
            while True:
                if await _ask(COPIERS, copy.step):
                    break
                await trio.sleep(COPY_PAUSE_SECONDS)
            yield copy
        finally:
            self._is_copying = False
            with trio.move_on_after(READ_SECONDS, shield=True):
                try:
                    await run_in_thread(COPIERS, copy.discard, abandon=True)
                except (JournalFault, OSError) as error:  # the next copy takes its place
                    logger.error("a copy of the journal is left behind: %s", error)


async def _ask(limiter: trio.CapacityLimiter, question: Callable[..., T], *args: Any) -> T:
    with trio.move_on_after(READ_SECONDS):
        try:
            return await run_in_thread(limiter, question, *args, abandon=True)
        except JournalFault as fault:
            logger.error("%s", fault)
            raise _unreadable(fault.words) from fault
        except OSError as error:
            logger.error("the journal's folder fails: %s", error)
            raise _unreadable("its disk fails") from error
    raise _unreadable("its disk does not answer")


def _unreadable(reason: str) -> JournalUnavailable:
    return JournalUnavailable(f"the server's journal cannot be read: {reason}; try again later")


@asynccontextmanager
async def open_journal(path: Path, *, synchronous: Synchronous = Synchronous.FULL) -> AsyncIterator[Journal]:
    """The journal in the file `path`, for the block; made where it is not there.

    At the block's end, what is queued is written, for CLOSE_SECONDS of the writer at most; `unwritten` then names the
    jobs of which something could not be.

    Raises:
        ConfigurationError: the file is no journal, of a later version, damaged, read-only, or in use.
    """
    opener = trio.CapacityLimiter(1)
    await run_in_thread(opener, remove_left_copy, path)
    database = await run_in_thread(opener, partial(Database.open, path, synchronous=synchronous))
    writer = Writer(database, Ballast(path.with_name(BALLAST)))
    try:
        await writer.fill_ballast()
        for job in await _ask(READERS, database.aside):
            logger.warning("job %s of %s is set aside since %s: %s", job.id, job.owner, job.at, job.reason)
        async with trio.open_nursery() as nursery:
            journal = Journal(database, writer)
            nursery.start_soon(writer.keep_writing)
            if not database.is_checked:
                nursery.start_soon(journal.look_for_damages)
            try:
                yield journal
            finally:
                writer.finish()
                nursery.cancel_scope.cancel()  # which does not end the writer
    finally:
        if unwritten := writer.unwritten:
            logger.error("of these jobs something is not in the journal: %s", ", ".join(unwritten))
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await run_in_thread(opener, database.close, abandon=True)
