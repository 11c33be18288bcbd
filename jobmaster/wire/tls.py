"""TLS on a connection: bulk data in few steps, and in little memory.

Theory of operation
-------------------
trio.SSLStream drives a TLS object, which a context makes for it (`wrap_bio`), by one read or write in each turn of the
event loop. Of which class those objects are, a context may say (`ssl.SSLContext.sslobject_class`). Ours does more in a
step:

* a *read* takes what further records have arrived;
* a *write* of bulk data is encrypted record by record. What was encrypted is handed to the TCP stream, to go ahead of
  the last record, which SSLStream sends as any other. So the buffer in between, which OpenSSL never gives back to the
  allocator, stays that of one record, and what is on its way is let go of piece by piece;
* the buffer that was encrypted is another's from then on (`buffers`).

On the wire bytes have to be in the order of their encryption. SSLStream sends once for each call that left something to
send, be it a write or a read that had to answer, in the order of the calls. So each such call puts ahead what goes before
its own, which is nothing for a read, and the TCP stream takes one of these for each send.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

import trio

from jobmaster.http2 import buffers
from jobmaster.wire.tcp import TcpStream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from _typeshed import ReadableBuffer, WriteableBuffer

RECORD_SIZE: Final = 16 * 1024
"""Bytes of one TLS record, at most (RFC 8446, 5.1); after a full one there are likely to be more."""


class TlsObject(ssl.SSLObject):
    """See the module. trio.SSLStream uses it as any `ssl.SSLObject`."""

    _outgoing: ssl.MemoryBIO
    _put_ahead: Callable[[Sequence[bytes]], None]

    def send_by(self, outgoing: ssl.MemoryBIO, put_ahead: Callable[[Sequence[bytes]], None]) -> None:
        """Says where encrypted bytes are found, and who takes those that go ahead."""
        self._outgoing, self._put_ahead = outgoing, put_ahead

    def read(self, len: int = 1024, buffer: WriteableBuffer | None = None) -> bytes:  # noqa: A002  # as in the library
        """Up to `len` bytes, of one record or of several."""
        before = self._outgoing.pending
        try:
            return self._read(len, buffer)
        finally:
            if self._outgoing.pending > before:
                self._put_ahead(())

    def _read(self, limit: int, buffer: WriteableBuffer | None) -> bytes:
        data = super().read(limit, buffer)
        if buffer is not None or len(data) < RECORD_SIZE:
            return data
        records = [data]
        left = limit - RECORD_SIZE
        with suppress(ssl.SSLError):  # no more has come, or an end that the next read will meet too
            while left and (record := super().read(left)):
                records.append(record)
                left -= len(record)
        return b"".join(records)

    def write(self, data: ReadableBuffer) -> int:
        """Encrypts bytes. A bytearray is no longer the caller's afterwards."""
        ahead = []
        with memoryview(data) as whole:
            size = len(whole)
            super().write(whole[:RECORD_SIZE])
            for start in range(RECORD_SIZE, size, RECORD_SIZE):
                ahead.append(self._outgoing.read())
                super().write(whole[start : start + RECORD_SIZE])
        self._put_ahead(ahead)
        if isinstance(data, bytearray):
            buffers.give_back(data)
        return size


class _Context:
    """What SSLStream asks of a context, for one connection."""

    def __init__(self, context: ssl.SSLContext, tcp: TcpStream) -> None:
        self._context = context
        self._tcp = tcp

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **options: Any) -> ssl.SSLObject:
        """As that of `ssl.SSLContext`, which is left as it was: it may serve others too."""
        context, usual = self._context, self._context.sslobject_class
        context.sslobject_class = TlsObject
        try:
            made = cast("TlsObject", context.wrap_bio(incoming, outgoing, **options))
        finally:
            context.sslobject_class = usual
        made.send_by(outgoing, self._tcp.put_ahead)
        return made


def tls_stream(
    tcp: TcpStream, context: ssl.SSLContext, *, under: trio.abc.Stream | None = None, server_hostname: str | None = None
) -> trio.SSLStream[trio.abc.Stream]:
    """A TLS stream on a TCP connection: a client's where it is told the server's name, a server's otherwise.

    Where there is a stream `under` it that stands between the two, it is for the handshake.
    """
    return trio.SSLStream(
        under or tcp,
        cast("ssl.SSLContext", _Context(context, tcp)),
        server_hostname=server_hostname,
        server_side=server_hostname is None,
        https_compatible=True,
    )
