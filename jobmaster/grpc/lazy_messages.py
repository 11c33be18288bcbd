"""Messages whose content is read only when they are sent, straight into the DATA frames.

`StoredMessages` are a run of gRPC messages that share out one content: each consists of a head (the length prefix and
the first bytes of its serialization) and the next part of the content. It is a `DataSource` of the connection: filled
in as far as windows and the send buffer permit, without waiting where the content is in the page cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from jobmaster.grpc.framing import prefix_for


class Content(Protocol):
    """Bytes that are read when they can be sent. Where reading fails, its error is the call's."""

    length: int

    def read_at_once(self, places: Sequence[memoryview], start: int) -> bool:
        """Fills the places with the bytes from `start` on; False where that would have to wait."""

    async def read(self, start: int, count: int) -> bytes:
        """`count` bytes from byte `start` on, less where the content ends."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A part of the content that has been read."""

    start: int
    data: bytes

    def read_at_once(self, places: Sequence[memoryview], start: int) -> bool:
        """As `Content.read_at_once`; False for what is not in this part."""
        position = start - self.start
        for place in places:
            piece = self.data[position : position + len(place)]
            if len(piece) != len(place):
                return False
            place[:] = piece
            position += len(piece)
        return True


class StoredMessages:
    """A run of messages. `length` counts the bytes of them all, with their prefixes and heads."""

    def __init__(self, content: Content, largest: int, head_for: Callable[[int], bytes]) -> None:
        """Cuts `content` into messages with `largest` bytes of it each; `head_for` is called with how many one has."""
        self._content = content
        self._loaded: _Loaded | None = None
        self._segments: list[bytes | int] = []
        self.length = content.length
        for start in range(0, content.length, largest):
            share = min(largest, content.length - start)
            head = head_for(share)
            head = prefix_for(len(head) + share) + head
            self._segments += head, share
            self.length += len(head)

    def fill(self, offset: int, payloads: Sequence[memoryview]) -> bool:
        """Writes what begins at byte `offset` into the payloads; False where it has to be loaded first."""
        index, done, start = self._find(offset)
        segments = iter(self._segments[index:])
        segment = next(segments)
        places = []
        for payload in payloads:
            while payload:
                size = segment if isinstance(segment, int) else len(segment)
                if size == 0:
                    raise IndexError("beyond the last message")
                count = min(len(payload), size - done)
                if isinstance(segment, int):
                    places.append(payload[:count])
                else:
                    payload[:count] = segment[done : done + count]
                payload, done = payload[count:], done + count
                if done == size:
                    segment, done = next(segments, b""), 0
        if not places:
            return True
        source, self._loaded = self._loaded or self._content, None
        return source.read_at_once(places, start)

    async def load(self, offset: int, count: int) -> None:
        """Reads what of the content belongs to the `count` bytes from byte `offset` on, for the next `fill`.

        Raises what the content does where it cannot be read.
        """
        start = self._find(offset)[2]
        self._loaded = _Loaded(start, await self._content.read(start, count))

    def _find(self, offset: int) -> tuple[int, int, int]:
        """Byte `offset` as a segment's index and a place in it, and where in the content what follows begins."""
        start = 0
        for index, segment in enumerate(self._segments):
            size = segment if isinstance(segment, int) else len(segment)
            if offset < size:
                return index, offset, start + (offset if isinstance(segment, int) else 0)
            offset -= size
            start += segment if isinstance(segment, int) else 0
        raise IndexError("beyond the last message")
