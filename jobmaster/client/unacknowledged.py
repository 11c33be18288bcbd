"""The input that a client has sent, or is to send, and of which no server has said yet that it has it. Pure.

A server that takes over from one that died has every byte that was acknowledged, and tells how many more. So it is
enough to keep the others, and to send from there on again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from jobmaster.errors import JobmasterError

MOST_KEPT: Final = 256 * 1024
"""Bytes that are kept before more is read; more than a server and its flow-control window hold, so that it never waits."""
PIECE_SIZE: Final = 64 * 1024 - 256
"""Bytes of one message."""


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
        self._kept = bytearray()
        self._sent = 0
        """Of the bytes that are kept, how many were sent in this call."""
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
        return len(self._kept) < MOST_KEPT

    def put(self, data: bytes) -> None:
        """More of the input, where there is space."""
        self._kept += data

    def put_end(self, *, closes: bool) -> None:
        """There is no more. `closes`: the job is to read end-of-file."""
        self._has_end, self._closes = True, closes
        self._close_if_complete()

    def call_begins(self) -> None:
        """A new call, in which nothing is sent before its server has told what it has."""
        self._may_send = self._is_end_sent = False
        self._sent = 0

    def take(self) -> Piece | None:
        """What is to be sent next; None where there is nothing now."""
        if self._is_done or not self._may_send or self._base is None:
            return None
        data = bytes(self._kept[self._sent : self._sent + PIECE_SIZE])
        ends = self._closes and self._sent + len(data) == len(self._kept)
        if not data and (not ends or self._is_end_sent):
            return None
        offset = self._base + self._sent
        self._sent += len(data)
        self._is_end_sent = ends
        return Piece(offset, data, ends)

    def acknowledge(self, offset: int) -> None:
        """The server has all bytes before this one.

        Raises:
            InputLost: it has fewer than it had, or more than it was sent.
        """
        if self._base is None:
            self._base = offset
        count = offset - self._base
        if not 0 <= count <= len(self._kept):
            raise InputLost(
                f"the server has {offset} bytes of the job's input, and this client has sent those from {self._base} to "
                f"{self._base + len(self._kept)}: another client has written to it, or some of it was lost"
            )
        del self._kept[:count]
        self._base = offset
        self._sent = max(0, self._sent - count)
        self._may_send = True
        self._close_if_complete()

    def _close_if_complete(self) -> None:
        if self.is_complete and not self._closes:
            self.close()

    def close(self) -> None:
        """Nothing more is to be sent: the server has the end, or the job takes no more."""
        self._is_done = True
