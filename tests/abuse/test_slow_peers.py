"""Peers that do not take, do not answer or are not there any more."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.abuse.attack import WORST_STALL_MS
from tests.abuse.attacker import (
    INITIAL_WINDOW_SIZE,
    LARGEST_WINDOW,
    attacking,
    call,
    window_update,
)
from tests.abuse.network import own_network
from tests.abuse.program import HANG_GUARD, Program, Report, attacked, bystander

pytestmark = pytest.mark.abuse

TCP_REPAIR: Final = 19
"""The socket option of linux/tcp.h by which a connection vanishes without a packet, for one who may (CAP_NET_ADMIN)."""
READER_KIB: Final = 2 * 1024
HANDLER_KIB: Final = 64
"""What a handler may cost that waits, its task and the message in its hand included."""
FOLLOWERS: Final = 40
FOLLOWER_KIB: Final = 256 + HANDLER_KIB + 64
"""What is queued and encrypted for it, its handler, and what lies idle between pieces of memory."""
STUCK_KIB: Final = 128
"""What is held for it at least, if it was served at all."""
SETTLED: Final = 30
"""Reports in a row, of some tenths of a millisecond each."""
GRANTED: Final = 10_000
"""Bytes."""
WIDE_OPEN: Final = window_update(0, LARGEST_WINDOW - 65_535)
FLOODS: Final = 100
CONNECTIONS: Final = 3
LARGE_ANSWERS: Final = 99
RESOURCE_EXHAUSTED: Final = b"8"
WAITING_KIB: Final = 32 * 1024
"""What may be held of one caller's answers, 16 MiB, and as much for what is being made."""


async def test_reader_that_takes_nothing(certificates: Path) -> None:
    """To one who opens every window and reads nothing, little is sent, and the connection ends after the stall's time."""
    async with attacked(certificates, "--stall", "2") as program:
        growth, worst = await flooded(program, 1)
    assert growth < READER_KIB
    assert worst.worst_busy_ms < WORST_STALL_MS


async def test_many_streams_of_a_reader_that_takes_nothing(certificates: Path) -> None:
    """A hundred output streams on such a connection cost no more than their handlers and what one stream costs."""
    async with attacked(certificates, "--stall", "2") as program:
        growth, worst = await flooded(program, FLOODS)
    assert growth < FLOODS * HANDLER_KIB
    assert worst.worst_busy_ms < WORST_STALL_MS


async def flooded(program: Program, calls: int) -> tuple[int, Report]:
    """Asks for so many streams and reads none, until the server closes: the growth in KiB, and the worst meanwhile."""
    async with bystander(program) as other:
        before = await program.mark()
        opened = attacking(program, (INITIAL_WINDOW_SIZE, LARGEST_WINDOW), reads=False)
        async with other.calling(), opened as attacker:
            streams = range(1, 1 + 2 * calls, 2)
            await attacker.send(WIDE_OPEN + b"".join(call(stream_id, "Flood") for stream_id in streams))
            await program.until(lambda now: now.peak_handlers >= calls)
            await program.until(lambda now: now.connections == before.connections)
        worst = await program.report()
        await program.until_nothing_is_left(before)
    growth = worst.peak_rss_kib - before.rss_kib
    print(f"{calls} streams: memory +{growth} KiB, stall {worst.worst_stall_ms} ms (own {worst.worst_busy_ms})")
    return growth, worst


async def test_slow_followers(certificates: Path) -> None:
    """Followers of a job that take nothing cost a connection's bound each, with all that is held for them."""
    async with attacked(certificates) as program, AsyncExitStack() as stack:
        entry = INITIAL_WINDOW_SIZE, LARGEST_WINDOW
        followers = [
            await stack.enter_async_context(attacking(program, entry, reads=False)) for _ in range(FOLLOWERS + 1)
        ]
        await followers.pop().send(WIDE_OPEN + call(1, "Output"))
        before = await settled(program)
        for follower in followers:
            await follower.send(WIDE_OPEN + call(1, "Output"))
            await settled(program)
        after = await program.report()
        assert after.running_handlers == FOLLOWERS + 1
    each = (after.rss_kib - before.rss_kib) / FOLLOWERS
    print(f"a follower that takes nothing: {each:.0f} KiB")
    assert STUCK_KIB < each < FOLLOWER_KIB


