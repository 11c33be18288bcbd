"""From a TCP connection to a served one: the bound on connections, TLS, and who is at the other end.

A connection's task does its own handshake, under a deadline, so that a slow or hostile peer holds up nobody else.
The identity is read once, from the leaf certificate, and handed to every call as a value.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from jobmaster.auth.policy import Policy
from jobmaster.auth.tls import peer_identity
from jobmaster.errors import CertificateRefused
from jobmaster.transport.server import Dispatcher, ServerConnection

logger = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 1_000
"""Connections at a time; more are closed at once."""
HANDSHAKE_SECONDS: Final = 10.0
_FREE_PORT_TRIES: Final = 20
_KEEPALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),  # seconds
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),  # seconds
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000),  # milliseconds
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)

TlsStream = trio.SSLStream[trio.SocketStream]


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What every connection is held against."""

    context: ssl.SSLContext
    policy: Policy
    dispatcher: Dispatcher


class Listener:
    """Serves connections until it is cancelled."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._open = 0
        self._serving: set[ServerConnection] = set()

    async def serve(
        self,
        listeners: Sequence[trio.SocketListener],
        *,
        handler_nursery: trio.Nursery,
        task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accepts connections, each served by a task in `handler_nursery`."""
        await trio.serve_listeners(
            self._serve_connection, list(listeners), handler_nursery=handler_nursery, task_status=task_status
        )

    async def _serve_connection(self, tcp: trio.SocketStream) -> None:
        """Serves one connection. Whatever happens on it stays on it."""
        if self._open >= MAX_CONNECTIONS:
            logger.warning("connection refused: %d are open, as many as may be", self._open)
            return
        self._open += 1
        try:
            await self._handshake_and_serve(tcp)
        except Exception:
            logger.exception("a bug in the server ended a connection")
        finally:
            self._open -= 1

    async def _handshake_and_serve(self, tcp: trio.SocketStream) -> None:
        peer = _peer_name(tcp)
        for level, option, value in _KEEPALIVE:
            tcp.setsockopt(level, option, value)
        tls: TlsStream = trio.SSLStream(tcp, self._door.context, server_side=True, https_compatible=True)
        try:
            with trio.fail_after(HANDSHAKE_SECONDS):
                await tls.do_handshake()
            identity = peer_identity(tls, self._door.policy)
        except (CertificateRefused, trio.BrokenResourceError, trio.TooSlowError) as refusal:
            logger.warning("connection from %s refused: %s", peer, _reason(refusal))
            return
        logger.info("connection from %s is %s", peer, identity.name)
        connection = ServerConnection(tls, self._door.dispatcher, identity)
        self._serving.add(connection)
        try:
            await connection.run()
        finally:
            self._serving.discard(connection)
            await trio.aclose_forcefully(tls)

    def shut_down(self) -> None:
        """Tells every client that the server goes away; each connection ends when its last call has."""
        for connection in tuple(self._serving):
            connection.shut_down()


def _peer_name(tcp: trio.SocketStream) -> str:
    try:
        host, port = tcp.socket.getpeername()[:2]
    except OSError:
        return "a peer that is gone"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reason(refusal: Exception) -> str:
    match refusal:
        case trio.TooSlowError():
            return f"no TLS handshake within {HANDSHAKE_SECONDS:.0f} s"
        case trio.BrokenResourceError(__cause__=ssl.SSLCertVerificationError() as cause):
            return f"certificate: {cause.verify_message}"
        case trio.BrokenResourceError(__cause__=ssl.SSLError() as cause):
            return f"TLS: {str(cause.reason).lower().replace('_', ' ')}"
        case _:
            return str(refusal) or "the peer went away during the TLS handshake"


async def open_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Listeners on every address of `host`; with port 0 all of them on the same free port.

    Raises:
        OSError: an address cannot be bound.
    """
    if port:
        return await trio.open_tcp_listeners(port, host=host)
    for _ in range(_FREE_PORT_TRIES):
        trial = await trio.open_tcp_listeners(0, host=host)
        if len(trial) == 1:
            return trial
        chosen = trial[0].socket.getsockname()[1]
        for listener in trial:
            await listener.aclose()
        with contextlib.suppress(OSError):  # taken on another address of the host
            return await trio.open_tcp_listeners(chosen, host=host)
    raise OSError(errno.EADDRINUSE, f"no port that is free on every address of {host}")
