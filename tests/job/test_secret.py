"""Secrets of a command: which places are taken, and what is left of the words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.errors import InvalidRequest
from jobmaster.job.secret import MASK, MAX_SECRETS, Secret, check_secrets, masked_words, values_of
from jobmaster.job.specification import CommandLine, JobSpecification

WORDS = ("curl", "-u", "me:hunter2", "é€x")


def test_each_place_is_masked() -> None:
    """Of any word, the command too, more than once in one, at its ends; the length is not told."""
    secrets = (Secret(0, 0, 4), Secret(2, 0, 2), Secret(2, 3, 10), Secret(3, 2, 5))
    check_secrets(WORDS, secrets)
    assert masked_words(WORDS, secrets) == (MASK, "-u", f"{MASK}:{MASK}", f"é{MASK}x")
    assert values_of(WORDS, secrets) == {b"curl", b"me", b"hunter2", "€".encode()}


@given(st.lists(st.tuples(st.text("aé€😀"), st.text("bß", min_size=1), st.text("cç")), min_size=1, max_size=5))
def test_what_is_around_a_secret_stays(parts: list[tuple[str, str, str]]) -> None:
    """Whatever characters there are before it and behind it."""
    words = ["".join(each) for each in parts]
    secrets = [
        Secret(number, len(before.encode()), len((before + secret).encode()))
        for number, (before, secret, _) in enumerate(parts)
    ]
    check_secrets(words, secrets)
    assert masked_words(words, secrets) == tuple(f"{before}{MASK}{after}" for before, _, after in parts)


@pytest.mark.parametrize(
    ("secrets", "field", "reason"),
    [
        ((Secret(4, 0, 1),), "secrets[0]", "a word that the command does not have"),
        ((Secret(0, 0, 5),), "secrets[0]", "not within its word"),
        ((Secret(0, 4, 5),), "secrets[0]", "not within its word"),
        ((Secret(0, 2, 2),), "secrets[0]", "empty"),
        ((Secret(0, 3, 2),), "secrets[0]", "empty"),
        ((Secret(0, 0, 1), Secret(3, 1, 2)), "secrets[1]", "within a character"),
        ((Secret(3, 0, 3),), "secrets[0]", "within a character"),
        ((Secret(1, 0, 1), Secret(0, 0, 1)), "secrets[1]", "in their order"),
        ((Secret(0, 0, 2), Secret(0, 1, 3)), "secrets[1]", "in their order"),
        ((Secret(0, 0, 1),) * (MAX_SECRETS + 1), "secrets", f"more than {MAX_SECRETS} secrets"),
    ],
)
def test_places_that_are_none(secrets: tuple[Secret, ...], field: str, reason: str) -> None:
    """They are refused, and named by number alone."""
    with pytest.raises(InvalidRequest, match=reason) as refused:
        JobSpecification(command=WORDS[0], args=WORDS[1:], secrets=secrets)
    assert refused.value.field == field
    assert not any(word in str(refused.value) for word in WORDS)


class Counted(str):
    """A word that knows how often it was encoded."""

    __slots__ = ("encoded",)

    def __init__(self, _: str) -> None:
        self.encoded = 0

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        """Its bytes."""
        self.encoded += 1
        return super().encode(encoding, errors)


def test_a_word_of_many_secrets_is_encoded_once() -> None:
    """What the secrets of a long word cost does not grow with their number."""
    secrets = [Secret(word, start, start + 1) for word in (0, 1) for start in range(0, MAX_SECRETS, 2)]
    for looks in (check_secrets, masked_words, values_of):
        words = [Counted("a" * 100) for _ in range(2)]
        looks(words, secrets)
        assert [word.encoded for word in words] == [1, 1]


def test_a_command_is_masked_once() -> None:
    """All that is kept and said of it is made of the same words."""
    specification = JobSpecification(command="login", args=("hunter2",), secrets=(Secret(1, 0, 7),))
    assert specification.masked_argv is specification.masked_argv
    assert specification.masked_argv == ("login", MASK)


def test_what_is_kept_and_said_of_a_command() -> None:
    """A record's command and what a log is told have the mask; the process gets the words as they are."""
    specification = JobSpecification(
        command="my-hunter2", args=("hunter2",), secrets=(Secret(0, 3, 10), Secret(1, 0, 7))
    )
    kept = CommandLine.of(specification)
    assert (kept.command, list(kept.args)) == (f"my-{MASK}", [MASK])
    assert "hunter2" not in f"{specification!r}{kept!r}"
    assert specification.argv == ("my-hunter2", "hunter2")
