"""Who is admitted, how those who are not hear so, and how a shutdown ends what is not served."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import h2.config
import h2.connection
import h2.events
import pytest
import trio
import trio.testing
from google.protobuf.wrappers_pb2 import BytesValue
from purerpc import Cardinality, Client, RPCSignature, Service, Status, StatusCode
from purerpc.grpclib.exceptions import UnauthenticatedError

from jobmaster.audit.audit import Audit, open_audit
from jobmaster.audit.file import FileBounds
from jobmaster.audit.handshakes import ENTRIES_OF_ADDRESS
from jobmaster.audit.names import HANDSHAKES
from jobmaster.certs import authority
from jobmaster.certs.contexts import client_context, server_context, server_credentials
from jobmaster.errors import TransportError
from jobmaster.grpc.channel import Channel, open_channel
from jobmaster.grpc.headers import request_headers
from jobmaster.grpc.refusal import MAX_CALLS, RefusingConnection
from jobmaster.grpc.server import Dispatcher
from jobmaster.http2 import frames
from jobmaster.identity.certificate import names_of
from jobmaster.identity.policy import DEFAULT_POLICY, Identity, Policy, Role
from jobmaster.journal.stored import Events
from jobmaster.server import listener
from jobmaster.server.listener import DEFAULT_LIMITS, Admission, ConnectionLimits, Listener, open_listeners
from tests.audit.entries import calls_in, entries_in
from tests.audit.opened import folder_for
from tests.certs.hostile_certificates import make

SERVICE: Final = "test.Service"
HANG_GUARD: Final = 60.0


def echo(message: BytesValue, request: object) -> BytesValue:  # as purerpc calls it
    """Answers what it is sent."""
    return message


class NoJobs:
    """A journal in which nothing happens."""

    last_seq = 0

    async def events_to_copy(self, after: int, limit: int) -> Events:  # noqa: ARG002
        """None."""
        return Events(events=(), position=after, horizon=0)

    def keep_events(self, copied: Callable[[], int]) -> None:
        """There are none."""

    async def wait_after(self, seq: int) -> None:  # noqa: ARG002  # as the journal has it
        """Never returns."""
        await trio.sleep_forever()


@asynccontextmanager
async def auditing(folder: Path) -> AsyncIterator[Audit]:
    """The audit of a server without jobs."""
    async with open_audit(folder_for(folder, FileBounds(size=1 << 20, kept=1)), NoJobs(), "1") as audit:
        yield audit


def refusals_in(folder: Path) -> list[dict[str, Any]]:
    """The refused connections that have entries of their own."""
    return [entry for entry in entries_in(folder, HANDSHAKES) if entry["kind"] == "handshake"]


@asynccontextmanager
async def listening(
    certificates: Path, limits: ConnectionLimits = DEFAULT_LIMITS, *, audit: Audit | None = None
) -> AsyncIterator[tuple[Listener, int, trio.Nursery]]:
    """A listener, its port and the nursery of its connections; all is cancelled at the end."""
    service = Service(SERVICE)
    service.add_method("Echo", echo, RPCSignature(Cardinality.UNARY_UNARY, BytesValue, BytesValue))
    dispatcher = Dispatcher({SERVICE: service}, lambda _error: Status(StatusCode.INTERNAL, "internal error"))
    admission = Admission(
        context=server_context(certificates), policy=DEFAULT_POLICY, dispatcher=dispatcher, audit=audit
    )
    served = Listener(admission, limits)
    sockets = await open_listeners("127.0.0.1", 0)
    with trio.fail_after(HANG_GUARD):
        async with trio.open_nursery() as connections, trio.open_nursery() as accepting:
            await accepting.start(served.serve, sockets, connections)
            yield served, sockets[0].socket.getsockname()[1], connections
            connections.cancel_scope.cancel()
            accepting.cancel_scope.cancel()


async def call(channel: Channel) -> bytes:
    """One call, with its answer."""
    signature = RPCSignature(Cardinality.UNARY_UNARY, BytesValue, BytesValue)
    answer: BytesValue = await Client(SERVICE, channel).get_method_stub("Echo", signature)(BytesValue(value=b"x"))
    return answer.value


async def test_a_client_with_too_many_connections_is_told(certificates: Path) -> None:
    """Its client says so, and which bound it is; its first connection is served on."""
    context = client_context(certificates, "client1")
    async with (
        listening(certificates, ConnectionLimits(per_client=1)) as (_, port, _connections),
        open_channel("127.0.0.1", port, context) as first,
    ):
        assert await call(first) == b"x"
        async with open_channel("127.0.0.1", port, context) as second:
            with pytest.raises(TransportError, match="client1 has 1 connections, as many as it may"):
                await call(second)
        assert await call(first) == b"x"


async def test_a_server_with_too_many_connections(certificates: Path) -> None:
    """One that is closed before its handshake hears nothing of it, and says what that can mean."""
    context = client_context(certificates, "client1")
    async with (
        listening(certificates, ConnectionLimits(total=1)) as (_, port, _connections),
        open_channel("127.0.0.1", port, context) as first,
    ):
        assert await call(first) == b"x"
        with pytest.raises(TransportError, match="too many connections"):
            async with open_channel("127.0.0.1", port, context):
                pass


@pytest.mark.parametrize("limits", [ConnectionLimits(total=2), ConnectionLimits(per_address=2)])
async def test_strangers_in_their_handshakes_keep_nobody_out(certificates: Path, limits: ConnectionLimits) -> None:
    """Where they are as many as may connect, the one that came first gives way to each that comes."""
    context = client_context(certificates, "client1")
    async with listening(certificates, limits) as (_, port, _connections):
        first, second = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(2)]
        async with first, second:
            await trio.testing.wait_all_tasks_blocked()
            async with open_channel("127.0.0.1", port, context) as channel:
                assert await call(channel) == b"x"
                assert await first.receive_some() == b""
                async with open_channel("127.0.0.1", port, context) as another:
                    assert await call(another) == b"x"
                    assert await second.receive_some() == b""
                    with pytest.raises(TransportError, match="too many connections"):
                        async with open_channel("127.0.0.1", port, context):
                            pass
                    assert await call(channel) == b"x"


async def test_an_unknown_client_is_answered_a_few_times(certificates: Path) -> None:
    """Each call gets UNAUTHENTICATED with the name in it."""
    context = make(certificates, "unknown name").context()
    async with listening(certificates) as (_, port, _connections), open_channel("127.0.0.1", port, context) as channel:
        for _ in range(3):
            with pytest.raises(UnauthenticatedError, match="this server knows no client named 'jobmaster-nobody'"):
                await call(channel)


async def test_a_refusing_connection_is_short(autojump_clock: trio.testing.MockClock) -> None:
    """So many calls are answered, then GOAWAY ends the connection; without calls its time does."""
    near, far = trio.testing.memory_stream_pair()
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
    client.initiate_connection()
    for stream_id in range(1, 1 + 2 * MAX_CALLS, 2):
        client.send_headers(stream_id, request_headers(authority="x", service=SERVICE, method="Echo", timeout=None))
    events: list[object] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(RefusingConnection(far, "who are you?").run)
        await near.send_all(client.data_to_send())
        while not any(isinstance(event, h2.events.ConnectionTerminated) for event in events):
            events += client.receive_data(bytes(await near.receive_some()))
    answers = [dict(event.headers) for event in events if isinstance(event, h2.events.ResponseReceived)]
    assert [answer[b"grpc-status"] for answer in answers] == [b"16"] * MAX_CALLS
    near, far = trio.testing.memory_stream_pair()
    with trio.fail_after(60):
        await RefusingConnection(far, "who are you?").run()


@pytest.mark.parametrize("first_bytes", [b"", b"\x16\x03\x01"])
async def test_a_shutdown_waits_for_no_handshake(
    certificates: Path, first_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that is still in its handshake is cut off; a connection that is served ends with its last call."""
    monkeypatch.setattr(listener, "HANDSHAKE_SECONDS", 3600)
    context = client_context(certificates, "client1")
    async with listening(certificates) as (served, port, _), await trio.open_tcp_stream("127.0.0.1", port) as stranger:
        if first_bytes:
            await stranger.send_all(first_bytes)
        async with open_channel("127.0.0.1", port, context) as channel:
            assert await call(channel) == b"x"
            served.shut_down()
            await served.wait_empty()
        assert await stranger.receive_some() == b""


