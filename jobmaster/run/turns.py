"""Turns at something that all clients share: of each client, a few calls have it at a time, and its others wait for them.

So a client that asks for much waits for itself alone: what another client asks for comes after a few of its questions, and
not after hundreds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from jobmaster.errors import ServerBusy

OF_CLIENT: Final = 2
"""Turns that a client has at a time."""
WAIT_SECONDS: Final = 10.0
"""How long a call waits for one."""


class Turns:
    """Who has a turn, and who waits for one; the calls that wait are bounded by the calls a client may make."""

    def __init__(self, of_client: int = OF_CLIENT, *, wait_seconds: float = WAIT_SECONDS) -> None:
        self._of_client = of_client
        self._wait_seconds = wait_seconds
        self._clients: dict[str, trio.CapacityLimiter] = {}

    @property
    def clients(self) -> set[str]:
        """Those who have a turn or wait for one."""
        return set(self._clients)

    @asynccontextmanager
    async def of(self, client: str) -> AsyncIterator[None]:
        """A turn of this client's for the block.

        Raises:
            ServerBusy: the client's other calls have not come to their end in time.
        """
        limiter = self._clients.setdefault(client, trio.CapacityLimiter(self._of_client))
        try:
            await self._acquire(limiter, client)
            try:
                yield
            finally:
                limiter.release()
        finally:
            statistics = limiter.statistics()
            if not (statistics.borrowed_tokens or statistics.tasks_waiting):
                self._clients.pop(client, None)

    async def _acquire(self, limiter: trio.CapacityLimiter, client: str) -> None:
        with trio.move_on_after(self._wait_seconds) as waiting:
            await limiter.acquire()
        if waiting.cancelled_caught:
            raise ServerBusy(
                f"{client} has more calls under way than are answered in {self._wait_seconds:.0f} s; try again later"
            )
