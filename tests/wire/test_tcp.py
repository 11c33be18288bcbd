"""TCP under TLS: what it sends, receives and says of a connection that is gone. Real sockets."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
import trio.testing

from jobmaster.wire.tcp import BULK_RECEIVE_SIZE, RECEIVE_SIZE, TcpStream

DEADLINE = 60.0
BULK = hashlib.shake_128(b"").digest(8 * 1024 * 1024)
"""Bytes that no socket's buffers hold."""


@pytest.fixture
async def pair() -> AsyncIterator[tuple[TcpStream, TcpStream]]:
    """Both ends of a connection."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        near = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        far = await listener.accept()
    streams = TcpStream(near), TcpStream(far)
    yield streams
    for stream in streams:
        await trio.aclose_forcefully(stream)


Pair = tuple[TcpStream, TcpStream]


async def received_while(send: Callable[[], Awaitable[None]], far: TcpStream) -> bytes:
    """All that the far end receives of what is sent, once the sender has had to wait."""
    received = bytearray()
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            while data := await far.receive_some():
                received += data
    return bytes(received)


async def test_all_bytes_go(pair: Pair) -> None:
    """More than the socket takes at once goes in the end, in its order, and the other end sees the end."""
    near, far = pair

    async def send() -> None:
        await near.send_all(BULK)
        await near.send_eof()

    assert await received_while(send, far) == BULK


async def test_bytes_go_ahead_of_others(pair: Pair) -> None:
    """What is put ahead goes with one send each, in their order, also where the socket does not take it at once."""
    near, far = pair

    async def send() -> None:
        near.put_ahead([BULK[start : start + 100_000] for start in range(0, len(BULK), 100_000)])
        near.put_ahead(())
        near.put_ahead((b"more",))
        for last in (b"one", b"two", b"three", b"four"):
            await near.send_all(last)
        await near.send_eof()

    assert await received_while(send, far) == BULK + b"onetwomorethreefour"


async def test_bulk_is_received_in_larger_pieces(pair: Pair) -> None:
    """For as long as it is wanted, and what was received before stays as it was."""
    near, far = pair
    near._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * len(BULK))
    received: list[bytes | memoryview] = []
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, BULK)
            for is_bulk, largest in ((False, RECEIVE_SIZE), (True, BULK_RECEIVE_SIZE), (False, RECEIVE_SIZE)):
                far.receive_bulk(is_bulk)
                size = 0
                while size < largest:
                    await trio.testing.wait_all_tasks_blocked()
                    received.append(bytes(await far.receive_some()))
                    size = len(received[-1])
                assert size == largest
            while sum(map(len, received)) < len(BULK):
                received.append(await far.receive_some())
    assert b"".join(received) == BULK


async def test_no_more_is_received_than_asked_for(pair: Pair) -> None:
    """Neither by a call that says how much nor into a buffer of that size."""
    near, far = pair
    await near.send_all(b"0123456789")
    with trio.fail_after(DEADLINE):
        assert await far.receive_some(4) == b"0123"
        into_buffer = TcpStream(far._tcp, buffer=bytearray(3))
        assert await into_buffer.receive_some() == b"456"
        assert await into_buffer.receive_some(2) == b"78"


async def test_what_needs_no_wait_takes_no_turn(pair: Pair) -> None:
    """Sending into an empty socket and receiving what is there let nobody else run."""
    near, far = pair
    others_ran = trio.Event()
    async with trio.open_nursery() as nursery:
        await trio.lowlevel.checkpoint()
        nursery.start_soon(set_event, others_ran)
        await near.send_all(b"x")
        assert not others_ran.is_set()
    others_ran = trio.Event()
    async with trio.open_nursery() as nursery:
        await trio.lowlevel.wait_readable(far._socket)
        nursery.start_soon(set_event, others_ran)
        assert await far.receive_some() == b"x"
        assert not others_ran.is_set()


async def set_event(event: trio.Event) -> None:  # noqa: ASYNC124  # a task
    """Shows that it ran."""
    event.set()


@pytest.mark.parametrize("call", [lambda stream: stream.receive_some(), lambda stream: stream.send_all(b"x")])
async def test_a_cancelled_call_does_nothing(pair: Pair, call: Callable[[TcpStream], Awaitable[object]]) -> None:
    """Each call is a point of cancellation, before it has taken or sent a byte."""
    near, far = pair
    await near.send_all(b"y")
    await trio.lowlevel.wait_readable(far._socket)
    with trio.move_on_after(0) as scope:
        await call(far)
    assert scope.cancelled_caught
    assert await far.receive_some() == b"y"
    far._socket.shutdown(socket.SHUT_WR)
    assert await near.receive_some() == b""


async def test_a_sender_that_waits_can_be_cancelled(pair: Pair) -> None:
    """A peer that takes nothing holds nobody."""
    near, _far = pair
    with trio.fail_after(DEADLINE), trio.move_on_after(0.05) as scope:
        await near.send_all(BULK * 4)
    assert scope.cancelled_caught


async def test_a_connection_that_broke(pair: Pair) -> None:
    """A reset by the peer is a broken resource, for the reader and for the writer."""
    near, far = pair
    far._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await far.aclose()
    with trio.fail_after(DEADLINE):
        with pytest.raises(trio.BrokenResourceError):
            await near.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await near.send_all(b"x")


async def test_a_connection_that_was_closed(pair: Pair) -> None:
    """Closing here is told apart, also for one who waits."""
    near, _far = pair

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await near.receive_some()

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await near.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await near.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            await near.send_all(b"x")


async def test_the_kernel_watches_the_peer(pair: Pair) -> None:  # noqa: ASYNC124  # the sockets need the event loop
    """Keepalive and the bound on unacknowledged bytes are on."""
    near, _far = pair
    near.watch_peer()
    assert near._socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert near._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
