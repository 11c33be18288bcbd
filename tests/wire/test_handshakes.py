"""The pace of handshakes: so many pieces of work in a turn of the event loop, and nobody kept waiting for another's network."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
import trio.testing

from jobmaster.wire.handshakes import AT_A_TIME, Pace, PacedStream

CLIENTS = 40


class Turns(trio.abc.Instrument):
    """Counts the turns of the event loop."""

    number = 0

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002  # the signature is Trio's
        """A turn begins."""
        self.number += 1


async def pairs(count: int) -> list[tuple[trio.SocketStream, trio.SocketStream]]:
    """Connected TCP streams, both ends of each."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    made = []
    async with listener:
        for _ in range(count):
            near = await trio.testing.open_stream_to_socket_listener(listener)
            made.append((near, await listener.accept()))
    return made


async def test_no_turn_has_more_work_than_there_are_places() -> None:
    """However many clients send at once, their bytes are worked on a few in each turn, and all of them in the end."""
    turns = Turns()
    worked: Counter[int] = Counter()
    pace = Pace()
    ends = await pairs(CLIENTS)

    async def shake_hands(far: trio.SocketStream) -> None:
        paced = PacedStream(far, pace)
        for _ in range(3):
            assert await paced.receive_some(1) == b"x"
            worked[turns.number] += 1
        paced.done()
        await far.aclose()

    for near, _ in ends:
        await near.send_all(b"xxx")
    trio.lowlevel.add_instrument(turns)
    async with trio.open_nursery() as nursery:
        for _, far in ends:
            nursery.start_soon(shake_hands, far)
    trio.lowlevel.remove_instrument(turns)
    assert worked.total() == 3 * CLIENTS
    assert max(worked.values()) <= AT_A_TIME
    for near, _ in ends:
        await near.aclose()


async def test_who_waits_for_the_network_has_no_place() -> None:
    """As many silent clients as there are places do not keep another one out."""
    pace = Pace()
    ends = await pairs(AT_A_TIME + 1)
    async with trio.open_nursery() as nursery:
        for near, far in ends[:-1]:
            await near.send_all(b"x")
            silent = PacedStream(far, pace)
            assert await silent.receive_some(1) == b"x"
            nursery.start_soon(silent.receive_some, 1)
        await trio.testing.wait_all_tasks_blocked()
        near, far = ends[-1]
        await near.send_all(b"x")
        with trio.fail_after(10):
            assert await PacedStream(far, pace).receive_some(1) == b"x"
        nursery.cancel_scope.cancel()
    for pair in ends:
        for end in pair:
            await end.aclose()


@pytest.mark.parametrize("end", ["done", "send_all", "aclose", "wait_send_all_might_not_block"])
async def test_a_place_is_given_up_once(end: str) -> None:
    """By whatever comes after the work, and only once: then there is one place, not none and not two."""
    pace = Pace(places=1)
    ((near, far),) = await pairs(1)
    await near.send_all(b"x")
    paced = PacedStream(far, pace)
    await paced.receive_some(1)
    match end:
        case "send_all":
            await paced.send_all(b"y")
        case "aclose":
            await paced.aclose()
        case "wait_send_all_might_not_block":
            await paced.wait_send_all_might_not_block()
        case _:
            paced.done()
    paced.done()
    with trio.fail_after(10):
        await pace.enter()
    with trio.move_on_after(0.01) as scope:
        await pace.enter()
    assert scope.cancelled_caught
    await near.aclose()
    await far.aclose()


async def test_a_cancelled_wait_takes_no_place() -> None:
    """A client that is given up while it waits for a place leaves it to the next one."""
    pace = Pace(places=1)
    await pace.enter()
    ((near, far),) = await pairs(1)
    await near.send_all(b"x")
    paced = PacedStream(far, pace)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(paced.receive_some, 1)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    paced.done()
    pace.leave()
    with trio.fail_after(10):
        await pace.enter()
    await near.aclose()
    await far.aclose()
