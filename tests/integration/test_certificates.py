"""Who gets in: every kind of certificate against the real server, and every bad server against the real client."""

from __future__ import annotations

import datetime
import logging
import os
import shutil
import signal
import socket
from pathlib import Path

import pytest
import trio
from purerpc.grpclib.exceptions import UnauthenticatedError

from jobmaster.certs import authority, contexts
from jobmaster.certs.contexts import client_context
from jobmaster.certs.folder import SERVER, certificate_path, key_path
from jobmaster.client import Jobs, RpcFailedError, connect
from jobmaster.errors import ConfigurationError, TransportError
from jobmaster.grpc.channel import open_channel
from jobmaster.grpc.client import ClientConnection
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.server.program import serve
from tests.certs.hostile_certificates import (
    ADMITTED_ROWS,
    CLIENT_ROWS,
    REFUSED_ROWS,
    SERVER_ROWS,
    Admitted,
    make,
    make_server,
)
from tests.harness import OneConnection, Server, options_for, serving, serving_program
from tests.integration.test_upgrade import is_replaced


async def call_over_any_alpn(server: Server, context: object) -> str:
    """Starts a job as a client that takes whatever it is given: speaks HTTP/2 also where ALPN did not agree on it."""
    tcp = await trio.open_tcp_stream("localhost", server.port)
    tls = trio.SSLStream(tcp, context, server_hostname="localhost", https_compatible=True)  # type: ignore[arg-type]  # object: any context
    connection = ClientConnection(tls)
    try:
        await tls.do_handshake()
        async with trio.open_nursery() as nursery:
            await nursery.start(connection.run)
            try:
                return await Jobs(OneConnection(connection), patience=0).start("true")
            except (TransportError, RpcFailedError) as error:
                return f"refused: {error}"
            finally:
                nursery.cancel_scope.cancel()
    except trio.BrokenResourceError as error:
        return f"refused: {error.__cause__}"
    finally:
        await trio.aclose_forcefully(tls)


@pytest.mark.parametrize("row", REFUSED_ROWS)
async def test_refused(server: Server, certificates: Path, row: str, caplog: pytest.LogCaptureFixture) -> None:
    """This client's call fails, nothing was started for it, and the log says why."""
    answer = await call_over_any_alpn(server, make(certificates, row).context())
    assert answer.startswith("refused: ")
    assert server.logs == []
    while not any("refused" in record.getMessage() for record in caplog.records):
        await trio.lowlevel.checkpoint()
    assert all(record.levelno <= logging.WARNING for record in caplog.records)


@pytest.mark.parametrize("row", ADMITTED_ROWS)
async def test_admitted(server: Server, certificates: Path, row: str) -> None:
    """This client gets in as who its leaf certificate says, and as nobody else."""
    outcome = CLIENT_ROWS[row].outcome
    assert isinstance(outcome, Admitted)
    async with open_channel("localhost", server.port, make(certificates, row).context()) as channel:
        jobs = Jobs(channel)
        record = await jobs.status(await jobs.start("true"))
    assert record.client == outcome.name


