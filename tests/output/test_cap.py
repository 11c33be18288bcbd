"""How large an output may be."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.output.cap import SMALLEST, Cap, Range, without
from jobmaster.output.holes import BLOCK

GIB = 2**30
CAPS = st.integers(SMALLEST, 4 * GIB).map(Cap)


@pytest.mark.parametrize("size", [0, 1, SMALLEST - 1])
def test_the_smallest(size: int) -> None:
    """A cap that leaves no room for a head and a chunk does not exist."""
    with pytest.raises(ValueError, match=f"{SMALLEST} bytes at least"):
        Cap(size)


def test_a_gibibyte() -> None:
    """Of the default cap a quarter is the head, and 16 MiB are dropped at a time."""
    assert (Cap(GIB).head, Cap(GIB).chunk) == (GIB // 4, 16 * 2**20)


@given(CAPS, st.lists(st.floats(0.001, 1), max_size=60))
def test_an_output_that_grows(cap: Cap, moves: list[float]) -> None:
    """Whatever comes, a chunk at a time at most, the cap is kept; the head stays, and the rest is the newest."""
    size = kept = cap.size
    dropped_end = 0
    for share in moves:
        count = max(1, int(share * cap.chunk))
        size, kept = size + count, kept + count
        assert kept <= cap.size + cap.chunk
        end = cap.dropped_end(max(cap.head, dropped_end), kept, size)
        if end is not None:
            assert end % BLOCK == cap.head % BLOCK == 0
            assert max(cap.head, dropped_end) < end <= size
            kept -= end - max(cap.head, dropped_end)
            dropped_end = end
        assert cap.size - cap.chunk <= kept <= cap.size
        assert dropped_end == 0 or kept == cap.head + size - dropped_end


BLOCKS = st.integers(0, 40)


@given(BLOCKS, BLOCKS, st.lists(st.tuples(st.integers(0, 40 * BLOCK), st.integers(0, 5 * BLOCK)), max_size=5))
def test_pins(first: int, count: int, pins: list[Range]) -> None:
    """What is free and what is held make up the range, of whole blocks, and no pinned byte is free."""
    start, end = first * BLOCK, (first + count) * BLOCK
    pinned = [(low, low + length) for low, length in pins]
    free, held = without((start, end), pinned)
    parts = sorted([*free, *held])
    assert sum(high - low for low, high in parts) == end - start
    assert all(low < high and low % BLOCK == high % BLOCK == 0 for low, high in parts)
    assert all(earlier[1] <= later[0] for earlier, later in pairwise(parts))
    for low, high in pinned:
        assert not any(max(low, a) < min(high, b) for a, b in free)
