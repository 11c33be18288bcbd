"""Whose outputs may grow. Pure.

A client whose running jobs' outputs take most, and of which no ended job's output is left to be removed, is blocked: what its
running jobs write is lost, and it starts no more. Others may have lost outputs by then in its stead; that is its debt. It is
let go when there is so much room besides, or when outputs of its own were removed for it: so no client drives out the outputs
of others, however much it writes. Where no ended job's output is left at all, all clients are blocked.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from jobmaster.output.sharing import Room

if TYPE_CHECKING:
    from collections.abc import Mapping


class Rooms:
    """The room of each client.

    Attributes:
        why_full: the bound, where all clients are blocked.
    """

    def __init__(self) -> None:
        self._of: dict[str, Room] = {}
        self._blocked: dict[str, str] = {}
        self._debts: Counter[str] = Counter()
        self.why_full: str | None = None

    @property
    def debts(self) -> Mapping[str, int]:
        """Bytes that others have lost in the stead of each blocked client."""
        return {owner: self._debts[owner] for owner in self._blocked}

    @property
    def most_debt(self) -> int:
        """So much room lets everybody go."""
        return max(self._debts.values(), default=0)

    def of(self, owner: str) -> Room:
        """That of a client, which its logs share."""
        if owner not in self._of:
            self._of[owner] = Room()
            self._tell(owner)
        return self._of[owner]

    def block(self, owner: str, reason: str) -> bool:
        """A client's outputs may not grow; returns whether that is news."""
        is_news = owner not in self._blocked
        self._blocked.setdefault(owner, reason)
        self._tell(owner)
        return is_news

    def block_all(self, reason: str) -> bool:
        """Nobody's may; returns whether that is news."""
        is_news = self.why_full is None
        self.why_full = self.why_full or reason
        for owner in self._of:
            self._tell(owner)
        return is_news

    def note_evicted(self, owner: str, size: int) -> None:
        """Others have lost so much in this client's stead."""
        self._debts[owner] += size

    def limit_debt(self, owner: str, size: int) -> None:
        """A client's outputs take so much: it cannot give more."""
        self._debts[owner] = min(self._debts[owner], size)

    def note_given(self, owner: str, size: int) -> None:
        """So much of its own was removed."""
        self._debts[owner] = max(0, self._debts[owner] - size)

    def release(self, owner: str) -> None:
        """A client has something to give again, or takes nothing any more; it goes on where it has no debts."""
        if owner in self._blocked and not self._debts[owner]:
            del self._blocked[owner], self._debts[owner]
            self._tell(owner)

    def relax(self, room: int) -> bool:
        """There are so many bytes of room: lets those go for whom that is enough; returns whether there were any."""
        if room < 0:
            return False
        freed = [owner for owner in self._blocked if self._debts[owner] <= room]
        was_full, self.why_full = self.why_full is not None, None
        for owner in freed:
            del self._blocked[owner], self._debts[owner]
        for owner in self._of:
            self._tell(owner)
        return was_full or bool(freed)

    def _tell(self, owner: str) -> None:
        if owner in self._of:
            self._of[owner].why_full = self.why_full or self._blocked.get(owner)
