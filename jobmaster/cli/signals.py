"""Signals by their names and numbers, which are those of Linux on every host but a few rare ones."""

from __future__ import annotations

import signal
from typing import Final

TERM: Final = int(signal.SIGTERM)
LAST: Final = 64
"""SIGRTMAX (signal(7))."""


def parse_signal(text: str) -> int:
    """The number of a signal that is called by it or by its name, as KILL or SIGKILL.

    Raises:
        ValueError: there is none.
    """
    if text.isascii() and text.isdecimal() and len(text) <= len(str(LAST)) and 1 <= int(text) <= LAST:
        return int(text)
    name = text.upper()
    found = signal.Signals.__members__.get(name if name.startswith("SIG") else f"SIG{name}")
    if found is None or not text.isascii():
        raise ValueError(f"{text!r} is no signal: give a name, as TERM, or a number from 1 to {LAST}")
    return int(found)


def signal_name(number: int) -> str:
    """The name of a signal, as SIGKILL; of one without a name, its number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
