"""What is forgotten of whom, where all together have too much."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.journal.writing import surpluses


@pytest.mark.parametrize(
    ("counts", "most", "gone"),
    [
        ({}, 10, {}),
        ({"a": 10}, 10, {}),
        ({"a": 12}, 10, {"a": 2}),
        ({"a": 12, "b": 3}, 10, {"a": 5}),
        ({"a": 12, "b": 12}, 10, {"a": 7, "b": 7}),
        ({"a": 100, "b": 6, "c": 1}, 10, {"a": 96, "b": 2}),
    ],
)
def test_who_loses(counts: dict[str, int], most: int, gone: dict[str, int]) -> None:
    """Those who have more than a level lose what is above it."""
    assert surpluses(counts, most) == gone


@given(st.dictionaries(st.text("abcdefgh", max_size=2), st.integers(1, 1_000)), st.integers(0, 2_000))
def test_the_bound_holds_for_all(counts: dict[str, int], most: int) -> None:
    """What is left is no more than the bound, and less only by what cannot be shared out evenly."""
    gone = surpluses(counts, most)
    left = {owner: count - gone.get(owner, 0) for owner, count in counts.items()}
    assert sum(left.values()) <= most or not gone
    assert sum(left.values()) > most - len(counts) or not gone
    assert all(left[owner] == max(left.values()) for owner in gone)
