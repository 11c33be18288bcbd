"""Buffers for bulk data, between their filling and their encryption: a few, used again and again.

Making one anew for each piece costs as much as filling it, in cleared memory and in pages that the allocator gives back
to the kernel and takes again. Who takes a buffer owns it; encryption (`tls`) ends that, with the connection unaware.
So a connection whose peer takes nothing holds what was encrypted, and no buffer.
"""

from __future__ import annotations

from collections import deque
from typing import Final

KEPT: Final = 4
"""Buffers kept for the next one who needs one, in all."""
LEAST: Final = 64 * 1024
"""Bytes of a buffer that is worth keeping."""

_kept: Final[deque[bytearray]] = deque(maxlen=KEPT)


def take(size: int) -> bytearray:
    """A buffer of just that size; what is in it is not said."""
    if size >= LEAST and _kept:
        buffer = _kept.pop()
        if len(buffer) == size:
            return buffer
    return bytearray(size)


def give_back(buffer: bytearray) -> None:
    """Hands over a buffer whose bytes nobody needs any more."""
    if len(buffer) >= LEAST:
        _kept.append(buffer)
