"""A channel whose connections are cut, refused and shut down: which calls are made again, and what their callers hear.

The network is in memory: each connection of the channel is served by a real server's side.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from purerpc import Cardinality, Client, RPCSignature, Service, Status, StatusCode

from jobmaster.errors import TransportError
from jobmaster.grpc import channel as channels
from jobmaster.grpc.channel import CALL_TRIES, Channel
from jobmaster.grpc.client import StreamRefused
from jobmaster.grpc.server import MAX_RUNNING_HANDLERS, Dispatcher, ServerConnection
from jobmaster.http2.frames import ErrorCode
from jobmaster.http2.settings import MAX_CONCURRENT_STREAMS
from jobmaster.jobs.v1 import jobs_pb2 as pb

Echo = pb.JobOutputResponse
SERVICE = "test.Service"


class Network:
    """Serves every connection that is made. `handled` are the requests that handlers were called with."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.handled: list[bytes] = []
        self.may_answer = trio.Event()
        service = Service(SERVICE)
        unary = RPCSignature(Cardinality.UNARY_UNARY, Echo, Echo)
        service.add_method("Echo", self._echo, unary)
        service.add_method("Wait", self._wait, unary)
        self.dispatcher = Dispatcher({SERVICE: service}, lambda _error: Status(StatusCode.INTERNAL, "internal error"))
        self.servers: list[ServerConnection] = []
        self.ends: list[trio.abc.Stream] = []

    def _echo(self, message: Echo, request: object) -> Echo:  # noqa: ARG002  # as purerpc calls it
        self.handled.append(message.output)
        return message

    async def _wait(self, message: Echo) -> Echo:
        await self.may_answer.wait()
        return message

    async def connect(self, *_: object) -> Any:
        """In place of TCP and TLS."""
        near, far = trio.testing.memory_stream_pair()
        server = ServerConnection(far, self.dispatcher, caller=None)
        self.servers.append(server)
        self.ends.append(far)
        self._nursery.start_soon(self._serve, server, far)
        await trio.lowlevel.checkpoint()
        return near

    async def _serve(self, server: ServerConnection, far: trio.abc.Stream) -> None:
        await server.run()
        await trio.aclose_forcefully(far)


@asynccontextmanager
async def open_network(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Network, Channel]]:
    """A network and a channel to its server; both end with the block."""
    async with trio.open_nursery() as nursery:
        network = Network(nursery)
        monkeypatch.setattr(channels, "_connect", network.connect)
        yield network, Channel("localhost", 1, None, nursery)  # type: ignore[arg-type]  # no TLS in memory
        nursery.cancel_scope.cancel()


def method(channel: Channel, name: str) -> Callable[[Echo], Awaitable[Echo]]:
    """A method of the service."""
    signature = RPCSignature(Cardinality.UNARY_UNARY, Echo, Echo)
    stub: Callable[[Echo], Awaitable[Echo]] = Client(SERVICE, channel).get_method_stub(name, signature)
    return stub


async def test_a_call_that_is_refused_is_made_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """REFUSED_STREAM means that it was not processed: its caller does not see it, and it is handled once."""
    async with open_network(monkeypatch) as (network, channel), trio.open_nursery() as nursery:
        network.dispatcher.running = MAX_RUNNING_HANDLERS

        async def make_room() -> None:
            await trio.sleep(0.01)
            network.dispatcher.running = 0

        nursery.start_soon(make_room)
        assert (await method(channel, "Echo")(Echo(output=b"again"))).output == b"again"
        assert network.handled == [b"again"]
        assert network.servers[0].connection._http2.last_stream_id == 3


