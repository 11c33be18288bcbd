"""What waits to be written: in which pieces it goes, and who is held back by it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.wire.send_buffer import CONTROL_LIMIT, HIGH_WATER, TURN, WRITE_SIZE, Outbox

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


async def test_every_sender_has_its_turn() -> None:
    """However many wait, each goes on in the end: also behind those who leave, and those who find nothing to send."""
    box = Outbox()
    box.put(bytes(HIGH_WATER))
    sent: list[int] = []
    scopes = [trio.CancelScope() for _ in range(30)]

    async def send(number: int) -> None:
        with scopes[number]:
            await box.wait_for_room()
            if number % 3 == 1:
                box.put(bytes(HIGH_WATER))
            sent.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(len(scopes)):
            nursery.start_soon(send, number)
        await trio.testing.wait_all_tasks_blocked()
        for scope in scopes[2::3]:
            scope.cancel()
        while not box.is_empty:
            box.gone(len(box.take()))
            await trio.testing.wait_all_tasks_blocked()
    assert sorted(sent) == [number for number in range(len(scopes)) if number % 3 != 2]


async def test_one_sender_is_woken_for_one_turn() -> None:
    """A turn's room wakes the one who takes it, and one more who looks, not all who wait."""
    box = Outbox()
    box.put(bytes(HIGH_WATER))
    looks = 0

    async def send() -> None:
        nonlocal looks
        await box.wait_for_room()
        box.put(bytes(HIGH_WATER))

    class Count(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            nonlocal looks
            looks += task.name.endswith("send")

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(count := Count())
        box.gone(len(box.take()))
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(count)
        nursery.cancel_scope.cancel()
    assert looks == 2


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
