"""The bound on what a server holds for its calls: requests, unfinished or being handled, and answers not yet sent.

Flow control bounds what a peer makes the server hold of a stream of messages. It does not bound a message by itself: an
unfinished request is reassembled whatever its size, and an answer exists before its window does. These bytes are
counted over all connections and for each caller, so that opening more connections gains nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

MAX_HELD: Final = 64 * 1024 * 1024
"""Bytes over all callers."""
MAX_HELD_OF_CALLER: Final = 16 * 1024 * 1024


class CallMemory:
    """The bytes held for all calls of a server."""

    def __init__(self) -> None:
        self._held = 0
        self._held_of: Counter[object] = Counter()

    @property
    def held(self) -> int:
        """Bytes held now."""
        return self._held

    def account(self, caller: object) -> CallAccount:
        """For one call."""
        return CallAccount(self, caller)

    def change(self, caller: object, count: int) -> bool:
        """Counts `count` bytes more, or less; False, with nothing changed, where that exceeds a bound."""
        if count > 0 and (self._held + count > MAX_HELD or self._held_of[caller] + count > MAX_HELD_OF_CALLER):
            return False
        self._held += count
        self._held_of[caller] += count
        if not self._held_of[caller]:
            del self._held_of[caller]
        return True


class CallAccount:
    """The bytes held for one call; `set(0)` at its end."""

    __slots__ = ("_caller", "_held", "_memory")

    def __init__(self, memory: CallMemory, caller: object) -> None:
        self._memory = memory
        self._caller = caller
        self._held = 0

    def set(self, held: int) -> bool:
        """The call holds so many bytes from now on; False, with nothing changed, where that exceeds a bound."""
        if held == self._held:
            return True
        if not self._memory.change(self._caller, held - self._held):
            return False
        self._held = held
        return True