@pytest.mark.parametrize(
    ("descriptors", "limits"),
    [
        (1_000_000, DEFAULT_LIMITS),
        (7_000, ConnectionLimits(total=7_000, per_address=5_000, per_client=1_750)),
        (300, ConnectionLimits(total=300, per_address=300, per_client=75)),
        (-5, ConnectionLimits(total=1, per_address=1, per_client=1)),
    ],
)
def test_limits_within_descriptors(descriptors: int, limits: ConnectionLimits) -> None:
    """No more connections than there are descriptors for, at least one, and no more than are allowed anyway."""
    assert DEFAULT_LIMITS.within(descriptors) == limits


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("no certificate", "TLS: peer did not return a certificate"),
        ("other authority", "certificate: "),
        ("expired", "certificate: certificate has expired"),
        ("TLS 1.2", "TLS: unsupported protocol"),
        ("no ALPN", "the client agreed on no protocol by ALPN"),
        ("RSA 2048", "the certificate's key is RSA 2048"),
        ("unknown name", "the policy knows no client named 'nobody'"),
    ],
)
async def test_each_refusal_is_in_the_audit(certificates: Path, tmp_path: Path, row: str, why: str) -> None:
    """With its reason, the address, and the certificate where the handshake gave one; and not among the calls."""
    context = make(certificates, row).context()
    async with auditing(tmp_path) as audit, listening(certificates, audit=audit) as (_, port, _connections):
        with suppress(Exception):
            async with open_channel("127.0.0.1", port, context) as channel:
                await call(channel)
        while not (refused := refusals_in(tmp_path)):
            await trio.sleep(0.01)
    for entry in refused:  # the client tries again where it does not know that it was refused for good
        assert why in entry["why"]
        assert entry["peer"].startswith("127.0.0.1:")
        assert entry["client"] is None
        has_certificate = not entry["why"].startswith(("TLS: ", "certificate: "))
        assert (entry["serial"] is not None, entry["fingerprint"] is not None) == (has_certificate, has_certificate)
    calls = {(each["outcome"], each["client"]) for each in calls_in(tmp_path)}
    assert calls == ({("UNAUTHENTICATED", None)} if row in {"RSA 2048", "unknown name"} else set())


