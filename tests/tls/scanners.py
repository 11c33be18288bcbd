"""Runs sslyze and testssl.sh against a server on the loopback address, and reads what they found.

testssl.sh 3.0 cannot show a client certificate. What it is asked for it learns from the server's first flight, which
a TLS 1.3 server sends before it knows the client; sslyze shows one and finishes its handshakes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import trio

from jobmaster.certs.folder import SERVER_AUTHORITY, certificate_path, key_path
from tests.harness import Server
from tests.scale.frames import GOAWAY, OPENING, connection_frame

SCAN_SECONDS: Final = 180
"""How long one scan may take; on two cores sslyze takes 1 s and testssl.sh 12 s."""
OF_PROTOCOLS: Final = ("--protocols", "--cipher-per-proto")
OF_ALL: Final = (*OF_PROTOCOLS, "--server-defaults", "--renegotiation", "--compression")
"""What testssl.sh is asked for."""
SECONDS_EACH: Final = "5"
"""How long testssl.sh waits for one connection."""
_SSLYZE_OLD_PROTOCOLS: Final = ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1", "tls_1_2")


@dataclass(frozen=True, slots=True, kw_only=True)
class SslyzeFindings:
    """What sslyze found.

    Attributes:
        protocols: that the server speaks, as sslyze names them.
        tried: how many cipher suites were offered with each older protocol.
        cipher_suites: accepted with TLS 1.3, by IANA name.
        compression: whether the server would compress.
        renegotiations: begun by the client that succeeded.
        resumption: what came of resuming by session id and by ticket.
        heartbleed: whether the server is open to it.
    """

    protocols: frozenset[str]
    tried: dict[str, int]
    cipher_suites: frozenset[str]
    compression: bool
    renegotiations: int
    resumption: frozenset[str]
    heartbleed: bool


async def scan_by_sslyze(server: Server, name: str, report: Path) -> SslyzeFindings:
    """Scans with the certificate of client `name`."""
    await _run(
        *(_program("sslyze", "PyPI's package sslyze"), "--quiet", "--mozilla_config=disable", f"--json_out={report}"),
        f"--cert={certificate_path(server.certificates, name)}",
        f"--key={key_path(server.certificates, name)}",
        *("--sslv2", "--sslv3", "--tlsv1", "--tlsv1_1", "--tlsv1_2", "--tlsv1_3"),
        *("--compression", "--reneg", "--resum", "--heartbleed"),
        f"127.0.0.1:{server.port}",
    )
    return _sslyze_findings(json.loads(report.read_text()))


def _sslyze_findings(report: dict[str, Any]) -> SslyzeFindings:
    (scan,) = report["server_scan_results"]
    assert scan["scan_status"] == "COMPLETED", scan
    found = {name: entry["result"] for name, entry in scan["scan_result"].items() if entry["status"] == "COMPLETED"}
    suites = {name: found[f"{name}_cipher_suites"] for name in (*_SSLYZE_OLD_PROTOCOLS, "tls_1_3")}
    resumption = found["session_resumption"]
    return SslyzeFindings(
        protocols=frozenset(name for name, result in suites.items() if result["accepted_cipher_suites"]),
        tried={name: len(suites[name]["rejected_cipher_suites"]) for name in _SSLYZE_OLD_PROTOCOLS},
        cipher_suites=frozenset(each["cipher_suite"]["name"] for each in suites["tls_1_3"]["accepted_cipher_suites"]),
        compression=found["tls_compression"]["supports_compression"],
        renegotiations=found["session_renegotiation"]["client_renegotiations_success_count"],
        resumption=frozenset(
            (resumption["session_id_resumption_result"], resumption["tls_ticket_resumption_result"]),
        ),
        heartbleed=found["heartbleed"]["is_vulnerable_to_heartbleed"],
    )


class Finding(NamedTuple):
    """One of testssl.sh: how bad it is (`OK` is its word for good, `INFO` for neither) and what it is."""

    severity: str
    text: str


async def scan_by_testssl(server: Server, report: Path, checks: Sequence[str] = OF_ALL) -> dict[str, Finding]:
    """What testssl.sh found of what it was asked for, by its id; each cipher of a protocol is an entry of its own."""
    await _run(
        *(_program("testssl", "Debian's package testssl.sh"), "--quiet", "--warnings=off", "--color=0"),
        *(f"--connect-timeout={SECONDS_EACH}", f"--openssl-timeout={SECONDS_EACH}", "--ip=127.0.0.1", "--nodns=none"),
        *checks,
        f"--add-ca={certificate_path(server.certificates, SERVER_AUTHORITY)}",
        f"--jsonfile={report}",
        f"localhost:{server.port}",
    )
    return {entry["id"]: Finding(entry["severity"], entry["finding"]) for entry in json.loads(report.read_text())}


async def openssl_session(server: Server, name: str, file: Path) -> bool:
    """Whether the client of OpenSSL is given a session to resume in a whole connection, which it then has in `file`."""
    authority = certificate_path(server.certificates, SERVER_AUTHORITY)
    ended = await _run(
        *(_program("openssl", "Debian's package openssl"), "s_client", "-connect", f"127.0.0.1:{server.port}"),
        *("-servername", "localhost", "-alpn", "h2", "-CAfile", str(authority), "-verify_return_error"),
        *("-cert", str(certificate_path(server.certificates, name)), "-key", str(key_path(server.certificates, name))),
        *("-sess_out", str(file), "-ign_eof"),  # the server ends the connection, when it has been told GOAWAY
        stdin=OPENING + connection_frame(GOAWAY, payload=bytes(8)),
    )
    assert b"Verification: OK" in ended, "no connection was set up; openssl's words are above"
    return file.exists()


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    assert found is not None, f"{name} is not on PATH: install {package}, or run this test by `nox -s tests`"
    return found


async def _run(*command: str, stdin: bytes = b"") -> bytes:
    """What a program says, which is shown where the test fails. Exit statuses mean nothing here: some count findings."""
    environment = {**os.environ, "LC_ALL": "C"}
    with trio.fail_after(SCAN_SECONDS):
        ended = await trio.run_process(
            command, stdin=stdin, capture_stdout=True, stderr=subprocess.STDOUT, check=False, env=environment
        )
    print(ended.stdout.decode(errors="replace"))
    return ended.stdout
