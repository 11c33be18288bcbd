"""The channel: one connection for many calls, and another when it is lost."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from ssl import SSLContext
from typing import NoReturn

import pytest
import trio
import trio.testing

from jobmaster.certs.contexts import client_context
from jobmaster.errors import TransportError
from jobmaster.grpc import channel
from jobmaster.wire.tls import TlsStream, closing
from tests.harness import Server, run, serving_program, until_output


async def test_calls_share_a_connection(server: Server) -> None:
    """Calls at the same time go over one connection."""
    async with server.connect() as jobs:
        ids: list[str] = []

        async def start() -> None:
            ids.append(await jobs.start("true"))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(start)
    assert len(set(ids)) == 20


async def test_calls_after_the_block(server: Server) -> None:
    """A call of another task that outlives the channel's block says that the channel is closed."""
    async with server.connect() as jobs:
        job_id = await jobs.start("true")
    with pytest.raises(trio.ClosedResourceError, match="the block that opened it has ended"):
        await jobs.status(job_id)


async def test_a_connection_that_comes_after_the_block(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is made when the channel's block has ended is closed again."""
    made = list[TlsStream]()
    connects, may_go_on = trio.Event(), trio.Event()
    connect = channel._connect

    async def connect_slowly(host: str, port: int, context: SSLContext) -> TlsStream:
        made.append(await connect(host, port, context))
        connects.set()
        if len(made) > 1:
            await may_go_on.wait()
        return made[-1]

    monkeypatch.setattr(channel, "_connect", connect_slowly)
    async with trio.open_nursery() as nursery:
        context = client_context(server.certificates, "client1")
        async with channel.open_channel("localhost", server.port, context) as opened:
            connects = trio.Event()

            async def connect_again() -> None:
                with pytest.raises(trio.ClosedResourceError, match="the block that opened it has ended"):
                    await opened.connect()

            nursery.start_soon(connect_again)
            await connects.wait()
        may_go_on.set()
    with pytest.raises(trio.ClosedResourceError):
        await made[1].transport_stream.send_all(b"x")


async def test_connects_again(tmp_path: Path, certificates: Path) -> None:
    """After its server was replaced on the same port, a channel's next call reaches the new one."""
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    async with (
        serving_program(tmp_path / "first", certificates, is_killed=True) as (server, process),
        server.connect() as jobs,
    ):
        await run(jobs, "true")
        process.kill()
        await trio.to_thread.run_sync(process.wait)
        async with serving_program(tmp_path / "second", certificates, "--listen", f"localhost:{server.port}"):
            record, _output = await run(jobs, "true")
    assert record.cause.exited.code == 0


async def test_an_open_call_is_not_repeated(tmp_path: Path, certificates: Path) -> None:
    """A call whose server is killed fails where it is not to be repeated, and says that the connection was lost."""
    async with (
        serving_program(tmp_path, certificates, "--grace", "3000") as (server, _process),
        server.connect(patience=0) as jobs,
    ):
        job_id = await jobs.start("sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done")
        await until_output(jobs, job_id, b"up\n")
        main = (await jobs.status(job_id)).pid

        async def kill_server() -> None:
            while "stopping" not in (await jobs.status(job_id)).job_msg:
                pass
            os.kill(server.pid, signal.SIGKILL)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill_server)
            with pytest.raises(TransportError, match="connection to the server was lost"):
                await jobs.stop(job_id)
        os.kill(main, signal.SIGKILL)


async def test_gives_up_connecting(tmp_path: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no server comes back, a call fails after a bounded number of tries and says why."""
    monkeypatch.setattr(channel, "LAST_PAUSE", 0.001)
    monkeypatch.setattr(channel, "FIRST_PAUSE", 0.001)
    async with serving_program(tmp_path, certificates) as (server, process), server.connect(patience=0) as jobs:
        process.terminate()
        await trio.to_thread.run_sync(process.wait)
        with pytest.raises(TransportError, match="cannot connect to localhost"):
            await jobs.start("true")


async def test_a_port_on_which_nobody_answers(certificates: Path, autojump_clock: trio.testing.MockClock) -> None:
    """Who waits for a server whose launcher alone has the port is told so soon, once for each connection."""
    told: list[float] = []
    began = trio.current_time()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = ("127.0.0.1", listener.getsockname()[1], client_context(certificates, "client1"))
        with pytest.raises(channel.HandshakeLost, match="no answer within"):
            async with channel.open_channel(*address, on_silence=lambda _: told.append(trio.current_time() - began)):
                pass
    assert told == pytest.approx([channel.SILENCE_SECONDS])


async def test_calls_that_wait_for_a_connection_give_up_together(
    tmp_path: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no server comes back, calls at the same time fail of the same tries, not each after its own."""
    monkeypatch.setattr(channel, "LAST_PAUSE", 0.001)
    monkeypatch.setattr(channel, "FIRST_PAUSE", 0.001)
    tries = 0

    async def connect_to(host: str, port: int, _context: object) -> NoReturn:
        nonlocal tries
        tries += 1
        await trio.lowlevel.checkpoint()
        raise TransportError(f"cannot connect to {host}:{port}: {tries}")

    async with serving_program(tmp_path, certificates) as (server, process), server.connect(patience=0) as jobs:
        process.terminate()
        await trio.to_thread.run_sync(process.wait)
        monkeypatch.setattr(channel, "_connect", connect_to)

        async def fail_to_start() -> None:
            with pytest.raises(TransportError, match=f"cannot connect to .*: {channel.TRIES}$"):
                await jobs.start("true")

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(fail_to_start)
        assert tries == channel.TRIES
        with pytest.raises(TransportError):
            await jobs.start("true")
        assert tries == 2 * channel.TRIES


async def test_what_ends_a_connection_comes_out(certificates: Path) -> None:
    """Closing hides nothing: also where the block is being cancelled, what it raised is what is raised."""
    near, far = trio.socket.socketpair()
    with far, pytest.raises(KeyboardInterrupt), trio.CancelScope() as scope:  # noqa: PT012  # it is about the end
        context = client_context(certificates, "client1")
        async with closing(trio.SSLStream(trio.SocketStream(near), context, server_hostname="localhost")):
            scope.cancel()
            raise KeyboardInterrupt
    assert near.fileno() == -1