async def test_a_call_that_is_always_refused_fails(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """After so many tries, with words and no number."""
    async with open_network(monkeypatch) as (network, channel):
        network.dispatcher.running = MAX_RUNNING_HANDLERS
        with pytest.raises(StreamRefused, match="the server refused the call"):
            await method(channel, "Echo")(Echo())
        assert network.servers[0].connection._http2.last_stream_id == 2 * CALL_TRIES - 1


async def test_a_call_beyond_the_goaway_is_made_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A call that the final GOAWAY does not cover goes to the next connection."""
    async with open_network(monkeypatch) as (network, channel), trio.open_nursery() as nursery:
        await method(channel, "Echo")(Echo(output=b"first"))
        nursery.start_soon(method(channel, "Wait"), Echo())
        await trio.testing.wait_all_tasks_blocked()
        network.servers[0].connection.send_final_goaway()  # crosses the next call
        assert (await method(channel, "Echo")(Echo(output=b"second"))).output == b"second"
        assert len(network.servers) == 2
        assert network.handled == [b"first", b"second"]
        network.may_answer.set()


async def test_a_call_that_was_under_way_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """Whether it took effect only its caller can know."""
    async with open_network(monkeypatch) as (network, channel), trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(TransportError, match="connection to the server was lost"):
                await method(channel, "Wait")(Echo())

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await trio.aclose_forcefully(network.ends[0])
        await trio.testing.wait_all_tasks_blocked()
        assert len(network.servers) == 1


async def test_a_connection_is_used_when_it_runs(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A call that comes while a connection is made waits for it: nothing may be sent before its preface."""
    may_run = trio.Event()
    run = channels._run

    async def _run(*args: Any, task_status: trio.TaskStatus[None]) -> None:
        await may_run.wait()
        await run(*args, task_status=task_status)

    monkeypatch.setattr(channels, "_run", _run)
    async with open_network(monkeypatch) as (network, channel), trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(method(channel, "Echo"), Echo(output=bytes([number])))
            await trio.testing.wait_all_tasks_blocked()
        may_run.set()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(network.handled) == [b"\0", b"\1", b"\2"]
        assert len(network.servers) == 1


async def test_callers_over_connections_that_are_cut(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """Sixty callers over eighteen cuts have answers or TransportErrors, and nothing else."""
    outcomes: list[object] = []
    async with open_network(monkeypatch) as (network, channel), trio.open_nursery() as nursery:

        async def call_on(number: int) -> None:
            for _ in range(20):
                try:
                    answer = await method(channel, "Echo")(Echo(output=bytes([number])))
                    outcomes.append(answer.output)
                except TransportError as error:
                    outcomes.append(type(error))
                await trio.sleep(0.01)

        for number in range(60):
            nursery.start_soon(call_on, number)
        for _ in range(18):
            await trio.sleep(0.015)
            await trio.aclose_forcefully(network.ends[-1])
    assert len(outcomes) == 60 * 20
    assert len(network.servers) >= 10
    assert {type(each) for each in outcomes} <= {bytes, type}


async def test_a_call_waits_for_another_to_end(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """One more than the server allows at a time is opened when one has ended; a wait may be given up."""
    async with open_network(monkeypatch) as (network, channel), trio.open_nursery() as calls:
        for _ in range(MAX_CONCURRENT_STREAMS):
            calls.start_soon(method(channel, "Wait"), Echo())
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(5) as scope:
            await method(channel, "Echo")(Echo())
        assert scope.cancelled_caught
        assert network.servers[0].open_calls == MAX_CONCURRENT_STREAMS
        for _ in range(3):
            calls.start_soon(method(channel, "Echo"), Echo(output=b"next"))
        await trio.testing.wait_all_tasks_blocked()
        assert network.handled == []
        network.may_answer.set()
        await trio.testing.wait_all_tasks_blocked()
        assert network.handled == [b"next"] * 3


async def test_the_reason_of_a_goaway_is_told(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """What the server says on closing is what the caller hears."""
    async with open_network(monkeypatch) as (network, channel), trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(TransportError, match="the server closed the connection: enough"):
                await method(channel, "Wait")(Echo())

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        network.servers[0].connection.send_final_goaway(ErrorCode.ENHANCE_YOUR_CALM, "enough")
        await trio.testing.wait_all_tasks_blocked()
        await trio.aclose_forcefully(network.ends[0])


@pytest.mark.parametrize("is_final", [False, True])
async def test_a_call_that_a_goaway_covers_is_not_repeated(
    is_final: bool, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A server that goes away, and whose connection is then lost, may have processed the calls that its GOAWAY covers."""
    async with open_network(monkeypatch) as (network, channel), trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(TransportError, match="shutting down") as caught:
                await method(channel, "Wait")(Echo())
            assert not isinstance(caught.value, StreamRefused)

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        if is_final:
            network.servers[0].connection.send_final_goaway()
        else:
            network.servers[0].shut_down()
        await trio.testing.wait_all_tasks_blocked()
        await trio.aclose_forcefully(network.ends[0])
        await trio.sleep(60)
        network.may_answer.set()
        assert len(network.servers) == 1


async def test_a_repeated_call_that_its_server_leaves_is_made_elsewhere(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A refused call that waits to be opened again, on a server that goes away meanwhile, has tries left."""
    async with open_network(monkeypatch) as (network, channel), trio.open_nursery() as nursery:
        network.dispatcher.running = MAX_RUNNING_HANDLERS
        answers: list[bytes] = []

        async def call() -> None:
            answers.append((await method(channel, "Echo")(Echo(output=b"again"))).output)

        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        network.dispatcher.running = 0
        for _ in range(MAX_CONCURRENT_STREAMS):
            nursery.start_soon(method(channel, "Wait"), Echo())
        await trio.sleep(1)
        assert network.servers[0].open_calls == MAX_CONCURRENT_STREAMS
        network.servers[0].connection.send_final_goaway()
        await trio.sleep(1)
        assert answers == [b"again"]
        network.may_answer.set()
