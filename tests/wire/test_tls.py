"""TLS objects that read several records and free buffers as they encrypt, and the alerts of failed handshakes."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from jobmaster.certs import contexts
from jobmaster.certs.contexts import client_context, server_context
from jobmaster.wire.tcp import TcpStream
from jobmaster.wire.tls import RECORD_SIZE, TlsStream, _Records, _SendLock, alert_in, do_handshake, tls_stream
from tests.certs.hostile_certificates import make, make_server

OVERHEAD = 5 + 1 + 16
"""Bytes that TLS 1.3 adds to a record: its head, its type and the tag (RFC 8446, 5.2)."""

BUFFER_SIZE = 200_000


class Tcp:
    """What a TLS object is given as its TCP stream: the records that go ahead of each send."""

    def __init__(self, buffer: bytearray | None = None) -> None:
        self.ahead: list[Sequence[bytes]] = []
        self.buffer = buffer

    def put_ahead(self, pieces: Sequence[bytes]) -> None:
        """Keeps them."""
        self.ahead.append(pieces)


class Pair:
    """A client and a server in memory, whose handshake is done; the client receives into a buffer, where it is given one."""

    def __init__(self, certificates: Path, buffer: bytearray | None = None) -> None:
        to_server, self.to_client, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO(), ssl.MemoryBIO()
        contexts = client_context(certificates, "client1"), server_context(certificates)
        for context in contexts:
            context.post_handshake_auth = True
        self.client_tcp, self.server_tcp = Tcp(buffer), Tcp()
        client = contexts[0].wrap_bio(self.to_client, to_server, server_hostname="localhost")
        server = contexts[1].wrap_bio(to_server, self.outgoing, server_side=True)
        self.client = _Records(client, to_server, cast("TcpStream", self.client_tcp))
        self.server = _Records(server, self.outgoing, cast("TcpStream", self.server_tcp))
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
        self.to_client.write(b"".join(b"".join(pieces) for pieces in self.server_tcp.ahead) + self.outgoing.read())
        self.server_tcp.ahead.clear()


@pytest.fixture(params=[None, BUFFER_SIZE], ids=["bytes", "buffer"])
def pair(certificates: Path, request: pytest.FixtureRequest) -> Pair:
    """A new one."""
    return Pair(certificates, None if request.param is None else bytearray(request.param))


@pytest.mark.parametrize("size", [1, RECORD_SIZE - 1, RECORD_SIZE, RECORD_SIZE + 1, 5 * RECORD_SIZE, 100_000])
def test_a_read_takes_what_has_come(pair: Pair, size: int) -> None:
    """Of bulk data all that has arrived, up to what was asked for, and then it wants more."""
    data = bytes(index % 251 for index in range(size))
    pair.send(data)
    assert pair.client.read(1 << 20) == data
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.read(1 << 20)


def test_a_read_decrypts_into_the_buffer(certificates: Path) -> None:
    """All that has arrived and finds its place, also behind records that are not full; the rest comes with the next read."""
    buffer = bytearray(3 * RECORD_SIZE)
    pair = Pair(certificates, buffer)
    data = bytes(index % 251 for index in range(4 * RECORD_SIZE))
    for start, end in ((0, RECORD_SIZE), (RECORD_SIZE, RECORD_SIZE + 5), (RECORD_SIZE + 5, len(data))):
        pair.send(data[start:end])
    first = pair.client.read(1 << 20)
    assert isinstance(first, memoryview)
    assert first.obj is buffer
    assert first == data[: len(buffer)]
    assert pair.client.read(1 << 20) == data[len(buffer) :]


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
    (ahead,) = pair.server_tcp.ahead
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
    assert [len(pieces) for pieces in pair.client_tcp.ahead] == [1, 0, 2]


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


def test_a_buffer_is_freed_as_it_is_encrypted(pair: Pair) -> None:
    """A bytearray is empty once it is written: a slow peer holds its bytes encrypted, and no plaintext."""
    buffer = bytearray(b"x" * 100_000)
    assert pair.server.write(buffer) == 100_000
    assert buffer == b""
    pair.deliver()
    assert pair.client.read(1 << 20) == b"x" * 100_000


async def test_a_context_serves_others_too(certificates: Path) -> None:  # noqa: ASYNC124  # as the sockets need it
    """A context that is used for a stream is left as it was."""
    context = client_context(certificates, "client1")
    near, far = trio.socket.socketpair()
    with near, far:
        tls_stream(TcpStream(trio.SocketStream(near)), context, server_hostname="localhost")
    assert type(context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost")) is ssl.SSLObject


async def test_a_send_that_need_not_wait(certificates: Path) -> None:
    """It lets no other task run."""
    ends = Ends(client_context(certificates, "client1"), server_context(certificates))
    has_run = trio.Event()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(do_handshake, ends.client)
            await do_handshake(ends.server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends.client.receive_some)
            nursery.start_soon(sync_to_async(has_run.set))
            await ends.server.send_all(b"x")
            assert not has_run.is_set()
    await ends.close()


async def test_senders_come_one_after_the_other() -> None:
    """Who finds another one sending waits for it, and is the next."""
    lock, steps = _SendLock(), list[int]()

    async def send(number: int) -> None:
        async with lock:
            steps.append(number)
            await trio.testing.wait_all_tasks_blocked()
            steps.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(send, number)
    assert [steps[::2], sorted(steps[::2])] == [steps[1::2], [0, 1, 2]]


def sync_to_async(function: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    """As a task that ends at once."""

    async def task() -> None:  # noqa: ASYNC124  # as it is called
        function()

    return task


class Ends:
    """Both ends of a TCP connection with TLS on each, before the handshake."""

    def __init__(self, client: ssl.SSLContext, server: ssl.SSLContext) -> None:
        near, far = (trio.SocketStream(end) for end in trio.socket.socketpair())
        self.client = tls_stream(TcpStream(near), client, server_hostname="localhost")
        self.server = tls_stream(TcpStream(far), server)

    async def meet(self) -> tuple[str | None, str | None]:
        """Does the handshake at both ends and reads a byte at the client's: the alerts that each end was sent."""
        alerts: dict[str, str | None] = {"client": None, "server": None}

        async def shake(name: str, tls: TlsStream) -> None:
            try:
                await do_handshake(tls)
                if tls is self.client:
                    await tls.receive_some(1)
            except trio.BrokenResourceError as error:
                alerts[name] = alert_in(error)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(shake, "client", self.client)
                nursery.start_soon(shake, "server", self.server)
        await self.close()
        return alerts["client"], alerts["server"]

    async def close(self) -> None:
        """Closes both."""
        for tls in (self.client, self.server):
            await trio.aclose_forcefully(tls)


@pytest.mark.parametrize(
    ("row", "alert"),
    [
        ("expired", "certificate expired"),
        ("no certificate", "certificate required"),
        ("other authority", "decrypt error"),
        ("TLS 1.2", "protocol version"),
    ],
)
async def test_a_refused_client_is_sent_an_alert(certificates: Path, row: str, alert: str) -> None:
    """It says why: to a client of TLS 1.3 as it reads, since its own handshake is done by then."""
    ends = Ends(make(certificates, row).context(), server_context(certificates))
    assert (await ends.meet())[0] == alert


async def test_a_refused_server_is_sent_an_alert(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not accept its server says so too."""
    monkeypatch.setattr(contexts, "_require_valid", lambda *_: None)  # a server whose certificate expires as it runs
    folder = make_server(certificates, "expired")
    ends = Ends(client_context(certificates, "client1"), server_context(folder))
    assert (await ends.meet())[1] == "certificate expired"
