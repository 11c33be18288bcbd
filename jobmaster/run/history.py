"""What there is to tell of all jobs: their list, what happens to them, and a copy of all that is recorded."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Final

import trio

from jobmaster.errors import PermissionRefused
from jobmaster.identity.policy import Identity, Role
from jobmaster.job.record import JobRecord
from jobmaster.job.state import Held
from jobmaster.journal.journal import MOST_COPIES
from jobmaster.journal.stored import JobQuery, Page, StoredJob
from jobmaster.run.feed import Feed, News, Watcher
from jobmaster.run.recorder import Records
from jobmaster.run.turns import Turns
from jobmaster.threads import run_in_thread

CHUNK: Final = 256 * 1024
"""Bytes of a backup that are read at a time."""
_READERS: Final = trio.CapacityLimiter(MOST_COPIES)
"""Threads that read backups: one for each that there may be."""


class History:
    """The records of a registry, as its callers may see them."""

    def __init__(self, records: Records, as_of_now: Callable[[JobRecord], JobRecord | None]) -> None:
        """Reads from `records`; `as_of_now` gives what is newer of a job's record, None for a job of which none is told."""
        self._records = records
        self._as_of_now = as_of_now
        self._turns = Turns()
        self._feed = Feed(records, self._turns)

    def turn(self, caller: Identity) -> AbstractAsyncContextManager[None]:
        """A turn of the caller's at a page, for as long as that is read and written to an answer."""
        return self._turns.of(caller.name)

    async def page(self, caller: Identity, query: JobQuery) -> Page:
        """Jobs that a query wants, as they are now; a user's are its own alone. To be called in a `turn`.

        Raises:
            PermissionRefused: a user asks for another client's.
            JournalUnavailable: the journal cannot be read.
        """
        if caller.role is not Role.ADMIN:
            if query.owner not in {None, caller.name}:
                raise PermissionRefused("only an admin may list another client's jobs; leave client empty for your own")
            query = replace(query, owner=caller.name)
        page = await self._records.page(query)
        return replace(page, jobs=tuple(self._told(page)))

    def _told(self, page: Page) -> Iterator[StoredJob]:
        for job in page.jobs:
            record = self._as_of_now(job.record)
            if record is not None and not isinstance(record.state, Held):
                yield replace(job, record=record)

    async def events(self, caller: Identity, after: int | None) -> AsyncGenerator[News, None]:
        """What happens to jobs (of a user: to its own), beginning after the sequence number `after`; None: now.

        Raises:
            EventsForgotten: not all of it is kept.
            JournalUnavailable: the journal cannot be read.
            ServerDraining: the server ends; raised after the last event.
        """
        watcher = Watcher(caller.name, None if caller.role is Role.ADMIN else caller.name)
        position = self._records.last_seq if after is None else after
        horizon = await self._feed.begin(position, watcher)
        if position == self._records.last_seq:
            yield News(events=(), position=position, is_current=True)
        while True:
            news = await self._feed.after(position, watcher, horizon)
            position = news.position
            yield news

    def end(self) -> None:
        """All jobs have ended: who has seen all events is told that the server ends. Idempotent."""
        self._feed.end()

    async def backup(self, caller: Identity) -> AsyncGenerator[bytes, None]:
        """The journal as of one moment, in pieces.

        Raises:
            PermissionRefused: the caller is not an admin.
            ServerBusy: another backup is being made.
            JournalUnavailable: the disk has no space for one, or fails.
        """
        if caller.role is not Role.ADMIN:
            raise PermissionRefused("only an admin may copy the server's journal")
        async with self._records.backup() as descriptor:
            position = 0
            while data := await run_in_thread(_READERS, os.pread, descriptor, CHUNK, position, abandon=True):
                yield data  # noqa: ASYNC119  # who iterates closes the generator
                position += len(data)
