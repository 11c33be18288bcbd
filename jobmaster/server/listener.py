"""From a TCP connection to a served one: the bound on connections, TLS, and who is at the other end.

A connection's task does its own handshake, under a deadline, so that a slow or hostile peer delays nobody else. The
identity is read once, from the leaf certificate, and passed to every call as a value. A client whose certificate is
valid and identifies nobody here is answered UNAUTHENTICATED; all other refusals end the connection, in the handshake by
an alert.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import ssl
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import trio

from jobmaster.api.audited_calls import AuditedConnection
from jobmaster.audit.audit import Audit
from jobmaster.audit.entry import Caller
from jobmaster.certs.contexts import ServerCredentials, peer_identity
from jobmaster.certs.credentials import ALPN_PROTOCOL
from jobmaster.certs.trust import Authorities
from jobmaster.errors import CertificateRefused
from jobmaster.grpc.purerpc_adapter import Status, StatusCode
from jobmaster.grpc.refusal import RefusingConnection
from jobmaster.grpc.server import Dispatcher, ServerConnection
from jobmaster.identity.certificate import names_of, valid_until
from jobmaster.identity.policy import Identity, Policy
from jobmaster.wire.connection import refuse
from jobmaster.wire.handshakes import HandshakePace
from jobmaster.wire.lifetime import SERVER_POLICY, LifetimePolicy
from jobmaster.wire.tcp import TcpStream
from jobmaster.wire.tls import TlsStream, closing, do_handshake, tls_stream, verified_chain

logger = logging.getLogger(__name__)

HANDSHAKE_SECONDS: Final = 10.0
_FREE_PORT_TRIES: Final = 20

REFUSALS_LOGGED: Final = 60
"""Refusals that are logged one by one in a minute; the rest is counted."""
MAX_REFUSING: Final = 100
"""Connections at a time of clients that are authenticated and not known; more are closed."""


LAST_WORD_SECONDS: Final = 1.0
"""How long a connection whose client may not come in any more may take for the statuses of its calls."""
CLIENTS_LOGGED: Final = 20
"""Clients that are named where connections are ended; more are counted."""
_UNTRUSTED: Final = "the client's certificate is not signed by an authority that this server trusts; ask its operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """How many connections at a time, handshakes under way included.

    Of one that is too many the handshake that has been under way longest gives way, of its own address where that has
    too many; where there is none, the new connection is closed. So strangers who stay silent in their handshakes keep
    nobody out, as long as an honest one takes less time than they need to fill the bound anew.

    Attributes:
        total: of all clients.
        per_address: from one address, strangers included.
        per_client: of one identity; half of what an address may have, so that no client takes all of one that it shares.
    """

    total: int = 10_000
    per_address: int = 5_000
    per_client: int = 2_500

    def within(self, descriptors: int) -> ConnectionLimits:
        """These limits, lowered so that `descriptors` are enough (RLIMIT_NOFILE less what jobs and files need).

        All may come from one address then, and a quarter of all be one client's.
        """
        total = max(1, min(self.total, descriptors))
        return ConnectionLimits(
            total=total,
            per_address=min(self.per_address, total),
            per_client=min(self.per_client, max(1, total // 4)),
        )


DEFAULT_LIMITS: Final = ConnectionLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """How connections are admitted, what serves them, and where all that is written down (None: nowhere)."""

    context: ssl.SSLContext
    policy: Policy
    dispatcher: Dispatcher
    audit: Audit | None = None
    lifetime: LifetimePolicy = SERVER_POLICY


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A connection that is served: whose it is, and what ends it."""

    connection: ServerConnection
    identity: Identity
    tls: TlsStream
    scope: trio.CancelScope

    def end(self, status: Status) -> None:
        """Ends its calls with this status, and it soon after that."""
        self.connection.give_up_calls(status)
        self.scope.deadline = min(self.scope.deadline, trio.current_time() + LAST_WORD_SECONDS)


