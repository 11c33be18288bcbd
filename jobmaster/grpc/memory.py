"""The bound on what a server holds for its calls: requests, unfinished or being handled, and answers not yet sent.

Flow control bounds what a peer makes the server hold of a stream of messages. It does not bound a message by itself: an
unfinished request is reassembled whatever its size, and an answer exists before its window does. These bytes are
counted over all connections and for each caller, so that opening more connections gains nothing.

A call whose messages wait on purpose, since what they are for takes no more, counts only with what it holds beyond its
window: the window makes its client wait, where the bound would make the call fail. The number of such calls is bounded
by what they are for: a job has one writer of its input.
"""

from __future__ import annotations

from typing import Final
from weakref import WeakValueDictionary

MAX_HELD: Final = 64 * 1024 * 1024
"""Bytes over all callers."""
MAX_HELD_OF_CALLER: Final = 16 * 1024 * 1024
MAX_WIDE: Final = 16
"""Grants of a wide window over all callers."""
MAX_WIDE_OF_CALLER: Final = 4
"""Of one caller. Further calls have the usual window."""


class CallerLoad:
    """What one caller has open, on whatever connections, each of which refers to this object.

    Attributes:
        open_calls: calls whose handlers have not ended.
        lasting_calls: those of them that last.
        held: bytes held for them.
        wide: grants of a wide window that were not released.
    """

    __slots__ = ("__weakref__", "held", "lasting_calls", "open_calls", "wide")

    def __init__(self) -> None:
        self.open_calls = 0
        self.lasting_calls = 0
        self.held = 0
        self.wide = 0


class ServerLoad:
    """The same over all callers."""

    def __init__(self) -> None:
        self.held = 0
        self.wide = 0
        self._of: WeakValueDictionary[object, CallerLoad] = WeakValueDictionary()

    def of(self, caller: object) -> CallerLoad:
        """That of one caller; forgotten when nobody refers to it."""
        load = self._of.get(caller)
        if load is None:
            load = self._of[caller] = CallerLoad()
        return load


class WideGrant:
    """Leave for one call to have a wide window, and for what it fills to be large; counted until it is released."""

    __slots__ = ("_caller", "_is_held", "_server")

    def __init__(self, server: ServerLoad, caller: CallerLoad) -> None:
        self._server = server
        self._caller = caller
        self._is_held = True
        server.wide += 1
        caller.wide += 1

    def release(self) -> None:
        """Nothing that it allows is left. Idempotent."""
        self._server.wide -= self._is_held
        self._caller.wide -= self._is_held
        self._is_held = False


class CallAccount:
    """The bytes held for one call; `set(0)` at its end.

    Attributes:
        apart: so many of them are not counted.
    """

    __slots__ = ("_caller", "_held", "_server", "apart")

    def __init__(self, server: ServerLoad, caller: CallerLoad) -> None:
        self._server = server
        self._caller = caller
        self._held = 0
        self.apart = 0

    def set(self, held: int) -> bool:
        """The call holds so many bytes from now on; False, with nothing changed, where that exceeds a bound."""
        held = max(0, held - self.apart)
        more = held - self._held
        if more > 0 and (self._server.held + more > MAX_HELD or self._caller.held + more > MAX_HELD_OF_CALLER):
            return False
        self._server.held += more
        self._caller.held += more
        self._held = held
        return True

    def widen(self) -> WideGrant | None:
        """A grant for the call to have a wide window, where there are not too many."""
        if self._server.wide >= MAX_WIDE or self._caller.wide >= MAX_WIDE_OF_CALLER:
            return None
        return WideGrant(self._server, self._caller)
