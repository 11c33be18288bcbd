"""One epoll and its timers: all that the launcher ever waits for.

Time in which this process was suspended (SIGSTOP, a pause of its virtual machine) does not count: what waits longer than it
was to moves all timers on by that. It never waits for more than half of the time to the next one, so that a suspension that
ends shortly before that is seen as well.
"""

from __future__ import annotations

import heapq
import itertools
import select
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable


LATE_SECONDS: Final = 1.0
"""A delay that counts as time; ordinary ones on a busy host are shorter."""
SHORT_SECONDS: Final = 1.0
"""To a timer that is no further away it waits at once."""


class Poller:
    """Calls a handler for each descriptor that is ready, and a callback when its time has come.

    Attributes:
        on_suspended: told for how many seconds this process was suspended.

    A handler may be called without need (its descriptor's number was closed and opened again meanwhile), so handlers
    never block.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self.on_suspended: Callable[[float], None] = lambda _seconds: None

    def watch(self, fd: int, handler: Callable[[], None], *, readable: bool = True, writable: bool = False) -> None:
        """Calls `handler` whenever the descriptor is ready; once more for a descriptor changes what for."""
        events = (select.EPOLLIN if readable else 0) | (select.EPOLLOUT if writable else 0)
        if fd in self._handlers:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def forget(self, fd: int) -> None:
        """Stops watching. Before the descriptor is closed: a duplicate in a child would keep it in the epoll."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Calls back once, after that time."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), callback))

    def run_once(self) -> None:
        """Waits until something is ready or due, and calls what is."""
        for fd, _ in self._wait():
            handler = self._handlers.get(fd)
            if handler is not None:
                handler()
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()

    def _wait(self) -> list[tuple[int, int]]:
        if not self._timers:
            return self._epoll.poll()
        begun = time.monotonic()
        left = max(0.0, self._timers[0][0] - begun)
        planned = min(left, max(SHORT_SECONDS, left / 2))
        ready = self._epoll.poll(planned)
        late = time.monotonic() - begun - planned
        if late > LATE_SECONDS:
            self._timers = [(due + late, number, callback) for due, number, callback in self._timers]  # still a heap
            self.on_suspended(late)
        return ready
