"""What waits to be written: in which pieces it goes, and who is held back by it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.transport.outbox import CONTROL_LIMIT, HIGH_WATER, TURN, WRITE_SIZE, Outbox

SLOW_PEER: int = 256 * 1024


@given(st.lists(st.sampled_from([0, 1, 100, 9_000, 40_000, TURN]), max_size=30))
def test_all_goes_in_its_order(sizes: list[int]) -> None:
    """Small pieces go together up to a write's size, large ones alone, and none is lost, split or moved."""
    box = Outbox()
    pieces = [bytes([number]) * size for number, size in enumerate(sizes)]
    for piece in pieces:
        box.put(piece)
    taken = []
    while not box.is_empty:
        taken.append(box.take())
        assert len(taken[-1]) <= max(WRITE_SIZE, TURN)
    assert b"".join(taken) == b"".join(pieces)


def test_a_slow_peer_costs_no_more_than_was_chosen() -> None:
    """A sender that may put a turn just below the mark fills the box to 256 KiB."""
    assert HIGH_WATER + TURN <= SLOW_PEER


async def is_held_back(wait: Callable[[], Awaitable[None]]) -> bool:
    """Whether it does not return by itself."""
    with trio.move_on_after(1):
        await wait()
        return False
    return True


async def test_senders_wait_above_the_mark(autojump_clock: trio.testing.MockClock) -> None:
    """What has been taken still counts, until it is gone."""
    box = Outbox()
    box.put(bytes(HIGH_WATER - 1))
    assert not await is_held_back(box.wait_for_room)
    box.put(b"x")
    assert await is_held_back(box.wait_for_room)
    while not box.is_empty:
        box.take()
    assert await is_held_back(box.wait_for_room)
    box.gone(1)
    assert not await is_held_back(box.wait_for_room)


async def test_waiting_for_room_is_a_checkpoint() -> None:
    """A sender lets others have their turn even where there is room, but for one who asks not to."""
    with trio.testing.assert_checkpoints():
        await Outbox().wait_for_room()
    with trio.move_on_after(0) as scope:
        await Outbox().wait_for_room(at_once=True)
    assert scope.cancelled_caught


async def test_a_sender_at_once_waits_above_the_mark(autojump_clock: trio.testing.MockClock) -> None:
    """Where there is no room, nobody goes before the others."""
    box = Outbox()
    box.put(bytes(HIGH_WATER))
    assert await is_held_back(lambda: box.wait_for_room(at_once=True))


@pytest.mark.parametrize("limit", [0, CONTROL_LIMIT])
async def test_waiting_below_a_limit(limit: int, autojump_clock: trio.testing.MockClock) -> None:
    """The limit itself is below it."""
    box = Outbox()
    box.put(bytes(limit + 1))
    assert await is_held_back(lambda: box.wait_below(limit))
    box.take()
    box.gone(1)
    assert not await is_held_back(lambda: box.wait_below(limit))


async def test_work_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    """Until something is put, or the writer is woken for another reason."""
    box = Outbox()
    assert await is_held_back(box.wait_for_work)
    box.put(b"x")
    assert not await is_held_back(box.wait_for_work)
    box.wake()
    assert not await is_held_back(box.wait_for_work)
