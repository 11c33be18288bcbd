"""One epoll and its timers: all that the launcher ever waits for."""

from __future__ import annotations

import heapq
import itertools
import select
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Poller:
    """Calls a handler for each descriptor that is ready, and a callback when its time has come.

    A handler may be called without need (its descriptor's number was closed and opened again meanwhile), so handlers
    never block.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

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
        timeout = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
        for fd, _ in self._epoll.poll(timeout):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler()
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()
