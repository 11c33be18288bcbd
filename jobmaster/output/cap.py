"""How large an output may be, and what goes when it is larger. Pure.

Of an output that is larger than its cap the first quarter and the newest rest are kept. What is between is dropped, a chunk
at a time: so there are never more bytes on the disk than the cap and a chunk, but for what followers are being sent.

The index may take an eighth of the cap (`INDEX_SHARE`) beside it. It keeps to that by itself where times are all that it has
to tell; an output whose stream changes from byte to byte needs more, and what it has above its share is taken from the cap.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from jobmaster.output.holes import BLOCK

SMALLEST: Final = 256 * 1024
"""Bytes of a cap, at least: a quarter of it is the smallest chunk."""
INDEX_SHARE: Final = 8
"""The index may take one of so many shares of the cap."""
_SMALLEST_CHUNK: Final = 64 * 1024
_CHUNKS: Final = 64

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Cap:
    """How many bytes of an output are kept.

    Attributes:
        ends_job: the job is ended when there are so many, and nothing is dropped.
    """

    size: int
    ends_job: bool = False

    def __post_init__(self) -> None:
        if self.size < SMALLEST:
            raise ValueError(f"an output's cap is {SMALLEST} bytes at least, not {self.size}")

    @property
    def head(self) -> int:
        """Bytes of the beginning that are never dropped."""
        return self.size // 4 // BLOCK * BLOCK

    @property
    def chunk(self) -> int:
        """Bytes that are dropped at a time."""
        return max(_SMALLEST_CHUNK, self.size // _CHUNKS // BLOCK * BLOCK)

    def taken(self, kept: int, index_size: int) -> int:
        """Bytes of the cap that are taken.

        Args:
            kept: bytes of the output that are there.
            index_size: bytes of their index.
        """
        return kept + max(0, index_size - self.size // INDEX_SHARE)

    def head_end(self, size: int, index_size: int) -> int:
        """How far the beginning reaches, of so many bytes, that is never dropped: a quarter of the cap, with its index."""
        room = self.head - max(0, index_size - self.size // INDEX_SHARE)
        return max(0, min(size, room)) // BLOCK * BLOCK

    def dropped_end(self, begin: int, kept: int, size: int, index_size: int = 0) -> int | None:
        """Where the dropped range is to end, for the cap to be kept; None where it is kept.

        Args:
            begin: where what is to be dropped begins.
            kept: bytes that are there.
            size: the offset behind them.
            index_size: bytes of their index, of which so much goes with them as they have.
        """
        taken = self.taken(kept, index_size)
        if taken <= self.size:
            return None
        chunk = max(BLOCK, self.chunk * kept // taken // BLOCK * BLOCK)
        excess = -(-(taken - self.size) * kept // taken)
        end = min(begin + -(-excess // chunk) * chunk, size // BLOCK * BLOCK)
        return end if end > begin else None


def without(range_: Range, pinned: Iterable[Range]) -> tuple[list[Range], list[Range]]:
    """A range of whole blocks as what is free of pins, and what is not; both in order, and of whole blocks."""
    start, end = range_
    free, held = [], []
    for first, last in sorted(pinned):
        low = max(start, first // BLOCK * BLOCK)
        high = min(end, -(-last // BLOCK) * BLOCK)
        if low >= high:
            continue
        if low > start:
            free.append((start, low))
        held.append((low, high))
        start = high
    if start < end:
        free.append((start, end))
    return free, held
