"""Terminals that can be asked for, and those that cannot."""

from __future__ import annotations

import pytest

from jobmaster.errors import InvalidRequest
from jobmaster.job.specification import JobSpecification
from jobmaster.job.terminal import MOST_CELLS, Terminal, Window


@pytest.mark.parametrize("size", [1, 80, MOST_CELLS])
def test_sizes(size: int) -> None:
    """A terminal has as many rows and columns as the kernel counts."""
    assert Window(rows=size, columns=size).rows == size


def test_a_terminal_that_nobody_described() -> None:
    """It is of the size that terminals always had, and of a kind that every host knows."""
    assert Terminal() == Terminal(window=Window(rows=24, columns=80), term="xterm-256color")


@pytest.mark.parametrize(("rows", "columns", "field"), [(0, 80, "rows"), (24, 0, "columns"), (24, 65_536, "columns")])
def test_sizes_that_are_none(rows: int, columns: int, field: str) -> None:
    """A size that no terminal has is refused, and what of it is wrong is named."""
    with pytest.raises(InvalidRequest, match="1 to 65535") as refused:
        Window(rows=rows, columns=columns)
    assert refused.value.field == f"window.{field}"


@pytest.mark.parametrize("term", ["", "x" * 65, "xterm\n", "a b", "../x\0", "é", "$(id)"])
def test_names_that_are_none(term: str) -> None:
    """What cannot be the name of a terminal is refused: it becomes a variable of the job's environment."""
    with pytest.raises(InvalidRequest) as refused:
        Terminal(term=term)
    assert refused.value.field == "terminal.term"


def test_a_terminal_has_one_stream() -> None:
    """Stdout and stderr of a terminal cannot be apart."""
    with pytest.raises(InvalidRequest, match="one or the other"):
        JobSpecification(command="vi", terminal=Terminal(), separate_streams=True)
