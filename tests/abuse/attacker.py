"""An attacker: TLS on a socket, and HTTP/2 made by hand, so that every byte is what the test says.

Sending and receiving do not know of each other, unlike in Trio's TLS: what the server said last is still read when it
takes no more.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import trio
from hpack import Decoder

from jobmaster.certs.contexts import client_context
from tests.abuse.network import Network
from tests.abuse.program import HANG_GUARD, Program
from tests.abuse.server import SERVICE

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
ACK = END_STREAM = 0x1
END_HEADERS: Final = 0x4
LARGEST_WINDOW: Final = 2**31 - 1
INITIAL_WINDOW_SIZE: Final = 4
"""The setting's identifier."""
PIECE: Final = 64 * 1024
"""Bytes that are encrypted and sent in one go."""

Field = tuple[bytes, bytes]


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream_id: int = 0) -> bytes:
    """A frame (RFC 9113, 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big") + payload


def settings(*entries: tuple[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, b"".join(name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in entries))


def window_update(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, increment.to_bytes(4, "big"), stream_id=stream_id)


def reset(stream_id: int) -> bytes:
    """A RST_STREAM frame that cancels."""
    return frame(RST_STREAM, (8).to_bytes(4, "big"), stream_id=stream_id)


def _string(value: bytes) -> bytes:
    """A string literal of HPACK, not Huffman coded (RFC 7541, 5.2)."""
    length = len(value)
    if length < 127:
        return bytes((length,)) + value
    octets, length = [127], length - 127
    while length >= 128:
        octets.append(length % 128 + 128)
        length //= 128
    return bytes((*octets, length)) + value


def block(fields: Iterable[Field]) -> bytes:
    """A header block of literals that touch no table (RFC 7541, 6.2.2)."""
    return b"".join(b"\x00" + _string(name) + _string(value) for name, value in fields)


def request_fields(method: str = "Echo", **replaced: bytes | None) -> list[Field]:
    """The headers of a good call; `replaced` are by their names with underscores, None leaves one out."""
    fields: dict[bytes, bytes | None] = {
        b":method": b"POST",
        b":scheme": b"https",
        b":path": f"/{SERVICE}/{method}".encode(),
        b":authority": b"localhost",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
    }
    for name, value in replaced.items():
        fields[next((own for own in fields if own == b":" + name.encode()), name.replace("_", "-").encode())] = value
    return [(name, value) for name, value in fields.items() if value is not None]


def headers(stream_id: int, fields: Iterable[Field], *, ends: bool = False) -> bytes:
    """A HEADERS frame with a whole header block."""
    return frame(HEADERS, block(fields), flags=END_HEADERS | (END_STREAM if ends else 0), stream_id=stream_id)


def data(stream_id: int, payload: bytes, *, ends: bool = True) -> bytes:
    """A DATA frame."""
    return frame(DATA, payload, flags=END_STREAM if ends else 0, stream_id=stream_id)


EMPTY_MESSAGE: Final = bytes(5)
"""A message with no bytes, in gRPC's framing."""


def call(stream_id: int, method: str = "Echo", **replaced: bytes | None) -> bytes:
    """A whole call with an empty message; the headers are as `request_fields` makes them."""
    return headers(stream_id, request_fields(method, **replaced)) + data(stream_id, EMPTY_MESSAGE)


@dataclass(slots=True)
class Answer:
    """What the server has said on one stream."""

    fields: dict[bytes, bytes] = field(default_factory=dict)
    ended: bool = False
    reset_code: int | None = None

    @property
    def is_final(self) -> bool:
        """True when nothing more can come."""
        return self.ended or self.reset_code is not None


