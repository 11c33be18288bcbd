"""Handshakes a few at a time: a thousand clients that come back together do not stop the event loop.

Theory of operation: what a handshake computes (a signature, the verification of a chain; some 2 ms with P-384) lies
between two calls to the stream under TLS: the one by which bytes came in, and the next one, whichever that is. A
`PacedStream` has its place in the pace between just those two, and waits for one after bytes have come. A place that is
given up is taken in the next turn of the loop at the earliest, so that no turn has more of that work than `AT_A_TIME`
pieces; nobody waits for the network in a place.
"""

from __future__ import annotations

from typing import Final

import trio

AT_A_TIME: Final = 4


class Pace:
    """The places of all handshakes of a listener."""

    def __init__(self, places: int = AT_A_TIME) -> None:
        self._places = trio.Semaphore(places)

    async def enter(self) -> None:
        """Takes a place; waits for one where there is none."""
        await self._places.acquire()

    def leave(self) -> None:
        """Gives it up."""
        self._places.release()


class PacedStream(trio.abc.Stream):
    """A TCP stream for the time of its TLS handshake; `done` ends that time."""

    def __init__(self, tcp: trio.abc.Stream, pace: Pace) -> None:
        self._tcp = tcp
        self._pace = pace
        self._has_place = False

    def done(self) -> None:
        """The handshake has been computed, or given up."""
        if self._has_place:
            self._has_place = False
            self._pace.leave()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As the TCP stream; returns when what has come may be worked on."""
        self.done()
        data = bytes(await self._tcp.receive_some(max_bytes))
        await self._pace.enter()
        self._has_place = True
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As the TCP stream."""
        self.done()
        await self._tcp.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As the TCP stream."""
        self.done()
        await self._tcp.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """As the TCP stream."""
        self.done()
        await self._tcp.aclose()
