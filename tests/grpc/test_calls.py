"""Calls between the two sides of the transport, on streams in memory: who is cancelled when, and what each side hears."""

from __future__ import annotations

import gc
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any, cast

import h2.config
import h2.connection
import h2.events
import h2.settings
import purerpc
import pytest
import trio
import trio.testing
from purerpc import RPCSignature, Service, Status, StatusCode
from purerpc.grpclib.exceptions import (
    InternalError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
    UnimplementedError,
)

from jobmaster.api.followers import Followers
from jobmaster.api.jobs import JobService
from jobmaster.errors import TransportError
from jobmaster.grpc import server as server_module
from jobmaster.grpc.client import STREAM_WINDOW, ClientConnection, ClientStream, StreamRefused
from jobmaster.grpc.framing import prefix_for
from jobmaster.grpc.headers import request_headers
from jobmaster.grpc.memory import MAX_HELD, MAX_HELD_OF_CALLER, MAX_WIDE, MAX_WIDE_OF_CALLER
from jobmaster.grpc.methods import Unadmitted, methods_of, takes_admission
from jobmaster.grpc.server import CONNECTION_WINDOW, YIELD_BYTES, Dispatcher, ServerConnection
from jobmaster.grpc.server_call import WIDER
from jobmaster.grpc.watch import ConnectionWatch
from jobmaster.http2 import frames
from jobmaster.http2.header_blocks import encode_block
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.wire.lifetime import SERVER_POLICY
from jobmaster.wire.send_buffer import HIGH_WATER
from jobmaster.wire.tcp import TcpStream
from tests.harness import OneConnection

Echo = pb.JobOutputResponse
SERVICE = "test.Service"
NAMES = {"InTurn": "in_turn", "FailInThread": "fail_in_thread"}


class Probe:
    """A service whose handlers tell how they fared."""

    def __init__(self) -> None:
        self.entered = trio.Event()
        self.cancelled = trio.Event()
        self.sent = 0
        self.writes = 0
        self.turns = [trio.Event() for _ in range(3)]
        self.service = Service(SERVICE)
        cardinality = purerpc.Cardinality.UNARY_UNARY
        for name in ("Echo", "Hang", "Fail", "InTurn", "FailInThread"):
            signature = RPCSignature(cardinality, Echo, Echo)
            self.service.add_method(name, getattr(self, NAMES.get(name, name.lower())), signature)
        self.service.add_method("AtOnce", self.at_once, RPCSignature(cardinality, Echo, Echo))
        self.service.add_method("Prepared", self.prepared, RPCSignature(cardinality, Echo, Echo))
        flood = RPCSignature(purerpc.Cardinality.UNARY_STREAM, Echo, Echo)
        self.service.add_method("Flood", self.flood, flood)

    async def echo(self, message: Echo) -> Echo:
        """Answers what it is sent."""
        return message

    def at_once(self, message: Echo, request: object) -> Echo:  # noqa: ARG002  # as purerpc calls it
        """Answers what it is sent, without waiting; much where it is asked for that."""
        self.sent += 1
        return Echo(output=bytes(YIELD_BYTES)) if message.output == b"much" else message

    @takes_admission
    async def prepared(self, asked: Unadmitted, request: object) -> Echo:  # noqa: ARG002  # as above
        """Answers what it is sent, when it is admitted; it is entered before."""
        self.entered.set()
        if asked.admission is not None:
            await asked.admission()
        message: Echo = asked.request
        return message

    async def hang(self, _message: Echo) -> Echo:
        """Answers never."""
        self.entered.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled.set()
            raise
        raise AssertionError("unreachable")

    async def in_turn(self, message: Echo) -> Echo:
        """Answers when the one before has, in the next turn of the event loop."""
        await self.turns[len(message.output)].wait()
        self.turns[len(message.output) + 1].set()
        return message

    async def fail(self, message: Echo) -> Echo:
        """Fails with a text that no client may see, or with an error of the caller."""
        if message.output == b"caller":
            raise LookupError("no such thing")
        raise RuntimeError("secret")

    async def fail_in_thread(self, message: Echo) -> Echo:
        """Fails in a thread, with an error whose traceback refers to it."""

        def fail() -> Echo:
            raise LookupError(f"not found in {len(message.output)} bytes")

        return await trio.to_thread.run_sync(fail)

    async def flood(self, _message: Echo) -> AsyncIterator[Echo]:
        """Sends without end."""
        try:
            while True:
                yield Echo(output=bytes(8192))
                self.sent += 1
        finally:
            self.cancelled.set()