async def test_a_flood_of_refusals_costs_no_call_its_entry(certificates: Path, tmp_path: Path) -> None:
    """However many strangers are refused, their files stay small, they are all counted, and calls are there."""
    context = client_context(certificates, "client1")
    async with (
        auditing(tmp_path) as audit,
        listening(certificates, audit=audit) as (_, port, _connections),
        open_channel("127.0.0.1", port, context) as channel,
    ):
        await call(channel)
        for _ in range(300):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stranger:
                await stranger.send_all(b"GET / HTTP/1.1\r\n\r\n")
                while await stranger.receive_some():
                    pass
        await call(channel)
    counted = [entry for entry in entries_in(tmp_path, HANDSHAKES) if entry["kind"] == "counted"]
    assert len(refusals_in(tmp_path)) == ENTRIES_OF_ADDRESS
    assert [entry["count"] for entry in counted] == [300 - ENTRIES_OF_ADDRESS]
    assert [entry["outcome"] for entry in calls_in(tmp_path)] == ["OK", "OK"]


async def test_who_calls_is_in_the_audit(certificates: Path, tmp_path: Path) -> None:
    """The client's name, its certificate's serial number and fingerprint, and its address."""
    context = client_context(certificates, "client1")
    serial, fingerprint = names_of(ssl.PEM_cert_to_DER_cert((certificates / "client1_cert.pem").read_text()))
    async with (
        auditing(tmp_path) as audit,
        listening(certificates, audit=audit) as (_, port, _connections),
        open_channel("127.0.0.1", port, context) as channel,
    ):
        await call(channel)
    (entry,) = calls_in(tmp_path)
    assert (entry["client"], entry["serial"], entry["fingerprint"]) == ("client1", serial, fingerprint)
    assert entry["method"] == f"{SERVICE}/Echo"
    assert entry["peer"].startswith("127.0.0.1:")


