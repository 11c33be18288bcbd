"""Who watches a connection is told of each call once, however it came and whatever became of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import h2.config
import h2.connection
import purerpc
import pytest
import trio
import trio.testing
from google.protobuf.message import Message
from purerpc import Status
from purerpc.grpclib.exceptions import NotFoundError, RpcFailedError

from jobmaster.grpc.client import ClientStream
from jobmaster.grpc.headers import request_headers
from jobmaster.grpc.refusal import RefusingConnection
from jobmaster.grpc.server import MAX_HANDLERS_OF_ONE, Dispatcher, ServerConnection
from jobmaster.grpc.watch import Admission
from jobmaster.http2.header_blocks import Field
from tests.grpc.test_calls import SERVICE, Echo, Probe, connected, status_of, stub
from tests.harness import OneConnection

ECHO: Final = f"{SERVICE}/Echo"


@dataclass
class Watch:
    """Notes what it is told.

    Attributes:
        told: of each call that has ended: its method, its outcome and why.
        steps: of all calls, what was told in which order.
        admission: what a call has to wait for.
        refusal: raised when a request has come.
    """

    told: list[tuple[str | None, str, str]] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    admission: Admission | None = None
    refusal: Exception | None = None

    def open(self, method: str | None) -> Watched:
        """A call has come."""
        self.steps.append("open")
        return Watched(self, method)

    def refused(self, method: str | None, outcome: str, why: str) -> None:
        """A request did not become a call."""
        self.told.append((method, outcome, why))

    @property
    def outcomes(self) -> list[tuple[str | None, str]]:
        """Methods and outcomes."""
        return [(method, outcome) for method, outcome, _ in self.told]


@dataclass
class Watched:
    """One call."""

    watch: Watch
    method: str | None

    def on_request(self, message: Message) -> Admission | None:
        """Its request is here."""
        assert isinstance(message, Echo)
        self.watch.steps.append("request")
        if self.watch.refusal is not None:
            raise self.watch.refusal
        return self.watch.admission

    def on_answer(self, message: Message) -> None:
        """It was answered."""
        assert isinstance(message, Echo)
        self.watch.steps.append("answer")

    def on_end(self, status: Status) -> None:
        """It has ended."""
        self.watch.steps.append("end")
        self.watch.told.append((self.method, status.status_code.name, status.status_message))


@pytest.mark.parametrize("method", ["AtOnce", "Echo"])
async def test_a_call_from_its_beginning_to_its_end(method: str) -> None:
    """Its method, its request, its answer, and that it went well, in this order."""
    watch = Watch()
    async with connected(Probe(), watch) as (client, _, _server):
        await stub(client, method)(Echo(output=b"x"))
        await trio.testing.wait_all_tasks_blocked()
        assert watch.steps == ["open", "request", "answer", "end"]
        assert watch.outcomes == [(f"{SERVICE}/{method}", "OK")]


@pytest.mark.parametrize(
    ("method", "request_", "outcome", "why"),
    [
        ("Nope", b"", "UNIMPLEMENTED", "no such service or method"),
        ("Fail", b"", "INTERNAL", "fixed text"),
        ("Fail", b"caller", "NOT_FOUND", "no such thing"),
        ("Echo", bytes(5 * 1024 * 1024), "RESOURCE_EXHAUSTED", ""),
    ],
)
async def test_a_call_that_fails(method: str, request_: bytes, outcome: str, why: str) -> None:
    """It is told with its status and the text that its caller gets."""
    watch = Watch()
    async with connected(Probe(), watch) as (client, _, _server):
        with pytest.raises(RpcFailedError) as failure:
            await stub(client, method)(Echo(output=request_))
        await trio.testing.wait_all_tasks_blocked()
        assert watch.outcomes == [(f"{SERVICE}/{method}", outcome)]
        assert watch.told[0][2] == failure.value.status.status_message
        assert why in watch.told[0][2]


async def test_a_call_that_its_caller_leaves() -> None:
    """Unary or a stream, it was cancelled; one that the server leaves was not."""
    watch, probe = Watch(), Probe()
    async with connected(probe, watch) as (client, _, _server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stub(client, "Hang"), Echo())
            await probe.entered.wait()
            nursery.cancel_scope.cancel()
        stream = await purerpc.Client(SERVICE, OneConnection(client)).rpc("Flood", Echo, Echo)
        await stream.send_message(Echo())
        await stream.close()
        await trio.testing.wait_all_tasks_blocked()
        stream.reset()
        await trio.testing.wait_all_tasks_blocked()
        assert watch.outcomes == [(f"{SERVICE}/Hang", "CANCELLED"), (f"{SERVICE}/Flood", "CANCELLED")]
        assert "the client reset the call" in watch.told[0][2]
        half = await purerpc.Client(SERVICE, OneConnection(client)).rpc("Echo", Echo, Echo)
        await trio.testing.wait_all_tasks_blocked()
        assert half is not None
    assert watch.told[2:] == [(ECHO, "UNAVAILABLE", "the server ended the connection")]


async def test_a_call_whose_deadline_passes(autojump_clock: trio.testing.MockClock) -> None:
    """It is told as its caller is told."""
    del autojump_clock
    watch = Watch()
    async with connected(Probe(), watch) as (client, _, _server):
        with suppress(RpcFailedError), trio.CancelScope(deadline=trio.current_time() + 2) as scope:
            stream = await purerpc.Client(SERVICE, OneConnection(client)).rpc("Hang", Echo, Echo)
            scope.deadline = trio.current_time() + 1000
            await stream.send_message(Echo())
            await stream.close()
            await stream.receive_message()
        await trio.testing.wait_all_tasks_blocked()
        assert watch.told == [(f"{SERVICE}/Hang", "DEADLINE_EXCEEDED", "the call's deadline passed")]


async def test_calls_that_a_shutdown_gives_up() -> None:
    """They are told as unavailable, whether their handlers run or their requests are still coming."""
    watch, probe = Watch(), Probe()
    async with connected(probe, watch) as (client, _, server), trio.open_nursery() as nursery:
        nursery.start_soon(_fails, stub(client, "Hang"))
        await probe.entered.wait()
        await purerpc.Client(SERVICE, OneConnection(client)).rpc("Echo", Echo, Echo)
        await trio.testing.wait_all_tasks_blocked()
        server.give_up_calls()
        await trio.testing.wait_all_tasks_blocked()
    assert sorted(watch.told, key=str) == [
        (ECHO, "UNAVAILABLE", "the server is shutting down"),
        (f"{SERVICE}/Hang", "UNAVAILABLE", "the server is shutting down"),
    ]


async def _fails(call: Callable[[Echo], Awaitable[Echo]]) -> None:
    with suppress(Exception):
        await call(Echo())


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_call_that_has_to_be_admitted(is_late: bool) -> None:
    """Its handler is called when it is, whether its request came at once or late; what is raised instead is its end."""
    admitted = trio.Event()
    watch, probe = Watch(admission=admitted.wait), Probe()
    answers: list[bytes] = []
    async with connected(probe, watch) as (client, nursery, _server):
        stream = await purerpc.Client(SERVICE, OneConnection(client)).rpc("AtOnce", Echo, Echo)
        for step in (partial(stream.send_message, Echo(output=b"x")), stream.close):
            if is_late:
                await trio.testing.wait_all_tasks_blocked()
            await step()
        nursery.start_soon(_receive, stream, answers)
        await trio.testing.wait_all_tasks_blocked()
        assert watch.steps == ["open", "request"]
        assert probe.sent == 0
        admitted.set()
        await trio.testing.wait_all_tasks_blocked()
        assert answers == [b"x"]

        async def refuse() -> None:
            await trio.lowlevel.checkpoint()
            raise LookupError("not now")

        watch.admission = refuse
        with pytest.raises(NotFoundError, match="not now"):
            await stub(client, "AtOnce")(Echo(output=b"x"))
        await trio.testing.wait_all_tasks_blocked()
    assert probe.sent == 1
    assert watch.outcomes == [(f"{SERVICE}/AtOnce", "OK"), (f"{SERVICE}/AtOnce", "NOT_FOUND")]


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_handler_that_awaits_its_admission(is_late: bool) -> None:
    """It is called before, whether its request came at once or late; what is raised instead of admission is its end."""
    admitted = trio.Event()
    watch, probe = Watch(admission=admitted.wait), Probe()
    answers: list[bytes] = []
    async with connected(probe, watch) as (client, nursery, _server):
        stream = await purerpc.Client(SERVICE, OneConnection(client)).rpc("Prepared", Echo, Echo)
        for step in (partial(stream.send_message, Echo(output=b"x")), stream.close):
            if is_late:
                await trio.testing.wait_all_tasks_blocked()
            await step()
        nursery.start_soon(_receive, stream, answers)
        await trio.testing.wait_all_tasks_blocked()
        assert (probe.entered.is_set(), answers) == (True, [])
        admitted.set()
        await trio.testing.wait_all_tasks_blocked()
        assert answers == [b"x"]
        watch.admission = None
        assert (await stub(client, "Prepared")(Echo(output=b"y"))).output == b"y"


async def test_a_request_that_is_refused_at_once() -> None:
    """What is raised when who watches is told of it is the call's end, and its handler is not called."""
    watch, probe = Watch(refusal=LookupError("never")), Probe()
    async with connected(probe, watch) as (client, _, _server):
        for method in ("AtOnce", "Prepared"):
            with pytest.raises(NotFoundError, match="never"):
                await stub(client, method)(Echo(output=b"x"))
        await trio.testing.wait_all_tasks_blocked()
    assert (probe.sent, probe.entered.is_set()) == (0, False)
    assert watch.outcomes == [(f"{SERVICE}/AtOnce", "NOT_FOUND"), (f"{SERVICE}/Prepared", "NOT_FOUND")]


