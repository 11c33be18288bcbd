"""Times, and signals, as a command line says them. Pure."""

from __future__ import annotations

import re
from typing import Final

from jobmaster.cli.signals import parse_signal

_DURATION: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)?", re.ASCII)
_MILLISECONDS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_duration(text: str) -> int:
    """Milliseconds from `500ms`, `90s`, `1.5h` or `2d`; a number alone is one of seconds.

    Raises:
        ValueError: it is no duration, or none that is longer than nothing.
    """
    found = _DURATION.fullmatch(text)
    milliseconds = round(float(found[1]) * _MILLISECONDS[found[2] or "s"]) if found else 0
    if milliseconds <= 0:
        raise ValueError(f"{text!r} is no time: say 500ms, 90s, 10m, 1.5h or 2d")
    return milliseconds


def parse_interval(text: str) -> int:
    """As `parse_duration`, from 100 milliseconds to a minute.

    Raises:
        ValueError: it is none.
    """
    milliseconds = parse_duration(text)
    if not 100 <= milliseconds <= _MILLISECONDS["m"]:
        raise ValueError(f"{text!r} is no interval: say one from 100ms to 60s")
    return milliseconds


def parse_grace(text: str) -> int:
    """As `parse_duration`; also 0, and an hour at most.

    Raises:
        ValueError: it is none.
    """
    if text == "0":
        return 0
    milliseconds = parse_duration(text)
    if milliseconds > _MILLISECONDS["h"]:
        raise ValueError(f"{text!r} is longer than a grace period can be, which is an hour")
    return milliseconds


def parse_warning(text: str) -> tuple[int, int]:
    """How long before, and by which signal, from `30s=SIGUSR1`; the signal is 0 where none is said.

    Raises:
        ValueError: it is neither; says what is wrong.
    """
    before, separator, name = text.partition("=")
    return parse_duration(before), parse_signal(name) if separator else 0
