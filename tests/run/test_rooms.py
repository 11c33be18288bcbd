"""Whose outputs may grow."""

from __future__ import annotations

from jobmaster.run.rooms import Rooms


def test_one_client_is_blocked() -> None:
    """Its logs are told the bound, those of others are not, whether they were made before or are later."""
    rooms = Rooms()
    first = rooms.of("one")
    assert rooms.block("one", "too much")
    assert not rooms.block("one", "far too much")
    assert (first.why_full, rooms.of("other").why_full, rooms.why_full) == ("too much", None, None)
    assert rooms.of("one") is first


def test_all_are_blocked() -> None:
    """Clients that come later too, until there is room."""
    rooms = Rooms()
    first = rooms.of("one")
    assert rooms.block_all("too much")
    assert not rooms.block_all("too much")
    assert (first.why_full, rooms.of("other").why_full) == ("too much", "too much")
    assert not rooms.relax(-1)
    assert first.why_full == "too much"
    assert rooms.relax(0)
    assert [rooms.of(owner).why_full for owner in ("one", "other")] == [None, None]
    assert not rooms.relax(0)


def test_debts() -> None:
    """What others have lost in a client's stead is no room for it; what it gives is, and pays."""
    rooms = Rooms()
    room = rooms.of("one")
    rooms.block("one", "too much")
    rooms.note_evicted("one", 100)
    rooms.note_evicted("one", 50)
    assert rooms.debts == {"one": 150}
    assert not rooms.relax(149)
    rooms.release("one")
    assert room.why_full == "too much"
    rooms.note_given("one", 120)
    assert rooms.debts == {"one": 30}
    assert rooms.relax(30)
    assert rooms.of("one").why_full is None
    assert rooms.debts == {}
    rooms.block("one", "too much")
    rooms.release("one")
    assert rooms.of("one").why_full is None
