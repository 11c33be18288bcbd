"""What the launcher knows of its children, over their lives."""

from __future__ import annotations

import pytest

from jobmaster.launcher.protocol import KEEPS_VERSION, KILL, Executed, Exited, Order, Phase
from jobmaster.launcher.protocol import Table as Row
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
    entry.died_at = 5
    assert table.died(entry, 0x2A00) == Exited(id="a", wait_status=0x2A00, phase=Phase.EXECUTED, died_at=5)
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


def test_another_server_is_told_first_of_the_child(table: Table) -> None:
    """Until its row was sent nothing else is told of a child; its row says what happened meanwhile."""
    entry = entry_of(table)
    entry.start_time, entry.died_at = 9, 2**60
    table.forget_server()
    assert table.settle(entry, Outcome(phase=Phase.EXECUTED)) is None
    rows = table.rows()
    assert table.died(entry, 7) is None
    assert list(rows) == [
        (Row(id="a", pid=100, start_time=9, phase=Phase.EXECUTED, wait_status=7, died_at=2**60), (6,))
    ]
    assert list(table.rows()) == []


def test_a_child_that_dies_after_its_row(table: Table) -> None:
    """It is told as to any server, though other rows are still to be sent."""
    table.add(Entry(id="b", pid=101, pidfd=8, output=9, errors=10))
    table.forget_server()
    rows = table.rows()
    assert next(rows) == (Row(id="a", pid=100, start_time=0, phase=Phase.HELD), (6, 5))
    first, second = table.living()
    assert table.died(second, 0) is None
    assert table.died(first, 0) == Exited(id="a", wait_status=0, phase=Phase.HELD)
    assert [message.id for message, _ in rows] == ["b"]


def test_a_released_child_has_no_row(table: Table) -> None:
    """What one server has recorded is not told to the next one, though it lives still."""
    table.release("a")
    table.forget_server()
    assert list(table.rows()) == []
    assert table.died(entry_of(table), 0) is None
    assert "a" not in table


def test_the_first_order_counts(table: Table) -> None:
    """It follows the row of its child; others, and those for unknown children, are dropped."""
    orders = [Order(id="a", kind="stop", at="now", by=by) for by in ("client1", "client2", None)]
    for order in (*orders, Order(id="b", kind="stop", at="now")):
        table.order(order)
    table.forget_server()
    assert [message for message, _ in table.rows()][1:] == orders[:1]


def test_an_order_to_kill_counts_more(table: Table) -> None:
    """It takes the place of the one before, and no other that of it."""
    orders = [Order(id="a", kind=kind, at="now", by="client1") for kind in ("stop", KILL, "stop")]
    for order in orders:
        table.order(order)
    table.forget_server()
    assert [message for message, _ in table.rows()][1:] == orders[1:2]


def keeping_table() -> Table:
    """A table with one child, of which two descriptors are kept."""
    table = Table()
    table.add(Entry(id="a", pid=100, pidfd=5, output=6, errors=7, keeps={"stdin": 8, "input": 9}))
    table.forget_server()
    return table


def test_what_is_kept_is_given_back() -> None:
    """The row of a child names what is kept for it, and the descriptors follow in that order."""
    row = Row(id="a", pid=100, start_time=0, phase=Phase.HELD, keeps=("stdin", "input"))
    assert list(keeping_table().rows()) == [(row, (6, 5, 8, 9))]


def test_an_older_server_is_not_given_what_it_does_not_know() -> None:
    """A server of the version before takes a row with the descriptors that it expects, and no more."""
    row = Row(id="a", pid=100, start_time=0, phase=Phase.HELD)
    assert list(keeping_table().rows(KEEPS_VERSION - 1)) == [(row, (6, 5))]


def test_what_is_kept_is_closed_once() -> None:
    """What a server asks for is taken out, what there is not (any more) is passed over, and the rest stays."""
    table = keeping_table()
    assert table.take_kept("a", ("stdin", "terminal")) == (8,)
    assert table.take_kept("a", ("stdin",)) == table.take_kept("b", ("input",)) == ()
    assert [descriptors for _, descriptors in table.rows()] == [(6, 5, 9)]
