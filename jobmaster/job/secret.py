"""Parts of a command that its caller wants nobody to read. Pure.

The process gets the true words, and so does whoever may read its /proc/PID/cmdline; everything that the server keeps, writes
or answers has `MASK` in the place of each secret: the record, the journal with its backups, the audit, the log.

A word of two megabytes may have all of the secrets, and the event loop looks for them: each word is encoded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from jobmaster.errors import InvalidRequest

MASK: Final = "***"
"""What a secret becomes, however long it is."""
MAX_SECRETS: Final = 64
"""Secrets of one command, each occurrence counted."""


@dataclass(frozen=True, slots=True)
class Secret:
    """Where one is: the bytes of a word's UTF-8 from `start` up to `end`; word 0 is the command, 1 its first argument."""

    word: int
    start: int
    end: int


def check_secrets(words: Sequence[str], secrets: Sequence[Secret]) -> None:
    """Looks whether a command has these secrets.

    Raises:
        InvalidRequest: they are too many, one is not in the command or begins within a character, or they are not in order.
    """
    if len(secrets) > MAX_SECRETS:
        raise InvalidRequest(f"more than {MAX_SECRETS} secrets: pass them in a file or by stdin", field="secrets")
    before, data = Secret(-1, 0, 0), b""
    for position, secret in enumerate(secrets):
        field = f"secrets[{position}]"
        if secret.word >= len(words):
            raise InvalidRequest(f"secret {position + 1} is in a word that the command does not have", field=field)
        if secret.word != before.word:
            data = _bytes_of(words[secret.word])
        if not 0 <= secret.start < secret.end <= len(data):
            raise InvalidRequest(f"secret {position + 1} is empty or not within its word", field=field)
        if _is_within_character(data, secret.start) or _is_within_character(data, secret.end):
            raise InvalidRequest(f"secret {position + 1} begins or ends within a character", field=field)
        if (secret.word, secret.start) < (before.word, before.end):
            raise InvalidRequest(
                f"secret {position + 1} is not behind the one before it: name them in their order", field=field
            )
        before = secret


def masked_words(words: Sequence[str], secrets: Sequence[Secret], mask: str = MASK) -> tuple[str, ...]:
    """The words of a command with a mask in the place of each of its secrets, which have been checked."""
    masked = list(words)
    for word, data, of_word in _by_word(words, secrets):
        ends = (0, *(secret.end for secret in of_word))
        starts = (*(secret.start for secret in of_word), len(data))
        masked[word] = mask.join(_text_of(data[end:start]) for end, start in zip(ends, starts, strict=True))
    return tuple(masked)


def values_of(words: Sequence[str], secrets: Sequence[Secret]) -> frozenset[bytes]:
    """The secrets themselves, which have been checked."""
    return frozenset(
        data[secret.start : secret.end] for _, data, of_word in _by_word(words, secrets) for secret in of_word
    )


def _by_word(words: Sequence[str], secrets: Sequence[Secret]) -> Iterator[tuple[int, bytes, list[Secret]]]:
    for word, of_word in groupby(secrets, lambda secret: secret.word):
        yield word, _bytes_of(words[word]), list(of_word)


def _is_within_character(data: bytes, position: int) -> bool:
    return position < len(data) and data[position] & 0xC0 == 0x80


def _bytes_of(word: str) -> bytes:
    return word.encode("utf-8", "surrogateescape")


def _text_of(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