class Listener:
    """Serves connections until it is cancelled."""

    def __init__(self, admission: Admission, limits: ConnectionLimits = DEFAULT_LIMITS) -> None:
        self._admission = admission
        self._authorities: Authorities | None = None
        """Who signs clients' certificates; None while no others were taken up since the first ones."""
        self._limits = limits
        self._open = 0
        self._by_host: Counter[str] = Counter()
        self._by_client: Counter[str] = Counter()
        self._serving: set[Served] = set()
        self._unserved: dict[trio.CancelScope, Peer] = {}
        self._refusing = 0
        self._is_shutting_down = False
        self._change = trio.lowlevel.ParkingLot()
        self._refusals = Refusals()
        self._pace = HandshakePace()

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
        """Tells every client that the server goes away; each connection ends when its last call has.

        Handshakes under way, and connections that are being refused, are ended at once.
        """
        self._is_shutting_down = True
        for scope in self._unserved:
            scope.cancel()
        for served in tuple(self._serving):
            served.connection.shut_down()

    def give_up_calls(self) -> None:
        """Ends every call that is still open with UNAVAILABLE, and with it its connection."""
        for served in tuple(self._serving):
            served.connection.give_up_calls()

    def take_up(self, credentials: ServerCredentials, policy: Policy) -> None:
        """Has these take the place of what there is, and ends the connections of clients that are not what they were.

        What does not depend on a signature; `end_untrusted` does the rest. Handshakes under way are judged by these.
        """
        self._admission = replace(self._admission, context=credentials.context, policy=policy)
        self._authorities = Authorities(credentials.authorities)
        names = {identity.name for identity in policy.identities}
        ended = Counter[tuple[str, str]]()
        for served in tuple(self._serving):
            if served.identity not in policy.identities:
                status = _farewell(served.identity, is_known=served.identity.name in names)
                ended[served.identity.name, status.status_message] += 1
                served.end(status)
        _tell_ended(ended)

    async def end_untrusted(self) -> None:
        """Ends the connections whose certificates are not signed by an authority that is trusted now.

        Checkpoints between them, since each may cost the verification of a signature.
        """
        ended = Counter[tuple[str, str]]()
        for served in tuple(self._serving):
            if served in self._serving and not self._is_trusted(served.tls):
                ended[served.identity.name, _UNTRUSTED] += 1
                served.end(Status(StatusCode.UNAUTHENTICATED, _UNTRUSTED))
            await trio.lowlevel.checkpoint()
        _tell_ended(ended)

    def _is_trusted(self, tls: TlsStream) -> bool:
        return self._authorities is None or self._authorities.trust(verified_chain(tls), datetime.now(UTC))

    async def wait_empty(self) -> None:
        """Waits until there is no connection, served or not."""
        while self._open:
            await self._change.park()

    async def _serve_connection(self, tcp: trio.SocketStream) -> None:
        """Serves one connection. Whatever happens on it stays on it."""
        peer = _peer_of(tcp)
        if not self._make_room(peer):
            self._refuse("too many connections", peer)
            return
        self._open += 1
        with counted(self._by_host, peer.host):
            try:
                wire = TcpStream(tcp, slot=self._pace.slot())
                admission = self._admission
                async with closing(tls_stream(wire, admission.context)) as tls:
                    await self._admit(wire, tls, peer, admission)
            except Exception:
                logger.exception("a bug in the server ended a connection")
            finally:
                self._open -= 1
                self._change.unpark_all()

    def _make_room(self, peer: Peer) -> bool:
        """Whether there is room for one more connection from an address, by ending a handshake where need be."""
        is_address_full = self._by_host[peer.host] >= self._limits.per_address
        if not is_address_full and self._open < self._limits.total:
            return True
        for scope, other in self._unserved.items():  # the oldest first
            if other.host == peer.host or not is_address_full:
                del self._unserved[scope]
                scope.cancel()
                self._refuse("too many connections; of those in their handshakes it was the oldest", other)
                return True
        return False

    async def _admit(self, wire: TcpStream, tls: TlsStream, peer: Peer, admission: Admission) -> None:
        """Does the handshake and serves the client, or refuses it."""
        admitted = None
        with trio.CancelScope() as scope:
            if self._is_shutting_down:
                return
            self._unserved[scope] = peer
            try:
                admitted = await self._identify(wire, tls, peer, admission)
            finally:
                self._unserved.pop(scope, None)
                wire.handshake_done()
        if not scope.cancelled_caught and admitted is not None:
            await self._serve(tls, peer, *admitted)

    async def _identify(
        self, wire: TcpStream, tls: TlsStream, peer: Peer, admission: Admission
    ) -> tuple[Identity, bytes] | None:
        """The client and its certificate; None for one that has been refused. The handshake is that of `admission`."""
        try:
            wire.watch_peer()
            with trio.fail_after(HANDSHAKE_SECONDS):
                await do_handshake(tls)
        except (trio.BrokenResourceError, trio.TooSlowError, OSError) as refusal:
            self._refuse(_reason(refusal), peer)
            return None
        finally:
            wire.handshake_done()
        leaf = tls.getpeercert(binary_form=True)
        if admission.context is not self._admission.context and not self._is_trusted(tls):
            self._refuse(_UNTRUSTED, peer, leaf)
            return None
        try:
            identity = peer_identity(tls, self._admission.policy)
        except CertificateRefused as refusal:
            self._refuse(str(refusal), peer, leaf)
            if tls.selected_alpn_protocol() == ALPN_PROTOCOL:
                await self._answer_unauthenticated(tls, self._watch(_caller_of(peer, leaf)))
            return None
        if self._by_client[identity.name] >= self._limits.per_client:
            reason = f"{identity.name} has {self._limits.per_client} connections, as many as it may"
            self._refuse(reason, peer, leaf, identity)
            await refuse(tls, reason)
            return None
        return identity, leaf

    def _refuse(self, reason: str, peer: Peer, leaf: bytes | None = None, identity: Identity | None = None) -> None:
        """Writes down that a connection is refused."""
        self._refusals.log(reason, peer.host)
        if self._admission.audit is not None:
            self._admission.audit.refusals.refused(_caller_of(peer, leaf, identity), peer.host, reason)

    def _watch(self, caller: Caller) -> AuditedConnection | None:
        audit = self._admission.audit
        return None if audit is None else AuditedConnection(audit.trail, caller)

    async def _answer_unauthenticated(self, tls: TlsStream, watch: AuditedConnection | None) -> None:
        if self._refusing >= MAX_REFUSING:
            return
        self._refusing += 1
        try:
            await RefusingConnection(tls, _unknown_client(tls.getpeercert()), watch).run()
        finally:
            self._refusing -= 1

    async def _serve(self, tls: TlsStream, peer: Peer, identity: Identity, leaf: bytes) -> None:
        logger.info("connection from %s is %s", peer.host, identity.name)
        connection = ServerConnection(
            tls,
            self._admission.dispatcher,
            identity,
            policy=self._admission.lifetime,
            watch=self._watch(_caller_of(peer, leaf, identity)),
        )
        seconds_left = (valid_until(leaf) - datetime.now(UTC)).total_seconds()
        served = Served(connection, identity, tls, trio.CancelScope(deadline=trio.current_time() + seconds_left))
        self._serving.add(served)
        try:
            with counted(self._by_client, identity.name), served.scope:
                await connection.run()
        finally:
            self._serving.discard(served)


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


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _peer_of(tcp: trio.SocketStream) -> Peer:
    try:
        host, port, *_ = tcp.socket.getpeername()
    except OSError:
        return Peer("a peer that is gone", 0)
    return Peer(str(host), int(port))


