"""The transport against gRPC's own C core: the cases of the project's interoperability tests that apply here."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

import pytest
import trio
from google.protobuf.empty_pb2 import Empty
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status as RichStatus
from purerpc import Cardinality, RPCSignature, Service, Status, StatusCode
from purerpc.grpclib.exceptions import RpcFailedError

from jobmaster.api.statuses import status_of
from jobmaster.certs.contexts import server_context
from jobmaster.errors import InvalidRequest
from jobmaster.grpc.server import Dispatcher
from jobmaster.identity.policy import DEFAULT_POLICY
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.server.listener import Admission, Listener, open_listeners
from tests.harness import REPOSITORY
from tests.integration.grpcio_peer import Call, Outcome

# Two messages of ours with the shapes that are needed: a text with a list, and bytes.
Ask = pb.JobCreateRequest
Answer = pb.JobOutputResponse

SERVICE: Final = "test.Interop"
SPECIAL_TEXT: Final = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"


class Probe:
    """A service that does what each call asks for, and tells whether a call was cancelled."""

    def __init__(self) -> None:
        self.cancelled = trio.Event()
        self.service = Service(SERVICE)
        unary, server_streaming = Cardinality.UNARY_UNARY, Cardinality.UNARY_STREAM
        self.service.add_method("Nothing", self.nothing, RPCSignature(unary, Empty, Empty))
        self.service.add_method("Bytes", self.bytes, RPCSignature(unary, Ask, Answer))
        self.service.add_method("Sizes", self.sizes, RPCSignature(server_streaming, Ask, Answer))
        self.service.add_method("InTurn", self.in_turn, RPCSignature(Cardinality.STREAM_STREAM, Ask, Answer))
        self.service.add_method("Hang", self.hang, RPCSignature(server_streaming, Ask, Answer))
        self.service.add_method("Fail", self.fail, RPCSignature(unary, Ask, Answer))
        self.service.add_method("Refuse", self.refuse, RPCSignature(unary, Ask, Answer))

    async def nothing(self, message: Empty) -> Empty:
        """Answers with as little as it was asked."""
        return message

    async def bytes(self, message: Ask) -> Answer:
        """Answers with as many bytes as the first argument says."""
        return Answer(output=bytes(int(message.args[0])))

    async def sizes(self, message: Ask) -> AsyncIterator[Answer]:
        """Answers once for each argument, with as many bytes as it says."""
        for size in message.args:
            yield Answer(output=bytes(int(size)))

    async def in_turn(self, messages: AsyncIterator[Ask]) -> AsyncIterator[Answer]:
        """Answers each message with as many bytes as it asks for."""
        async for message in messages:
            yield await self.bytes(message)

    async def hang(self, _message: Ask) -> AsyncIterator[Answer]:
        """Answers once, and then nothing."""
        yield Answer()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled.set()
            raise

    async def fail(self, message: Ask) -> Answer:
        """Ends with the status of the first argument and the text of the command."""
        raise RpcFailedError(Status(StatusCode(int(message.args[0])), message.command))

    async def refuse(self, message: Ask) -> Answer:
        """Ends with an error of the server's table."""
        raise InvalidRequest(message.command, field="command")


@asynccontextmanager
async def serving(probe: Probe, certificates: Path) -> AsyncIterator[int]:
    """The transport behind real TLS with `probe` on it; gives the port."""
    dispatcher = Dispatcher(services={SERVICE: probe.service}, status_of=status_of)
    listener = Listener(Admission(context=server_context(certificates), policy=DEFAULT_POLICY, dispatcher=dispatcher))
    listeners = await open_listeners("localhost", 0)
    async with trio.open_nursery() as nursery:
        await nursery.start(listener.serve, listeners, nursery)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def do(certificates: Path, *calls: Call, probe: Probe | None = None) -> list[Outcome]:
    """How these calls go, made on one connection by the C core."""
    async with serving(probe or Probe(), certificates) as port:
        order = {"port": port, "folder": str(certificates), "calls": [asdict(call) for call in calls]}
        with trio.fail_after(60):
            done = await trio.run_process(
                [sys.executable, "-m", "tests.integration.grpcio_peer"],
                stdin=json.dumps(order).encode(),
                capture_stdout=True,
                cwd=REPOSITORY,
                env=os.environ | {"GRPC_VERBOSITY": "ERROR"},
            )
        if probe is not None:
            with trio.fail_after(60):
                await probe.cancelled.wait()
    return [Outcome(**outcome) for outcome in json.loads(done.stdout)]


def ask(command: str = "", *args: object) -> list[str]:
    """A request as the peer takes it."""
    return [Ask(command=command, args=map(str, args)).SerializeToString().hex()]


def method(name: str) -> str:
    """A method of the probe."""
    return f"/{SERVICE}/{name}"


def sizes(outcome: Outcome) -> list[int]:
    """How many bytes each answer has."""
    assert outcome.code == "OK", outcome
    return [len(Answer.FromString(bytes.fromhex(answer)).output) for answer in outcome.answers]


ALIVE: Final = Call(method=method("Nothing"), requests=[""])


async def test_empty_unary(certificates: Path) -> None:
    """A message of no bytes is answered by one of no bytes."""
    (outcome,) = await do(certificates, ALIVE)
    assert outcome == Outcome(code="OK", text="", answers=[""])


async def test_large_unary(certificates: Path) -> None:
    """A request of 271,828 bytes has an answer of 314,159."""
    (outcome,) = await do(certificates, Call(method=method("Bytes"), requests=ask("x" * 271_828, 314_159)))
    assert sizes(outcome) == [314_159]


