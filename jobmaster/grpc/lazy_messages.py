"""Messages whose content lies elsewhere until it is sent: it is read straight into the frames that carry it.

`StoredMessages` are a run of gRPC messages, serialized already but for a content that they share out among them: each
is a head (its length prefix, and what its serialization begins with) and the next stretch of the content. They are sent
in turns, as room and windows allow; a turn is a place in the run and the payloads of the frames that it fills.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from jobmaster.grpc.framing import prefix_for


class AtHand(Protocol):
    """Where content is read from without waiting."""

    def read_at_once(self, places: Sequence[memoryview], start: int) -> bool:
        """Fills the places with what begins at byte `start`; False when that would have to wait."""


class Content(AtHand, Protocol):
    """Bytes that are read when there is room to send them. Reading raises OSError where it fails."""

    length: int

    async def read(self, start: int, count: int) -> bytes:
        """`count` bytes from byte `start` on, less where it ends."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A part of a content, read already: what begins at byte `start`."""

    start: int
    data: bytes

    def read_at_once(self, places: Sequence[memoryview], start: int) -> bool:
        """As `AtHand` says; False for what is not in this part."""
        position = start - self.start
        for place in places:
            piece = self.data[position : position + len(place)]
            if len(piece) != len(place):
                return False
            place[:] = piece
            position += len(piece)
        return True


class StoredMessages:
    """See the module.

    Attributes:
        content: what the messages share out.
        length: bytes of them all, with their heads and prefixes.
    """

    def __init__(self, content: Content, largest: int, head_for: Callable[[int], bytes]) -> None:
        """Cuts `content` into messages with `largest` bytes of it each; `head_for` is given how many one has."""
        self.content = content
        self._segments: list[bytes | int] = []
        self.length = content.length
        for start in range(0, content.length, largest):
            share = min(largest, content.length - start)
            head = head_for(share)
            head = prefix_for(len(head) + share) + head
            self._segments += head, share
            self.length += len(head)

    def fill(self, payloads: Sequence[memoryview], offset: int, source: AtHand) -> bool:
        """Fills frames with what begins at byte `offset`; False where `source` has not all of that at hand."""
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
        return not places or source.read_at_once(places, start)

    async def load(self, offset: int, count: int) -> Loaded:
        """What of the content belongs to the `count` bytes from byte `offset` on, and a little more."""
        start = self._find(offset)[2]
        return Loaded(start, await self.content.read(start, count))

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
