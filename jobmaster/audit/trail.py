"""The task that writes a trail, and the queue before it.

Nobody waits for the disk but a Start, whose beginning has to be written before anything is executed, and the reader of the
journal. Everybody else puts an entry into the queue and goes on. What the disk does not take stays in the queue and is
tried again; where the queue is full, entries are lost, and counted in a gap that is written in their place.

When the disk is full, the ballast is given up first: what has happened can then still be written, and Starts are refused.

A trail has its queue before it has its file, which the disk may be slow to open: `jobmaster.audit.opening` brings it.

What was written is in the kernel's hands: it outlives the server. At most SYNC_SECONDS later it is on the disk, by a
thread of its own, and at a file's end. What a power cut takes of the last second is not made up for, but for the changes
of jobs, which are read from the journal again. Where the disk says only then that it has not kept what it had taken, all
entries since the last time that it had are counted in a gap.
"""

from __future__ import annotations

import errno
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import trio

from jobmaster.audit.entry import Begun, Call, Closed, Entry, Gap, JobChange, encode
from jobmaster.audit.file import NO_SPACE, AuditFile, Line
from jobmaster.audit.spool import Spool
from jobmaster.errors import AuditUnavailable
from jobmaster.journal.ballast import Ballast
from jobmaster.threads import NoThread, run_in_thread

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_QUEUED: Final = 10_000
"""Entries that wait to be written: those of some seconds of the fastest clients."""
MAX_QUEUED_BYTES: Final = 32 * 1024 * 1024
"""Bytes of memory that they may hold, commands included."""
MOST_IN_BATCH: Final = 400
"""Entries that are written at once: numbering their lines, which holds up the event loop, takes a millisecond or two."""
BATCH_BYTES: Final = 512 * 1024
"""Bytes of memory of the entries that are written at once, about: no file becomes larger than its bound by more."""
GATHER_SECONDS: Final = 0.02
"""How long entries gather that nobody waits for and that have no beginning, so that they share a move to the thread: it costs
as much as twenty entries."""
SPOOLED_GATHER_SECONDS: Final = 0.25
"""The same where entries are in a spool: a server that is killed loses none of them."""
START_SECONDS: Final = 2.0
"""How long a Start waits for its beginning to be written, and a write may take before Starts are refused at once."""
RETRY_SECONDS: Final = 1.0
"""Between two tries of a disk that does not take what is to be written."""
SYNC_SECONDS: Final = 1.0
"""How long what was written may not be on the disk."""
CLOSE_SECONDS: Final = 0.5
"""How long the closing of a file may take; the kernel does it at the server's end."""

_OF_CALLS: Final = (Begun, Call)
"""What is spooled."""
_TOO_MANY: Final = "more came than could be written"
_NOT_KEPT: Final = "its disk has failed to keep what was written: the last entries before may not be there"
_NO_ANSWER: Final = "its disk does not answer"
_NEARLY_FULL: Final = "its disk is nearly full"
_FAILED: Final = "its disk fails"
_WORDS: Final = {
    **dict.fromkeys(NO_SPACE, "its disk is full"),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.ESTALE), "its folder is not in its place"),
    **dict.fromkeys(
        (errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EINVAL), "there is something else in its file's place"
    ),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "the server may not write it"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "the server's host has no file descriptor left"),
    errno.EROFS: "its disk is read-only",
    errno.EFBIG: "its file may not become larger",
    errno.ENOMEM: "the server's host has no memory left",
}
"""What a client is told of an error."""