def status_of(error: Exception) -> Status:
    """The owner's table, in small."""
    if isinstance(error, LookupError):
        return Status(StatusCode.NOT_FOUND, str(error))
    return Status(StatusCode.INTERNAL, "fixed text")


@asynccontextmanager
async def connected(
    probe: Probe, watch: ConnectionWatch | None = None
) -> AsyncIterator[tuple[ClientConnection, trio.Nursery, ServerConnection]]:
    """A client connected to a server that serves `probe`, watched by `watch`; the nursery is the server's."""
    near, far = trio.testing.memory_stream_pair()
    dispatcher = Dispatcher(services={SERVICE: probe.service}, status_of=status_of)
    server = ServerConnection(far, dispatcher, caller=None, watch=watch)
    client = ClientConnection(near)
    deliver = far.send_stream.send_all_hook

    async def count_write() -> None:
        probe.writes += 1
        assert deliver is not None
        await deliver()

    far.send_stream.send_all_hook = count_write
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        await nursery.start(client.run)
        yield client, nursery, server
        nursery.cancel_scope.cancel()


def stub(client: ClientConnection, method: str) -> Callable[[Echo], Awaitable[Echo]]:
    """A unary method of the probe."""
    signature = RPCSignature(purerpc.Cardinality.UNARY_UNARY, Echo, Echo)
    result: Callable[[Echo], Awaitable[Echo]] = purerpc.Client(SERVICE, OneConnection(client)).get_method_stub(
        method, signature
    )
    return result


@pytest.mark.parametrize("size", [0, 1, 16_384, 65_536, 1_000_000])
async def test_echo(size: int) -> None:
    """A message of any size up to the limit goes there and back."""
    async with connected(Probe()) as (client, _nursery, _server):
        answer = await stub(client, "Echo")(Echo(output=b"x" * size))
    assert answer.output == b"x" * size


async def test_many_calls_one_after_another() -> None:
    """A finished call leaves nothing on either side of the connection."""
    async with connected(Probe()) as (client, _nursery, server):
        for _ in range(200):
            await stub(client, "Echo")(Echo(output=b"x"))
        await trio.testing.wait_all_tasks_blocked()
        assert not client._streams
        assert not server._calls
        assert server.open_calls == 0


async def test_an_answer_is_one_write() -> None:
    """Headers, message and trailers of a call go together."""
    probe = Probe()
    async with connected(probe) as (client, _nursery, _server):
        await stub(client, "Echo")(Echo(output=b"first"))
        before = probe.writes
        await stub(client, "Echo")(Echo(output=b"x"))
        assert probe.writes == before + 1


