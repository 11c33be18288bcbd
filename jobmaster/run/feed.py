"""What happens to jobs, for those who watch: however many they are, the journal is read once for all who have caught up.

The latest events are kept in memory. One of those who have seen them all waits for the journal to grow and reads what is
new; the others wait for that one. Who comes from further back reads for itself until it has caught up.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

import trio

from jobmaster.errors import EventsForgotten, ServerDraining
from jobmaster.journal.stored import EVENTS_CHARACTERS, Events, JournalledEvent
from jobmaster.run.recorder import Records
from jobmaster.run.turns import Turns

KEPT: Final = 1_000
"""Events that are kept in memory."""
BATCH: Final = 100
"""Events of one answer, at most."""
PAUSE_SECONDS: Final = 0.02
"""How long events gather before they are read, so that many small commits are not as many reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """Some events.

    Attributes:
        events: in the order of their sequence numbers; none where only others had any.
        position: all up to this sequence number has been looked at.
        is_current: nothing else has been recorded until now.
    """

    events: tuple[JournalledEvent, ...]
    position: int
    is_current: bool


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who watches.

    Attributes:
        client: by whose turns it reads.
        owner: to whose jobs happens what it is told; None for those of all.
    """

    client: str
    owner: str | None


class Feed:
    """The events of one server's journal."""

    def __init__(self, records: Records, turns: Turns | None = None) -> None:
        """Of these records; who reads for itself waits for its turn in `turns`."""
        self._records = records
        self._turns = turns or Turns()
        self._latest: deque[JournalledEvent] = deque()
        self._floor = self._position = 0
        """All events above the one and up to the other are in `_latest`."""
        self._reading = trio.Lock()
        self._waiting = trio.CancelScope()
        self._has_ended = False

    def end(self) -> None:
        """Everything has been recorded: who has seen it all is told that the server ends. Idempotent."""
        self._has_ended = True
        self._waiting.cancel()

    async def begin(self, after: int, watcher: Watcher) -> int:
        """Returns if all that happened after the sequence number `after` can be told to a watcher.

        Returns: up to which sequence number it is not told of removed jobs.

        Raises:
            EventsForgotten: not all of it.
            JournalUnavailable: the journal cannot be read.
        """
        if after > self._records.last_seq:
            raise EventsForgotten(
                f"no event has a number as high as {after}; was the server's journal replaced? List the jobs, and watch anew"
            )
        horizon = (await self._read(after, watcher, 1)).horizon
        if after and after < horizon:
            raise _forgotten(after, horizon)
        return max(after, horizon)

    async def after(self, position: int, watcher: Watcher, horizon: int = 0) -> News:
        """What was recorded after `position` for a watcher; waits until there is something.

        Args:
            position: as of the news before.
            watcher: as of `begin`.
            horizon: what `begin` returned.

        Raises:
            EventsForgotten: who asks was so slow that it cannot be told of all removed jobs any more.
            ServerDraining: there is nothing, and nothing more comes.
            JournalUnavailable: the journal cannot be read.
        """
        while True:
            if self._floor <= position < self._position:
                return self._latest_after(position, watcher.owner)
            if position == self._position:
                await self._read_more(position)
                continue
            found = await self._read(position, watcher, BATCH)
            if found.horizon > max(position, horizon):
                raise _forgotten(position, found.horizon)
            if found.position > position:
                return self._news(found.events, found.position)
            self._latest.clear()
            self._floor = self._position = position

    def _latest_after(self, position: int, owner: str | None) -> News:
        new = list(takewhile(lambda event: event.seq > position, reversed(self._latest)))
        events: list[JournalledEvent] = []
        size = 0
        for event in reversed(new):
            if owner is None or event.owner == owner:
                size += event.characters
                if len(events) == BATCH or (events and size > EVENTS_CHARACTERS):
                    return self._news(tuple(events), events[-1].seq)
                events.append(event)
        return self._news(tuple(events), self._position)

    async def _read(self, position: int, watcher: Watcher, limit: int) -> Events:
        async with self._turns.of(watcher.client):
            return await self._records.events(position, watcher.owner, limit)

    def _news(self, events: tuple[JournalledEvent, ...], position: int) -> News:
        return News(events=events, position=position, is_current=position >= self._records.last_seq)

    async def _read_more(self, position: int) -> None:
        async with self._reading:
            if self._position != position:
                return  # another has read
            with trio.CancelScope() as self._waiting:
                if self._has_ended:
                    self._waiting.cancel()
                await self._records.wait_after(position)
                await trio.sleep(PAUSE_SECONDS)
            if self._records.last_seq <= position:
                raise ServerDraining("the server is shutting down")
            found = await self._records.events(position, None, BATCH)
            if self._position != position:
                return
            if found.horizon > position:  # of somebody's removed jobs not all can be told: each reads for itself
                self._latest.clear()
                self._floor = self._position = found.position
            else:
                self._keep(found)

    def _keep(self, found: Events) -> None:
        self._latest.extend(found.events)
        while len(self._latest) > KEPT:
            self._floor = self._latest.popleft().seq
        self._position = found.position


def _forgotten(after: int, horizon: int) -> EventsForgotten:
    return EventsForgotten(
        f"what happened after event {after} is not kept any more, only what happened after event {horizon}: "
        "list the jobs, and watch anew"
    )
