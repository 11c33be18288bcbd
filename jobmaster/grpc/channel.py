"""The channel under purerpc's stubs: connects, reconnects, and repeats calls that the server has not processed.

A call is made on the connection that is open; where that has ended or its server is going away, the next call connects
again, with a pause that grows and has a jitter. A call that was under way when its connection was lost is not repeated,
because only the caller can know whether it took effect. One that the server says it has not processed is: it reset the
stream with REFUSED_STREAM, or its GOAWAY names an earlier one (RFC 9113, 8.7).
"""

from __future__ import annotations

import os
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from jobmaster.errors import TransportError
from jobmaster.grpc.client import ClientConnection, ClientStream, StreamRefused
from jobmaster.grpc.framing import PREFIX
from jobmaster.wire.tcp import BULK_RECEIVE_SIZE, TcpStream
from jobmaster.wire.tls import TlsStream, alert_in, closing, do_handshake, tls_stream

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from jobmaster.grpc.purerpc_adapter import ResponseEnded, Status

CONNECT_SECONDS: Final = 10.0
"""How long connecting may take, and how long the TLS handshake."""
SILENCE_SECONDS: Final = 3.0
"""How long a connection may take before who waits for it is told."""
TRIES: Final = 5
"""Of connecting for one call, after the first connection was lost."""
FIRST_PAUSE: Final = 0.1
LAST_PAUSE: Final = 2.0
CALL_TRIES: Final = 4
"""Of one call, where the server refuses it unprocessed."""
MAX_REPEATABLE: Final = 64 * 1024
"""Bytes of requests, with their prefixes, that are kept to repeat a call; one with more is made once."""


OnSilence = Callable[[TransportError], None]
"""Called with what a connection waits for."""


class HandshakeLost(TransportError):
    """A server took the connection and closed it, or said nothing, before the handshake was done; that may pass."""


class CallStream(Protocol):
    """A call, as purerpc's stubs and `jobmaster.client` use it."""

    async def send_message(self, message: Message) -> None:
        """Sends a request message."""

    async def close(self) -> None:
        """Ends the request."""

    async def receive_message(self) -> Message | None:
        """The next message of the answer; None at its end."""

    @property
    def end_status(self) -> Status:
        """The status, once the answer has ended."""

    @property
    def send_window(self) -> int:
        """Bytes that the server takes now."""

    def reset(self) -> None:
        """Abandons the call."""


class CallChannel(Protocol):
    """What opens calls for purerpc's stubs."""

    async def start_request(
        self, _scheme: str, service: str, method: str, _message_type: str, authority: str, **_unused: Any
    ) -> CallStream:
        """Opens a call; raises TransportError where none can be."""


