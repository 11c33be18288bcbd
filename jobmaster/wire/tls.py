"""TLS by trio.SSLStream, with a bound on its memory and a free hand for bulk data.

Theory of operation
-------------------
SSLStream asks a context for a TLS object (`wrap_bio`) and drives it by two memory BIOs: of every call to the object
that left something in the outgoing BIO it sends that, in the order of the calls. A `_Records` object stands between the
two, with two differences from `ssl.SSLObject`:

* a *write* encrypts record by record, passes the records to the TCP stream, which sends them before what SSLStream sends
  for that call, and frees the plaintext. So no more is held for a slow peer than what it has not taken, once; written in
  one go, 192 KiB would be there three times (plaintext, BIO, bytes to send), and the BIO would never shrink;
* a *read* returns what further records have arrived, so that bulk data takes fewer passes of the event loop. Where the TCP
  stream has a buffer, they are decrypted into that, from which SSLStream has copied what was received.

SSLStream takes a lock for what it sends, and yields to other tasks each time. A task that sends here, and does not have to
wait, goes on at once (`_SendLock`): an answer leaves a pass of the event loop earlier. It is for its user not to send on and
on; reading yields as ever.

SSLStream sends nothing for a call that failed. So the alert of a failed handshake is sent from the outgoing BIO here
(`do_handshake`).
"""

from __future__ import annotations

import _ssl
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, cast

import trio

from jobmaster.wire.tcp import TcpStream, linger

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

RECORD_SIZE: Final = 16 * 1024
"""Bytes of one TLS record, at most (RFC 8446, 5.1); after a full one there are likely to be more."""
ALERT_SECONDS: Final = 1.0
"""How long sending an alert may take."""
CLOSE_SECONDS: Final = 1.0
"""How long closing may take, which waits for nobody."""

TlsStream = trio.SSLStream[trio.abc.Stream]

_ALERT: Final = re.compile(r"(?:SSLV3|TLSV1|TLSV13)_ALERT_(\w+)")


class _Records:
    """An `ssl.SSLObject`, as far as SSLStream uses it, that reads and writes several records in one call."""

    def __init__(self, tls: ssl.SSLObject, outgoing: ssl.MemoryBIO, tcp: TcpStream) -> None:
        self._tls = tls
        self._outgoing = outgoing
        self._tcp = tcp

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tls, name)

    def read(self, limit: int) -> bytes | memoryview:
        """Up to `limit` bytes, of one record or of several; those of a buffer are valid until the next call."""
        before = self._outgoing.pending
        try:
            return self._read(limit) if self._tcp.buffer is None else self._read_into(self._tcp.buffer, limit)
        finally:
            if self._outgoing.pending > before:  # an answer (a key update): a send of its own, with nothing before it
                self._tcp.put_ahead(())

    def _read(self, limit: int) -> bytes:
        data = self._tls.read(min(limit, RECORD_SIZE))  # so much memory is taken, also for less
        if len(data) < RECORD_SIZE:
            return data
        records = [data]
        left = limit - len(data)
        with suppress(ssl.SSLError):  # no more has come, or an end that the next read will meet too
            while left and (record := self._tls.read(min(left, RECORD_SIZE))):
                records.append(record)
                left -= len(record)
        return b"".join(records)

    def _read_into(self, buffer: bytearray, limit: int) -> memoryview:
        view = memoryview(buffer)[:limit]
        end = self._fill(view)
        with suppress(ssl.SSLError):  # as above
            while end < len(view) and (count := self._fill(view[end:])):
                end += count
        return view[:end]

    def _fill(self, view: memoryview) -> int:
        """Decrypts one record, or what of it finds its place; how many bytes."""
        return cast("int", self._tls.read(RECORD_SIZE, cast("bytearray", view)))  # no bytes where it is given a buffer

    def write(self, data: ReadableBuffer) -> int:
        """Encrypts bytes. A bytearray is empty afterwards."""
        ahead = []
        with memoryview(data) as plaintext:
            size = len(plaintext)
            self._tls.write(plaintext[:RECORD_SIZE])
            for start in range(RECORD_SIZE, size, RECORD_SIZE):
                ahead.append(self._outgoing.read())
                self._tls.write(plaintext[start : start + RECORD_SIZE])
        self._tcp.put_ahead(ahead)
        if isinstance(data, bytearray):
            data.clear()
        return size


class _SendLock:
    """A `trio.StrictFIFOLock`, as far as SSLStream uses it, that yields only where another task has it."""

    def __init__(self) -> None:
        self._lock = trio.StrictFIFOLock()

    async def __aenter__(self) -> None:
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


class _Context:
    """What SSLStream asks of an `ssl.SSLContext`."""

    def __init__(self, context: ssl.SSLContext, tcp: TcpStream) -> None:
        self._context = context
        self._tcp = tcp

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **options: Any) -> _Records:
        """The TLS object of a connection."""
        return _Records(self._context.wrap_bio(incoming, outgoing, **options), outgoing, self._tcp)


def tls_stream(tcp: TcpStream, context: ssl.SSLContext, *, server_hostname: str | None = None) -> TlsStream:
    """A TLS stream on a TCP connection: a client's where it is given the server's name, a server's otherwise."""
    tls: TlsStream = trio.SSLStream(
        tcp,
        cast("ssl.SSLContext", _Context(context, tcp)),
        server_hostname=server_hostname,
        server_side=server_hostname is None,
        https_compatible=True,
    )
    tls._inner_send_lock = cast("trio.StrictFIFOLock", _SendLock())
    return tls


async def do_handshake(tls: TlsStream) -> None:
    """Does the handshake. Where it fails, the peer is sent the alert that says why, and given a moment to read it.

    Raises:
        trio.BrokenResourceError: it failed; caused by the ssl.SSLError.
    """
    failure = None
    try:
        await tls.do_handshake()
    except trio.BrokenResourceError as error:
        failure = error
    if failure is None:
        return
    alert = tls._outgoing.read()  # what SSLStream would have sent, had the call not failed
    if alert and isinstance(failure.__cause__, ssl.SSLError):
        with trio.move_on_after(ALERT_SECONDS), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await tls.transport_stream.send_all(alert)
            await linger(tls)
    try:
        raise failure
    finally:
        del failure  # with its traceback it would make a cycle


def verified_chain(tls: TlsStream) -> list[bytes]:
    """The peer's certificates as they were verified in the handshake, in DER: the leaf first, the authority last."""
    tls_object: Any = tls._ssl_object
    return [
        certificate.public_bytes(_ssl.ENCODING_DER) for certificate in tls_object._sslobj.get_verified_chain() or ()
    ]


def alert_in(error: BaseException | None) -> str | None:
    """The alert with which the peer ended a connection, in words ("certificate expired"); None where it was none."""
    while error is not None:
        if isinstance(error, ssl.SSLError) and (match := _ALERT.fullmatch(str(error.reason))):
            return match[1].lower().replace("_", " ")
        error = error.__cause__
    return None


@asynccontextmanager
async def closing(tls: TlsStream) -> AsyncIterator[TlsStream]:
    """Closes a TLS stream at the end of the block, without waiting for the peer, and frees what it holds.

    SSLStream refers to itself, so that its TLS state, some 60 KiB, would otherwise stay until a full collection of
    cycles, a minute later: a flood of strangers would fill the memory meanwhile. Hence its attributes are removed.

    Closing cannot be cancelled: a `Cancelled` would take the place of what ended the block, of a KeyboardInterrupt, for
    example.
    """
    try:
        yield tls
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_SECONDS):
            await trio.aclose_forcefully(tls)
        vars(tls).clear()
