"""Exactly-once starts: of all Starts of one client with one request id, at most one makes a job.

While a Start is under way, those with the same id wait for it; then the journal tells what became of it. Whether an id is new
that has not come lately, the journal tells when the launch is recorded, before anything is executed: nearly all are, and a
question of its own would hold them up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from jobmaster.errors import AuditUnavailable, JournalUnavailable, RequestIdReused
from jobmaster.job.identifier import JobId, new_job_id
from jobmaster.job.request import RequestKey
from jobmaster.journal.stored import RequestTaken
from jobmaster.run.recorder import Records

MOST_RECENT: Final = 10_000
"""Request ids that are kept to know those that come again: for an older one a launch is prepared first, in vain."""
SETTLE_SECONDS: Final = 5.0
"""How long the journal may take to write what has happened before its word is relied on."""


class Requests:
    """The Starts under way that have a request id.

    Args:
        records: of all jobs.
        runs: whether a job has not ended; of one that is being started, it returns when that is decided.
    """

    def __init__(self, records: Records, runs: Callable[[JobId], Awaitable[bool]]) -> None:
        self._records = records
        self._runs = runs
        self._under_way: dict[tuple[str, str], trio.Event] = {}
        self._recent: dict[tuple[str, str], None] = {}
        """The latest last."""

    async def once(self, owner: str, key: RequestKey, start: Callable[[JobId], Awaitable[JobId]]) -> JobId:
        """Starts a job, unless there is one of this request.

        Args:
            owner: whose request it is.
            key: of the request.
            start: starts a job of this id, and raises RequestTaken where there is one of this request.

        Raises:
            RequestIdReused: the id was given with another request.
            JobError, RequestError: as `start`; what an earlier Start of this request got, where its command cannot be run.
            JournalUnavailable: what became of an earlier Start of this request is not written.
        """
        name = owner, key.id
        while (other := self._under_way.get(name)) is not None:
            await other.wait()
        self._under_way[name] = trio.Event()
        try:
            if self._note(name) and (found := await self._found(owner, key)) is not None:
                return found
            return await self._start_or_find(owner, key, start)
        except BaseException:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + SETTLE_SECONDS):
                await self._records.settle()
            raise
        finally:
            self._under_way.pop(name).set()

    def _note(self, name: tuple[str, str]) -> bool:
        """Whether a request id has come lately; it has from now on."""
        has_come = name in self._recent
        self._recent.pop(name, None)
        self._recent[name] = None
        if len(self._recent) > MOST_RECENT:
            del self._recent[next(iter(self._recent))]
        return has_come

    async def _start_or_find(self, owner: str, key: RequestKey, start: Callable[[JobId], Awaitable[JobId]]) -> JobId:
        job_id = new_job_id()
        try:
            return await start(job_id)
        except RequestTaken:
            found = await self._found(owner, key)
        except AuditUnavailable:
            raise
        except Exception:  # also where no further job is taken, or none can be recorded, there may be this one
            found = await self._found(owner, key, but=job_id)  # noqa: ASYNC120  # a call that is cancelled has no answer
            if found is None:
                raise
        return found or await start(new_job_id())  # its name is free by now

    async def settle(self) -> None:
        """Returns when the journal has written what is to be written of jobs until now.

        Raises:
            JournalUnavailable: it does not in time.
        """
        with trio.move_on_after(SETTLE_SECONDS):
            return await self._records.settle()
        raise JournalUnavailable("the server's journal cannot be written: its disk does not answer; try again later")

    async def _found(self, owner: str, key: RequestKey, *, but: JobId | None = None) -> JobId | None:
        """The job of an earlier Start, executed; None where there is none `but` that one.

        One that has not ended as far as the journal knows, and does not run, has an end that is still to be written. Where
        it was never executed, that makes the request's name free.
        """
        for _ in ("now", "when all is written"):
            stored = await self._records.request(owner, key.id)
            if stored is None or stored.job_id == but:
                return None
            if stored.digest != key.digest:
                raise RequestIdReused("request_id was given with another command before; give each request its own")
            if stored.error is not None:
                raise stored.error.error()
            if not stored.is_open or await self._runs(stored.job_id):
                return stored.job_id
            await self.settle()
        raise JournalUnavailable(
            "the server's journal does not have the end of this request's job yet; try again later"
        )