class Attacker:
    """One connection of a hostile client. Made by `attacking`."""

    def __init__(self, tcp: trio.SocketStream, context: ssl.SSLContext) -> None:
        self.tcp = tcp
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        self._decoder: Any = Decoder()
        self._held = bytearray()
        self._news = trio.lowlevel.ParkingLot()
        self._unanswered: list[bytes] = []
        self.answers_pings = False
        self.pings = 0
        """That have come."""
        self.answers: dict[int, Answer] = {}
        self.data_taken = 0
        """Bytes of DATA received."""
        self.goaway: tuple[int, bytes] | None = None
        """The error code and the text of the last GOAWAY."""
        self.ended = trio.Event()
        """The server has closed the connection."""

    async def handshake(self) -> None:
        """Raises ssl.SSLError or ConnectionError where the server refuses."""
        while not self._handshake_is_done():
            await self._send_encrypted()
            received = await self._receive_encrypted()
            if not received:
                raise ConnectionResetError("closed in the handshake")
            self._incoming.write(received)
        await self._send_encrypted()

    def _handshake_is_done(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    async def send(self, plain: bytes) -> bool:
        """Sends all, or as much as the server takes before it closes: then False."""
        view = memoryview(plain)
        for start in range(0, len(view), PIECE):
            self._tls.write(view[start : start + PIECE])
            if self.ended.is_set() or not await self._send_encrypted():
                return False
        return True

    async def _send_encrypted(self) -> bool:
        try:
            await self.tcp.send_all(self._outgoing.read())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True

    async def _receive_encrypted(self) -> bytes:
        try:
            return bytes(await self.tcp.receive_some())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""

    async def read_on(self) -> None:
        """Reads until the server closes."""
        while received := await self._receive_encrypted():
            self._incoming.write(received)
            self._take_decrypted()
            self._news.unpark_all()
            while self.answers_pings and self._unanswered:
                await self.send(frame(PING, self._unanswered.pop(0), flags=ACK))
        self.ended.set()
        self._news.unpark_all()

    def _take_decrypted(self) -> None:
        try:
            while plain := self._tls.read(PIECE):
                self._held += plain
        except ssl.SSLError:  # no more for now, or the end
            pass
        while len(self._held) >= 9:
            size = 9 + int.from_bytes(self._held[:3], "big")
            if len(self._held) < size:
                return
            whole = bytes(self._held[:size])
            del self._held[:size]
            self._take_frame(whole[3], whole[4], int.from_bytes(whole[5:9], "big"), whole[9:])

    def _take_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == PING and not flags & ACK:
            self.pings += 1
            self._unanswered = [payload]
        if kind == GOAWAY:
            self.goaway = int.from_bytes(payload[4:8], "big"), payload[8:]
            return
        if kind not in {DATA, HEADERS, RST_STREAM}:
            return
        answer = self.answers.setdefault(stream_id, Answer())
        if kind == RST_STREAM:
            if answer.reset_code is None:  # frames that were under way may bring another
                answer.reset_code = int.from_bytes(payload, "big")
            return
        if kind == DATA:
            self.data_taken += len(payload)
        if kind == HEADERS:
            answer.fields.update(self._decoder.decode(payload, raw=True))
        answer.ended = answer.ended or bool(flags & END_STREAM)

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Reads until `is_so`, or to the connection's end."""
        with trio.fail_after(HANG_GUARD):
            while not is_so() and not self.ended.is_set():
                await self._news.park()

    async def answer(self, stream_id: int) -> Answer | None:
        """The whole answer on a stream; None where the connection ended without one."""
        await self.until(lambda: stream_id in self.answers and self.answers[stream_id].is_final)
        answer = self.answers.get(stream_id)
        return answer if answer is not None and answer.is_final else None

    async def until_closed(self) -> None:
        """Waits until the server has closed the connection."""
        await self.until(lambda: False)


async def dial(program: Program, *, source: str | None = None, network: Network | None = None) -> trio.SocketStream:
    """A bare TCP connection to the server, from the address `source`, in that network."""
    tcp = trio.socket.socket() if network is None else trio.socket.from_stdlib_socket(network.new_socket())
    if source is not None:
        await tcp.bind((source, 0))
    await tcp.connect(("127.0.0.1", program.port))
    return trio.SocketStream(tcp)


@asynccontextmanager
async def attacking(
    program: Program,
    *entries: tuple[int, int],
    reads: bool = True,
    context: ssl.SSLContext | None = None,
    source: str | None = None,
    network: Network | None = None,
) -> AsyncIterator[Attacker]:
    """A connection with HTTP/2 begun by SETTINGS of `entries`; where `reads` is false, nothing more is ever read.

    Raises:
        ssl.SSLError, ConnectionError: the server refuses it during the handshake.
    """
    tcp = await dial(program, source=source, network=network)
    async with tcp:
        attacker = Attacker(tcp, context or client_context(program.certificates, "client1"))
        await attacker.handshake()
        async with trio.open_nursery() as nursery:
            if reads:
                nursery.start_soon(attacker.read_on)
            await attacker.send(PREFACE + settings(*entries) + frame(SETTINGS, flags=ACK))
            yield attacker
            nursery.cancel_scope.cancel()
