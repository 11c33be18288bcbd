"""A few handshakes at a time: a thousand clients that reconnect together do not stop the event loop.

What a handshake computes (a signature, the verification of a chain; some 2 ms with P-384) happens between two calls to
the TCP stream under TLS: the `receive_some` that returned the peer's bytes, and the next call, whichever that is. So a
connection takes a slot when it has received bytes and releases it with its next call. Nobody waits for the network with
a slot. A slot that was released is taken in the next pass of the event loop at the earliest, so that no pass computes
more than `AT_A_TIME` of these steps.
"""

from __future__ import annotations

from typing import Final

import trio

AT_A_TIME: Final = 4


class HandshakePace:
    """The slots of all handshakes of a listener."""

    def __init__(self, slots: int = AT_A_TIME) -> None:
        self._slots = trio.Semaphore(slots)

    def slot(self) -> HandshakeSlot:
        """For one connection."""
        return HandshakeSlot(self._slots)


class HandshakeSlot:
    """What one connection holds, or does not."""

    def __init__(self, slots: trio.Semaphore) -> None:
        self._slots = slots
        self._is_held = False

    async def acquire(self) -> None:
        """Waits for a slot. A checkpoint."""
        await self._slots.acquire()
        self._is_held = True

    def release(self) -> None:
        """Gives it back, where it is held."""
        if self._is_held:
            self._is_held = False
            self._slots.release()
