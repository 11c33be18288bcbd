"""The server under attack, as a test has it: started, asked, and used by an honest client meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import purerpc
import trio
from google.protobuf.wrappers_pb2 import BytesValue
from purerpc import Cardinality, RPCSignature

from jobmaster.certs.contexts import client_context
from jobmaster.grpc.channel import Channel, open_channel
from tests.abuse.network import Network
from tests.abuse.server import SERVICE
from tests.harness import REPOSITORY

HANG_GUARD: Final = 60.0
"""Seconds after which a test that waits has failed."""
PAUSE: Final = 0.005
"""Seconds between reports that are waited for, and between calls of the bystander: asked without a pause, both processes
would do nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The server's state, and the worst since the last `mark`.

    Attributes:
        worst_stall_ms: by how much its ticker was late at worst.
        worst_busy_ms: the same, where the process had the processor all that time.
        streams: that jobmaster or h2 still knows, over all connections.
        bugs: errors that jobmaster logged.
    """

    worst_stall_ms: float
    worst_busy_ms: float
    rss_kib: int
    peak_rss_kib: int
    tasks: int
    open_fds: int
    connections: int
    running_handlers: int
    peak_handlers: int
    streams: int
    bugs: int


@dataclass(frozen=True, slots=True)
class Program:
    """The running server."""

    certificates: Path
    port: int
    pid: int
    pipes: trio.StapledStream[trio.abc.SendStream, trio.abc.ReceiveStream]

    async def mark(self) -> Report:
        """Begins a new period of measurement: the state at its beginning."""
        return await self._ask(b"mark\n")

    async def report(self) -> Report:
        """The state of now."""
        return await self._ask(b"report\n")

    async def until(self, is_so: Callable[[Report], bool]) -> Report:
        """The first report of which `is_so` holds, of those there are every `PAUSE` seconds."""
        last = await self.report()
        with trio.move_on_after(HANG_GUARD):
            while not is_so(last):
                await trio.sleep(PAUSE)
                last = await self.report()
            return last
        raise AssertionError(f"still {last}")

    async def until_nothing_is_left(self, before: Report) -> Report:
        """The first report with no more connections, tasks, descriptors, handlers and streams than `before` had."""
        after = await self.until(
            lambda now: (
                (now.connections, now.running_handlers) <= (before.connections, before.running_handlers)
                and now.streams <= before.streams
                and now.tasks <= before.tasks
                and now.open_fds <= before.open_fds
            )
        )
        assert after.bugs == 0
        return after

    async def _ask(self, line: bytes) -> Report:
        await self.pipes.send_all(line)
        answer = b""
        while not answer.endswith(b"\n"):
            part = await self.pipes.receive_some()
            assert part, "the server has ended"
            answer += part
        return Report(**json.loads(answer))


@dataclass(frozen=True, slots=True)
class Shared:
    """A running server that tests attack one after another, each from an event loop of its own."""

    certificates: Path
    port: int
    process: subprocess.Popen[bytes]

    @asynccontextmanager
    async def attacked(self) -> AsyncIterator[Program]:
        """The server, for the block; it lives on after it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        pipes: trio.StapledStream[trio.abc.SendStream, trio.abc.ReceiveStream] = trio.StapledStream(
            trio.lowlevel.FdStream(os.dup(self.process.stdin.fileno())),
            trio.lowlevel.FdStream(os.dup(self.process.stdout.fileno())),
        )
        async with pipes:
            yield Program(self.certificates, self.port, self.process.pid, pipes)


@contextmanager
def shared(certificates: Path, *options: str) -> Iterator[Shared]:
    """Such a server, started with `options` for the block: for tests that hold nothing against the memory it has had."""
    with subprocess.Popen(
        _command(certificates, *options), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, cwd=REPOSITORY
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Shared(certificates, int(process.stdout.readline()), process)
            process.stdin.close()
            assert process.wait(HANG_GUARD) == 0
        finally:
            process.kill()


def _command(certificates: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "tests.abuse.server", *options, str(certificates)]


@asynccontextmanager
async def attacked(certificates: Path, *options: str, network: Network | None = None) -> AsyncIterator[Program]:
    """The server, started with `options` for the block, in that network."""
    command = _command(certificates, *options)
    if network is not None:
        command = network.command(*command)
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=str(REPOSITORY)
    )
    assert process.stdio is not None
    try:
        port = b""
        while not port.endswith(b"\n"):
            part = await process.stdio.receive_some()
            assert part, "the server did not start"
            port += part
        yield Program(certificates, int(port), process.pid, process.stdio)
        await process.stdio.send_stream.aclose()
        with trio.fail_after(HANG_GUARD):
            assert await process.wait() == 0
    finally:
        process.kill()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + HANG_GUARD):
            await process.wait()
            await process.stdio.aclose()


class Bystander:
    """An honest client, that of jobmaster, which calls one method every `PAUSE` seconds while `calling` lasts."""

    def __init__(self, channel: Channel) -> None:
        self._client = purerpc.Client(SERVICE, channel)
        self.latencies: list[float] = []
        """Of its calls, in seconds."""

    async def echo(self) -> None:
        """One call, with its answer."""
        began = trio.current_time()
        answer = await self._method("Echo")(BytesValue(value=b"still there"))
        assert answer.value == b"still there"
        self.latencies.append(trio.current_time() - began)

    async def hang(self) -> None:
        """A call that is never answered."""
        await self._method("Hang")(BytesValue())

    def _method(self, name: str) -> Callable[[BytesValue], Awaitable[BytesValue]]:
        signature = RPCSignature(Cardinality.UNARY_UNARY, BytesValue, BytesValue)
        method: Callable[[BytesValue], Awaitable[BytesValue]] = self._client.get_method_stub(name, signature)
        return method

    @asynccontextmanager
    async def calling(self) -> AsyncIterator[None]:
        """Calls throughout the block, and once after it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._call_on)
            yield
            nursery.cancel_scope.cancel()
        with trio.fail_after(HANG_GUARD):
            await self.echo()

    async def _call_on(self) -> None:
        while True:
            await self.echo()
            await trio.sleep(PAUSE)


@asynccontextmanager
async def bystander(program: Program, name: str = "client2") -> AsyncIterator[Bystander]:
    """Such a client, connected."""
    async with open_channel("localhost", program.port, client_context(program.certificates, name)) as channel:
        client = Bystander(channel)
        await client.echo()
        yield client