class Started(trio.abc.Instrument):
    """Counts the tasks that are started."""

    count = 0

    def task_spawned(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002  # the signature is Trio's
        """One more."""
        self.count += 1


@pytest.mark.parametrize(("method", "tasks"), [("AtOnce", 0), ("Echo", 1)])
async def test_what_does_not_wait_needs_no_task(method: str, tasks: int) -> None:
    """A handler that returns its answer is called by the reader; one that may wait gets a task of its own."""
    async with connected(Probe()) as (client, _nursery, _server):
        await stub(client, method)(Echo(output=b"first"))
        trio.lowlevel.add_instrument(started := Started())
        assert (await stub(client, method)(Echo(output=b"x"))).output == b"x"
        trio.lowlevel.remove_instrument(started)
    assert started.count == tasks


async def test_an_answer_at_once_waits_for_its_window() -> None:
    """An answer of a handler that does not wait, too large for the window, is sent as far as that opens."""
    async with connected(Probe()) as (client, _nursery, _server):
        assert (await stub(client, "AtOnce")(Echo(output=bytes(1_000_000)))).output == bytes(1_000_000)


async def test_many_answers_at_once_let_others_run() -> None:
    """A client that asks for much in one read does not hold up other tasks until all is answered."""
    probe = Probe()
    seen: list[int] = []
    async with connected(probe) as (client, _nursery, _server), trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(stub(client, "AtOnce"), Echo(output=b"much"))
        while probe.sent < 20:
            seen.append(probe.sent)
            await trio.lowlevel.checkpoint()
    assert max(b - a for a, b in pairwise([*seen, 20])) <= 2


async def test_calls_that_end_together_share_a_write() -> None:
    """So does the answer of a call that ends in the turn in which another one's wakes the writer."""
    probe = Probe()
    async with connected(probe) as (client, _nursery, _server):
        for _ in range(10):  # whether the writer runs before the second handler is chance in each
            probe.turns = [trio.Event() for _ in probe.turns]
            async with trio.open_nursery() as nursery:
                for number in range(2):
                    nursery.start_soon(stub(client, "InTurn"), Echo(output=bytes(number)))
                await trio.testing.wait_all_tasks_blocked()
                before = probe.writes
                probe.turns[0].set()
            assert probe.writes == before + 1


async def test_cancelled_call() -> None:
    """A caller that is cancelled resets the call, and the handler is cancelled."""
    probe = Probe()
    async with connected(probe) as (client, _nursery, server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stub(client, "Hang"), Echo())
            await probe.entered.wait()
            nursery.cancel_scope.cancel()
        with trio.fail_after(60):
            await probe.cancelled.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert (server.open_calls, server._calls) == (0, {})
        assert (await stub(client, "Echo")(Echo(output=b"on"))).output == b"on"


async def test_disconnected_client() -> None:
    """The handlers of a client that is gone are cancelled, and its connection's task returns."""
    probe = Probe()
    near, far = trio.testing.memory_stream_pair()
    dispatcher = Dispatcher(services={SERVICE: probe.service}, status_of=status_of)
    async with trio.open_nursery() as serving:
        serving.start_soon(ServerConnection(far, dispatcher, caller=None).run)
        async with trio.open_nursery() as nursery:
            client = ClientConnection(near)
            await nursery.start(client.run)
            nursery.start_soon(stub(client, "Hang"), Echo())
            await probe.entered.wait()
            nursery.cancel_scope.cancel()
        await near.aclose()
        await probe.cancelled.wait()


async def test_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """The deadline around a call is told to the server, which cancels the handler when it passes."""
    probe = Probe()
    async with connected(probe) as (client, _nursery, server):
        with trio.CancelScope(deadline=trio.current_time() + 2) as scope:
            stream = await purerpc.Client(SERVICE, OneConnection(client)).rpc("Hang", Echo, Echo)
            scope.deadline = trio.current_time() + 1000
            await stream.send_message(Echo())
            await stream.close()
            assert await stream.receive_message() is None
        assert stream.end_status.status_code == StatusCode.DEADLINE_EXCEEDED
        assert probe.cancelled.is_set()
        assert server.open_calls == 0


async def test_slow_request_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    """A caller that never sends its message does not keep a handler for ever."""
    async with connected(Probe()) as (client, _nursery, _server):
        stream = await purerpc.Client(SERVICE, OneConnection(client)).rpc("Echo", Echo, Echo)
        assert await stream.receive_message() is None
    assert stream.end_status.status_code == StatusCode.DEADLINE_EXCEEDED


async def test_unexpected_error() -> None:
    """An unexpected error reaches the client as INTERNAL with the fixed text, an expected one with its own."""
    async with connected(Probe()) as (client, _nursery, _server):
        with pytest.raises(InternalError) as unexpected:
            await stub(client, "Fail")(Echo())
        with pytest.raises(NotFoundError, match="no such thing"):
            await stub(client, "Fail")(Echo(output=b"caller"))
    assert unexpected.value.status.status_message == "fixed text"


async def test_an_error_is_freed_at_once() -> None:
    """Without a collection of cycles: nothing holds a handler's error, and so its frames and the request."""
    async with connected(Probe()) as (client, _nursery, _server):
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                with pytest.raises(NotFoundError, match="not found in 3 bytes"):
                    await stub(client, "FailInThread")(Echo(output=b"abc"))
            assert [each for each in gc.get_objects() if isinstance(each, LookupError)] == []
        finally:
            gc.enable()


async def test_unknown_method() -> None:
    """A method that is not there is UNIMPLEMENTED, in words that repeat nothing of the request."""
    async with connected(Probe()) as (client, _nursery, _server):
        with pytest.raises(UnimplementedError) as error:
            await stub(client, "Nope")(Echo())
    assert "Nope" not in error.value.status.status_message


async def test_too_large_a_message() -> None:
    """A message over the limit is RESOURCE_EXHAUSTED for its call alone; the connection serves on."""
    async with connected(Probe()) as (client, _nursery, _server):
        with pytest.raises(ResourceExhaustedError):
            await stub(client, "Echo")(Echo(output=bytes(5 * 1024 * 1024)))
        assert (await stub(client, "Echo")(Echo(output=b"on"))).output == b"on"


async def test_slow_reader() -> None:
    """A caller that takes nothing stops its handler after a bounded number of bytes; leaving cancels it."""
    probe = Probe()
    async with connected(probe) as (client, _nursery, server):
        stream = await purerpc.Client(SERVICE, OneConnection(client)).rpc("Flood", Echo, Echo)
        await stream.send_message(Echo())
        await stream.close()
        await trio.testing.wait_all_tasks_blocked()
        sent = probe.sent
        await trio.testing.wait_all_tasks_blocked()
        assert probe.sent == sent
        assert server.connection._send_buffer.pending <= HIGH_WATER + 16_384
        assert sent * 8192 <= STREAM_WINDOW + HIGH_WATER
        stream.reset()
        await probe.cancelled.wait()


async def test_a_slow_client_is_kept(autojump_clock: trio.testing.MockClock) -> None:
    """A client that takes all it is sent, but slowly, is not given up for a PING that it has not received yet."""
    async with connected(Probe()) as (client, _nursery, server):
        wire = server.connection._stream
        assert isinstance(wire, trio.StapledStream)
        assert isinstance(wire.send_stream, trio.testing.MemorySendStream)
        deliver = wire.send_stream.send_all_hook
        await trio.testing.wait_all_tasks_blocked()

        async def deliver_slowly() -> None:
            await trio.sleep(SERVER_POLICY.stall - 1)
            assert deliver is not None
            await deliver()

        stream = await purerpc.Client(SERVICE, OneConnection(client)).rpc("Flood", Echo, Echo)
        stream.expect_message_type(Echo)
        await stream.send_message(Echo())
        await stream.close()
        wire.send_stream.send_all_hook = deliver_slowly
        ends = trio.current_time() + 10 * SERVER_POLICY.stall
        while trio.current_time() < ends:
            assert await stream.receive_message() is not None
        stream.reset()


async def test_shut_down_lets_calls_finish(autojump_clock: trio.testing.MockClock) -> None:
    """After GOAWAY an open call goes on to its end, and a new one is refused."""
    probe = Probe()
    async with connected(probe) as (client, _nursery, server):
        stream = await purerpc.Client(SERVICE, OneConnection(client)).rpc("Echo", Echo, Echo)
        await trio.testing.wait_all_tasks_blocked()
        server.shut_down()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(TransportError, match="shutting down"):
            await stub(client, "Echo")(Echo())
        await stream.send_message(Echo(output=b"last"))
        await stream.close()
        answer = await stream.receive_message()
    assert answer is not None
    assert answer == Echo(output=b"last")


async def test_a_hundred_calls_at_a_time() -> None:
    """A connection runs a hundred calls at a time; one more waits for another's end, and all end when callers leave."""
    probe = Probe()
    async with connected(probe) as (client, _nursery, server):
        async with trio.open_nursery() as calls:
            for _ in range(100):
                calls.start_soon(stub(client, "Hang"), Echo())
            await trio.testing.wait_all_tasks_blocked()
            assert server.open_calls == 100
            with trio.move_on_after(0.01) as scope:
                await stub(client, "Hang")(Echo())
            assert scope.cancelled_caught
            calls.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert server.open_calls == 0


@pytest.mark.parametrize("bound", ["MAX_LASTING", "MAX_LASTING_OF_ONE"])
async def test_calls_that_last_leave_room_for_others(monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    """Where as many last as may, one more is refused until another has ended; those that do not last go on."""
    monkeypatch.setattr(server_module, bound, 2)
    async with connected(Probe()) as (client, _nursery, server):

        async def flood() -> ClientStream:
            stream = await purerpc.Client(SERVICE, OneConnection(client)).rpc("Flood", Echo, Echo)
            await stream.send_message(Echo())
            await stream.close()
            await trio.testing.wait_all_tasks_blocked()
            assert isinstance(stream, ClientStream)
            return stream

        first, _second, third = await flood(), await flood(), await flood()
        with pytest.raises(StreamRefused):
            await third.receive_message()
        assert (await stub(client, "Echo")(Echo(output=b"stop"))).output == b"stop"
        assert server.open_calls == 2
        first.reset()
        await trio.testing.wait_all_tasks_blocked()
        assert await (await flood()).receive_message() is not None


def test_what_lasts() -> None:
    """Of the server's own methods: streams, and the wait for a job's end."""
    service = JobService(cast("Any", None), Followers()).service
    lasting = {name for (_, name), method in methods_of({service.name: service}).items() if method.lasts}
    assert lasting == {"Attach", "Backup", "FollowOutput", "Stats", "StreamOutput", "Wait", "Watch"}


async def test_a_window_that_becomes_negative() -> None:
    """A client that shrinks the windows in mid-stream makes the handler wait, not spin, until they are open again."""
    probe = Probe()
    near, far = trio.testing.memory_stream_pair()
    dispatcher = Dispatcher(services={SERVICE: probe.service}, status_of=status_of)
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    headers = request_headers(authority="test", service=SERVICE, method="Flood", timeout=None)
    client.send_headers(1, headers)
    client.send_data(1, bytes(5), end_stream=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(ServerConnection(far, dispatcher, caller=None).run)
        await near.send_all(client.data_to_send())
        await trio.testing.wait_all_tasks_blocked()
        client.receive_data(await near.receive_some())
        client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        await near.send_all(client.data_to_send())
        await trio.testing.wait_all_tasks_blocked()
        sent = probe.sent
        client.increment_flow_control_window(200_000)
        client.increment_flow_control_window(200_000, 1)
        await near.send_all(client.data_to_send())
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert probe.sent > sent


class EagerWire(trio.abc.Stream):
    """A stream that has more records at once than a turn takes, as trio.SSLStream's SSL object has them."""

    def __init__(self, wire: trio.abc.Stream) -> None:
        self._wire = wire
        self._records: list[bytes] = []
        self._ssl_object = self

    def read(self, _size: int) -> bytes:
        """The next record, or a word that there is none."""
        if not self._records:
            raise ssl.SSLWantReadError
        return self._records.pop(0)

    async def receive_some(self, _size: int | None = None) -> bytes:
        """The next record; all that has arrived is cut into small ones."""
        if not self._records:
            data = bytes(await self._wire.receive_some())
            self._records = [data[index : index + 100] for index in range(0, len(data), 100)]
        return self._records.pop(0) if self._records else b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Passes it on."""
        await self._wire.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Passes it on."""
        await self._wire.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Passes it on."""
        await self._wire.aclose()


async def test_no_record_is_lost() -> None:
    """However many TLS records have arrived at once, a client takes each of them exactly once and in order."""
    near, far = trio.testing.memory_stream_pair()
    dispatcher = Dispatcher(services={SERVICE: Probe().service}, status_of=status_of)
    payload = random.Random(1).randbytes(200_000)
    async with trio.open_nursery() as nursery:
        await nursery.start(ServerConnection(far, dispatcher, caller=None).run)
        client = ClientConnection(EagerWire(near))
        await nursery.start(client.run)
        answer = await stub(client, "Echo")(Echo(output=payload))
        nursery.cancel_scope.cancel()
    assert answer.output == payload


def test_windows_are_small() -> None:
    """Requests are small: a connection cannot make the server hold more than a mebibyte of them.

    Calls that send very much come on top, of which a client has few.
    """
    assert CONNECTION_WINDOW <= 1024 * 1024
    assert MAX_WIDE_OF_CALLER * WIDER <= MAX_HELD_OF_CALLER / 4
    assert MAX_WIDE * WIDER <= MAX_HELD / 4


async def test_senders_on_a_lost_connection(autojump_clock: trio.testing.MockClock) -> None:
    """Requests that wait for others to be sent end with the connection, and their callers hear of it."""
    near, far = trio.testing.memory_stream_pair()
    near.send_stream.send_all_hook = trio.sleep_forever  # the server takes nothing
    client = ClientConnection(near)
    lost = 0

    async def call() -> None:
        nonlocal lost
        with pytest.raises(TransportError):
            await stub(client, "Echo")(Echo(output=bytes(60_000)))
        lost += 1

    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        for _ in range(3):
            nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        await trio.aclose_forcefully(far)
        with trio.move_on_after(60):
            while lost < 3:
                await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert lost == 3


async def test_a_call_that_is_given_up_inside_a_message(autojump_clock: trio.testing.MockClock) -> None:
    """The status of a call counts, not the message that it cut off."""
    may_send = trio.Event()

    async def send_much(_message: Echo) -> AsyncIterator[Echo]:  # noqa: ASYNC124  # as purerpc wants it
        yield Echo(output=bytes(1_000_000))

    probe = Probe()
    probe.service.add_method("Much", send_much, RPCSignature(purerpc.Cardinality.UNARY_STREAM, Echo, Echo))
    async with connected(probe) as (client, _nursery, server):
        signature = RPCSignature(purerpc.Cardinality.UNARY_STREAM, Echo, Echo)
        answers = purerpc.Client(SERVICE, OneConnection(client)).get_method_stub("Much", signature)(Echo())
        sending = server.connection._stream.send_stream  # type: ignore[attr-defined]  # in memory
        deliver = sending.send_all_hook

        async def deliver_late() -> None:
            await may_send.wait()
            await deliver()

        sending.send_all_hook = deliver_late

        async def give_up() -> None:
            await trio.sleep(1)
            server.give_up_calls()
            await trio.sleep(1)
            may_send.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up)
            with pytest.raises(UnavailableError, match="shutting down"):
                async for _ in answers:
                    pass


async def test_a_call_that_is_given_up_before_it_has_begun() -> None:
    """Its handler is never called, though its request came with one that was served, and before it."""
    near, far = trio.testing.memory_stream_pair()

    def handle(message: Echo, request: object) -> Echo:
        server.give_up_calls(Status(StatusCode.UNAUTHENTICATED, "who are you?"))
        return message

    probe = Probe()
    probe.service.add_method("Handle", handle, RPCSignature(purerpc.Cardinality.UNARY_UNARY, Echo, Echo))
    server = ServerConnection(far, Dispatcher(services={SERVICE: probe.service}, status_of=status_of), caller=None)
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
    client.initiate_connection()
    for stream_id, method in ((1, "Flood"), (3, "Handle")):
        client.send_headers(stream_id, request_headers(authority="x", service=SERVICE, method=method, timeout=None))
        client.send_data(stream_id, prefix_for(0), end_stream=True)
    statuses: dict[int, bytes] = {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        await near.send_all(client.data_to_send())
        while 1 not in statuses:
            for event in client.receive_data(bytes(await near.receive_some())):
                if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
                    headers = dict(event.headers)
                    statuses |= {event.stream_id: headers[b"grpc-status"]} if b"grpc-status" in headers else {}
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert statuses[1] == b"16"
    assert (probe.sent, probe.cancelled.is_set(), server.open_calls) == (0, False, 0)


async def test_an_answer_arrives_whatever_its_client_sends_meanwhile() -> None:
    """A server that goes away does not reset a connection whose client has not received everything yet."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    client.connect(listener.socket.getsockname())
    tcp = await listener.accept()
    await listener.aclose()
    dispatcher = Dispatcher(services={SERVICE: Probe().service}, status_of=status_of)
    server = ServerConnection(TcpStream(tcp), dispatcher, caller=None)
    server_closed = trio.Event()
    received = 0

    async def serve() -> None:
        await server.run()
        await trio.aclose_forcefully(tcp)
        server_closed.set()

    def receive() -> int:
        count = 0
        while data := client.recv(1024):
            count += len(data)
            client.sendall(frames.window_update(0, 1))
        client.close()
        return count

    message = Echo(output=b"much").SerializeToString()
    call = frames.PREFACE + frames.settings([(frames.Setting.INITIAL_WINDOW_SIZE, 1 << 20)])
    call += frames.window_update(0, 1 << 20)
    opening = request_headers(authority="a", service=SERVICE, method="AtOnce", timeout=None)
    call += frames.header_frames(1, encode_block(opening), end_stream=False)
    call += frames.frame(frames.DATA, frames.END_STREAM, 1, prefix_for(len(message)) + message)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            client.sendall(call)
            await trio.testing.wait_all_tasks_blocked(0.05)
            server.shut_down()
            while not server.connection._half_closed and not server_closed.is_set():
                with suppress(BlockingIOError):  # so that the server can send all, which its kernel then has
                    received += len(client.recv(1024, socket.MSG_DONTWAIT))
                await trio.testing.wait_all_tasks_blocked(0.02)
            received += await trio.to_thread.run_sync(receive)
            await server_closed.wait()
    assert received > YIELD_BYTES
