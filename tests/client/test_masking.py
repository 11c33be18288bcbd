"""Where a command has a secret."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.api.messages import specification_of
from jobmaster.client.masking import secret_ranges
from jobmaster.jobs.v1 import jobs_pb2 as pb


def places(words: list[str], secrets: list[str]) -> list[tuple[int, int, int]]:
    """The places as numbers."""
    return [(each.word, each.start, each.end) for each in secret_ranges(words, secrets)]


def test_every_place_is_found() -> None:
    """In each word, more than once in one; what overlaps or touches is one place; an empty secret is nowhere."""
    assert places(["x", "pw=pw", "é pw"], ["pw", ""]) == [(1, 0, 2), (1, 3, 5), (2, 3, 5)]
    assert places(["aaa", "abcd"], ["aa", "ab", "bcd", "cd"]) == [(0, 0, 3), (1, 0, 4)]
    assert places(["none"], ["pw"]) == []


def test_a_secret_that_is_no_text() -> None:
    """A secret that no command can have is refused, and is in no error's text."""
    with pytest.raises(ValueError, match="a secret is not UTF-8") as caught:
        places(["cat"], ["hunter2\udcff"])
    assert "hunter2" not in str(caught.value)
    assert caught.value.__context__ is None


@given(st.lists(st.text("abé", max_size=6), min_size=1, max_size=4), st.lists(st.text("abé", max_size=3), max_size=3))
def test_no_secret_is_left(args: list[str], secrets: list[str]) -> None:
    """A server takes every place that is found, and none of the words has a secret any more."""
    words = ["cat", *args]
    message = pb.JobCreateRequest(command=words[0], args=args, secrets=secret_ranges(words, secrets))
    specification = specification_of(message)
    assert specification.argv == tuple(words)
    for word in specification.masked_argv:
        assert not any(secret in part for part in word.split("***") for secret in secrets if secret)
