"""The launcher's end of the socket when the kernel has no memory for a message."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from jobmaster.launcher import connection as connection_module
from jobmaster.launcher import packets, protocol
from jobmaster.launcher.connection import Connection
from jobmaster.launcher.poller import Poller

DEADLINE = 60.0
TRIES = 5


class Kernel:
    """sendmsg(2), for the first `TRIES` tries without memory."""

    def __init__(self, number: int) -> None:
        self.tries = 0
        self._number = number

    def send(self, sock: socket.socket, data: bytes, descriptors: Sequence[int]) -> None:
        """As `packets.send`."""
        self.tries += 1
        if self.tries <= TRIES:
            raise OSError(self._number, os.strerror(self._number))
        packets.send(sock, data, descriptors)


class CountingPoller(Poller):
    """Counts how many callbacks wait for their time, at most."""

    waiting = most_waiting = 0

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """As of any poller."""

        def counted() -> None:
            self.waiting -= 1
            callback()

        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        super().call_later(seconds, counted)


@contextmanager
def connected() -> Iterator[tuple[Connection, CountingPoller, socket.socket]]:
    """A connection and the server's end."""
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    other.settimeout(DEADLINE)
    poller = CountingPoller()

    def unexpected(*_: object) -> None:
        raise AssertionError("nothing was sent to the launcher")

    with own, other:
        yield Connection(own, poller, on_message=unexpected, on_error=unexpected, on_end=unexpected), poller, other


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENOBUFS, errno.ETOOMANYREFS], ids=errno.errorcode.get)
def test_messages_wait_for_memory(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are sent in order when there is some, and meanwhile one retry at a time is due."""
    kernel = Kernel(number)
    monkeypatch.setattr(connection_module, "send", kernel.send)
    with connected() as (connection, poller, other):
        for name in ("a", "b"):
            connection.send(protocol.Forgotten(id=name))
        while kernel.tries <= TRIES:
            poller.run_once()
        assert poller.most_waiting == 1
        assert [protocol.decode(other.recv(65536)) for _ in range(2)] == [
            protocol.Forgotten(id="a"),
            protocol.Forgotten(id="b"),
        ]


def test_what_comes_from_a_source_is_made_when_it_can_be_sent() -> None:
    """No more of it is made than the kernel takes, and what is sent meanwhile keeps its place."""
    made: list[int] = []

    def rows() -> Iterator[tuple[protocol.Message, tuple[int, ...]]]:
        for number in range(2000):
            made.append(number)
            yield protocol.Forgotten(id=f"{number}"), ()

    with connected() as (connection, poller, other):
        connection.send_all(rows())
        at_first = len(made)
        assert at_first < 2000
        connection.send(protocol.Executed(id="meanwhile"))
        other.setblocking(False)
        received: list[protocol.Message] = []
        while len(received) < 2001:
            try:
                received.append(packets.receive(other).message)
            except BlockingIOError:
                poller.run_once()
        received.remove(protocol.Executed(id="meanwhile"))
        assert received == [protocol.Forgotten(id=str(number)) for number in range(2000)]


def test_the_rest_of_a_source_is_dropped_with_the_connection() -> None:
    """Nothing is made for a server that is gone, and no descriptor stays open."""
    read, write = os.pipe()
    ends: list[None] = []
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection = Connection(
        own,
        Poller(),
        on_message=lambda received: packets.close_all(received.descriptors),
        on_error=lambda _: None,
        on_end=lambda: ends.append(None),
    )
    connection.send_all((protocol.Forgotten(id="a"), (write,)) for _ in range(2000))
    other.close()
    connection.read_to_end()
    connection.send(protocol.Forgotten(id="b"), (write,))
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)
    assert len(ends) == 1
