"""The bytes of a connection that are pending: queued by senders, not yet taken by the peer.

Several tasks queue, one task sends. Bytes count as pending until the TCP socket has taken them, so that a peer who
takes nothing stops the senders at the same mark, whatever the sending task has in its hands.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import trio

HIGH_WATER: Final = 32 * 1024
"""Pending bytes at which senders wait; with one `QUANTUM` on top, 224 KiB are queued for a slow peer."""
QUANTUM: Final = 192 * 1024
"""Bytes that a sender may queue in one go, before the other senders have theirs."""
CONTROL_LIMIT: Final = 1024 * 1024
"""Pending bytes above which nothing is read from the peer: acknowledgements and resets are queued without waiting."""
WRITE_SIZE: Final = 128 * 1024
"""Bytes of small pieces that are joined to one write, about."""
_ALONE: Final = 32 * 1024
"""Bytes of a piece that is written alone: joining it to others would cost more than a write."""


class SendBuffer:
    """A queue of frames with a high-water mark."""

    def __init__(self) -> None:
        self._pieces: deque[bytes | bytearray] = deque()
        self._pending = 0
        self._writer = trio.lowlevel.ParkingLot()
        self._woken = False
        self._has_ended = False
        self._senders = trio.lowlevel.ParkingLot()
        self._first_senders = trio.lowlevel.ParkingLot()
        """Those whose turn has come and who found no space then: before all others."""
        self._drained = trio.lowlevel.ParkingLot()

    @property
    def pending(self) -> int:
        """Bytes that have been queued and not yet been sent."""
        return self._pending

    @property
    def is_full(self) -> bool:
        """Whether a sender has to wait."""
        return self._pending >= HIGH_WATER

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to take."""
        return not self._pieces

    def put(self, data: bytes | bytearray) -> None:
        """Queues bytes, also above the high-water mark, which is for senders to respect."""
        self._pieces.append(data)
        self._pending += len(data)
        if self._writer:
            self._writer.unpark()

    def take(self) -> bytes | bytearray:
        """The next bytes to write, as whole pieces, up to about `WRITE_SIZE`; only where it is not empty."""
        first = self._pieces.popleft()
        size = len(first)
        if size >= _ALONE or not self._pieces:
            return first
        pieces = [first]
        while self._pieces and size + len(self._pieces[0]) <= WRITE_SIZE:
            size += len(self._pieces[0])
            pieces.append(self._pieces.popleft())
        return b"".join(pieces)

    def sent(self, count: int) -> None:
        """So many bytes of those taken have been sent."""
        self._pending -= count
        if self._drained:
            self._drained.unpark_all()
        if self._pending < HIGH_WATER:
            self._wake_sender()

    def _wake_sender(self) -> None:
        (self._first_senders or self._senders).unpark()

    def wake(self) -> None:
        """Makes `wait_for_data` return, whether there is data or not."""
        self._woken = True
        self._writer.unpark()

    def end(self) -> None:
        """Nothing will be sent any more: no sender waits, now or later."""
        self._has_ended = True
        self._first_senders.unpark_all()
        self._senders.unpark_all()

    async def wait_for_data(self) -> None:
        """Waits until there is something to take, or `wake` was called."""
        while not (self._pieces or self._woken):
            await self._writer.park()
        self._woken = False

    async def wait_until_sendable(self) -> None:
        """Waits until fewer than `HIGH_WATER` bytes are pending, or `end` was called. A checkpoint.

        One waiting sender is woken at a time; it wakes the next, who finds space where the first has not used it, and
        else stays the next. So each has its turn, however much the others have to send.
        """
        if self._pending < HIGH_WATER or self._has_ended:
            await trio.lowlevel.checkpoint()
        lot = self._senders
        while self._pending >= HIGH_WATER and not self._has_ended:
            await lot.park()
            lot = self._first_senders
            if self._pending < HIGH_WATER:
                self._wake_sender()

    async def wait_below(self, limit: int) -> None:
        """Waits until at most `limit` bytes are pending."""
        while self._pending > limit:
            await self._drained.park()