@pytest.mark.parametrize("row", SERVER_ROWS)
async def test_client_refuses_a_bad_server(
    tmp_path: Path, certificates: Path, row: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that meets this server refuses to talk, and says that the certificate is why."""
    folder = make_server(certificates, row)
    monkeypatch.setattr(contexts, "_require_valid", lambda *_: None)  # a server whose certificate expires as it runs
    async with serving(tmp_path, folder) as server:
        with pytest.raises(TransportError, match="the server's certificate is not valid"):
            async with open_channel("localhost", server.port, client_context(certificates, "client1")):
                pass


@pytest.mark.parametrize("row", ["expired", "not yet valid"])
async def test_server_refuses_to_start(tmp_path: Path, row: str) -> None:
    """A server whose own certificate nobody would take ends before it is ready, naming the file and the date."""
    authority.initialise(tmp_path / "certs", hosts=[])
    options = options_for(tmp_path, make_server(tmp_path / "certs", row), tmp_path / "no cgroup")
    refusal = pytest.RaisesExc(ConfigurationError, match=r"server1_cert\.pem (expired at|is not valid before) 20\d\d-")
    with pytest.RaisesGroup(refusal, flatten_subgroups=True):
        await serve(options)


async def trouble_with(server: Server, certificates: Path) -> str:
    """Why a client does not get in; nothing where it does."""
    try:
        async with open_channel("localhost", server.port, client_context(certificates, "client1")):
            return ""
    except TransportError as error:
        return str(error)


async def test_a_server_that_follows_has_jobs_to_keep(tmp_path: Path, certificates: Path) -> None:
    """It starts with a certificate that has expired, and the next one, when that is replaced, lets clients in again."""
    good, bad = tmp_path / "good", make_server(certificates, "expired")
    shutil.copytree(certificates, good)
    with trio.fail_after(60):
        async with serving_program(tmp_path, good) as (server, launcher):
            async with server.connect() as jobs:
                job_id = await jobs.start("sleep", "1000")
            for file in (certificate_path(good, SERVER), key_path(good, SERVER)):
                shutil.copyfile(bad / file.name, file)
            os.kill(server.pid, signal.SIGKILL)
            while "the server's certificate is not valid" not in await trouble_with(server, good):
                await trio.sleep(0.05)
            for file in (certificate_path(good, SERVER), key_path(good, SERVER)):
                shutil.copyfile(certificates / file.name, file)
            old = server.pid
            launcher.send_signal(signal.SIGUSR2)
            while not is_replaced(server, old):
                await trio.sleep(0.05)
            async with server.connect() as jobs:
                assert (await jobs.status(job_id)).state == pb.JOBSTATE_RUNNING
                await jobs.stop(job_id, force=True)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("expired", "certificate expired"),
        ("no certificate", "certificate required"),
        ("other authority", "decrypt error"),
    ],
)
async def test_client_refused_hears_so(server: Server, certificates: Path, row: str, why: str) -> None:
    """Our client, refused for its certificate, says that and why, and not merely that the connection broke."""
    context = make(certificates, row).context()
    with pytest.raises(TransportError, match=f"refused this client's certificate: {why}"):
        async with open_channel("localhost", server.port, context) as channel:
            await Jobs(channel).start("true")


async def test_unknown_client_is_unauthenticated(server: Server, certificates: Path) -> None:
    """A client with a valid certificate and a name that is not known gets that status, with what to do about it."""
    context = make(certificates, "unknown name").context()
    async with open_channel("localhost", server.port, context) as channel:
        jobs = Jobs(channel)
        for call in (jobs.start("true"), jobs.status("0" * 27)):
            with pytest.raises(UnauthenticatedError, match="no client named 'jobmaster-nobody'; ask its operator"):
                await call


async def test_nobody_answers(certificates: Path) -> None:
    """Where nobody listens the client says where it tried and why it failed."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # so that nobody else listens there either
        port = nobody.getsockname()[1]
        with pytest.raises(TransportError, match=f"cannot connect to 127.0.0.1:{port}: Connection refused$"):
            async with connect("127.0.0.1", port, folder=certificates, name="client1"):
                pass


async def test_a_certificate_that_expires_soon(
    tmp_path: Path, certificates: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A server that starts says so, and of those that are valid for long nothing."""
    folder = tmp_path / "certs"
    shutil.copytree(certificates, folder, ignore=shutil.ignore_patterns("hostile"))
    year_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=345)
    pair = authority.make_server(authority.load_pair(folder, "server_ca"), "server1", ["localhost"], now=year_ago)
    for file in authority._files(folder, "server1", pair):
        (folder / file.name).write_bytes(file.content)
    async with serving(tmp_path, folder):
        pass
    warnings = [
        line
        for line in capfd.readouterr().out.splitlines()
        if line.startswith("warning: ") and "_cert.pem is valid" in line
    ]
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: server1_cert.pem is valid until ")