class Trail:
    """What is written to one trail.

    Attributes:
        is_open: set when it has its file, and the ballast is there or cannot be.
    """

    def __init__(self, ballast: Ballast | None, spool: Spool | None = None) -> None:
        self.is_open = trio.Event()
        self._file: AuditFile
        self._has_file = trio.Event()
        self._ballast = ballast
        self._spool = spool
        self._in_flight: list[Line] = []
        self._queue: deque[Line] = deque()
        self._queued_bytes = 0
        self._lost = 0
        self._lost_since = datetime.now(UTC)
        self._lost_because = ""
        self._fault: str | None = None
        self._has_ballast = ballast is not None
        self._why_no_ballast = _NEARLY_FULL
        self._why_closed = _NO_ANSWER
        self._writing_since = float("inf")
        self._next_try = 0.0
        self._is_finishing = False
        self._work = trio.Event()
        self._is_urgent = trio.Event()
        self._written = trio.lowlevel.ParkingLot()
        self._unsynced = trio.Event()
        self._synced_at = datetime.now(UTC)
        self.synced_events = 0
        """Up to which number of the journal's the events are on the disk, as far as is known."""
        self._scope = trio.CancelScope(shield=True)
        self._writers = trio.CapacityLimiter(1)
        self._syncers = trio.CapacityLimiter(1)

    @property
    def is_writable(self) -> bool:
        """Whether entries are written as they come, and not at the cost of the ballast."""
        return self._why_not() is None

    def not_open(self, why: str) -> None:
        """Its files cannot be opened, for a reason in words for a client; that is tried again."""
        self._why_closed = why

    def use(self, file: AuditFile, head: Sequence[Line]) -> None:
        """Gives it its file, and what is to be written there before anything else."""
        self._file = file
        file.spool = self._spool
        self._queue.extendleft(reversed(head))
        self._queued_bytes += sum(line.cost for line in head)
        self._has_file.set()

    # --- what is to be written ----------------------------------------------------------------------------------------

    def put(self, entry: Entry, *, begun: Line | int | None = None) -> Line:
        """Has an entry written, and does not wait for it; where there is no room, it is counted as lost.

        Args:
            entry: what happened.
            begun: of a call's end, its beginning.
        """
        line = Line(entry, begun)
        self._append(line)
        return line

    def admit(self, entry: Entry) -> Line:
        """Has an entry written for which somebody will `wait_written`.

        Raises:
            AuditUnavailable: it would not be written now.
        """
        if (reason := self._why_not()) is not None:
            raise _unavailable(reason)
        if not self._has_room:
            raise _unavailable("too many entries wait to be written")
        line = Line(entry, done=trio.Event())
        self._append(line)
        return line

    async def wait_written(self, line: Line) -> None:
        """Returns when an entry that was admitted is written.

        Raises:
            AuditUnavailable: it is not, or not in time; it may still be.
        """
        assert line.done is not None  # noqa: S101  # it was admitted
        if not line.done.is_set():
            with trio.move_on_after(START_SECONDS):
                await line.done.wait()
        if line.sequence is None:
            raise _unavailable(self._why_not() or (_FAILED if line.done.is_set() else _NO_ANSWER))

    async def record(self, entries: Sequence[Entry]) -> int:
        """Returns when entries are written, and how many of them: where it is not all, the first ones.

        None of them counts as lost: whoever calls this has them still.
        """
        lines: list[Line] = []
        for entry in entries:
            while not (self._has_room or _is_refused(lines)):
                await self._written.park()
            if _is_refused(lines):
                break
            lines.append(Line(entry, done=trio.Event()))
            self._append(lines[-1])
        for count, line in enumerate(lines):
            assert line.done is not None  # noqa: S101  # for the type checker
            await line.done.wait()
            if line.sequence is None:
                return count
        return len(lines)

    async def wait_writable(self) -> None:
        """Returns when entries are written again."""
        while self._fault is not None:
            await self._written.park()

    def _append(self, line: Line) -> None:
        if not self._has_room:
            self._lose()
            return
        if self._lost:
            self._put_gap()
        self._push(line)

    @property
    def _has_room(self) -> bool:
        return len(self._queue) < MAX_QUEUED and self._queued_bytes < MAX_QUEUED_BYTES

    def _push(self, line: Line) -> None:
        if self._spool is not None and isinstance(line.entry, _OF_CALLS):
            _spool(line, self._spool)
            if line.place is None:
                line.missing = 1
                self._spool.count_missing(1)
        self._queue.append(line)
        self._queued_bytes += line.cost
        line.is_queued = True
        self._work.set()
        if _is_urgent(line) or self._fills_batch:
            self._is_urgent.set()

    def _lose(self) -> None:
        if not self._lost:
            self._lost_since = datetime.now(UTC)
            self._lost_because = self._why_not() or _TOO_MANY
            logger.error("entries of the audit are lost, and counted: %s", self._lost_because)
        self._lost += 1
        if self._spool is not None:
            self._spool.count_missing(1)

    def _put_gap(self) -> None:
        gap = Gap(at=datetime.now(UTC), since=self._lost_since, count=self._lost, why=self._lost_because)
        lost, self._lost = self._lost, 0
        self._push(Line(gap, missing=lost))

    def _why_not(self) -> str | None:
        if not self.is_open.is_set():
            return self._why_closed
        if self._fault is not None:
            return self._fault
        if self._ballast is not None and not self._has_ballast:
            return self._why_no_ballast
        if trio.current_time() - self._writing_since > START_SECONDS:
            return _NO_ANSWER
        return None

    # --- the task -----------------------------------------------------------------------------------------------------

    async def keep_writing(self) -> None:
        """Writes until `finish` was called and all is written; being cancelled does not end it. Closes the file."""
        with self._scope:
            await self._has_file.wait()
            await self._fill_ballast()
            self.is_open.set()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_syncing)
                await self._write_all()
                nursery.cancel_scope.cancel()
        self._say_unwritten()
        if self._has_file.is_set():
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await run_in_thread(trio.CapacityLimiter(1), self._file.close, abandon=True)

    def finish(self, deadline: float) -> None:
        """Lets the task end when all is written, or by a deadline of Trio's clock."""
        self._is_finishing = True
        if self._lost:
            self._put_gap()
        self._push(Line(Closed(at=datetime.now(UTC))))  # whether there is room or not
        self._scope.deadline = deadline
        self._work.set()
        self._is_urgent.set()

    def _say_unwritten(self) -> None:
        lines = [line for line in (*self._in_flight, *self._queue) if line.sequence is None]
        kinds = Counter(type(line.entry).__name__ for line in lines if not isinstance(line.entry, Closed))
        if kinds:
            oldest = min(line.entry.at for line in lines)
            names = ", ".join(f"{count} {name}" for name, count in sorted(kinds.items()))
            logger.error(
                "entries of the audit were not written, the oldest of %s: %s",
                _moment(oldest),
                names,
            )

    async def _fill_ballast(self) -> None:
        """Takes the space that is given up when the disk is full."""
        if self._ballast is None:
            return
        had, self._has_ballast = self._has_ballast, False
        self._next_try = trio.current_time() + RETRY_SECONDS
        try:
            await self._in_thread(self._ballast.fill)
        except (OSError, NoThread) as error:
            is_full = isinstance(error, OSError) and error.errno in NO_SPACE
            self._why_no_ballast = _NEARLY_FULL if is_full else _words(error)
            if had:
                what = "the audit's disk is nearly full" if is_full else "the audit has no space kept for a full disk"
                logger.error("%s (%s): jobs cannot be started", what, error)
        else:
            self._has_ballast = True
            if not had:
                logger.warning("the audit has space kept for a full disk again")

    async def _write_all(self) -> None:
        while True:
            await self._wait_for_work()
            if self._queue:
                await self._write_batch()
            elif self._is_finishing and not self._lost:
                await self._sync()
                return
            else:
                await self._try_disk()

    async def _wait_for_work(self) -> None:
        """Returns when there is something to write, or a disk to try, or the end has come."""
        if self._fault is not None:
            await trio.sleep(RETRY_SECONDS)
        while not (self._queue or self._is_finishing or self._fault is not None):
            self._work = trio.Event()
            with trio.move_on_after(float("inf") if self.is_writable else RETRY_SECONDS) as idle:
                await self._work.wait()
            if idle.cancelled_caught:
                return
        if not (self._fills_batch or any(map(_is_urgent, self._queue))):
            with trio.move_on_after(GATHER_SECONDS if self._spool is None else SPOOLED_GATHER_SECONDS):
                await self._is_urgent.wait()
        self._is_urgent = trio.Event()

    @property
    def _fills_batch(self) -> bool:
        """Whether so much is queued that nothing is gained by waiting for more."""
        return len(self._queue) >= MOST_IN_BATCH or self._queued_bytes >= BATCH_BYTES

    async def _write_batch(self) -> None:
        batch = self._in_flight = self._take()
        self._writing_since = trio.current_time()
        try:
            await self._in_thread(self._file.append, batch)
        except (OSError, NoThread) as error:
            has_space = isinstance(error, OSError) and error.errno in NO_SPACE and await self._free_ballast()
            batch = self._put_back(batch, with_changes=has_space)
            if not has_space:
                self._fail(error)
        else:
            self._recover()
        finally:
            self._writing_since = float("inf")
        self._in_flight = []
        self._tell(batch)
        if not self.is_writable and self._fault is None and trio.current_time() >= self._next_try:
            await self._fill_ballast()

    def _take(self) -> list[Line]:
        batch: list[Line] = []
        size = 0
        while self._queue and len(batch) < MOST_IN_BATCH and size < BATCH_BYTES:
            line = self._queue.popleft()
            batch.append(line)
            size += line.cost
        self._queued_bytes -= size
        return batch

    def _put_back(self, batch: Sequence[Line], *, with_changes: bool) -> list[Line]:
        """Has tried again what was not written and nobody waits for, changes of jobs too or not; returns the others."""
        others: list[Line] = []
        for line in reversed(batch):
            if line.sequence is None and (line.done is None or (with_changes and isinstance(line.entry, JobChange))):
                self._queue.appendleft(line)
                self._queued_bytes += line.cost
            else:
                others.append(line)
        return others

    def _fail(self, error: OSError | NoThread) -> None:
        if self._fault is None:
            logger.error("the audit cannot be written: %s", error)
        self._fault = _words(error)
        waited_for = [line for line in self._queue if line.done is not None]
        self._queue = deque(line for line in self._queue if line.done is None)
        self._queued_bytes = sum(line.cost for line in self._queue)
        self._tell(waited_for)

    async def _free_ballast(self) -> bool:
        if self._ballast is None or not self._has_ballast:
            return False
        self._has_ballast, self._why_no_ballast = False, _NEARLY_FULL
        self._next_try = trio.current_time() + RETRY_SECONDS
        logger.error("the audit's disk is full: jobs cannot be started")
        try:
            return await self._in_thread(self._ballast.free)
        except NoThread:
            return False

    def _tell(self, lines: Sequence[Line]) -> None:
        for line in lines:
            line.is_queued = False
            if line.done is not None:
                line.done.set()
            if self._spool is not None:
                if line.sequence is None and line.place is not None:
                    self._spool.done(line.place)  # it is not to be written any more
                if line.missing:
                    self._spool.count_missing(-line.missing)
        self._unsynced.set()
        self._written.unpark_all()

    def _recover(self) -> None:
        if self._fault is not None:
            logger.warning("the audit is written again")
        self._fault = None
        if count := self._file.take_doubtful():
            self._push(Line(Gap(at=datetime.now(UTC), since=self._synced_at, count=count, why=_NOT_KEPT)))
        if self._lost and self._has_room:
            self._put_gap()

    async def _try_disk(self) -> None:
        try:
            await self._in_thread(self._file.probe)
        except (OSError, NoThread) as error:
            self._fault = _words(error)
            return
        if not self._has_ballast:
            await self._fill_ballast()
        self._recover()
        self._written.unpark_all()

    # --- the disk -----------------------------------------------------------------------------------------------------

    async def _keep_syncing(self) -> None:
        while True:
            await self._unsynced.wait()
            await trio.sleep(SYNC_SECONDS)
            self._unsynced = trio.Event()
            await self._sync()

    async def _sync(self) -> None:
        events, now = self._file.position.journal_sequence, datetime.now(UTC)  # written, at least
        try:
            await run_in_thread(self._syncers, self._file.sync, abandon=True)
        except (OSError, NoThread) as error:
            logger.error("the audit's disk did not keep what was written since %s: %s", _moment(self._synced_at), error)
            self._fault = _words(error)
            self._work.set()
        else:
            self.synced_events, self._synced_at = events, now

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Only the server's end leaves a thread that a disk holds to itself."""
        return await run_in_thread(self._writers, function, *args, abandon=True)


