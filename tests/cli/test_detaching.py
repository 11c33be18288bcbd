"""The keys that leave a terminal, by name and among others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.cli.detaching import DEFAULT_KEYS, NO_KEYS, KeyFilter, parse_keys


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (DEFAULT_KEYS, b"\x10\x11"),
        ("ctrl-@,ctrl-[,ctrl-],ctrl-_,ctrl-A", b"\x00\x1b\x1d\x1f\x01"),
        ("~,.", b"~."),
        ("c,t", b"ct"),
        (NO_KEYS, b""),
    ],
)
def test_names(text: str, keys: bytes) -> None:
    """Keys have the bytes that a terminal sends for them."""
    assert parse_keys(text) == keys


@pytest.mark.parametrize(
    "text", ["", "ctrl-", "ctrl-p,", "ctrl-1", "ctrl-pq", "pq", " ", "é", "ctrl-é", ",".join("a" * 17)]
)
def test_what_names_no_keys(text: str) -> None:
    """It is refused, with what would do."""
    with pytest.raises(ValueError, match="ctrl-p,ctrl-q"):
        parse_keys(text)


def test_the_sequence_is_found() -> None:
    """Also where it comes in pieces; what comes before it is the job's, what comes after is nobody's."""
    keys = KeyFilter(b"\x10\x11")
    assert (keys.feed(b"ls\x10"), keys.holds, keys.has_matched) == (b"ls", True, False)
    assert (keys.feed(b"\x11exit"), keys.holds, keys.has_matched) == (b"", False, True)


def test_what_is_held_back_is_given_back() -> None:
    """A first key that is followed by another one, or by none, is the job's after all."""
    keys = KeyFilter(b"\x10\x11")
    assert keys.feed(b"\x10") == b""
    assert keys.feed(b"\x10") == b"\x10"
    assert keys.feed(b"x") == b"\x10x"
    assert (keys.feed(b"\x10"), keys.release(), keys.holds, keys.release()) == (b"", b"\x10", False, b"")
    assert (keys.feed(b"\x11"), keys.has_matched) == (b"\x11", False)


def test_no_keys() -> None:
    """Where none detach, everything is the job's."""
    keys = KeyFilter(b"")
    assert (keys.feed(bytes(range(256))), keys.has_matched) == (bytes(range(256)), False)


@given(
    st.lists(st.sampled_from(b"abc"), min_size=1, max_size=4).map(bytes),
    st.lists(st.lists(st.sampled_from(b"abcd"), max_size=6).map(bytes), max_size=8),
)
def test_every_byte_before_the_sequence_is_passed_on(sequence: bytes, pieces: list[bytes]) -> None:
    """However it is cut into pieces: what is passed on and held back is what was typed, up to the sequence's first place."""
    keys = KeyFilter(sequence)
    passed = b""
    for piece in pieces:
        if not keys.has_matched:
            passed += keys.feed(piece)
    before, found, _ = b"".join(pieces).partition(sequence)
    assert keys.has_matched == bool(found)
    assert passed + keys.release() == before
