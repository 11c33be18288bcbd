"""Keys and values as TOML writes them (toml.io, v1.0.0), in ASCII: to be loaded again, and in what people are told. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

Scalar = str | int | float | bool
"""What a setting is written as."""

LONGEST_SHOWN: Final = 80
"""Characters of a key or value in a message."""
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


def value_text(value: Scalar) -> str:
    """A value as it stands behind the equals sign."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return quoted(value)
        case _:
            return repr(value)


def key_text(parts: Sequence[str]) -> str:
    """A dotted key, each part bare where it can be."""
    return ".".join(part if _BARE.fullmatch(part) else quoted(part) for part in parts)


def quoted(text: str) -> str:
    """A basic string; it has no character that a terminal or a log would take for anything but text."""
    return f'"{"".join(map(_escaped, text))}"'


def shown(text: str) -> str:
    """Text of somebody else in a message: one line, not too long, and nothing but itself."""
    return printable(f"{text[:LONGEST_SHOWN]}…" if len(text) > LONGEST_SHOWN else text)


def printable(text: object) -> str:
    """The same in its full length, as of a path."""
    return "".join(each if each.isprintable() else _escaped(each) for each in str(text))


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if " " <= character <= "~":
        return character
    return f"\\U{ord(character):08X}" if ord(character) > 0xFFFF else f"\\u{ord(character):04X}"