def _is_refused(lines: Sequence[Line]) -> bool:
    """Whether the last of some lines that are waited for will not be written: what follows it is not to be, either."""
    return bool(lines) and lines[-1].sequence is None and lines[-1].done is not None and lines[-1].done.is_set()


def _is_urgent(line: Line) -> bool:
    """Whether an entry is to be written at once: somebody waits for it, or it is nowhere else."""
    return line.done is not None or (line.place is None and line.is_urgent)


def _spool(line: Line, spool: Spool) -> None:
    """Keeps an entry where a later server finds it.

    Not so an end whose beginning is to be written still and is not kept: a later server could not tell whether, and under which
    number, the beginning is in the file, and would give it another end.
    """
    match line.begun:
        case Line(sequence=None, place=None, is_queued=True):
            return
        case Line(sequence=None, place=begun_at):
            reference: dict[str, int | None] = {"begun_at": begun_at}
        case Line(sequence=begun) | begun:
            reference = {"begun": begun}
    line.place = spool.add(encode(line.entry, 0, None, line.body), **reference)


def _moment(at: datetime) -> str:
    return at.isoformat(timespec="seconds")


def _words(error: OSError | NoThread) -> str:
    if isinstance(error, NoThread):
        return "the server's host has no thread left"
    return _WORDS.get(error.errno or 0, _FAILED)


def _unavailable(reason: str) -> AuditUnavailable:
    return AuditUnavailable(
        f"the server's audit cannot be written: {reason}, and so nothing is started; try again later"
    )
