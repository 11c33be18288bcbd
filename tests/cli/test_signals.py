"""Signals by their names and numbers."""

from __future__ import annotations

import signal

import pytest

from jobmaster.cli.signals import parse_signal, signal_name


@pytest.mark.parametrize("number", list(signal.Signals))
def test_each_name(number: signal.Signals) -> None:
    """Each signal is known by its name, with or without SIG, in either case, and by its number."""
    short = number.name.removeprefix("SIG")
    for text in (number.name, short, short.lower(), str(int(number))):
        assert parse_signal(text) == number
    assert signal_name(number) == number.name


@pytest.mark.parametrize("text", ["", "SIG", "0", "65", "-9", "+9", "9.0", "٩", "BLOCK", "SIG_DFL", "TERM ", "9" * 99])
def test_what_is_none(text: str) -> None:
    """It is refused, with what one looks like."""
    with pytest.raises(ValueError, match="is no signal: give a name, as TERM"):
        parse_signal(text)


def test_a_signal_without_a_name() -> None:
    """Its number says which it is."""
    assert (parse_signal("40"), signal_name(40)) == (40, "signal 40")
