"""From a TCP connection to a served one: the bound on connections, TLS, and who is at the other end.

A connection's task does its own handshake, under a deadline, so that a slow or hostile peer holds up nobody else.
The identity is read once, from the leaf certificate, and handed to every call as a value.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import ssl
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import trio

from jobmaster.certs.contexts import peer_identity
from jobmaster.errors import CertificateRefused
from jobmaster.grpc.connection import closed_at_once
from jobmaster.grpc.server import Dispatcher, ServerConnection
from jobmaster.identity.certificate import valid_until
from jobmaster.identity.policy import Identity, Policy
from jobmaster.wire.handshakes import Pace, PacedStream
from jobmaster.wire.lifetime import SERVER_POLICY, LifetimePolicy
from jobmaster.wire.tcp import TcpStream
from jobmaster.wire.tls import tls_stream

logger = logging.getLogger(__name__)

HANDSHAKE_SECONDS: Final = 10.0
_FREE_PORT_TRIES: Final = 20

REFUSALS_LOGGED: Final = 60
"""Refusals that are logged one by one in a minute; the rest is counted."""

TlsStream = trio.SSLStream[trio.abc.Stream]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """How many connections at a time, handshakes under way included; one that is too many is closed at once.

    There is no bound of its own on handshakes: strangers who stay silent in theirs would keep everybody else out.

    Attributes:
        total: of all clients.
        per_address: from one address, strangers included.
        per_client: of one identity.
    """

    total: int = 10_000
    per_address: int = 5_000
    per_client: int = 5_000


DEFAULT_LIMITS: Final = ConnectionLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What every connection is held against."""

    context: ssl.SSLContext
    policy: Policy
    dispatcher: Dispatcher
    lifetime: LifetimePolicy = SERVER_POLICY


class Listener:
    """Serves connections until it is cancelled."""

    def __init__(self, door: Door, limits: ConnectionLimits = DEFAULT_LIMITS) -> None:
        self._door = door
        self._limits = limits
        self._open = 0
        self._by_host: Counter[str] = Counter()
        self._by_client: Counter[str] = Counter()
        self._serving: set[ServerConnection] = set()
        self._change = trio.lowlevel.ParkingLot()
        self._refusals = Refusals()
        self._pace = Pace()

    async def serve(
        self,
        listeners: Sequence[trio.SocketListener],
        connections: trio.Nursery,
        *,
        task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accepts connections, each served by a task in the nursery `connections`.

        Goes on when the process is out of descriptors: trio.serve_listeners pauses then, and tries again.
        """
        await trio.serve_listeners(
            self._serve_connection, list(listeners), handler_nursery=connections, task_status=task_status
        )

    def shut_down(self) -> None:
        """Tells every client that the server goes away; each connection ends when its last call has."""
        for connection in tuple(self._serving):
            connection.shut_down()

    def give_up_calls(self) -> None:
        """Ends every call that is still open with UNAVAILABLE, and with it its connection."""
        for connection in tuple(self._serving):
            connection.give_up_calls()

    async def wait_empty(self) -> None:
        """Waits until no connection is served."""
        while self._serving:
            await self._change.park()

    async def _serve_connection(self, tcp: trio.SocketStream) -> None:
        """Serves one connection. Whatever happens on it stays on it."""
        host = _peer_host(tcp)
        if self._open >= self._limits.total or self._by_host[host] >= self._limits.per_address:
            self._refusals.log("too many connections", host)
            return
        self._open += 1
        with counted(self._by_host, host):
            try:
                await self._handshake_and_serve(tcp, host)
            except Exception:
                logger.exception("a bug in the server ended a connection")
            finally:
                self._open -= 1

    async def _handshake_and_serve(self, tcp: trio.SocketStream, host: str) -> None:
        wire = TcpStream(tcp)
        paced = PacedStream(wire, self._pace)
        tls = tls_stream(wire, self._door.context, under=paced)
        async with closed_at_once(tls):
            await self._serve_tls(wire, paced, tls, host)

    async def _serve_tls(self, wire: TcpStream, paced: PacedStream, tls: TlsStream, host: str) -> None:
        try:
            identity, seconds_left = await self._handshake(wire, tls)
        except (CertificateRefused, trio.BrokenResourceError, trio.TooSlowError, OSError) as refusal:
            self._refusals.log(_reason(refusal), host)
            return
        finally:
            paced.done()
        tls.transport_stream = wire  # from here on, nothing stands between
        if self._by_client[identity.name] >= self._limits.per_client:
            self._refusals.log(f"{identity.name} has {self._limits.per_client} connections, as many as it may", host)
            return
        logger.info("connection from %s is %s", host, identity.name)
        connection = ServerConnection(tls, self._door.dispatcher, identity, policy=self._door.lifetime)
        self._serving.add(connection)
        try:
            with counted(self._by_client, identity.name), trio.move_on_after(seconds_left):
                await connection.run()
        finally:
            self._serving.discard(connection)
            self._change.unpark_all()

    async def _handshake(self, wire: TcpStream, tls: TlsStream) -> tuple[Identity, float]:
        """Who is at the other end, and for how many more seconds its certificate is valid.

        Raises:
            CertificateRefused, trio.BrokenResourceError, trio.TooSlowError, OSError: nobody who may come in.
        """
        wire.watch_peer()
        with trio.fail_after(HANDSHAKE_SECONDS):
            await tls.do_handshake()
        identity = peer_identity(tls, self._door.policy)
        leaf = tls.getpeercert(binary_form=True)
        return identity, (valid_until(leaf) - datetime.now(UTC)).total_seconds()


class Refusals:
    """The log of connections that were refused: a flood of them does not become a flood of lines."""

    def __init__(self) -> None:
        self._window_ends = 0.0
        self._logged = 0
        self._unlogged = 0

    def log(self, reason: str, host: str) -> None:
        """Logs one refusal, or counts it where `REFUSALS_LOGGED` have been logged in this minute."""
        now = trio.current_time()
        if now >= self._window_ends:
            if self._unlogged:
                logger.warning("%d more connections were refused in the minute before", self._unlogged)
            self._window_ends, self._logged, self._unlogged = now + 60, 0, 0
        if self._logged < REFUSALS_LOGGED:
            self._logged += 1
            logger.warning("connection from %s refused: %s", host, reason)
        else:
            self._unlogged += 1


@contextlib.contextmanager
def counted(counter: Counter[str], key: str) -> Iterator[None]:
    """Counts the block in `counter` as long as it lasts; keys of nobody are not kept."""
    counter[key] += 1
    try:
        yield
    finally:
        counter[key] -= 1
        if not counter[key]:
            del counter[key]


def _peer_host(tcp: trio.SocketStream) -> str:
    try:
        return str(tcp.socket.getpeername()[0])
    except OSError:
        return "a peer that is gone"


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
