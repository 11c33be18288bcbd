"""A value of the configuration file, as the parser of an option makes it of its text. Pure."""

from __future__ import annotations

import argparse
import enum
from typing import Any, Final

from jobmaster.errors import ConfigurationError
from jobmaster.server.options import new_parser
from jobmaster.server.toml_text import shown

LONGEST_VALUE: Final = 4096
"""Characters of a value (PATH_MAX)."""
_LARGEST_NUMBER: Final = 2**64


class Kind(enum.Enum):
    """What TOML may give for a key: its types, and words for them."""

    SWITCH = (bool,), "true or false"
    TEXT = (str,), "text in quotes"
    FOLDER = (str,), "an absolute path in quotes"
    SIZE = (int, str), 'a number of bytes, or text such as "512M"'
    COUNT = (int,), "a whole number"
    SECONDS = (int, float), "a number of seconds"
    RATE = (int, str), 'a whole number, or "max"'
    CORES = (int, float, str), 'a number such as 0.5, or "max"'

    def __init__(self, types: tuple[type, ...], words: str) -> None:
        self.types = types
        self.words = words

    def admits(self, value: object) -> bool:
        """Whether a value has one of its types; a bool is no int here."""
        return type(value) in self.types


def value_of_option(key: str, kind: Kind, action: argparse.Action, value: object) -> Any:
    """A value as the option's parser makes it of its text.

    Raises:
        ConfigurationError: it is of a wrong type, or what the option refuses; names the key.
    """
    if not kind.admits(value):
        raise ConfigurationError(f"{key} is {what(value)}: {kind.words} is needed")
    if isinstance(value, bool):
        return value
    text = _text(key, value)
    if kind is Kind.FOLDER and not text.startswith("/"):
        raise ConfigurationError(f"{key} is {shown(repr(text))}: {kind.words} is needed")
    if action.choices is not None and text not in action.choices:
        choices = ", ".join(map(repr, action.choices))
        raise ConfigurationError(f"{key} is {shown(repr(text))}: one of {choices} is needed")
    try:
        return action.type(text) if callable(action.type) else text
    except argparse.ArgumentTypeError as error:
        raise ConfigurationError(f"{key}: {error}") from None


def _text(key: str, value: object) -> str:
    match value:
        case int() if abs(value) >= _LARGEST_NUMBER:
            raise ConfigurationError(f"{key}: the number is too large")
        case str() if len(value) > LONGEST_VALUE:
            raise ConfigurationError(f"{key} has {len(value)} characters, more than {LONGEST_VALUE}")
        case str() if not value.isprintable():
            raise ConfigurationError(f"{key} is {shown(repr(value))}: no control characters may be in it")
    return str(value)


def what(value: object) -> str:
    """The type of a value, in words."""
    match value:
        case bool():
            return "true or false"
        case int():
            return "a whole number"
        case float():
            return "a number with decimals"
        case str():
            return "text"
        case dict():
            return "a table"
        case list():
            return "a list"
        case _:
            return "a date or time"


def _actions() -> dict[str, argparse.Action]:
    """The command line's options, by their names."""
    return dict(new_parser()._option_string_actions)


ACTIONS: Final = _actions()
