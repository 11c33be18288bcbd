"""Messages that the kernel does not take at once."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from jobmaster.launcher import packets
from jobmaster.run import outbox as outbox_module
from jobmaster.run.child import Child
from jobmaster.run.outbox import Outbox


class Line:
    """An outbox whose kernel takes no more, and the launcher's end."""

    def __init__(self) -> None:
        self.own, self.other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.own.setblocking(False)
        self.other.setblocking(False)
        self.fillers = 0
        with suppress(BlockingIOError):
            while True:
                self.own.send(b"filler")
                self.fillers += 1
        self.outbox = Outbox(self.own)

    def drain(self) -> list[bytes]:
        """Takes all that was sent; what came behind the fillers."""
        found = []
        with suppress(BlockingIOError):
            while data := self.other.recv(100):
                found.append(data)
        return [data for data in found if data != b"filler"]


class RefusedChild:
    """A child whose start may be refused."""

    def __init__(self) -> None:
        self.refused: list[int] = []

    def _on_refused(self, number: int) -> None:
        self.refused.append(number)


@pytest.fixture
def line() -> Iterator[Line]:
    """Such a line."""
    made = Line()
    with made.own, made.other:
        yield made


async def test_messages_keep_their_order(line: Line) -> None:
    """What has to wait is sent as soon as there is room, and nothing overtakes it; who waits for all waits so long."""
    line.outbox.post(b"1")
    line.outbox.post(b"2")
    is_empty = trio.Event()

    async def wait() -> None:
        await line.outbox.wait_empty()
        is_empty.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.outbox.run)
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert not is_empty.is_set()
        assert line.drain() == []
        line.outbox.post(b"3")
        await is_empty.wait()
        line.outbox.post(b"4")
        nursery.cancel_scope.cancel()
    assert line.drain() == [b"1", b"2", b"3", b"4"]


async def test_descriptors_that_wait_are_the_outboxs_own(line: Line) -> None:
    """The caller may close its own at once; those of a start stay the caller's, who is still there."""
    read, write = os.pipe()
    before = len(os.listdir("/proc/self/fd"))
    line.outbox.post(b"order", (read,))
    line.outbox.post(b"start", (write,), of=cast(Child, RefusedChild()))
    assert len(os.listdir("/proc/self/fd")) == before + 1
    line.outbox.close()
    await line.outbox.wait_empty()
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(read)
    os.close(write)


async def test_a_start_that_is_withdrawn(line: Line) -> None:
    """It is not sent, and what waits behind it is; one that was sent cannot be taken back."""
    first, second, third = (cast(Child, RefusedChild()) for _ in range(3))
    line.outbox.post(b"1", of=first)
    line.outbox.post(b"2", of=second)
    assert line.outbox.withdraw(first)
    assert not line.outbox.withdraw(third)
    line.drain()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.outbox.run)
        await line.outbox.wait_empty()
        nursery.cancel_scope.cancel()
    assert line.drain() == [b"2"]
    assert not line.outbox.withdraw(second)


async def test_what_the_kernel_refuses(line: Line, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    """Who starts a child is told, and may try again; any other message is tried again after a moment."""
    numbers = [errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOBUFS]

    def send(sock: socket.socket, data: bytes, descriptors: tuple[int, ...]) -> None:
        if numbers:
            number = numbers.pop(0)
            raise OSError(number, os.strerror(number))
        packets.send(sock, data, descriptors)

    monkeypatch.setattr(outbox_module, "send", send)
    line.drain()
    child = RefusedChild()
    line.outbox.post(b"start", of=cast(Child, child))
    line.outbox.post(b"order")
    assert child.refused == [errno.ETOOMANYREFS]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.outbox.run)
        await line.outbox.wait_empty()
        nursery.cancel_scope.cancel()
    assert line.drain() == [b"order"]
    assert trio.current_time() == pytest.approx(0.05)


async def test_a_launcher_that_is_gone(line: Line) -> None:
    """What is sent to it is done with: that it is lost is seen by who receives."""
    line.outbox.post(b"1")
    line.other.close()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.outbox.run)
        await line.outbox.wait_empty()
        nursery.cancel_scope.cancel()
