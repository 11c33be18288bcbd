"""The task that writes what has happened: a bounded queue, and one transaction for all that has gathered in it.

Entries are written in the order in which they were given. Those that nobody waits for gather for a moment, or until
somebody waits for one: what happens to a short job after its launch is one transaction. A launch that is not taken yet can
be withdrawn; one that is taken is written or fails, or is in doubt: then who gave it gives its end as well. Where the disk
takes nothing, launches fail at once. All other entries are kept and tried again until the journal's end, whoever waits for
them or leaves, because they tell what has happened already. The ballast is given up for them first.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import Any, Final, TypeVar

import trio

from jobmaster.errors import JournalUnavailable
from jobmaster.job.cause import FailedToStart
from jobmaster.job.identifier import JobId
from jobmaster.job.record import Launched, OomKillsCounted, OutputLost
from jobmaster.job.state import Finished
from jobmaster.journal.ballast import Ballast
from jobmaster.journal.connection import JournalFault
from jobmaster.journal.database import Database
from jobmaster.journal.stored import Entry, UnknownJob
from jobmaster.threads import NoThread, run_in_thread

T = TypeVar("T")

logger = logging.getLogger(__name__)

MAX_QUEUED: Final = 10_000
"""Entries that wait to be written, when launches are taken no more. What happens to jobs that are there is taken: they
have at most eight events each, of which two are counts that take each other's place."""
MOST_IN_BATCH: Final = 256
"""Entries of one transaction: more hold Trio's loop up when all who wait are told."""
GATHER_SECONDS: Final = 0.02
"""How long entries gather that nobody waits for."""
DURABLE_SECONDS: Final = 10.0
"""How long a caller waits for a launch to be written; what has happened already is waited for until the journal's end."""
LEAVE_SECONDS: Final = 2.0
"""How long a caller that is cancelled waits for what is being written: a disk that fails or hangs keeps nobody."""
CLOSE_SECONDS: Final = 10.0
"""How long the journal's end waits for what is still to be written."""
FIRST_RETRY_SECONDS: Final = 0.5
LAST_RETRY_SECONDS: Final = 10.0
"""Between two tries of a disk that takes nothing."""
CHECKPOINT_FRAMES: Final = 4_000
"""Frames of the log (4 KiB each) at which it is written to the file whatever else there is to do."""
CHECKPOINT_IDLE_SECONDS: Final = 1.0
"""Nothing to write for so long is time to write the log to the file."""


@dataclass(slots=True, eq=False)
class _Waiter:
    task: trio.lowlevel.Task
    result: int | Exception | None = None


