"""Turns at something that all clients share: of each client, a few calls have it at a time, and its others wait for them.

So a client that asks for much waits for itself alone: what another client asks for comes after a few of its questions, and
not after hundreds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

OF_CLIENT: Final = 2
"""Turns that a client has at a time."""


class Turns:
    """Who has a turn, and who waits for one; the calls that wait are bounded by the calls a client may make."""

    def __init__(self, of_client: int = OF_CLIENT) -> None:
        self._of_client = of_client
        self._clients: dict[str | None, trio.CapacityLimiter] = {}

    @property
    def clients(self) -> set[str | None]:
        """Those who have a turn or wait for one."""
        return set(self._clients)

    @asynccontextmanager
    async def of(self, client: str | None) -> AsyncIterator[None]:
        """A turn of this client's (None: of the admins together) for the block."""
        limiter = self._clients.setdefault(client, trio.CapacityLimiter(self._of_client))
        try:
            async with limiter:
                yield
        finally:
            statistics = limiter.statistics()
            if not (statistics.borrowed_tokens or statistics.tasks_waiting):
                self._clients.pop(client, None)
