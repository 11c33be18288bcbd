"""gRPC message framing, sans-io.

A message on the wire is one byte of flags (1 = compressed), four bytes of big-endian length and the payload
(gRPC over HTTP/2, "Length-Prefixed-Message"). DATA frames cut that byte string wherever they like.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Final

from jobmaster.errors import TransportError

PREFIX: Final = struct.Struct(">BI")
PIECE_OVERHEAD: Final = 48
"""Bytes of memory that each piece of bytes costs beside its length: a message of two bytes would cost 20 times that."""


class MessageTooLarge(TransportError):
    """A length prefix announces more than this side takes."""


class MessageCompressed(TransportError):
    """The peer set the compressed flag; this side announces identity only."""


class MessageTruncated(TransportError):
    """The stream ended inside a message."""


def prefix_for(length: int) -> bytes:
    """The five bytes that go before an uncompressed payload of `length` bytes."""
    return PREFIX.pack(0, length)


class MessageDecoder:
    """Cuts messages out of a byte stream.

    Holds at most one unfinished message of at most `max_length` bytes: a longer one is refused at its prefix,
    before a byte of it is kept.
    """

    __slots__ = ("_held", "_held_length", "_max_length", "_wanted")

    def __init__(self, max_length: int) -> None:
        self._max_length = max_length
        self._held: deque[bytes] = deque()
        self._held_length = 0
        self._wanted: int | None = None

    @property
    def held(self) -> int:
        """Bytes of memory of an unfinished message, whose pieces may be small."""
        return self._held_length + PIECE_OVERHEAD * len(self._held)

    @property
    def is_between_messages(self) -> bool:
        """True when no part of a message is waiting for its rest."""
        return self._wanted is None and self._held_length == 0

    def feed(self, data: bytes) -> list[bytes]:
        """Takes the next bytes; returns the messages that they complete.

        Raises:
            MessageTooLarge: a prefix announces more than `max_length`.
            MessageCompressed: a prefix has its compressed flag set.
        """
        if data:
            self._held.append(data)
            self._held_length += len(data)
        messages = []
        while (message := self._next_message()) is not None:
            messages.append(message)
        return messages

    def _next_message(self) -> bytes | None:
        if self._wanted is None:
            if self._held_length < PREFIX.size:
                return None
            self._wanted = self._read_prefix()
        if self._held_length < self._wanted:
            return None
        message, self._wanted = self._take(self._wanted), None
        return message

    def _read_prefix(self) -> int:
        flags, length = PREFIX.unpack(self._take(PREFIX.size))
        if length > self._max_length:
            raise MessageTooLarge(f"message of {length} bytes; at most {self._max_length} are taken")
        if flags:
            raise MessageCompressed("compressed message; only identity encoding is taken")
        return int(length)

    def _take(self, count: int) -> bytes:
        """Removes and returns exactly `count` held bytes, copying each byte at most once more."""
        self._held_length -= count
        parts = []
        while count:
            head = self._held.popleft()
            if len(head) > count:
                self._held.appendleft(head[count:])
                head = head[:count]
            parts.append(head)
            count -= len(head)
        return parts[0] if len(parts) == 1 else b"".join(parts)
