"""Buffers that are used again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobmaster.http2 import buffers


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    """Each test begins with none, and leaves none to others."""
    buffers._kept.clear()
    yield
    buffers._kept.clear()


def test_one_that_was_given_back_is_taken_again() -> None:
    """Once, and only by one who needs that size."""
    buffer = buffers.take(buffers.LEAST)
    buffers.give_back(buffer)
    assert buffers.take(buffers.LEAST) is buffer
    assert buffers.take(buffers.LEAST) is not buffer
    buffers.give_back(buffer)
    other = buffers.take(buffers.LEAST + 1)
    assert len(other) == buffers.LEAST + 1


def test_no_more_are_kept_than_was_chosen() -> None:
    """However many come back at a time; small ones are not worth it."""
    for _ in range(3 * buffers.KEPT):
        buffers.give_back(bytearray(buffers.LEAST))
        buffers.give_back(bytearray(buffers.LEAST - 1))
    assert [len(each) for each in buffers._kept] == [buffers.LEAST] * buffers.KEPT
