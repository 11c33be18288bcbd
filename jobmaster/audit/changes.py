"""What happens to jobs, copied from the journal into the audit: each event once, in the journal's order.

The journal keeps an event until the audit has it, also where its job is removed at once.

How far the audit has come is what its own last entries say; so nothing is written twice or left out when a server was
killed between reading an event and writing it, or the disk did not take it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol

import trio

from jobmaster.audit.entry import Entry, JobChange, shortened
from jobmaster.audit.trail import Trail
from jobmaster.errors import JournalUnavailable
from jobmaster.job.cause import describe
from jobmaster.job.record import OutputPruned, Paused, Resumed, SignalOrdered
from jobmaster.job.state import Finished, StopOrdered
from jobmaster.journal.codec import event_name
from jobmaster.journal.stored import Events, JournalledEvent, Removed

logger = logging.getLogger(__name__)

BATCH: Final = 100
"""Events that are read at a time."""
PAUSE_SECONDS: Final = 0.2
"""How long events gather before they are read, so that many small commits are not as many reads: the journal has them."""
RETRY_SECONDS: Final = 1.0
"""Between two tries of a journal that cannot be read."""


class JobEvents(Protocol):
    """What is needed of the journal."""

    @property
    def last_seq(self) -> int:
        """The greatest sequence number that was given."""

    async def events_to_copy(self, after: int, limit: int) -> Events:
        """What happened after a sequence number. Raises JournalUnavailable."""

    def keep_events(self, copied: Callable[[], int]) -> None:
        """Lets no event go before it is copied: up to the number that this returns, in any thread."""

    async def wait_after(self, seq: int) -> None:
        """Returns when there are events after a sequence number. Raises JournalUnavailable at the journal's end."""


class JobChanges:
    """The copying from a journal to a trail, once it is known from where on."""

    def __init__(self, journal: JobEvents, trail: Trail) -> None:
        self._journal = journal
        self._trail = trail
        self.position = 0
        """The number of the last event that is in the trail, as far as is known."""
        self._has_begun = trio.Event()
        self._is_finishing = False
        self._idle = trio.CancelScope()
        self._scope = trio.CancelScope(shield=True)

    def begin(self, after: int) -> None:
        """Lets `copy` begin, with what follows the journal's event `after`."""
        self.position = after
        self._has_begun.set()

    async def copy(self) -> None:
        """Copies what happens, until `finish` was called and all is copied; being cancelled does not end it.

        Cancelled in the middle, it would not know what of its last batch will be written.
        """
        with self._scope:
            await self._has_begun.wait()
            while not self._is_finishing or self.position < self._journal.last_seq:
                if self.position < self._journal.last_seq:
                    await self._copy_some()
                else:
                    await self._wait()

    def finish(self, deadline: float) -> None:
        """Lets `copy` end when all is copied, or by a deadline of Trio's clock."""
        self._is_finishing = True
        self._scope.deadline = deadline
        self._idle.cancel()

    async def _wait(self) -> None:
        with trio.CancelScope() as self._idle:
            if self._is_finishing:
                self._idle.cancel()
            await self._journal.wait_after(self.position)
            await trio.sleep(PAUSE_SECONDS)

    async def _copy_some(self) -> None:
        try:
            found = await self._journal.events_to_copy(self.position, BATCH)
        except JournalUnavailable as error:
            logger.warning("the audit waits for the journal: %s", error)
            await trio.sleep(RETRY_SECONDS)
            return
        written = await self._trail.record([change_of(event) for event in found.events])
        if written == len(found.events):
            self.position = found.position
        else:
            self.position = found.events[written - 1].seq if written else self.position
            await self._trail.wait_writable()


def change_of(event: JournalledEvent) -> Entry:
    """The entry of an event. The command is left out: the entry of its Start has it, with what is secret masked."""
    by: str | None = None
    why = ""
    match event.event:
        case Removed():
            name = "removed"
        case happened:
            name = event_name(happened)
            match happened:
                case StopOrdered(order=order):
                    by, why = order.by, order.reason
                case Finished(cause=cause):
                    why = describe(cause)
                case OutputPruned(reason=reason):
                    why = reason
                case Paused() | Resumed():
                    by = happened.by
                case SignalOrdered(signal=number, to_all=to_all):
                    by = happened.by
                    why = f"signal {number}{' to all of its processes' if to_all else ''}"
                case _:
                    pass
    return JobChange(
        journal_sequence=event.seq,
        at=event.at,
        client=event.owner,
        job=event.job_id,
        event=name,
        by=by,
        why=shortened(why),
    )
