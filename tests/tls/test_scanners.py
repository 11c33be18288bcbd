"""What other people's scanners find of the server's TLS, and that they would find it if it were otherwise."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from jobmaster.certs.contexts import client_context, server_context
from tests.harness import Server, serving, serving_program
from tests.scale.frames import OPENING, SETTINGS, take_frames
from tests.tls.scanners import OF_PROTOCOLS, Finding, openssl_session, scan_by_sslyze, scan_by_testssl

NAME = "client1"
AEAD = {"TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"}
"""The cipher suites of RFC 8446, B.4, without those with CCM, which OpenSSL leaves out by default."""
OLD_PROTOCOLS = ("SSLv2", "SSLv3", "TLS1", "TLS1_1", "TLS1_2")
"""As testssl.sh names them."""
GOOD = (
    *("TLS1_3", "secure_client_renego", "CRIME_TLS"),
    *("cert_chain_of_trust", "cert_trust", "cert_keySize", "cert_signatureAlgorithm"),
)
"""What testssl.sh has to find nothing wrong with."""


@pytest.fixture
async def strict(tmp_path: Path, certificates: Path) -> AsyncIterator[Server]:
    """The server as users start it."""
    async with serving_program(tmp_path, certificates) as (server, _process):
        yield server


@pytest.fixture
async def lax(tmp_path: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """A server that also speaks TLS 1.2, and gives session tickets: what a scan of it finds shows that scans see."""
    monkeypatch.setattr("jobmaster.server.program.server_context", _lax_context)
    async with serving(tmp_path, certificates) as server:
        yield server


def _lax_context(folder: Path, *, must_be_valid: bool) -> ssl.SSLContext:
    context = server_context(folder, must_be_valid=must_be_valid)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.num_tickets = 2
    return context


async def test_sslyze(strict: Server, tmp_path: Path) -> None:
    """Sslyze gets in with TLS 1.3 and its AEAD ciphers alone; nothing is compressed, renegotiated or resumed."""
    found = await scan_by_sslyze(strict, NAME, tmp_path / "sslyze.json")
    assert found.protocols == {"tls_1_3"}
    assert all(count > 0 for count in found.tried.values())
    assert found.cipher_suites == AEAD
    assert not found.compression
    assert found.renegotiations == 0
    assert found.resumption == {"SERVER_IS_TLS_1_3_ONLY"}
    assert not found.heartbleed


async def test_sslyze_sees(lax: Server, tmp_path: Path) -> None:
    """Where an older protocol is spoken, sslyze finds it, and what it allows."""
    found = await scan_by_sslyze(lax, NAME, tmp_path / "sslyze.json")
    assert found.protocols == {"tls_1_2", "tls_1_3"}
    assert found.resumption != {"SERVER_IS_TLS_1_3_ONLY"}


async def test_testssl(strict: Server, tmp_path: Path) -> None:
    """testssl.sh finds TLS 1.3 alone, AEAD ciphers, HTTP/2, no ticket, no compression, and a chain it can trust."""
    found = await scan_by_testssl(strict, tmp_path / "testssl.json")
    assert {protocol: found[protocol].text for protocol in OLD_PROTOCOLS} == dict.fromkeys(OLD_PROTOCOLS, "not offered")
    assert _cipher_suites(found) == AEAD
    assert found["ALPN_HTTP2"].text == "h2"
    assert found["TLS_session_ticket"].text == "no -- no lifetime advertised"
    assert found["sessionresumption_ticket"].text == "not supported"
    assert {id_: found[id_].severity for id_ in GOOD} == dict.fromkeys(GOOD, "OK")


async def test_testssl_sees(lax: Server, tmp_path: Path) -> None:
    """Where an older protocol is spoken, testssl.sh finds it, and ciphers that only it has."""
    found = await scan_by_testssl(lax, tmp_path / "testssl.json", OF_PROTOCOLS)
    assert found["TLS1_2"].text == "offered"
    assert _cipher_suites(found) > AEAD


def _cipher_suites(found: dict[str, Finding]) -> set[str]:
    """By IANA name, the last column of a finding like `TLS 1.3 x1302 TLS_AES… ECDH 253 AESGCM 256 TLS_AES…`."""
    return {finding.text.split()[-1] for id_, finding in found.items() if id_.startswith("cipher-tls")}


async def test_no_session_is_given(strict: Server, tmp_path: Path) -> None:
    """A client is given no ticket in a whole connection, and what it keeps of it resumes nothing."""
    assert not await openssl_session(strict, NAME, tmp_path / "session.pem")
    context = client_context(strict.certificates, NAME)
    first, was_reused = await trio.to_thread.run_sync(_connect, strict, context, None)
    assert not was_reused
    assert not first.has_ticket
    _second, was_reused = await trio.to_thread.run_sync(_connect, strict, context, first)
    assert not was_reused


async def test_sessions_are_seen(lax: Server, tmp_path: Path) -> None:
    """Where tickets are given, the same clients have them, and resume."""
    assert await openssl_session(lax, NAME, tmp_path / "session.pem")
    context = client_context(lax.certificates, NAME)
    first, _ = await trio.to_thread.run_sync(_connect, lax, context, None)
    assert first.has_ticket
    _second, was_reused = await trio.to_thread.run_sync(_connect, lax, context, first)
    assert was_reused


def _connect(server: Server, context: ssl.SSLContext, session: ssl.SSLSession | None) -> tuple[ssl.SSLSession, bool]:
    """The session as it is when the server's SETTINGS have come, which follow any ticket; and whether it was resumed."""
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as tcp,
        context.wrap_socket(tcp, server_hostname="localhost", session=session) as tls,
    ):
        assert tls.version() == "TLSv1.3"
        assert tls.selected_alpn_protocol() == "h2"
        assert tls.compression() is None
        tls.sendall(OPENING)
        held = bytearray()
        while not any(frame.type == SETTINGS for frame in take_frames(held)):
            received = tls.recv(4096)
            assert received, "the server ended the connection"
            held += received
        assert tls.session is not None
        return tls.session, bool(tls.session_reused)
