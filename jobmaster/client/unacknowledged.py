"""The input that a client has sent, or is to send, and of which no server has said yet that it has it. Pure.

A server that takes over from one that died has every byte that was acknowledged, and tells how many more. So it is
enough to keep the others, and to send from there on again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from jobmaster.errors import JobmasterError

MOST_KEPT: Final = 2 * 1024 * 1024
"""Bytes that are kept before more is read; more than a server and its flow-control window hold, so that it never waits."""
PIECE_SIZE: Final = 64 * 1024 - 256
"""Bytes of one message, at most."""
LARGE_PIECE: Final = 96 * 1024 - 256
"""The same, as long as the server takes so much at once: a server holds what has begun to come. The C library takes memory of
128 KiB and more from the kernel and returns it each time, on both sides."""
_SMALL: Final = 16 * 1024
"""Bytes of what is joined to what came before it: each piece by itself costs memory."""


class InputLost(JobmasterError):
    """What the server has of the input is not what was sent to it: nothing is sent again, for it could come twice."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of the input; the last ones, where it `ends` behind them."""

    offset: int
    data: bytes
    ends: bool


class Unacknowledged:
    """Bytes of the input of one attachment, by their offsets in the job's whole input."""

    def __init__(self) -> None:
        self._base: int | None = None
        """The offset of the first byte that is kept; None until a server has told where this client begins."""
        self._kept = 0
        """Bytes that are kept: those that were sent in this call, then the others."""
        self._sent: deque[memoryview] = deque()
        self._sent_bytes = 0
        self._unsent: deque[memoryview] = deque()
        self._last = bytearray()
        """The last of them, where they came in small pieces."""
        self._has_end = self._closes = False
        self._is_end_sent = False
        self._may_send = False
        self._is_done = False

    @property
    def is_done(self) -> bool:
        """Whether the server has all, or the job takes no more."""
        return self._is_done

    @property
    def may_send(self) -> bool:
        """Whether the server of this call has told what it has."""
        return self._may_send

    @property
    def is_complete(self) -> bool:
        """Whether the server has all that was put, and there is no more."""
        return self._has_end and not self._kept

    @property
    def has_space(self) -> bool:
        """Whether more may be put."""
        return self._kept < MOST_KEPT

    def put(self, data: bytes) -> None:
        """More of the input, where there is space."""
        self._kept += len(data)
        if len(data) <= _SMALL:
            self._last += data
            if len(self._last) < PIECE_SIZE:
                return
            data = b""
        self._end_last()
        if data:
            self._unsent.append(memoryview(bytes(data)))

    def _end_last(self) -> None:
        if self._last:
            self._unsent.append(memoryview(bytes(self._last)))
            self._last.clear()

    def put_end(self, *, closes: bool) -> None:
        """There is no more. `closes`: the job is to read end-of-file."""
        self._has_end, self._closes = True, closes
        self._close_if_complete()

    def call_begins(self) -> None:
        """A new call, in which nothing is sent before its server has told what it has."""
        self._may_send = self._is_end_sent = False
        self._unsent.extendleft(reversed(self._sent))
        self._sent.clear()
        self._sent_bytes = 0

    def take(self, window: int = 0) -> Piece | None:
        """What is to be sent next; None where there is nothing now.

        Args:
            window: bytes that the server takes at once.
        """
        if self._is_done or not self._may_send or self._base is None:
            return None
        offset = self._base + self._sent_bytes
        data = self._take_bytes(LARGE_PIECE if window >= 128 * 1024 else PIECE_SIZE)
        ends = self._closes and self._sent_bytes == self._kept
        if not data and (not ends or self._is_end_sent):
            return None
        self._is_end_sent = ends
        return Piece(offset, data, ends)

    def _take_bytes(self, most: int) -> bytes:
        """The next bytes that have not been sent; they are from now on."""
        parts = []
        if not self._unsent:
            self._end_last()
        while most and self._unsent:
            part = self._unsent.popleft()
            if len(part) > most:
                self._unsent.appendleft(part[most:])
                part = part[:most]
            parts.append(part)
            most -= len(part)
        data = b"".join(parts)
        if data:
            self._sent.append(memoryview(data))
            self._sent_bytes += len(data)
        return data

    def acknowledge(self, offset: int) -> None:
        """The server has all bytes before this one.

        Raises:
            InputLost: it has fewer than it had, or more than it was sent.
        """
        if self._base is None:
            self._base = offset
        count = offset - self._base
        if not 0 <= count <= self._kept:
            raise InputLost(
                f"the server has {offset} bytes of the job's input, and this client has sent those from {self._base} to "
                f"{self._base + self._kept}: another client has written to it, or some of it was lost"
            )
        self._drop(count)
        self._base = offset
        self._may_send = True
        self._close_if_complete()

    def _drop(self, count: int) -> None:
        """Forgets the first bytes."""
        self._kept -= count
        self._sent_bytes = max(0, self._sent_bytes - count)
        if count > sum(map(len, self._sent)) + sum(map(len, self._unsent)):
            self._end_last()
        while count:
            pieces = self._sent or self._unsent
            first = pieces.popleft()
            if len(first) > count:
                pieces.appendleft(first[count:])
            count -= min(count, len(first))

    def _close_if_complete(self) -> None:
        if self.is_complete and not self._closes:
            self.close()

    def close(self) -> None:
        """Nothing more is to be sent: the server has the end, or the job takes no more."""
        self._is_done = True
