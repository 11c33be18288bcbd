"""Sizes are told as they are read."""

from __future__ import annotations

import pytest

from jobmaster.sizes import parse_size, size_text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (1000, "1000"),
        (1024, "1K"),
        (1536 * 1024, "1536K"),
        (10 * 1024**3, "10G"),
        (2**40, "1T"),
        (1025 * 2**40, "1025T"),
    ],
)
def test_size_text(size: int, text: str) -> None:
    """The greatest unit that has it without a remainder, and what is read of it is the same."""
    assert size_text(size) == text
    assert parse_size(text) == size
