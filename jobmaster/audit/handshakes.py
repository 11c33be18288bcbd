"""Connections that were refused, in a trail of their own: so many entries a minute, the others counted.

Whoever reaches the port can be refused as often as he likes. So at most ENTRIES_A_MINUTE are written one by one, at most
ENTRIES_OF_ADDRESS of them for one address, and the rest of a minute becomes one entry with its count, by reason and by
address. With entries of 500 bytes that is some 45 MB a day, whatever happens: files of 64 MiB, 16 of them, hold three
weeks of an unbroken flood. Calls are in another trail, in which a stranger gets no entry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import trio

from jobmaster.audit.entry import Caller, Entry, Handshake, RefusalsCounted, shortened

ENTRIES_A_MINUTE: Final = 60
ENTRIES_OF_ADDRESS: Final = 10
MINUTE: Final = 60.0
MOST_NAMES: Final = 20
"""Reasons, and addresses, that are counted by name."""
OTHER: Final = "other"
MAX_REASON: Final = 200
"""Characters of a reason; some repeat what a certificate says."""


class RefusedConnections:
    """The refusals of one server; `put` has an entry written."""

    def __init__(self, put: Callable[[Entry], object]) -> None:
        self._put = put
        self._minute = _Minute(trio.current_time() + MINUTE)
        self._has_counted = trio.Event()

    def refused(self, caller: Caller, address: str, why: str) -> None:
        """A connection from an address has been refused."""
        if trio.current_time() >= self._minute.ends:
            self._begin_minute()
        why = shortened(why, MAX_REASON)
        if self._minute.takes(address):
            self._put(Handshake(at=datetime.now(UTC), caller=caller, why=why))
        else:
            self._minute.count(address, why)
            self._has_counted.set()

    async def keep_counting(self) -> None:
        """Writes the count of each minute when it is over, until it is cancelled."""
        while True:
            await self._has_counted.wait()
            await trio.sleep_until(self._minute.ends)
            self._begin_minute()

    def finish(self) -> None:
        """Writes the count of the minute that is not over."""
        self._begin_minute()

    def _begin_minute(self) -> None:
        if (counted := self._minute.counted()) is not None:
            self._put(counted)
        self._minute = _Minute(trio.current_time() + MINUTE)
        self._has_counted = trio.Event()


class _Minute:
    """What was refused in one minute; `ends` by Trio's clock."""

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self._since: datetime | None = None
        self._written: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._peers: Counter[str] = Counter()

    def takes(self, address: str) -> bool:
        """Whether one more refusal of an address has an entry of its own."""
        if self._written.total() >= ENTRIES_A_MINUTE or self._written[address] >= ENTRIES_OF_ADDRESS:
            return False
        self._written[address] += 1
        return True

    def count(self, address: str, why: str) -> None:
        """Counts one that has none."""
        if self._since is None:
            self._since = datetime.now(UTC)
        _count(self._reasons, why)
        _count(self._peers, address)

    def counted(self) -> RefusalsCounted | None:
        """The entry of those that have none; None where there are not any."""
        if self._since is None:
            return None
        return RefusalsCounted(
            at=datetime.now(UTC),
            since=self._since,
            count=self._reasons.total(),
            reasons=self._reasons,
            peers=self._peers,
        )


def _count(counter: Counter[str], name: str) -> None:
    counter[name if name in counter or len(counter) < MOST_NAMES else OTHER] += 1
