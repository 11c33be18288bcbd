"""Sizes as people write them. Pure."""

from __future__ import annotations

import re
from typing import Final

UNLIMITED: Final = "max"
NUMBER_LENGTH: Final = 40
"""Digits of a number, at most: longer than any value that means something."""
_SIZE: Final = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)(?:(?P<suffix>[KMGT])i?)?B?", re.ASCII | re.IGNORECASE)
_FACTOR: Final = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_size(text: str) -> int | None:
    """Bytes from ``512M``, ``1.5GiB`` or ``4096``: factors of 1024; ``max`` is None.

    Raises:
        ValueError: the text is no such size.
    """
    if text == UNLIMITED:
        return None
    match = _SIZE.fullmatch(text)
    if match is None or len(text) > NUMBER_LENGTH:
        raise ValueError(f"{text!r} is not a size: use bytes, a number with K, M, G or T (of 1024), or max")
    whole, _, decimals = match["number"].partition(".")
    factor = _FACTOR[match["suffix"].upper()] if match["suffix"] else 1
    size: int = int(whole + decimals) * factor // 10 ** len(decimals)  # exact, rounded down
    return size


def size_text(count: int) -> str:
    """A size in the greatest unit that has it without a remainder: ``10G``, ``1536K``, ``1000``."""
    for suffix, factor in reversed(_FACTOR.items()):
        if count and count % factor == 0:
            return f"{count // factor}{suffix}"
    return str(count)