def _caller_of(peer: Peer, leaf: bytes | None, identity: Identity | None = None) -> Caller:
    """A peer as the audit has it; without an identity it is nobody whom the server knows."""
    serial, fingerprint = (None, None) if leaf is None else names_of(leaf)
    return Caller(
        client=None if identity is None else identity.name, serial=serial, fingerprint=fingerprint, peer=str(peer)
    )


def _tell_ended(ended: Counter[tuple[str, str]]) -> None:
    """Logs how many connections were ended of whom, and why, for so many clients."""
    for (name, why), count in ended.most_common(CLIENTS_LOGGED):
        logger.warning("%d connections of %s are ended: %s", count, name, why)
    if (more := len(ended) - CLIENTS_LOGGED) > 0:
        logger.warning("connections of %d more clients are ended", more)


def _farewell(identity: Identity, *, is_known: bool) -> Status:
    """For a client that is not what it was; one that has another role comes back by itself."""
    if is_known:
        return Status(StatusCode.UNAVAILABLE, f"the role of {identity.name} has changed: connect again")
    return Status(StatusCode.UNAUTHENTICATED, f"this server does not know {identity.name} any more; ask its operator")


def _unknown_client(certificate: Mapping[str, Any]) -> str:
    """For a client whose certificate is valid, in the form of `ssl.SSLSocket.getpeercert`, and that is not known."""
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    who = f"no client named {names[0][:64]!r}" if len(names) == 1 else "no client that this certificate names"
    return f"this server knows {who}; ask its operator"


def _reason(refusal: Exception) -> str:
    match refusal:
        case trio.TooSlowError():
            return f"no TLS handshake within {HANDSHAKE_SECONDS:.0f} s"
        case trio.BrokenResourceError(__cause__=ssl.SSLCertVerificationError() as cause):
            return f"certificate: {cause.verify_message}"
        case trio.BrokenResourceError(__cause__=ssl.SSLError(reason=str(reason))):  # None where the peer has left
            return f"TLS: {reason.lower().replace('_', ' ')}"
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
