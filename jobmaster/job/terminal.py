"""A terminal as a caller asks for it. Pure; values that exist are valid."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from jobmaster.errors import InvalidRequest

MOST_CELLS: Final = 65_535
"""Rows or columns: struct winsize of ioctl_tty(2) has 16 bits for each."""
DEFAULT_TERM: Final = "xterm-256color"
_TERM: Final = re.compile(r"[A-Za-z0-9._+-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The size of a terminal.

    Raises:
        InvalidRequest: a terminal has no such size.
    """

    rows: int = 24
    columns: int = 80

    def __post_init__(self) -> None:
        for name, value in (("rows", self.rows), ("columns", self.columns)):
            if not 1 <= value <= MOST_CELLS:
                raise InvalidRequest(f"{value} {name}: a terminal has 1 to {MOST_CELLS}", field=f"window.{name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """What a job is given for a terminal.

    Attributes:
        window: its size at first.
        term: what kind of terminal it is, by the names of terminfo(5): the job's TERM.

    Raises:
        InvalidRequest: `term` is no such name.
    """

    window: Window = Window()
    term: str = DEFAULT_TERM

    def __post_init__(self) -> None:
        if _TERM.fullmatch(self.term) is None:
            raise InvalidRequest("term has to be 1 to 64 letters, digits and '._+-'", field="terminal.term")
