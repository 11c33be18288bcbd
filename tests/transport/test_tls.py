"""TLS objects that read several records, and free buffers as they encrypt."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from jobmaster.auth.tls import client_context, server_context
from jobmaster.transport import buffers
from jobmaster.transport.tls import RECORD_SIZE, TlsObject, in_fewer_steps


class Pair:
    """A client and a server in memory, whose handshake is done."""

    def __init__(self, certificates: Path) -> None:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.to_client = to_client
        self.server = in_fewer_steps(server_context(certificates)).wrap_bio(to_server, to_client, server_side=True)
        self.client = in_fewer_steps(client_context(certificates, "client1")).wrap_bio(
            to_client, to_server, server_hostname="localhost"
        )
        for side in (self.client, self.server, self.client, self.server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue


@pytest.fixture
def pair(certificates: Path) -> Pair:
    """A new one."""
    return Pair(certificates)


@pytest.mark.parametrize("size", [1, RECORD_SIZE - 1, RECORD_SIZE, RECORD_SIZE + 1, 5 * RECORD_SIZE, 100_000])
def test_a_read_takes_what_has_come(pair: Pair, size: int) -> None:
    """Of bulk data all that has arrived, up to what was asked for, and then it wants more."""
    assert isinstance(pair.client, TlsObject)
    data = bytes(index % 251 for index in range(size))
    pair.server.write(data)
    assert pair.client.read(1 << 20) == data
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.read(1 << 20)


@pytest.mark.parametrize("limit", [1, RECORD_SIZE, RECORD_SIZE + 1, 40_000])
def test_a_read_is_no_longer_than_asked(pair: Pair, limit: int) -> None:
    """The rest comes with the next ones, in its order."""
    data = bytes(index % 251 for index in range(100_000))
    pair.server.write(data)
    read = b""
    while len(read) < len(data):
        piece = pair.client.read(limit)
        assert 0 < len(piece) <= limit
        read += piece
    assert read == data


def test_an_end_comes_after_what_was_before_it(pair: Pair) -> None:
    """The last bytes of a peer that closed are read first."""
    pair.server.write(bytes(RECORD_SIZE))
    with pytest.raises(ssl.SSLWantReadError):
        pair.server.unwrap()
    assert len(pair.client.read(1 << 20)) == RECORD_SIZE
    for _ in range(2):
        assert pair.client.read(1 << 20) == b""


def test_broken_records_come_after_what_was_before_them(pair: Pair) -> None:
    """What was decrypted is read; then the error, each time."""
    pair.server.write(bytes(RECORD_SIZE))
    pair.to_client.write(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert len(pair.client.read(1 << 20)) == RECORD_SIZE
    for _ in range(2):
        with pytest.raises(ssl.SSLError) as error:
            pair.client.read(1 << 20)
        assert not isinstance(error.value, ssl.SSLWantReadError)


def test_a_read_into_a_buffer(pair: Pair) -> None:
    """Works as that of the library."""
    pair.server.write(b"some bytes")
    buffer = bytearray(4)
    count: object = pair.client.read(4, buffer)  # of the library's stubs, bytes
    assert count == 4
    assert buffer == b"some"


def test_an_encrypted_buffer_is_free(pair: Pair) -> None:
    """A bytearray can be used for other bytes as soon as it is written, which changes nothing of what is read."""
    buffers._kept.clear()
    buffer = buffers.take(buffers.LEAST)
    buffer[:] = b"x" * len(buffer)
    assert pair.server.write(buffer) == buffers.LEAST
    again = buffers.take(buffers.LEAST)
    assert again is buffer
    again[:] = b"y" * len(again)
    assert pair.client.read(1 << 20) == b"x" * buffers.LEAST
    pair.server.write(bytes(buffers.LEAST))
    assert not buffers._kept
