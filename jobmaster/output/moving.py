"""What worker threads do to a job's log, so that a disk that is slow throttles a thread and never the event loop.

A work that something holds up is abandoned with its descriptors, which its thread closes when it comes out.
"""

from __future__ import annotations

import enum
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from jobmaster.output.closing import close
from jobmaster.output.dropping import PUNCHERS, Dropped, DropPlan, drop
from jobmaster.output.terminal import bytes_in, fill
from jobmaster.output.transfer import Transfer, Transferred

if TYPE_CHECKING:
    from jobmaster.output.log import OutputLog
    from jobmaster.output.source import Source
    from jobmaster.threads import LeftThreads

logger = logging.getLogger(__name__)

PUMPS: Final = trio.CapacityLimiter(32)
"""Threads that move output, besides those that are held up."""
PUMPS_OF_CLIENT: Final = 8
"""How many of them the jobs of one client have at a time: a client whose jobs hold up their own pipes, by the hundred at once,
delays the output of no other client. Page cache takes output faster than eight threads bring it."""


class Shares:
    """Who may have how many of `PUMPS`: a limiter for each client."""

    def __init__(self) -> None:
        self._of_clients: dict[str, trio.CapacityLimiter] = {}

    def of(self, client: str) -> trio.CapacityLimiter:
        """A client's, which the pumps of its jobs have in common."""
        return self._of_clients.setdefault(client, trio.CapacityLimiter(PUMPS_OF_CLIENT))


@asynccontextmanager
async def shared(share: trio.CapacityLimiter | None) -> AsyncIterator[None]:
    """Has one of a share for the block, where there is a bound. Yields only when it waits: moving yields anyway."""
    if share is None:
        yield
        return
    try:
        share.acquire_nowait()
    except trio.WouldBlock:
        await share.acquire()
    try:
        yield
    finally:
        share.release()


class Work(ABC):
    """What a worker thread does to a log; the event loop brings its result to the log.

    Attributes:
        done: set when the result is in the log.
        limiter: of its threads.
        source: the pipe that it needs, if any.
    """

    source: Source | None = None

    def __init__(self, log: OutputLog, limiter: trio.CapacityLimiter) -> None:
        self.done = trio.Event()
        self.limiter = limiter
        self._log = log
        self._loop = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        self._step = _Step.WAITING
        self._is_apart = False
        self._found = 0
        self._left: LeftThreads | None = None

    # --- in the thread ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Works, unless it was withdrawn meanwhile."""
        if not self._enter(_Step.WORKING, only_from=_Step.WAITING):
            return
        try:
            self._work()
        except Exception:  # a bug, which leaves it without a result: the pump goes on, and the descriptors are closed
            logger.exception("a bug in what is done to %s", self._log.path)
        is_wanted = self._enter(_Step.DONE, only_from=_Step.WORKING)
        if not is_wanted:
            close(() if self.source is None else self.source.give_up(), self._log)
        with suppress(trio.RunFinishedError):
            self._loop.run_sync_soon(self._report if is_wanted else self._come_out)

    @abstractmethod
    def _work(self) -> None: ...

    def _enter(self, step: _Step, *, only_from: _Step) -> bool:
        with self._lock:
            if self._step is not only_from:
                return False
            self._step = step
            return True

    # --- on the event loop --------------------------------------------------------------------------------------------

    def withdraw(self) -> bool:
        """True where no thread has begun it; none will."""
        return self._enter(_Step.ABANDONED, only_from=_Step.WAITING)

    def abandon(self, left: LeftThreads) -> int | None:
        """Leaves the pipe and the log's file to the thread, which closes them when the disk lets it.

        Returns the bytes that it had found in the pipe, or None where it has just ended and nothing is abandoned.

        Args:
            left: counts the thread until it comes out.
        """
        if self._enter(_Step.ABANDONED, only_from=_Step.WORKING):
            self.count_apart()
            self._left = left
            left.add()
            return self._found
        self._report()
        return None

    def count_apart(self) -> None:
        """From now on until it ends, its thread is one more than its limiter allows. Idempotent."""
        if not self._is_apart:
            self._is_apart = True
            self.limiter.total_tokens += 1

    def _count_again(self) -> None:
        if self._is_apart:
            self._is_apart = False
            self.limiter.total_tokens -= 1

    def _come_out(self) -> None:
        self._count_again()
        if self._left is not None:
            self._left.remove()

    def _report(self) -> None:
        if self.done.is_set():
            return
        self._count_again()
        self._record()
        self.done.set()

    @abstractmethod
    def _record(self) -> None: ...


class Move(Work):
    """One transfer of bytes from a pipe.

    Attributes:
        result: None where the pipe could not be read; nothing was moved.
        error: why.
        has_left_some: there are more bytes in a pipe of which nothing will tell.
    """

    source: Source
    has_left_some = False

    def __init__(self, source: Source, log: OutputLog, *, splice: bool) -> None:
        super().__init__(log, PUMPS)
        self.error: OSError | MemoryError | None = None
        self.result: Transferred | None = None
        self.source = source
        self._transfer = Transfer(source.pipe, source.stream, log, log.plan(), splice=splice)

    def _work(self) -> None:
        terminal = self.source.terminal
        try:
            is_closed = terminal is not None and fill(terminal)
            with suppress(OSError):
                self._found = bytes_in(self.source.pipe)
            result = self._transfer.run(self._found)
            self.result = replace(result, taken=0) if is_closed and result.taken is None else result
        except (OSError, MemoryError) as error:
            self.error = error
        if terminal is not None:
            with suppress(OSError):
                self.has_left_some = bytes_in(self.source.pipe) > 0

    def _record(self) -> None:
        if self.result is not None:
            self._log.record(self.result)


class Drop(Work):
    """The dropping of one range."""

    def __init__(self, log: OutputLog, plan: DropPlan) -> None:
        super().__init__(log, PUNCHERS)
        self._plan = plan
        self._dropped = Dropped()

    def _work(self) -> None:
        with suppress(OSError, MemoryError):  # then it is not dropped
            self._dropped = drop(self._log, self._plan)

    def abandon(self, left: LeftThreads) -> int | None:
        """As of any work. What the thread may still do counts as done: nobody is told of those bytes any more."""
        found = super().abandon(left)
        if found is not None:
            self._log.record_drop(self._plan, Dropped(count=self._plan.end - self._plan.begin))
        return found

    def _record(self) -> None:
        self._log.record_drop(self._plan, self._dropped)


class _Step(enum.Enum):
    WAITING = enum.auto()
    WORKING = enum.auto()
    DONE = enum.auto()
    ABANDONED = enum.auto()
