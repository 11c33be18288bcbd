"""Where a command has what nobody is to read: the server is told the places, never the values. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from jobmaster.jobs.v1 import jobs_pb2 as pb


def secret_ranges(words: Iterable[str], secrets: Iterable[str]) -> list[pb.SecretRange]:
    """Every place where a word has a secret, in order; places that touch or overlap are one.

    Args:
        words: the command and its arguments.
        secrets: the values; an empty one is nowhere.

    Raises:
        ValueError: a value is not UTF-8, as words are; does not show it.
    """
    secrets = tuple(secrets)
    if not all(map(is_text, secrets)):
        raise ValueError("a secret is not UTF-8, as commands are, so that none can have it")
    values = [value.encode() for value in secrets if value]
    return [
        pb.SecretRange(word=number, start=start, end=end)
        for number, word in enumerate(words)
        for start, end in _joined(sorted(place for value in values for place in _places(word.encode(), value)))
    ]


def is_text(value: str) -> bool:
    """Whether a value has a form in UTF-8; other bytes Python shows as surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _places(word: bytes, value: bytes) -> Iterator[tuple[int, int]]:
    """Where a value begins and ends, also where it overlaps itself."""
    start = word.find(value)
    while start >= 0:
        yield start, start + len(value)
        start = word.find(value, start + 1)


def _joined(places: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    joined: tuple[int, int] | None = None
    for start, end in places:
        if joined is not None and start <= joined[1]:
            joined = joined[0], max(joined[1], end)
            continue
        if joined is not None:
            yield joined
        joined = start, end
    if joined is not None:
        yield joined
