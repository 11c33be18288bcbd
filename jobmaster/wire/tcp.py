"""TCP as TLS needs it: bytes come and go in the fewest turns of the event loop.

trio.SSLStream lets the others have their turn in each of its operations: taking its lock is a checkpoint. A stream
under it that did so once more would make every write and every read wait for two turns. So this one lets others run
only where it has to wait, and is no stream for anybody but SSLStream.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Final, NoReturn

import trio

RECEIVE_SIZE: Final = 64 * 1024
"""Bytes that are received in one go, at most, where nothing else is said."""

_WATCH_PEER: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),  # seconds
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),  # seconds
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000),  # milliseconds
)


class TcpStream(trio.abc.HalfCloseableStream):
    """The bytes of a connection, which stays the owner's. Always a point of cancellation, seldom a turn.

    Raises, from each of its methods:
        trio.BrokenResourceError: the connection is broken.
        trio.ClosedResourceError: it was closed here.
    """

    def __init__(self, tcp: trio.SocketStream, *, buffer: bytearray | None = None) -> None:
        """Where there is a buffer, bytes are received in it, and are there until the next ones are."""
        self._tcp = tcp
        self._socket = tcp.socket
        self._buffer = buffer
        self._ahead: list[Sequence[bytes]] = []

    def watch_peer(self) -> None:
        """Has the kernel end the connection of a peer that is gone, or takes nothing, for a minute or so.

        Raises:
            OSError: the connection is gone already.
        """
        for level, option, value in _WATCH_PEER:
            self._socket.setsockopt(level, option, value)

    def put_ahead(self, pieces: Sequence[bytes]) -> None:
        """Has bytes go before those of the next `send_all` that has none ahead of it yet."""
        self._ahead.append(pieces)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Sends all bytes; what has been sent is let go of as others wait to be."""
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
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                return self._receive(max_bytes)
            except BlockingIOError:
                pass
            except OSError as error:
                _fail(error)
            await trio.lowlevel.wait_readable(self._socket)

    def _receive(self, max_bytes: int | None) -> bytes | memoryview:
        if self._buffer is None or max_bytes is not None:
            return os.read(self._socket.fileno(), max_bytes or RECEIVE_SIZE)
        count = os.readv(self._socket.fileno(), (self._buffer,))
        return memoryview(self._buffer)[:count]

    async def wait_send_all_might_not_block(self) -> None:
        """Waits until some bytes can be sent."""
        await self._tcp.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Ends the connection in this direction."""
        await self._tcp.send_eof()

    async def aclose(self) -> None:
        """Closes the connection."""
        await self._tcp.aclose()


def _fail(error: OSError) -> NoReturn:
    if error.errno == errno.EBADF:
        raise trio.ClosedResourceError("the connection was closed here") from None
    raise trio.BrokenResourceError(f"the connection is broken: {error}") from error
