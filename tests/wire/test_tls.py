"""TLS objects that read several records, and free buffers as they encrypt."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from jobmaster.certs.contexts import client_context, server_context
from jobmaster.http2 import buffers
from jobmaster.wire.tcp import TcpStream
from jobmaster.wire.tls import RECORD_SIZE, TlsObject, tls_stream

OVERHEAD = 5 + 1 + 16
"""Bytes that TLS 1.3 adds to a record: its head, its type and the tag (RFC 8446, 5.2)."""


class Pair:
    """A client and a server in memory, whose handshake is done."""

    def __init__(self, certificates: Path) -> None:
        to_server, self.to_client, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ahead: list[Sequence[bytes]] = []
        """What goes ahead of each send of the server."""
        self.ahead_of_client: list[Sequence[bytes]] = []
        contexts = client_context(certificates, "client1"), server_context(certificates)
        for context in contexts:
            context.sslobject_class = TlsObject
            context.post_handshake_auth = True
        self.client = contexts[0].wrap_bio(self.to_client, to_server, server_hostname="localhost")
        self.server = contexts[1].wrap_bio(to_server, self.outgoing, server_side=True)
        assert isinstance(self.server, TlsObject)
        assert isinstance(self.client, TlsObject)
        self.server.send_by(self.outgoing, self.ahead.append)
        self.client.send_by(to_server, self.ahead_of_client.append)
        for side in (self.client, self.server, self.client, self.server):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
            self.deliver()

    def send(self, data: bytes | bytearray) -> None:
        """From the server to where the client reads."""
        assert self.server.write(data) == len(data)
        self.deliver()

    def deliver(self) -> None:
        """As a TCP stream does."""
        self.to_client.write(b"".join(b"".join(pieces) for pieces in self.ahead) + self.outgoing.read())
        self.ahead.clear()


@pytest.fixture
def pair(certificates: Path) -> Pair:
    """A new one."""
    return Pair(certificates)


@pytest.mark.parametrize("size", [1, RECORD_SIZE - 1, RECORD_SIZE, RECORD_SIZE + 1, 5 * RECORD_SIZE, 100_000])
def test_a_read_takes_what_has_come(pair: Pair, size: int) -> None:
    """Of bulk data all that has arrived, up to what was asked for, and then it wants more."""
    assert isinstance(pair.client, TlsObject)
    data = bytes(index % 251 for index in range(size))
    pair.send(data)
    assert pair.client.read(1 << 20) == data
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.read(1 << 20)


@pytest.mark.parametrize("limit", [1, RECORD_SIZE, RECORD_SIZE + 1, 40_000])
def test_a_read_is_no_longer_than_asked(pair: Pair, limit: int) -> None:
    """The rest comes with the next ones, in its order."""
    data = bytes(index % 251 for index in range(100_000))
    pair.send(data)
    read = b""
    while len(read) < len(data):
        piece = pair.client.read(limit)
        assert 0 < len(piece) <= limit
        read += piece
    assert read == data


@pytest.mark.parametrize(
    "size", [RECORD_SIZE - 1, RECORD_SIZE, RECORD_SIZE + 1, 10 * RECORD_SIZE, 10 * RECORD_SIZE + 7]
)
def test_bulk_data_is_encrypted_in_records(pair: Pair, size: int) -> None:
    """All but the last go ahead one by one, so that few bytes are in between at a time."""
    data = bytes(index % 251 for index in range(size))
    assert pair.server.write(data) == size
    (ahead,) = pair.ahead
    records = [*map(len, ahead), pair.outgoing.pending]
    assert len(records) == -(-size // RECORD_SIZE)
    assert max(records) <= RECORD_SIZE + OVERHEAD
    pair.deliver()
    assert pair.client.read(1 << 20) == data


def test_each_send_has_its_own_ahead(pair: Pair) -> None:
    """A read that has to answer is a send of its own, between the writes before and after it; one that has not is none."""
    client = pair.client
    client.write(bytes(2 * RECORD_SIZE))
    with pytest.raises(ssl.SSLWantReadError):
        client.read(100)
    pair.server.verify_client_post_handshake()
    pair.send(b"asks for the certificate again")
    assert client.read(100) == b"asks for the certificate again"
    client.write(bytes(3 * RECORD_SIZE))
    assert [len(pieces) for pieces in pair.ahead_of_client] == [1, 0, 2]


def test_an_end_comes_after_what_was_before_it(pair: Pair) -> None:
    """The last bytes of a peer that closed are read first."""
    pair.send(bytes(RECORD_SIZE))
    with pytest.raises(ssl.SSLWantReadError):
        pair.server.unwrap()
    pair.deliver()
    assert len(pair.client.read(1 << 20)) == RECORD_SIZE
    for _ in range(2):
        assert pair.client.read(1 << 20) == b""


def test_broken_records_come_after_what_was_before_them(pair: Pair) -> None:
    """What was decrypted is read; then the error, each time."""
    pair.send(bytes(RECORD_SIZE))
    pair.to_client.write(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert len(pair.client.read(1 << 20)) == RECORD_SIZE
    for _ in range(2):
        with pytest.raises(ssl.SSLError) as error:
            pair.client.read(1 << 20)
        assert not isinstance(error.value, ssl.SSLWantReadError)


def test_a_read_into_a_buffer(pair: Pair) -> None:
    """Works as that of the library."""
    pair.send(b"some bytes")
    buffer = bytearray(4)
    count: object = pair.client.read(4, buffer)  # of the library's stubs, bytes
    assert count == 4
    assert buffer == b"some"


def test_an_encrypted_buffer_is_free(pair: Pair) -> None:
    """A bytearray can be used for other bytes as soon as it is written, which changes nothing of what is read."""
    buffers._kept.clear()
    buffer = buffers.take(buffers.LEAST)
    buffer[:] = b"x" * len(buffer)
    pair.send(buffer)
    again = buffers.take(buffers.LEAST)
    assert again is buffer
    again[:] = b"y" * len(again)
    assert pair.client.read(1 << 20) == b"x" * buffers.LEAST
    pair.send(bytes(buffers.LEAST))
    assert not buffers._kept


async def test_a_context_serves_others_too(certificates: Path) -> None:  # noqa: ASYNC124  # as the sockets need it
    """Whoever uses the same context for something else has the library's objects, before and after."""
    context = client_context(certificates, "client1")
    near, far = trio.socket.socketpair()
    with near, far:
        tls_stream(TcpStream(trio.SocketStream(near)), context, server_hostname="localhost")
    assert type(context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost")) is ssl.SSLObject
