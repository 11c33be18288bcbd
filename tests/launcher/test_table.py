"""What the launcher knows of its children, over their lives."""

from __future__ import annotations

import pytest

from jobmaster.launcher.protocol import Executed, Exited, Phase
from jobmaster.launcher.table import Entry, Outcome, Table


@pytest.fixture
def table() -> Table:
    """A table with one child, held."""
    table = Table()
    table.add(Entry(id="a", pid=100, pidfd=5, output=6, errors=7))
    return table


def entry_of(table: Table) -> Entry:
    """The living entry."""
    (entry,) = table.living()
    return entry


def test_a_life(table: Table) -> None:
    """An exec and a death are told once each; the entry stays until the server has recorded the end."""
    entry = entry_of(table)
    assert table.settle(entry, Outcome(phase=Phase.EXECUTED)) == Executed(id="a")
    assert table.died(entry, 0x2A00) == Exited(id="a", wait_status=0x2A00, phase=Phase.EXECUTED)
    assert "a" in table
    assert table.release("a") is entry
    assert "a" not in table
    assert len(table) == 0


def test_a_failure_is_told_with_the_death(table: Table) -> None:
    """Why the command was not executed is part of the end, and no message of its own."""
    entry = entry_of(table)
    assert table.settle(entry, Outcome(phase=Phase.FAILED, stage="exec", errno=8)) is None
    assert table.died(entry, 0x7F00) == Exited(id="a", wait_status=0x7F00, phase=Phase.FAILED, stage="exec", errno=8)


def test_a_reaped_pid_is_nobodys(table: Table) -> None:
    """After a child's death its pid may be another process's, so the entry is found by id alone."""
    entry = entry_of(table)
    assert table.by_pid(100) is entry
    table.died(entry, 0)
    assert table.by_pid(100) is None
    assert list(table.living()) == []


def test_the_pid_may_be_another_childs(table: Table) -> None:
    """A child that has the pid of one that died is its own entry."""
    table.died(entry_of(table), 0)
    successor = Entry(id="b", pid=100, pidfd=8, output=9, errors=10)
    table.add(successor)
    assert table.by_pid(100) is successor


def test_released_while_it_lives(table: Table) -> None:
    """A child that nobody asks about stays until it has died, and nothing is told of it."""
    entry = entry_of(table)
    assert table.release("a") is entry
    assert "a" in table
    assert table.settle(entry, Outcome(phase=Phase.EXECUTED)) is None
    assert table.died(entry, 9) is None
    assert "a" not in table


def test_unknown_ids(table: Table) -> None:
    """An acknowledgement that comes twice changes nothing."""
    assert table.release("b") is None
    table.died(entry_of(table), 0)
    table.release("a")
    assert table.release("a") is None
