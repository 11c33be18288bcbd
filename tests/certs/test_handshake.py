"""Who gets in over real TLS on the loopback interface, and whom a client lets be its server.

In TLS 1.3 a client's handshake is over before the server has looked at its certificate, so the server's side says
what became of a client; the client's side says what became of a server.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import trio

from jobmaster.certs import contexts
from jobmaster.certs.contexts import client_context, peer_identity, server_context
from jobmaster.certs.folder import certificate_path
from jobmaster.errors import CertificateRefused
from jobmaster.identity.policy import DEFAULT_POLICY, Identity, Role
from tests.certs.hostile_certificates import (
    ADMITTED_ROWS,
    CLIENT_ROWS,
    REFUSED_ROWS,
    SERVER_ROWS,
    Admitted,
    Refused,
    RefusedBy,
    make,
    make_server,
)

if TYPE_CHECKING:
    from pathlib import Path

    Stream = trio.SSLStream[trio.SocketStream]

DEADLINE = 60  # seconds; only a hang reaches it
GREETING = b"!"


@dataclass(slots=True)
class Meeting:
    """What each side of one handshake made of the other: an identity, a greeting or an error."""

    server: Identity | Exception | None = None
    client: bytes | Exception | None = None
    tickets: list[bool] = field(default_factory=list)


async def meet(server: ssl.SSLContext, client: ssl.SSLContext, host: str = "localhost") -> Meeting:
    """Let one client of the context `client`, which calls the server `host`, meet one server of the context `server`."""
    meeting = Meeting()
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    with trio.fail_after(DEADLINE):
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(_serve, listener, server, meeting)
            nursery.start_soon(_visit, port, client, host, meeting)
    return meeting


async def _serve(listener: trio.SocketListener, context: ssl.SSLContext, meeting: Meeting) -> None:
    stream: Stream = trio.SSLStream(await listener.accept(), context, server_side=True)
    try:
        await stream.do_handshake()
        meeting.server = peer_identity(stream, DEFAULT_POLICY)
        await stream.send_all(GREETING)
    except (trio.BrokenResourceError, CertificateRefused) as error:
        meeting.server = error
    finally:
        await trio.aclose_forcefully(stream)


async def _visit(port: int, context: ssl.SSLContext, host: str, meeting: Meeting) -> None:
    transport = await trio.open_tcp_stream("127.0.0.1", port)
    stream: Stream = trio.SSLStream(transport, context, server_hostname=host)
    try:
        await stream.do_handshake()
        meeting.client = bytes(await stream.receive_some(len(GREETING)))
        meeting.tickets.append(stream.session is not None and stream.session.has_ticket)
    except trio.BrokenResourceError as error:
        meeting.client = error
    finally:
        await trio.aclose_forcefully(stream)


def why(error: object) -> int | str:
    """Return OpenSSL's verify code or reason for a broken handshake."""
    assert isinstance(error, trio.BrokenResourceError)
    match error.__cause__:
        case ssl.SSLCertVerificationError() as cause:
            return cause.verify_code
        case ssl.SSLError() as cause:
            return cause.reason
        case cause:
            pytest.fail(f"the handshake broke for no reason of TLS: {cause!r}")


@pytest.mark.parametrize("row", REFUSED_ROWS)
async def test_refused(folder: Path, row: str) -> None:
    """A client of this row does not get in, for the reason the row gives, and is told nothing by the server."""
    outcome = CLIENT_ROWS[row].outcome
    assert isinstance(outcome, Refused)
    meeting = await meet(server_context(folder), make(folder, row).context())
    match outcome.by:
        case RefusedBy.TLS:
            assert why(meeting.server) == outcome.why
        case RefusedBy.IDENTITY:
            assert isinstance(meeting.server, CertificateRefused)
            assert str(outcome.why) in str(meeting.server)
    assert meeting.client != GREETING


@pytest.mark.parametrize("row", ADMITTED_ROWS)
async def test_admitted(folder: Path, row: str) -> None:
    """A client of this row gets in as who the row says."""
    outcome = CLIENT_ROWS[row].outcome
    assert isinstance(outcome, Admitted)
    meeting = await meet(server_context(folder), make(folder, row).context())
    assert meeting.server == DEFAULT_POLICY.identify(outcome.name)
    assert meeting.client == GREETING


async def test_appended_certificate_is_not_looked_at(folder: Path) -> None:
    """A user who appends the admin's public certificate to its own chain stays a user."""
    credentials = make(folder, "superuser's certificate appended")
    assert credentials.cert_path is not None
    assert certificate_path(folder, "superuser").read_bytes() in credentials.cert_path.read_bytes()
    meeting = await meet(server_context(folder), credentials.context())
    assert meeting.server == Identity(name="client1", role=Role.USER)


@pytest.mark.parametrize("name", ["client1", "client2", "client3", "superuser"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "server.example"])
async def test_our_own_sides(folder: Path, name: str, host: str) -> None:
    """Each default client meets the server by each of its names and addresses, and is who it is."""
    meeting = await meet(server_context(folder), client_context(folder, name), host)
    assert meeting.server == DEFAULT_POLICY.identify(name)
    assert meeting.client == GREETING


async def test_strict_profile(folder: Path) -> None:
    """Both certificates pass OpenSSL's strict check of RFC 5280 (key identifiers, critical extensions)."""
    server, client = server_context(folder), client_context(folder, "client1")
    server.verify_flags |= ssl.VERIFY_X509_STRICT
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    meeting = await meet(server, client)
    assert meeting.server == Identity(name="client1", role=Role.USER)
    assert meeting.client == GREETING


async def test_no_ticket(folder: Path) -> None:
    """The server gives no session ticket: each connection shows its certificate anew."""
    meeting = await meet(server_context(folder), client_context(folder, "client1"))
    assert meeting.tickets == [False]


@pytest.mark.parametrize("row", sorted(SERVER_ROWS))
async def test_bad_server(folder: Path, row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client refuses a server of this row, for the reason the row gives, before it sends its own certificate."""
    monkeypatch.setattr(contexts, "_require_valid", lambda *_: None)  # a server whose certificate expires as it runs
    server = server_context(make_server(folder, row))
    meeting = await meet(server, client_context(folder, "client1"))
    assert why(meeting.client) == SERVER_ROWS[row].verify_code
    assert isinstance(meeting.server, trio.BrokenResourceError)
