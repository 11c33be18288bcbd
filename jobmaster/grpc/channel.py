"""The channel under purerpc's stubs: connects, and connects again.

purerpc's client asks its channel for `_host`, `_port` and `_grpc_socket.start_request`; a `Channel` is all three. A
call goes out on the connection there is; where that has ended or its server is going away, the next call makes a new
one, with a pause that grows and has a jitter. Calls that were open are never repeated: whether they took effect only
the caller can know.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import trio

from jobmaster.errors import TransportError
from jobmaster.grpc.client import RECEIVE_SIZE, ClientConnection, ClientStream
from jobmaster.grpc.connection import closed_at_once
from jobmaster.wire.tcp import TcpStream
from jobmaster.wire.tls import tls_stream

CONNECT_SECONDS: Final = 10.0
"""How long connecting may take, and how long the TLS handshake."""
TRIES: Final = 5
"""Of connecting for one call, after the first connection was lost."""
FIRST_PAUSE: Final = 0.1
LAST_PAUSE: Final = 2.0


class CallChannel(Protocol):
    """What opens calls for purerpc's stubs."""

    async def start_request(
        self, _scheme: str, service: str, method: str, _message_type: str, authority: str, **_unused: Any
    ) -> ClientStream:
        """Opens a call; raises TransportError where none can be."""


class Channel:
    """A server, and the connection to it. Made by `open_channel`."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, nursery: trio.Nursery) -> None:
        self._host = f"[{host}]" if ":" in host else host
        self._port = port
        self._address = host
        self._context = context
        self._nursery = nursery
        self._connecting = trio.Lock()
        self._connection: ClientConnection | None = None

    @property
    def _grpc_socket(self) -> Channel:
        return self

    async def start_request(
        self, _scheme: str, service: str, method: str, _message_type: str, authority: str, **_unused: Any
    ) -> ClientStream:
        """Opens a call, on a new connection where it has to.

        Raises:
            TransportError: there is no connection to be had; says why.
        """
        connection = self._connection
        if connection is None or not connection.takes_calls:
            connection = await self._connected_again()
        return connection.start_call(service, method, authority)

    async def connect(self) -> ClientConnection:
        """Makes the connection, once.

        Raises:
            TransportError: nobody answers, or the TLS handshake fails; says which and why.
        """
        wire = await _connect(self._address, self._port, self._context)
        self._connection = ClientConnection(wire)
        await self._nursery.start(self._run, self._connection, wire)
        return self._connection

    async def _run(
        self,
        connection: ClientConnection,
        wire: trio.SSLStream[trio.abc.Stream],
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        async with closed_at_once(wire):
            await connection.run(task_status=task_status)

    async def _connected_again(self) -> ClientConnection:
        async with self._connecting:  # one for all calls that wait
            if self._connection is not None and self._connection.takes_calls:
                return self._connection
            pause = FIRST_PAUSE
            for _ in range(TRIES - 1):
                try:
                    return await self.connect()
                except TransportError:
                    await trio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # no secret
                    pause = min(pause * 2, LAST_PAUSE)
            return await self.connect()


@asynccontextmanager
async def open_channel(host: str, port: int, context: ssl.SSLContext) -> AsyncIterator[Channel]:
    """Connects to a server, with TLS; the channel lives as long as the block.

    Raises:
        TransportError: nobody answers, or the TLS handshake fails; says which and why.
    """
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        channel = Channel(host, port, context, nursery)
        try:
            await channel.connect()
            yield channel
        except Exception as error:  # noqa: BLE001  # raised again outside, so that the nursery does not group it
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _connect(host: str, port: int, context: ssl.SSLContext) -> trio.SSLStream[trio.abc.Stream]:
    try:
        with trio.fail_after(CONNECT_SECONDS):
            tcp = await trio.open_tcp_stream(host, port)
    except (OSError, trio.TooSlowError) as error:
        raise TransportError(f"cannot connect to {host}:{port}: {_reason(error)}") from None
    wire = tls_stream(TcpStream(tcp, buffer=bytearray(RECEIVE_SIZE)), context, server_hostname=host)
    try:
        with trio.fail_after(CONNECT_SECONDS):
            await wire.do_handshake()
        if wire.selected_alpn_protocol() != "h2":
            raise TransportError(f"{host}:{port} does not speak HTTP/2")
    except (trio.BrokenResourceError, trio.TooSlowError) as error:
        tcp.socket.close()
        raise TransportError(f"no secure connection to {host}:{port}: {_reason(error)}") from None
    except BaseException:
        tcp.socket.close()
        raise
    return wire


def _reason(error: BaseException) -> str:
    if isinstance(error, trio.TooSlowError):
        return f"no answer within {CONNECT_SECONDS:.0f} s"
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the server's certificate is not valid: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"TLS: {str(cause.reason).lower().replace('_', ' ')}"
    return getattr(error, "strerror", None) or str(cause or error)