async def settled(program: Program) -> Report:
    """The first report after many with the same memory: whatever was sent is stuck by then."""
    last, same = await program.report(), 0
    with trio.fail_after(HANG_GUARD):
        while same < SETTLED:
            now = await program.report()
            same = same + 1 if now.rss_kib == last.rss_kib else 0
            last = now
    return last


async def test_windows_that_stay_shut(certificates: Path) -> None:
    """A caller who grants no window for an output stream is sent none of it, and is served in all else."""
    async with attacked(certificates) as program:
        before = await program.mark()
        async with attacking(program, (INITIAL_WINDOW_SIZE, 0)) as attacker:
            await attacker.send(call(1, "Flood") + call(3, "Nope"))
            assert await attacker.answer(3) is not None
            assert attacker.data_taken == 0
            await attacker.send(window_update(1, GRANTED))
            await attacker.until(lambda: attacker.data_taken >= GRANTED)
            assert attacker.data_taken == GRANTED
        await program.until_nothing_is_left(before)


async def test_large_answers_to_windows_that_stay_shut(certificates: Path) -> None:
    """Answers that wait for a window are held for a caller up to a bound, on all its connections; further ones fail."""
    async with attacked(certificates) as program, bystander(program) as other, AsyncExitStack() as stack:
        before = await program.mark()
        greedy = [
            await stack.enter_async_context(attacking(program, (INITIAL_WINDOW_SIZE, 0))) for _ in range(CONNECTIONS)
        ]
        streams = range(1, 1 + 2 * LARGE_ANSWERS, 2)
        for attacker in greedy:
            await attacker.send(
                b"".join(call(stream_id, "Large") for stream_id in streams) + call(streams.stop, "Nope")
            )
            assert await attacker.answer(streams.stop) is not None
        statuses = [answer.fields.get(b"grpc-status") for attacker in greedy for answer in attacker.answers.values()]
        assert statuses.count(RESOURCE_EXHAUSTED) > CONNECTIONS * LARGE_ANSWERS * 0.9
        worst = await program.report()
        await other.echo()
        await stack.aclose()
        await program.until_nothing_is_left(before)
    print(
        f"answers that wait: +{worst.peak_rss_kib - before.rss_kib} KiB, stall {worst.worst_stall_ms} ({worst.worst_busy_ms})"
    )
    assert worst.peak_rss_kib - before.rss_kib < WAITING_KIB


async def test_peer_that_answers_no_ping(certificates: Path) -> None:
    """A peer whose kernel acknowledges but who says nothing is given up, with its calls; one who answers stays."""
    async with (
        attacked(certificates, "--quiet", "1", "--answer", "1") as program,
        bystander(program) as other,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(other.hang)
        honest = await program.until(lambda now: now.running_handlers == 1)
        async with attacking(program) as attacker:
            await attacker.send(call(1, "Hang"))
            await program.until(lambda now: now.running_handlers == 2)
            await attacker.until_closed()
            await program.until_nothing_is_left(honest)
        assert (await program.report()).running_handlers == 1
        await other.echo()
        nursery.cancel_scope.cancel()


async def test_peer_that_vanished(certificates: Path) -> None:
    """A peer that goes without a packet, as a host that lost its power, is given up, with its calls."""
    async with attacked(certificates, "--quiet", "1", "--answer", "1") as program:
        before = await program.mark()
        async with attacking(program, reads=False) as attacker:
            await attacker.send(call(1, "Hang"))
            await program.until(lambda now: now.running_handlers == 1)
            try:
                attacker.tcp.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
            except PermissionError:
                pytest.skip("needs CAP_NET_ADMIN")
        await program.until_nothing_is_left(before)


@pytest.mark.parametrize("method", ["Hang", "Flood"])
async def test_network_that_is_cut(certificates: Path, method: str) -> None:
    """A peer that answers is kept; once no packet gets to it or from it, it is given up, with its calls."""
    with own_network() as network:
        async with attacked(certificates, "--quiet", "0.5", "--answer", "1", network=network) as program:
            before = await program.mark()
            async with attacking(program, network=network) as attacker:
                attacker.answers_pings = True
                await attacker.send(call(1, method))
                await attacker.until(lambda: attacker.pings >= 4)
                assert (await program.report()).running_handlers == 1
                network.cut()
                await program.until_nothing_is_left(before)
