"""Pending bytes: in which pieces they are written, and which senders wait for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.wire.send_buffer import CONTROL_LIMIT, HIGH_WATER, QUANTUM, WRITE_SIZE, SendBuffer

SLOW_PEER: int = 256 * 1024


@given(st.lists(st.sampled_from([0, 1, 100, 9_000, 40_000, QUANTUM]), max_size=30))
def test_all_goes_in_its_order(sizes: list[int]) -> None:
    """Small pieces go together up to a write's size, large ones alone, and none is lost, split or moved."""
    buffer = SendBuffer()
    pieces = [bytes([number]) * size for number, size in enumerate(sizes)]
    for piece in pieces:
        buffer.put(piece)
    taken = []
    while not buffer.is_empty:
        taken.append(buffer.take())
        assert len(taken[-1]) <= max(WRITE_SIZE, QUANTUM)
    assert b"".join(taken) == b"".join(pieces)


def test_a_slow_peer_costs_no_more_than_was_chosen() -> None:
    """A sender that queues a quantum just below the mark fills the buffer to less than 256 KiB."""
    assert HIGH_WATER + QUANTUM <= SLOW_PEER


async def is_held_back(wait: Callable[[], Awaitable[None]]) -> bool:
    """Whether it does not return by itself."""
    with trio.move_on_after(1):
        await wait()
        return False
    return True


async def test_senders_wait_above_the_mark(autojump_clock: trio.testing.MockClock) -> None:
    """What has been taken is still pending, until it has been sent."""
    buffer = SendBuffer()
    buffer.put(bytes(HIGH_WATER - 1))
    assert not await is_held_back(buffer.wait_until_sendable)
    buffer.put(b"x")
    assert await is_held_back(buffer.wait_until_sendable)
    while not buffer.is_empty:
        buffer.take()
    assert await is_held_back(buffer.wait_until_sendable)
    buffer.sent(1)
    assert not await is_held_back(buffer.wait_until_sendable)


async def test_waiting_is_a_checkpoint() -> None:
    """A sender yields to other tasks also where it need not wait."""
    with trio.testing.assert_checkpoints():
        await SendBuffer().wait_until_sendable()


async def test_every_sender_is_served() -> None:
    """However many wait, each goes on in the end: also behind those who leave, and those who find nothing to send."""
    buffer = SendBuffer()
    buffer.put(bytes(HIGH_WATER))
    sent: list[int] = []
    scopes = [trio.CancelScope() for _ in range(30)]

    async def send(number: int) -> None:
        with scopes[number]:
            await buffer.wait_until_sendable()
            if number % 3 == 1:
                buffer.put(bytes(HIGH_WATER))
            sent.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(len(scopes)):
            nursery.start_soon(send, number)
        await trio.testing.wait_all_tasks_blocked()
        for scope in scopes[2::3]:
            scope.cancel()
        while not buffer.is_empty:
            buffer.sent(len(buffer.take()))
            await trio.testing.wait_all_tasks_blocked()
    assert sorted(sent) == [number for number in range(len(scopes)) if number % 3 != 2]


@pytest.mark.parametrize("number", [2, 3, 4, 5])
async def test_senders_take_turns(number: int) -> None:
    """A sender that has always more to send does not keep the others from their turns, however many there are."""
    buffer = SendBuffer()
    sent = dict.fromkeys(range(number), 0)

    async def send(sender: int) -> None:
        while True:
            await buffer.wait_until_sendable()
            buffer.put(bytes(QUANTUM))
            sent[sender] += 1

    async with trio.open_nursery() as nursery:
        for sender in sent:
            nursery.start_soon(send, sender)
        for _ in range(10 * number):
            await trio.testing.wait_all_tasks_blocked()
            while not buffer.is_empty:
                buffer.sent(len(buffer.take()))
        nursery.cancel_scope.cancel()
    assert min(sent.values()) >= 9


async def test_one_sender_is_woken_at_a_time() -> None:
    """Space wakes the sender who takes it, and one more who looks, not all who wait."""
    buffer = SendBuffer()
    buffer.put(bytes(HIGH_WATER))
    looks = 0

    async def send() -> None:
        nonlocal looks
        await buffer.wait_until_sendable()
        buffer.put(bytes(HIGH_WATER))

    class Count(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            nonlocal looks
            looks += task.name.endswith("send")

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(count := Count())
        buffer.sent(len(buffer.take()))
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(count)
        nursery.cancel_scope.cancel()
    assert looks == 2


@pytest.mark.parametrize("limit", [0, CONTROL_LIMIT])
async def test_waiting_below_a_limit(limit: int, autojump_clock: trio.testing.MockClock) -> None:
    """The limit itself is below it."""
    buffer = SendBuffer()
    buffer.put(bytes(limit + 1))
    assert await is_held_back(lambda: buffer.wait_below(limit))
    buffer.take()
    buffer.sent(1)
    assert not await is_held_back(lambda: buffer.wait_below(limit))


async def test_data_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    """Until something is put, or the writer is woken for another reason."""
    buffer = SendBuffer()
    assert await is_held_back(buffer.wait_for_data)
    buffer.put(b"x")
    assert not await is_held_back(buffer.wait_for_data)
    buffer.wake()
    assert not await is_held_back(buffer.wait_for_data)
