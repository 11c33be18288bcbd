"""The pace of handshakes: so many steps in a pass of the event loop, and nobody waits for another's network."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
import trio.testing

from jobmaster.wire.handshakes import AT_A_TIME, HandshakePace
from jobmaster.wire.tcp import TcpStream

CLIENTS = 40


class Passes(trio.abc.Instrument):
    """Counts the passes of the event loop."""

    number = 0

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002  # the signature is Trio's
        """A pass begins."""
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


async def test_no_pass_has_more_work_than_there_are_slots() -> None:
    """However many clients send at once, their bytes are worked on a few in each pass, and all of them in the end."""
    passes = Passes()
    worked: Counter[int] = Counter()
    pace = HandshakePace()
    ends = await pairs(CLIENTS)

    async def shake_hands(far: trio.SocketStream) -> None:
        paced = TcpStream(far, slot=pace.slot())
        for _ in range(3):
            assert await paced.receive_some(1) == b"x"
            worked[passes.number] += 1
        paced.handshake_done()
        await far.aclose()

    for near, _ in ends:
        await near.send_all(b"xxx")
    trio.lowlevel.add_instrument(passes)
    async with trio.open_nursery() as nursery:
        for _, far in ends:
            nursery.start_soon(shake_hands, far)
    trio.lowlevel.remove_instrument(passes)
    assert worked.total() == 3 * CLIENTS
    assert max(worked.values()) <= AT_A_TIME
    for near, _ in ends:
        await near.aclose()


async def test_who_waits_for_the_network_has_no_slot() -> None:
    """As many silent clients as there are slots do not keep another one out."""
    pace = HandshakePace()
    ends = await pairs(AT_A_TIME + 1)
    async with trio.open_nursery() as nursery:
        for near, far in ends[:-1]:
            await near.send_all(b"x")
            silent = TcpStream(far, slot=pace.slot())
            assert await silent.receive_some(1) == b"x"
            nursery.start_soon(silent.receive_some, 1)
        await trio.testing.wait_all_tasks_blocked()
        near, far = ends[-1]
        await near.send_all(b"x")
        with trio.fail_after(60):
            assert await TcpStream(far, slot=pace.slot()).receive_some(1) == b"x"
        nursery.cancel_scope.cancel()
    for pair in ends:
        for end in pair:
            await end.aclose()


@pytest.mark.parametrize("end", ["done", "send_all", "aclose", "receive_some"])
async def test_a_slot_is_released_once(end: str) -> None:
    """By whatever comes after the work, and only once: then there is one slot, not none and not two."""
    pace = HandshakePace(slots=1)
    ((near, far),) = await pairs(1)
    await near.send_all(b"x")
    paced = TcpStream(far, slot=pace.slot())
    await paced.receive_some(1)
    match end:
        case "send_all":
            await paced.send_all(b"y")
        case "aclose":
            await paced.aclose()
        case "receive_some":
            with trio.move_on_after(0):
                await paced.receive_some(1)
        case _:
            paced.handshake_done()
    paced.handshake_done()
    with trio.fail_after(60):
        await pace.slot().acquire()
    with trio.move_on_after(0.01) as scope:
        await pace.slot().acquire()
    assert scope.cancelled_caught
    await near.aclose()
    await far.aclose()


async def test_a_cancelled_wait_takes_no_slot() -> None:
    """A client that is given up while it waits for a slot leaves it to the next one."""
    pace = HandshakePace(slots=1)
    taken = pace.slot()
    await taken.acquire()
    ((near, far),) = await pairs(1)
    await near.send_all(b"x")
    paced = TcpStream(far, slot=pace.slot())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(paced.receive_some, 1)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    paced.handshake_done()
    taken.release()
    with trio.fail_after(60):
        await pace.slot().acquire()
    await near.aclose()
    await far.aclose()
