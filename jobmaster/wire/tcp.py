"""TCP under trio.SSLStream: sending and receiving yield to other tasks only where they have to wait.

SSLStream yields in each of its operations, by taking its lock, unless `jobmaster.wire.tls` gives it another one. A
`trio.SocketStream` under it yields once more, so that every read and every write would take two passes of the event loop.
This stream is for SSLStream alone.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

import trio

if TYPE_CHECKING:
    from jobmaster.wire.handshakes import HandshakeSlot

RECEIVE_SIZE: Final = 64 * 1024
"""Bytes that are received in one go, at most, unless the caller asks for fewer."""
BULK_RECEIVE_SIZE: Final = 240 * 1024
"""The same where there is very much to receive, into a buffer of the connection."""

LINGER_SECONDS: Final = 0.3
LINGER_READS: Final = 64
LINGER_READ_SIZE: Final = 16 * 1024
"""How long a peer may take to read our last words, and how much of its own is read meanwhile."""

_WATCH_PEER: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),  # seconds
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),  # seconds
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000),  # milliseconds
)


class TcpStream(trio.abc.HalfCloseableStream):
    """A TCP connection, which the caller closes. Each operation can be cancelled, but yields only when it waits.

    Attributes:
        buffer: where bytes are received, and may be changed then; None where each `receive_some` makes new ones.

    Raises, from each of its methods:
        trio.BrokenResourceError: the connection is broken.
        trio.ClosedResourceError: it was closed here.
    """

    def __init__(
        self, tcp: trio.SocketStream, *, buffer: bytearray | None = None, slot: HandshakeSlot | None = None
    ) -> None:
        """Takes a connected stream.

        Args:
            tcp: stays the caller's.
            buffer: where bytes are received; they are valid until it is used again.
            slot: held between receiving and the next call, until `handshake_done`.
        """
        self._tcp = tcp
        self._socket = tcp.socket
        self.buffer = buffer
        self._slot = slot
        self._ahead: list[Sequence[bytes]] = []

    def watch_peer(self) -> None:
        """Makes the kernel end the connection when the peer is gone, or takes nothing, for a minute or so.

        Raises:
            OSError: the connection is gone already.
        """
        for level, option, value in _WATCH_PEER:
            self._socket.setsockopt(level, option, value)

    def receive_bulk(self, is_bulk: bool) -> None:  # a switch
        """Receives more in one go from now on, or no more than usual."""
        if is_bulk != (self.buffer is not None):
            self.buffer = bytearray(BULK_RECEIVE_SIZE) if is_bulk else None

    def put_ahead(self, pieces: Sequence[bytes]) -> None:
        """Puts pieces before the bytes of the next `send_all` that has none before it yet."""
        self._ahead.append(pieces)

    def handshake_done(self) -> None:
        """The handshake has been computed, or given up: its slot is released."""
        if self._slot is not None:
            self._slot.release()
            self._slot = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Sends all bytes. A piece is freed when it has been sent, while the others wait."""
        if self._slot is not None:
            self._slot.release()
        await trio.lowlevel.checkpoint_if_cancelled()
        pieces: deque[bytes | bytearray | memoryview] = deque(self._ahead.pop(0) if self._ahead else ())
        pieces.append(data)
        del data
        while True:
            self._send(pieces)
            if not pieces:
                return
            await self.wait_send_all_might_not_block()

    def _send(self, pieces: deque[bytes | bytearray | memoryview]) -> None:
        try:
            sent = os.writev(self._socket.fileno(), pieces)
        except BlockingIOError:
            return
        except OSError as error:
            _fail(error)
        while pieces and sent >= len(pieces[0]):
            sent -= len(pieces.popleft())
        if sent:
            pieces[0] = memoryview(pieces[0])[sent:]

    async def receive_some(self, max_bytes: int | None = None) -> bytes | memoryview:  # type: ignore[override]  # a view too
        """Receives at most `max_bytes`; nothing at the end. SSLStream copies what it is given, also from a view."""
        if self._slot is not None:
            self._slot.release()
        await trio.lowlevel.checkpoint_if_cancelled()
        while (data := self._receive(max_bytes)) is None:
            await trio.lowlevel.wait_readable(self._socket)
        if self._slot is not None:
            await self._slot.acquire()
        return data

    def _receive(self, max_bytes: int | None) -> bytes | memoryview | None:
        """What has arrived; None where nothing has."""
        try:
            if self.buffer is None or max_bytes is not None:
                return os.read(self._socket.fileno(), max_bytes or RECEIVE_SIZE)
            count = os.readv(self._socket.fileno(), (self.buffer,))
            return memoryview(self.buffer)[:count]
        except BlockingIOError:
            return None
        except OSError as error:
            _fail(error)

    async def wait_send_all_might_not_block(self) -> None:
        """Waits until some bytes can be sent."""
        await self._tcp.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Ends the connection in this direction."""
        await self._tcp.send_eof()

    async def aclose(self) -> None:
        """Closes the connection."""
        self.handshake_done()
        await self._tcp.aclose()


def receive_bulk(stream: trio.abc.Stream, *, is_bulk: bool) -> None:
    """As `TcpStream.receive_bulk`, where the connection is one of these."""
    transport = _transport_of(stream)
    if isinstance(transport, TcpStream):
        transport.receive_bulk(is_bulk)


async def linger(stream: trio.abc.Stream) -> None:
    """Ends our side of a connection and reads on for a moment.

    Closing a socket with unread bytes resets the connection, and with it what the peer has not read yet: the GOAWAY or
    alert that says why. Bounded in time and in bytes; the caller closes the stream afterwards.
    """
    transport = _transport_of(stream)
    with trio.move_on_after(LINGER_SECONDS), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await end_sending(stream)
        for _ in range(LINGER_READS):
            if not await transport.receive_some(LINGER_READ_SIZE):
                return


async def end_sending(stream: trio.abc.Stream) -> None:
    """Ends our side of a connection, where that can be done by itself and it is not broken yet."""
    transport = _transport_of(stream)
    if isinstance(transport, trio.abc.HalfCloseableStream):
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await transport.send_eof()


def _transport_of(stream: trio.abc.Stream) -> trio.abc.Stream:
    return stream.transport_stream if isinstance(stream, trio.SSLStream) else stream


def _fail(error: OSError) -> NoReturn:
    if error.errno == errno.EBADF:
        raise trio.ClosedResourceError("the connection was closed here") from None
    raise trio.BrokenResourceError(f"the connection is broken: {error}") from error