async def test_server_streaming(certificates: Path) -> None:
    """Several answers to one request come in order, whole."""
    wanted = [31_415, 9, 2_653, 58_979, 0, 1_000_000]
    call = Call(method=method("Sizes"), requests=ask("", *wanted), kind="server_streaming")
    (outcome,) = await do(certificates, call)
    assert sizes(outcome) == wanted


async def test_ping_pong(certificates: Path) -> None:
    """Requests that each wait for the answer before them go on in both directions of one call."""
    wanted = [31_415, 9, 2_653, 58_979]
    requests = [ask("x" * 27_182, size)[0] for size in wanted]
    (outcome,) = await do(certificates, Call(method=method("InTurn"), requests=requests, kind="in_turn"))
    assert sizes(outcome) == wanted


async def test_empty_stream(certificates: Path) -> None:
    """A stream that ends without a request ends without an answer, well."""
    (outcome,) = await do(certificates, Call(method=method("InTurn"), requests=[], kind="in_turn"))
    assert outcome == Outcome(code="OK", text="")


async def test_cancel_after_begin(certificates: Path) -> None:
    """A call that its client cancels is cancelled in the server; the connection goes on."""
    call = Call(method=method("Hang"), requests=ask(), kind="server_streaming", leave_after=1)
    cancelled, alive = await do(certificates, call, ALIVE, probe=Probe())
    assert (cancelled.code, len(cancelled.answers)) == ("CANCELLED", 1)
    assert alive.code == "OK"


async def test_timeout_on_sleeping_server(certificates: Path) -> None:
    """A call past its deadline ends so for the client, and is cancelled in the server; the connection goes on."""
    call = Call(method=method("Hang"), requests=ask(), kind="server_streaming", seconds=0.3)
    connected, late, alive = await do(certificates, ALIVE, call, ALIVE, probe=Probe())
    assert late.code == "DEADLINE_EXCEEDED"
    assert connected.code == alive.code == "OK"


@pytest.mark.parametrize("text", ["test status message", SPECIAL_TEXT, "100 % of it", ""])
async def test_status_code_and_message(certificates: Path, text: str) -> None:
    """A handler's status and text arrive as they are, whatever characters the text has."""
    (outcome,) = await do(certificates, Call(method=method("Fail"), requests=ask(text, StatusCode.UNKNOWN.value)))
    assert outcome == Outcome(code="UNKNOWN", text=text)


async def test_every_status_code(certificates: Path) -> None:
    """Each of the sixteen codes of failure arrives as itself."""
    codes = [code for code in StatusCode if code is not StatusCode.OK]
    calls = [Call(method=method("Fail"), requests=ask(code.name, code.value)) for code in codes]
    assert [outcome.code for outcome in await do(certificates, *calls)] == [code.name for code in codes]


async def test_status_details(certificates: Path) -> None:
    """The details of an error reach the C core as bytes, with the text of the status, as its readers require."""
    (outcome,) = await do(certificates, Call(method=method("Refuse"), requests=ask(SPECIAL_TEXT)))
    rich = RichStatus.FromString(bytes.fromhex(outcome.details))
    assert (outcome.code, outcome.text) == ("INVALID_ARGUMENT", SPECIAL_TEXT)
    assert (rich.code, rich.message) == (StatusCode.INVALID_ARGUMENT.value, SPECIAL_TEXT)
    violations = BadRequest()
    assert any(detail.Unpack(violations) for detail in rich.details)
    assert violations.field_violations[0].field == "command"


@pytest.mark.parametrize("path", [f"/{SERVICE}/NoSuchMethod", "/test.NoSuchService/Nothing"])
async def test_unimplemented(certificates: Path, path: str) -> None:
    """A method or service that there is not is UNIMPLEMENTED, and the connection goes on."""
    outcome, alive = await do(certificates, Call(method=path, requests=[""]), ALIVE)
    assert (outcome.code, alive.code) == ("UNIMPLEMENTED", "OK")


async def test_compressed_request(certificates: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A compressed request is UNIMPLEMENTED, with the remedy, and the connection goes on."""
    caplog.set_level(logging.INFO, "jobmaster.server.listener")
    call = Call(method=method("Bytes"), requests=ask("x" * 10_000, 1), is_compressed=True)
    refused, alive = await do(certificates, call, ALIVE)
    assert (refused.code, alive.code) == ("UNIMPLEMENTED", "OK")
    assert "identity" in refused.text
    assert connections(caplog) == 1


@pytest.mark.parametrize("kind", ["unary", "server_streaming"])
async def test_message_too_large(certificates: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    """A request above 4 MiB is RESOURCE_EXHAUSTED, with the bound, and the connection goes on."""
    caplog.set_level(logging.INFO, "jobmaster.server.listener")
    name = {"unary": "Bytes", "server_streaming": "Sizes"}[kind]
    call = Call(method=method(name), requests=ask("x" * 4 * 1024 * 1024, 1), kind=kind)  # type: ignore[arg-type]  # str
    refused, alive = await do(certificates, call, ALIVE)
    assert (refused.code, alive.code) == ("RESOURCE_EXHAUSTED", "OK")
    assert "4194304" in refused.text
    assert connections(caplog) == 1


def connections(caplog: pytest.LogCaptureFixture) -> int:
    """How many connections the listener has taken."""
    return sum(record.getMessage().startswith("connection from ") for record in caplog.records)