# --- others may come in -------------------------------------------------------------------------------------------------


def policy_of(**roles: Role) -> Policy:
    """Clients with their roles."""
    return Policy(identities=frozenset(Identity(name=name, role=role) for name, role in roles.items()))


async def test_who_may_not_come_in_any_more(certificates: Path) -> None:
    """Its connection ends, its calls are told; another role is told to connect again; who stays keeps its connection."""
    async with (
        listening(certificates) as (served, port, _connections),
        open_channel("127.0.0.1", port, client_context(certificates, "client1")) as stays,
    ):
        assert await call(stays) == b"x"
        tcp, tls = await shaken_hands(port, client_context(certificates, "client2"))
        changed_tcp, changed = await shaken_hands(port, client_context(certificates, "client3"))
        async with tcp, changed_tcp:
            while len(served._serving) < 3:
                await trio.sleep(0.01)
            kept = [each for each in served._serving if each.identity.name == "client1"]
            served.take_up(server_credentials(certificates), policy_of(client1=Role.USER, client3=Role.ADMIN))
            for each in (tls, changed):
                while await each.receive_some():
                    pass
            while len(served._serving) > 1:
                await trio.sleep(0.01)
            assert list(served._serving) == kept
        assert await call(stays) == b"x"
        async with open_channel("127.0.0.1", port, client_context(certificates, "client2")) as channel:
            with pytest.raises(UnauthenticatedError, match="knows no client named"):
                await call(channel)


async def shaken_hands(
    port: int, context: ssl.SSLContext
) -> tuple[trio.SocketStream, trio.SSLStream[trio.SocketStream]]:
    """A connection of a client that says nothing after its handshake but that it speaks HTTP/2."""
    tcp = await trio.open_tcp_stream("127.0.0.1", port)
    tls = trio.SSLStream(tcp, context, server_hostname="localhost", https_compatible=True)
    await tls.do_handshake()
    await tls.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frames.settings(()))
    return tcp, tls


async def test_a_handshake_that_is_under_way(
    certificates: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It was begun under other authorities and other clients; what counts is who may come in when it is done."""
    authority.initialise(tmp_path / "others", hosts=[])
    contexts = {name: client_context(certificates, name) for name in ("client1", "client2")}
    async with listening(certificates) as (served, port, _connections):
        for credentials, name in ((certificates, "client1"), (tmp_path / "others", "client2")):
            async with await trio.open_tcp_stream("127.0.0.1", port) as tcp:
                while not served._unserved:
                    await trio.sleep(0.01)  # the server's side has begun
                served.take_up(server_credentials(credentials), policy_of(client2=Role.USER))
                tls = trio.SSLStream(tcp, contexts[name], server_hostname="localhost", https_compatible=True)
                await tls.do_handshake()
                with suppress(trio.BrokenResourceError):
                    while await tls.receive_some():
                        if name == "client1":
                            break  # the answer to a client that is not known
                assert not served._serving
        assert "the policy knows no client named 'client1'" in caplog.text
        assert "is not signed by an authority that this server trusts" in caplog.text


async def test_authorities_of_now(certificates: Path, tmp_path: Path) -> None:
    """A connection stays where its authority does, and ends where that has gone."""
    authority.initialise(tmp_path / "others", hosts=[])
    context = client_context(certificates, "client1")
    async with (
        listening(certificates) as (served, port, _connections),
        open_channel("127.0.0.1", port, context) as channel,
    ):
        assert await call(channel) == b"x"
        (first,) = served._serving
        served.take_up(server_credentials(certificates), DEFAULT_POLICY)
        await served.end_untrusted()
        assert await call(channel) == b"x"
        assert list(served._serving) == [first]
        served.take_up(server_credentials(tmp_path / "others"), DEFAULT_POLICY)
        await served.end_untrusted()
        while served._serving:
            await trio.sleep(0.01)