class RepeatableCall:
    """A call that is made again, as long as the server refuses it unprocessed."""

    def __init__(self, open_stream: Callable[[], Awaitable[ClientStream]], stream: ClientStream) -> None:
        self._open_stream = open_stream
        self._stream = stream
        self._message_type: type[Message] | None = None
        self._sent: list[bytes] = []
        self._kept = 0
        self._closed = False
        self._tries_left = CALL_TRIES - 1

    def expect_message_type(self, message_type: type[Message]) -> None:
        """Sets what the server's messages are parsed as."""
        self._message_type = message_type
        self._stream.expect_message_type(message_type)

    @property
    def end_stream_event(self) -> ResponseEnded | None:
        """For purerpc, once the server has ended the call."""
        return self._stream.end_stream_event

    @property
    def end_status(self) -> Status:
        """The status of a call that the server has ended."""
        return self._stream.end_status

    @property
    def send_window(self) -> int:
        """As `ClientStream.send_window`."""
        return self._stream.send_window

    async def send_message(self, message: Message) -> None:
        """As `ClientStream.send_message`; a refusal is met when the answer is received."""
        data = message.SerializeToString()
        self._keep(data)
        try:
            await self._stream.send_bytes(data)
        except StreamRefused:
            if not self._tries_left:
                raise

    def _keep(self, data: bytes) -> None:
        """Keeps a message for the next try, as long as there is one and the call is not too large for it."""
        self._kept += PREFIX.size + len(data)
        if self._kept > MAX_REPEATABLE:
            self._tries_left = 0
            self._sent.clear()
        if self._tries_left:
            self._sent.append(data)

    async def close(self) -> None:
        """Ends the request."""
        self._closed = True
        await self._stream.close()

    async def receive_message(self) -> Message | None:
        """As `ClientStream.receive_message`."""
        is_refused = False
        while True:
            try:
                if is_refused:
                    await self._repeat()  # which can be refused too
                message = await self._stream.receive_message()
            except StreamRefused:
                if not self._tries_left:
                    raise
                self._tries_left -= 1
                is_refused = True
            else:
                self._tries_left = 0
                self._sent.clear()
                return message

    async def _repeat(self) -> None:
        pause = min(FIRST_PAUSE * 2 ** (CALL_TRIES - 2 - self._tries_left), LAST_PAUSE)
        await trio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # no secret
        self._stream = await self._open_stream()
        if self._message_type is not None:
            self._stream.expect_message_type(self._message_type)
        for data in self._sent:
            await self._stream.send_bytes(data)
        if self._closed:
            await self._stream.close()

    def reset(self) -> None:
        """Abandons the call; does nothing when it has ended."""
        self._tries_left = 0
        self._stream.reset()


