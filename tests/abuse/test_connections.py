"""Too many connections, too few descriptors, and peers that never get as far as HTTP/2."""

from __future__ import annotations

import os
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trio

from jobmaster.certs.contexts import client_context
from tests.abuse.attacker import PREFACE, Attacker, attacking, call, dial, settings
from tests.abuse.program import HANG_GUARD, Program, Shared, attacked, bystander, shared

pytestmark = pytest.mark.abuse

TRIES: Final = int(os.environ.get("ABUSE_TRIES", "40"))
"""Visits of each kind; ten thousand in the nox session `abuse`."""
AT_A_TIME: Final = min(TRIES, max(100, TRIES // 100))
SOON: Final = "1"
"""Seconds after which who says nothing is closed; an honest client is faster on a busy machine, too."""
ENOUGH_FILES: Final = 64
STRANGERS_AT_A_TIME: Final = 128
CONNECTIONS_OF_ONE: Final = 25


async def echoes(attacker: Attacker, stream_id: int) -> bool:
    """Whether the server answers a call on that connection."""
    await attacker.send(call(stream_id))
    answer = await attacker.answer(stream_id)
    return answer is not None and answer.fields.get(b"grpc-status") == b"0"


async def is_refused(program: Program, source: str = "127.0.0.1", name: str = "client1") -> bool:
    """Whether a further connection is closed before a call on it is answered."""
    context = client_context(program.certificates, name)
    try:
        async with attacking(program, context=context, source=source) as attacker:
            return not await echoes(attacker, 1)
    except (ssl.SSLError, ConnectionError):
        return True


@pytest.mark.parametrize(
    ("limit", "source", "name"),
    [
        ("--total", "127.0.0.1", "client1"),
        ("--per-address", "127.0.0.1", "client2"),
        ("--per-client", "127.0.0.2", "client1"),
    ],
)
async def test_one_connection_too_many(certificates: Path, limit: str, source: str, name: str) -> None:
    """The sixth of five connections is closed, the five live on, and a place that is left is given again."""
    async with attacked(certificates, limit, "5") as program, AsyncExitStack() as stack:
        five = [await stack.enter_async_context(attacking(program)) for _ in range(4)]
        async with attacking(program) as fifth:
            assert all([await echoes(attacker, 1) for attacker in [*five, fifth]])
            assert await is_refused(program, source, name)
            assert all([await echoes(attacker, 3) for attacker in [*five, fifth]])
        await program.until(lambda now: now.connections == len(five))
        assert not await is_refused(program, source, name)
        assert (await program.report()).bugs == 0


@pytest.mark.parametrize(
    ("limit", "source", "name"),
    [("--per-address", "127.0.0.2", "client1"), ("--per-client", "127.0.0.1", "client2")],
)
async def test_limits_of_others(certificates: Path, limit: str, source: str, name: str) -> None:
    """Who has used up his own connections has not used up those of another address, or of another client."""
    async with attacked(certificates, limit, "2") as program, attacking(program) as first, attacking(program) as second:
        assert await echoes(first, 1)
        assert await echoes(second, 1)
        assert await is_refused(program)
        assert not await is_refused(program, source, name)


async def test_no_descriptor_left(certificates: Path) -> None:
    """A server out of descriptors serves those it has, and takes new clients again when there are some."""
    async with attacked(certificates, "--files", str(ENOUGH_FILES)) as program, bystander(program) as other:
        before = await program.mark()
        async with other.calling(), AsyncExitStack() as stack:
            for _ in range(2 * ENOUGH_FILES):
                await stack.enter_async_context(await dial(program))
            await program.until(lambda now: now.open_fds == ENOUGH_FILES)
            await other.echo()
        await program.until_nothing_is_left(before)
        async with bystander(program, "client3") as another:
            await another.echo()
        assert (await program.report()).bugs == 0


async def test_strangers_that_hold_the_handshakes(certificates: Path) -> None:
    """Strangers who stay silent in the handshake, more than may be in one at a time, keep no new client out."""
    async with attacked(certificates, "--handshake", "30") as program, AsyncExitStack() as stack:
        for _ in range(STRANGERS_AT_A_TIME):
            await stack.enter_async_context(await dial(program))
        await program.until(lambda now: now.connections == STRANGERS_AT_A_TIME)
        async with attacking(program) as attacker:
            is_served = await echoes(attacker, 1)
        connections = (await program.report()).connections
    assert is_served
    assert connections >= STRANGERS_AT_A_TIME, "the client was served when the strangers had been given up"


async def test_one_client_that_takes_all_it_can(certificates: Path) -> None:
    """However many calls one client holds open, on however many connections, another client is served."""
    async with attacked(certificates) as program, AsyncExitStack() as stack:
        hangs = b"".join(call(stream_id, "Hang") for stream_id in range(1, 201, 2))
        for _ in range(CONNECTIONS_OF_ONE):
            greedy = await stack.enter_async_context(attacking(program))
            await greedy.send(hangs + call(201))
            await greedy.answer(201)
        other = client_context(certificates, "client2")
        async with attacking(program, context=other) as attacker:
            is_served = await echoes(attacker, 1)
    assert is_served, attacker.answers


def hello(program: Program) -> bytes:
    """The first flight of a good client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context(program.certificates, "client1").wrap_bio(incoming, outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


STRANGERS: Final[dict[str, Callable[[Program], bytes]]] = {
    "garbage": lambda _: bytes(range(256)) * 20,
    "zeros": lambda _: bytes(5000),
    "HTTP/1": lambda _: b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "HTTP/2 without TLS": lambda _: PREFACE + settings() + call(1),
    "half a ClientHello": lambda program: hello(program)[:100],
    "a ClientHello and no more": hello,
    "garbage in a TLS record": lambda _: b"\x16\x03\x01\x02\x00" + bytes(512),
    "nothing": lambda _: b"",
}


async def until_closed(program: Program, sent: bytes) -> None:
    """Sends that on a bare connection and reads to its end."""
    async with await dial(program) as tcp:
        with suppress(trio.BrokenResourceError):
            await tcp.send_all(sent)
            while await tcp.receive_some():
                pass


async def without_alpn(program: Program, context: ssl.SSLContext) -> None:
    """A good client, but for one thing: by its context it does not ask for HTTP/2."""
    async with attacking(program, context=context) as attacker:
        assert not await echoes(attacker, 1)


Visit = Callable[[Program], Awaitable[None]]


async def visited(program: Program, visit: Visit) -> None:
    """Pays `TRIES` visits, `AT_A_TIME`; an honest client calls meanwhile, and nothing is left afterwards."""
    async with bystander(program) as other:
        before = await program.mark()

        async def some() -> None:
            for _ in range(TRIES // AT_A_TIME):
                await visit(program)

        with trio.fail_after(HANG_GUARD + TRIES):
            async with other.calling(), trio.open_nursery() as nursery:
                for _ in range(AT_A_TIME):
                    nursery.start_soon(some)
        after = await program.until_nothing_is_left(before)
        print(
            f"stall {after.worst_stall_ms} ms (own {after.worst_busy_ms}), memory +{after.peak_rss_kib - before.rss_kib} KiB"
        )


@pytest.fixture(scope="module")
def impatient(certificates: Path) -> Iterator[Shared]:
    """A server for all strangers: after each of them it has to be as before."""
    with shared(certificates, "--handshake", SOON) as running:
        yield running


@pytest.mark.parametrize("name", STRANGERS)
async def test_stranger(impatient: Shared, name: str) -> None:
    """Who does not get through the TLS handshake is closed, and leaves no task and no descriptor."""
    async with impatient.attacked() as program:
        await visited(program, partial(until_closed, sent=STRANGERS[name](program)))


async def test_client_without_alpn(certificates: Path) -> None:
    """Who does not agree on HTTP/2 is closed after the handshake, and leaves no task and no descriptor."""
    context = client_context(certificates, "client1")
    context.set_alpn_protocols([])
    async with attacked(certificates) as program:
        await visited(program, partial(without_alpn, context=context))


async def test_client_that_says_nothing(certificates: Path) -> None:
    """Who gets through the handshake and then says nothing is closed, and leaves no task and no descriptor."""
    context = client_context(certificates, "client1")

    async def silent(program: Program) -> None:
        async with await dial(program) as tcp:
            attacker = Attacker(tcp, context)
            await attacker.handshake()
            await attacker.read_on()

    async with attacked(certificates, "--preface", SOON) as program:
        await visited(program, silent)