class Writer:
    """The queue and its task."""

    def __init__(self, database: Database, ballast: Ballast) -> None:
        self._database = database
        self._ballast = ballast
        self._limiter = trio.CapacityLimiter(1)
        self._queue: dict[Entry, None] = {}  # in order; a launch leaves it from anywhere when it is withdrawn
        self._taken: list[Entry] = []
        self._counts: dict[tuple[JobId, str], Entry] = {}  # of the queue; a later count takes an earlier one's place
        self._waiters: dict[Entry, _Waiter] = {}
        self._due: dict[Entry, float] = {}  # until when launches, and callers who were cancelled, wait
        self._changed = trio.Event()
        self._is_urgent = trio.Event()
        self._has_waiters = trio.Event()
        self._grown = trio.lowlevel.ParkingLot()
        self._scope = trio.CancelScope(shield=True)
        self._fault: JournalFault | NoThread | None = None
        self._has_ballast = True
        self._refill_after = 0.0
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._checkpoint_after = 0.0
        self._finishing = trio.Event()
        self._is_over = False

    # --- for callers --------------------------------------------------------------------------------------------------

    @property
    def is_writable(self) -> bool:
        """Whether launches are taken: the last write went well, and not at the cost of the ballast."""
        return self._fault is None and self._has_ballast and not self._is_over

    @property
    def unwritten(self) -> list[JobId]:
        """The jobs of which something is not written yet."""
        return list(dict.fromkeys(entry.job_id for entry in (*self._taken, *self._queue)))

    async def record(self, entry: Entry) -> int:
        """Returns the entry's sequence number when it is durable.

        A caller that is cancelled before its launch is taken withdraws it; any other entry is written without the caller.

        Raises:
            JournalUnavailable: it cannot be written now, or not within LEAVE_SECONDS after the caller was cancelled; a
                launch is written later only where the error `is_doubtful`, anything else may be.
            EntryRefused, InvalidTransition: it cannot be.
        """
        is_launch = isinstance(entry.event, Launched)
        if is_launch:
            await trio.lowlevel.checkpoint_if_cancelled()
        self._append(entry)
        self._is_urgent.set()
        waiter = _Waiter(trio.lowlevel.current_task())
        self._waiters[entry] = waiter
        if is_launch:
            self._due[entry] = trio.current_time() + DURABLE_SECONDS
            self._has_waiters.set()

        def leave(_: object) -> trio.lowlevel.Abort:
            if entry not in self._queue:
                self._due[entry] = min(self._due.get(entry, math.inf), trio.current_time() + LEAVE_SECONDS)
                self._has_waiters.set()
                return trio.lowlevel.Abort.FAILED
            del self._waiters[entry]
            self._due.pop(entry, None)
            if is_launch:
                del self._queue[entry]
                self.has_grown()  # who settles need not wait for it
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)
        if isinstance(waiter.result, int):
            return waiter.result
        assert waiter.result is not None  # noqa: S101  # for the type checker: `_release` gave it
        raise waiter.result

    def post(self, entry: Entry) -> None:
        """Has an entry written in its turn.

        A count takes the place of an earlier one that is not taken yet: a job counts as often as it likes.

        Raises:
            JournalUnavailable: too many entries wait already.
        """
        self._append(entry)
        if isinstance(entry.event, OomKillsCounted | OutputLost):
            name = entry.job_id, entry.type
            if (earlier := self._counts.get(name)) is not None:
                del self._queue[earlier]
            self._counts[name] = entry

    async def settle(self) -> None:
        """Returns when every entry that was given until now is written, or cannot be."""
        await trio.lowlevel.checkpoint()
        given = [*self._taken, *self._queue]
        self._is_urgent.set()
        while given and not self._is_over:
            if given[-1] in self._queue or given[-1] in self._taken:
                await self._grown.park()
            else:
                given.pop()  # written with all before it, or withdrawn before those were

    async def wait_after(self, seq: int) -> None:
        """Returns when a greater sequence number has been given.

        Raises:
            JournalUnavailable: the journal is closed.
        """
        await trio.lowlevel.checkpoint()
        while self._database.last_seq <= seq:
            if self._is_over:
                raise _unavailable("the server is shutting down")
            await self._grown.park()

    def has_grown(self) -> None:
        """Tells those who wait that there may be new sequence numbers, or less to be written."""
        self._grown.unpark_all()

    def finish(self) -> None:
        """Lets the task end when all is written, or CLOSE_SECONDS from now."""
        self._finishing.set()
        self._scope.deadline = trio.current_time() + CLOSE_SECONDS
        self._changed.set()
        self._is_urgent.set()

    def _append(self, entry: Entry) -> None:
        if self._is_over:
            raise _unavailable("the server is shutting down")
        if isinstance(entry.event, Launched) and not self.is_writable:
            raise _unavailable(self._reason())
        if isinstance(entry.event, Launched) and len(self._queue) + len(self._taken) >= MAX_QUEUED:
            raise _unavailable("too many events wait to be written")
        self._queue[entry] = None
        self._changed.set()
        if isinstance(entry.event, Launched):
            self._is_urgent.set()

    def _reason(self) -> str:
        match self._fault:
            case JournalFault(words=words):
                return words
            case NoThread():
                return "the server's host has no thread left"
            case _:
                return "its disk does not answer" if self._has_ballast else "its disk is nearly full"

    # --- the task -----------------------------------------------------------------------------------------------------

    async def keep_writing(self) -> None:
        """Writes until `finish` was called and all is written; being cancelled does not end it."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._release_overdue)
                    await self._write_all()
                    nursery.cancel_scope.cancel()
        finally:
            self._is_over = True
            for entry in tuple(self._waiters):
                self._release(entry, _unavailable("the server is shutting down", is_doubtful=entry not in self._queue))
            self.has_grown()

    async def fill_ballast(self) -> None:
        """Takes the space that is given up when the disk is full; without it, no launches are taken."""
        had, self._has_ballast = self._has_ballast, False
        self._refill_after = trio.current_time() + LAST_RETRY_SECONDS
        try:
            await self._in_thread(self._ballast.fill)
        except (OSError, NoThread) as error:
            if had:
                logger.error("the journal's disk is nearly full (%s); jobs cannot be started", error)
        else:
            self._has_ballast = True
            if not had:
                logger.warning("the journal's disk has space again")

    async def _write_all(self) -> None:
        while True:
            await self._wait_for_work()
            if self._taken or self._queue:
                await self._write_batch()
            elif self._finishing.is_set():
                return
            elif self._fault is not None:
                await self._try_disk()
            if not self._has_ballast and self._fault is None and trio.current_time() >= self._refill_after:
                await self.fill_ballast()
            if self._database.frames >= CHECKPOINT_FRAMES and trio.current_time() >= self._checkpoint_after:
                await self._checkpoint()

    async def _wait_for_work(self) -> None:
        """Returns when there is something to write or to try, or the end has come."""
        if self._fault is not None:
            await self._pause()
            return
        while not (self._queue or self._finishing.is_set()):
            self._changed = trio.Event()
            with trio.move_on_at(self._next_chore()) as idle:
                await self._changed.wait()
            if idle.cancelled_caught:
                if not self._has_ballast:
                    return
                await self._checkpoint()
        if not self._is_urgent.is_set() and len(self._queue) < MOST_IN_BATCH:
            with trio.move_on_after(GATHER_SECONDS):
                await self._is_urgent.wait()

    async def _pause(self) -> None:
        """Between two tries of the disk."""
        seconds = self._retry_seconds
        self._retry_seconds = min(max(2 * seconds, FIRST_RETRY_SECONDS), LAST_RETRY_SECONDS)
        if self._finishing.is_set():
            await trio.sleep(min(seconds, FIRST_RETRY_SECONDS))
        else:
            with trio.move_on_after(seconds):
                await self._finishing.wait()

    def _next_chore(self) -> float:
        """When there is something to do though nothing is to be written."""
        now = trio.current_time()
        if not self._has_ballast:
            return max(now, self._refill_after)
        if self._database.frames:
            return max(now + CHECKPOINT_IDLE_SECONDS, self._checkpoint_after)
        return float("inf")

    async def _write_batch(self) -> None:
        self._take()
        self._is_urgent = trio.Event()
        if self._queue:  # somebody may wait for what is left
            self._is_urgent.set()
        try:
            await self._in_thread(self._database.write, self._taken)
        except (JournalFault, NoThread) as fault:
            self._fail(fault)
            if isinstance(fault, JournalFault) and fault.lacks_space:
                await self._make_space()
            return
        taken, self._taken = self._taken, []
        self._recover()
        for entry in taken:
            self._tell(entry)
        self.has_grown()

    def _take(self) -> None:
        more = list(islice(self._queue, MOST_IN_BATCH - len(self._taken)))
        for entry in more:
            del self._queue[entry]
            self._counts.pop((entry.job_id, entry.type), None)
        self._taken += more

    def _fail(self, fault: JournalFault | NoThread) -> None:
        if self._fault is None:
            logger.error("%s; jobs cannot be started, and what happens to others is written later", fault)
        self._fault = fault
        launches = [entry for entry in (*self._taken, *self._queue) if isinstance(entry.event, Launched)]
        self._taken = [entry for entry in self._taken if not isinstance(entry.event, Launched)]
        is_doubtful = isinstance(fault, JournalFault) and fault.is_doubtful
        for entry in launches:
            self._refuse(entry, is_doubtful=is_doubtful)
        self.has_grown()

    def _refuse(self, entry: Entry, *, is_doubtful: bool) -> None:
        """Tells who waits for a launch that it is not written; one that is not taken yet never is.

        Args:
            entry: the launch.
            is_doubtful: it may be written all the same, where it is taken.
        """
        is_taken = entry not in self._queue
        self._release(entry, _unavailable(self._reason(), is_doubtful=is_doubtful and is_taken))
        if not is_taken:
            del self._queue[entry]

    def _tell(self, entry: Entry) -> None:
        assert entry.written is not None  # noqa: S101  # for the type checker: the batch was written
        if self._release(entry, entry.written) or isinstance(entry.written, int):
            return
        if not (isinstance(entry.written, UnknownJob) and _is_failed_start(entry)):  # its launch was not written
            logger.error("job %s: %s cannot be written: %r", entry.job_id, entry.type, entry.written)

    def _release(self, entry: Entry, result: int | Exception) -> bool:
        """Ends the wait for an entry; returns whether anybody waited."""
        waiter = self._waiters.pop(entry, None)
        self._due.pop(entry, None)
        if waiter is None:
            return False
        waiter.result = result
        trio.lowlevel.reschedule(waiter.task)
        return True

    async def _release_overdue(self) -> None:
        while True:
            if not self._due:
                self._has_waiters = trio.Event()
                await self._has_waiters.wait()
                continue
            entry, deadline = min(self._due.items(), key=itemgetter(1))
            if deadline > trio.current_time():
                self._has_waiters = trio.Event()
                with trio.move_on_at(deadline):
                    await self._has_waiters.wait()  # for one that is to be released earlier
                continue
            if isinstance(entry.event, Launched):
                self._refuse(entry, is_doubtful=True)
            else:
                self._release(entry, _unavailable(self._reason()))
            self.has_grown()

    # --- the disk -----------------------------------------------------------------------------------------------------

    async def _try_disk(self) -> None:
        try:
            await self._in_thread(self._database.probe)
        except (JournalFault, NoThread) as fault:
            self._fault = fault
            return
        self._recover()

    def _recover(self) -> None:
        if self._fault is not None:
            logger.warning("the journal is written again")
        self._fault = None
        self._retry_seconds = FIRST_RETRY_SECONDS

    async def _make_space(self) -> None:
        """Gives up the ballast; and a log that is then written to the file begins anew, in the space it has."""
        with suppress(NoThread, JournalFault):
            if await self._in_thread(self._ballast.free):
                self._has_ballast = False
                self._refill_after = trio.current_time() + LAST_RETRY_SECONDS
                self._retry_seconds = 0.0
                await self._in_thread(self._database.checkpoint)

    async def _checkpoint(self) -> None:
        try:
            await self._in_thread(self._database.checkpoint)
        except (JournalFault, NoThread) as fault:
            logger.error("the journal's log could not be written to its file: %s", fault)
            self._checkpoint_after = trio.current_time() + LAST_RETRY_SECONDS

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Only the end of CLOSE_SECONDS leaves a thread that a disk holds to itself."""
        return await run_in_thread(self._limiter, function, *args, abandon=True)


def _unavailable(reason: str, *, is_doubtful: bool = False) -> JournalUnavailable:
    text = f"the server's journal cannot be written: {reason}; try again later"
    return JournalUnavailable(text, is_doubtful=is_doubtful)


def _is_failed_start(entry: Entry) -> bool:
    match entry.event:
        case Finished(cause=FailedToStart()):
            return True
        case _:
            return False