class Channel:
    """A server, and the connection to it. Made by `open_channel`.

    purerpc's client asks its channel for `_host`, `_port` and `_grpc_socket.start_request`.
    """

    def __init__(
        self, host: str, port: int, context: ssl.SSLContext, nursery: trio.Nursery, on_silence: OnSilence | None = None
    ) -> None:
        self._host = f"[{host}]" if ":" in host else host
        self._port = port
        self._address = host
        self._context = context
        self._nursery = nursery
        self._on_silence = on_silence
        self._connecting = trio.Lock()
        self._failures = 0
        self._failure = ""
        self._connection: ClientConnection | None = None
        self._is_closed = False

    @property
    def _grpc_socket(self) -> Channel:
        return self

    async def start_request(
        self, _scheme: str, service: str, method: str, _message_type: str, authority: str, **_unused: Any
    ) -> RepeatableCall:
        """Opens a call, on a new connection where it has to.

        Raises:
            TransportError: there is no connection to be had; says why.
            trio.ClosedResourceError: nor will be, as the block that opened the channel has ended.
        """

        async def open_stream() -> ClientStream:
            connection = self._connection
            if connection is None or not connection.takes_calls:
                connection = await self._connected_again()
            return await connection.start_call(service, method, authority)

        for _ in range(CALL_TRIES - 1):
            try:
                return RepeatableCall(open_stream, await open_stream())
            except StreamRefused:  # its server went away while the call waited to be opened
                await trio.lowlevel.checkpoint()
        return RepeatableCall(open_stream, await open_stream())

    async def connect(self) -> ClientConnection:
        """Makes the connection, once.

        Raises:
            TransportError: nobody answers, or the TLS handshake fails; says which and why.
            trio.ClosedResourceError: the block that opened the channel has ended.
        """
        self._check_open()
        with self._watched():
            tls = await _connect(self._address, self._port, self._context)
        if self._is_closed:
            await trio.aclose_forcefully(tls)
        self._check_open()
        connection = ClientConnection(tls)
        await self._nursery.start(_run, connection, tls)
        self._connection = connection
        return connection

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Tells where the block lasts."""
        waiting = trio.CancelScope()
        self._nursery.start_soon(self._tell_silence, waiting)
        try:
            yield
        finally:
            waiting.cancel()

    async def _tell_silence(self, waiting: trio.CancelScope) -> None:
        with waiting:
            await trio.sleep(SILENCE_SECONDS)
            if self._on_silence is not None:
                self._on_silence(TransportError(f"{self._host}:{self._port} does not answer"))

    def close(self) -> None:
        """Makes no more connections: calls of other tasks fail that need one."""
        self._is_closed = True

    def _check_open(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("the channel is closed: the block that opened it has ended")

    async def _connected_again(self) -> ClientConnection:
        """One connection for all calls that wait for it; where there is none to be had, one failure."""
        failures = self._failures
        async with self._connecting:
            if self._connection is not None and self._connection.takes_calls:
                return self._connection
            if failures != self._failures:  # of who connected meanwhile
                raise TransportError(self._failure)
            try:
                return await self._connect_patiently()
            except TransportError as error:
                self._failures, self._failure = self._failures + 1, str(error)
                raise

    async def _connect_patiently(self) -> ClientConnection:
        pause = FIRST_PAUSE
        for _ in range(TRIES - 1):
            try:
                return await self.connect()
            except TransportError:
                await trio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # no secret
                pause = min(pause * 2, LAST_PAUSE)
        return await self.connect()


async def _run(connection: ClientConnection, tls: TlsStream, *, task_status: trio.TaskStatus[None]) -> None:
    async with closing(tls):
        await connection.run(task_status=task_status)


@asynccontextmanager
async def open_channel(
    host: str, port: int, context: ssl.SSLContext, *, on_silence: OnSilence | None = None
) -> AsyncIterator[Channel]:
    """Connects to a server, with TLS; the channel lives as long as the block.

    Args:
        host: of the server.
        port: of the server.
        context: with the certificate.
        on_silence: called where a connection takes longer than SILENCE_SECONDS; it is waited for all the same.

    Raises:
        TransportError: nobody answers, or the TLS handshake fails; says which and why.
    """
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        channel = Channel(host, port, context, nursery, on_silence)
        try:
            await channel.connect()
            yield channel
        except Exception as error:  # noqa: BLE001  # raised again outside, so that the nursery does not group it
            failure = error
        finally:
            channel.close()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _connect(host: str, port: int, context: ssl.SSLContext) -> TlsStream:
    try:
        with trio.fail_after(CONNECT_SECONDS):
            tcp = await trio.open_tcp_stream(host, port)
    except (OSError, trio.TooSlowError) as error:
        raise TransportError(f"cannot connect to {host}:{port}: {_reason(error)}") from None
    tls = tls_stream(TcpStream(tcp, buffer=bytearray(BULK_RECEIVE_SIZE)), context, server_hostname=host)
    try:
        with trio.fail_after(CONNECT_SECONDS):
            await do_handshake(tls)
        if tls.selected_alpn_protocol() != "h2":
            raise TransportError(f"{host}:{port} does not speak HTTP/2")
    except (trio.BrokenResourceError, trio.TooSlowError) as error:
        tcp.socket.close()
        kind = HandshakeLost if _is_silent(error) else TransportError
        raise kind(f"no secure connection to {host}:{port}: {_reason(error)}") from None
    except BaseException:
        tcp.socket.close()
        raise
    return tls


_CLOSED: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionResetError, BrokenPipeError)


def _is_silent(error: BaseException) -> bool:
    """Whether the peer has given no reason."""
    return isinstance(error, trio.TooSlowError) or isinstance(error.__cause__, _CLOSED)


def _reason(error: BaseException) -> str:
    if isinstance(error, trio.TooSlowError):
        return f"no answer within {CONNECT_SECONDS:.0f} s"
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):  # one for each address of the host
        cause = cause.exceptions[0]
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the server's certificate is not valid: {cause.verify_message}"
    if (alert := alert_in(cause)) is not None:
        return f"the server refused the connection: {alert}"
    if isinstance(cause, _CLOSED):
        return "the server closed the connection in the handshake: it has too many connections, or speaks no TLS"
    if isinstance(cause, ssl.SSLError):
        return f"TLS: {str(cause.reason).lower().replace('_', ' ')}"
    if isinstance(cause, OSError) and cause.errno is not None:
        return os.strerror(cause.errno)  # Trio's own text repeats the address
    return getattr(error, "strerror", None) or str(cause or error)