async def _receive(stream: ClientStream, answers: list[bytes]) -> None:
    answer = await stream.receive_message()
    assert isinstance(answer, Echo)
    answers.append(answer.output)


async def outcomes_of(headers: list[Field], *, too_many: bool = False, refusing: bool = False) -> list[object]:
    """What is told of a request with these headers."""
    watch = Watch()
    near, far = trio.testing.memory_stream_pair()
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
    client.initiate_connection()
    client.send_headers(1, headers, end_stream=True)
    dispatcher = Dispatcher(services={SERVICE: Probe().service}, status_of=status_of)
    server = ServerConnection(far, dispatcher, caller=None, watch=watch)
    server._load.open_calls = MAX_HANDLERS_OF_ONE if too_many else 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(RefusingConnection(far, "who are you?", watch).run if refusing else server.run)
        await near.send_all(client.data_to_send())
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return list(watch.outcomes)


async def test_requests_that_become_no_calls() -> None:
    """Whatever is wrong with them, or too much, they are told; the method where there is one."""
    good = request_headers(authority="x", service=SERVICE, method="Echo", timeout=None)
    plain = [(name, b"text/html" if name == b"content-type" else value) for name, value in good]
    packed = [*good, (b"grpc-encoding", b"gzip")]
    assert await outcomes_of(plain) == [(None, "HTTP_415")]
    assert await outcomes_of(packed) == [(None, "UNIMPLEMENTED")]
    assert await outcomes_of([*good, (b"grpc-timeout", b"soon")]) == [(None, "INVALID_ARGUMENT")]
    assert await outcomes_of([*good, *[(b"x", bytes(b"y" * 4000))] * 4]) == [(None, "RESOURCE_EXHAUSTED")]
    assert await outcomes_of(good, too_many=True) == [(ECHO, "UNAVAILABLE")]
    assert await outcomes_of(good, refusing=True) == [(ECHO, "UNAUTHENTICATED")]
    assert await outcomes_of(plain, refusing=True) == [(None, "HTTP_403")]
