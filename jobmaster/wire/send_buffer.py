"""The bytes that wait to be written to a peer, and who waits for their going: the back-pressure of one connection.

Several tasks put, one takes. What has been taken counts until it is `gone`, so that a peer who takes nothing stops the
senders at the same mark, whatever is under way.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import trio

HIGH_WATER: Final = 32 * 1024
"""Bytes above which senders wait; with one `TURN` on top, 224 KiB are queued for a slow peer. No more is held: what TLS
was handed counts until it is gone, and is there once, encrypted (`tls`)."""
TURN: Final = 192 * 1024
"""Bytes that a sender may put before the others have their turn."""
CONTROL_LIMIT: Final = 1024 * 1024
"""Bytes above which nothing more is read from the peer: what it makes us answer comes without a sender's leave."""
WRITE_SIZE: Final = 128 * 1024
"""Bytes taken in one go, about."""
_ALONE: Final = 32 * 1024
"""Bytes of a piece that is taken alone: to copy it together with others would cost more than a write."""


class Outbox:
    """See the module."""

    def __init__(self) -> None:
        self._pieces: deque[bytes | bytearray] = deque()
        self._size = 0
        self._work = trio.lowlevel.ParkingLot()
        self._woken = False
        self._room = trio.lowlevel.ParkingLot()
        self._going = trio.lowlevel.ParkingLot()

    @property
    def size(self) -> int:
        """Bytes that have been put and are not gone."""
        return self._size

    @property
    def is_empty(self) -> bool:
        """True when there is nothing to take."""
        return not self._pieces

    def put(self, data: bytes | bytearray) -> None:
        """Adds bytes, whatever the size: who may is asked before."""
        self._pieces.append(data)
        self._size += len(data)
        if self._work:
            self._work.unpark()

    def take(self) -> bytes | bytearray:
        """The next bytes to write, as whole pieces, up to about `WRITE_SIZE`; only where the box is not empty."""
        first = self._pieces.popleft()
        size = len(first)
        if size >= _ALONE or not self._pieces:
            return first
        pieces = [first]
        while self._pieces and size + len(self._pieces[0]) <= WRITE_SIZE:
            size += len(self._pieces[0])
            pieces.append(self._pieces.popleft())
        return b"".join(pieces)

    def gone(self, count: int) -> None:
        """That many bytes of those taken have been written."""
        self._size -= count
        if self._going:
            self._going.unpark_all()
        if self._room and self._size < HIGH_WATER:
            self._room.unpark()

    def wake(self) -> None:
        """Has `wait_for_work` return, with work or without."""
        self._woken = True
        self._work.unpark()

    async def wait_for_work(self) -> None:
        """Waits until there is something to take, or `wake` was called."""
        while not (self._pieces or self._woken):
            await self._work.park()
        self._woken = False

    async def wait_for_room(self, *, at_once: bool = False) -> None:
        """Waits until a sender may put a turn.

        Always a checkpoint; `at_once`, where there is room, only one that may be cancelled. Of those who wait, one is
        woken, and that one wakes the next, who finds room where it was not used: a hundred need not look each time.
        """
        if self._size < HIGH_WATER:
            if at_once:
                await trio.lowlevel.checkpoint_if_cancelled()
            else:
                await trio.lowlevel.checkpoint()
        while self._size >= HIGH_WATER:
            await self._room.park()
            if self._size < HIGH_WATER:
                self._room.unpark()

    async def wait_below(self, limit: int) -> None:
        """Waits until at most `limit` bytes are left."""
        while self._size > limit:
            await self._going.park()
