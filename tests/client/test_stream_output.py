"""What `stream_output` does with calls that break, with a scripted server in the place of a connection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never, cast

import purerpc
import pytest
import trio
import trio.testing
from google.protobuf.message import Message

from jobmaster.client import Jobs, OutputIncomplete, RpcFailedError
from jobmaster.client.resumption import TRIES
from jobmaster.errors import TransportError
from jobmaster.grpc.channel import CallChannel
from jobmaster.grpc.client import ServerRefused
from jobmaster.jobs.v1 import jobs_pb2 as pb


@dataclass(frozen=True, slots=True)
class Ends:
    """The server ends the call with this status."""

    code: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Quiet:
    """The job writes nothing for an hour."""


Part = bytes | Ends | Quiet | Exception

OK = Ends("OK")
UNAVAILABLE = Ends("UNAVAILABLE", "draining")
NOT_FOUND = Ends("NOT_FOUND", "no such job")
LOST = TransportError("the connection was lost")


@dataclass(slots=True)
class Call:
    """One call of a script: the messages it brings, and then its status or what breaks it."""

    parts: list[Part]
    request: Message | None = None
    was_reset: bool = False
    end_status: Any = None

    def expect_message_type(self, message_type: type[Message]) -> None:
        """The script knows what it sends."""
        assert message_type is pb.JobOutputResponse

    async def send_message(self, message: Message) -> None:
        """Keeps the request."""
        await trio.lowlevel.checkpoint()
        self.request = message

    async def close(self) -> None:
        """The request is complete."""
        await trio.lowlevel.checkpoint()

    async def receive_message(self) -> Message | None:
        """The next of the script."""
        await trio.lowlevel.checkpoint()
        match self.parts.pop(0):
            case bytes(output):
                return pb.JobOutputResponse(output=output)
            case Exception() as error:
                raise error
            case Quiet():
                try:
                    await trio.sleep(3600)
                except trio.Cancelled:
                    self.parts.insert(0, TransportError("the call was abandoned"))  # as by ClientStream
                    raise
                return await self.receive_message()
            case Ends(code, text):
                self.end_status = purerpc.Status(purerpc.StatusCode[code], text)
                return None
            case unreachable:
                assert_never(unreachable)

    def reset(self) -> None:
        """The caller gives it up."""
        self.was_reset = True


@dataclass(slots=True)
class Script:
    """A channel that answers each call with the next of its scripts; an error there is that of the connection."""

    script: list[list[Part] | Exception]
    calls: list[Call] = field(default_factory=list)
    attempts: list[float] = field(default_factory=list)
    _host: str = "scripted"
    _port: int = 1

    @property
    def _grpc_socket(self) -> Script:
        return self

    async def start_request(self, *_: Any, **__: Any) -> Call:
        """Opens a call."""
        await trio.lowlevel.checkpoint()
        self.attempts.append(trio.current_time())
        match self.script.pop(0):
            case Exception() as error:
                raise error
            case parts:
                self.calls.append(Call(parts))
                return self.calls[-1]


async def received(script: Script) -> bytes:
    """All that a follower gets."""
    async with Jobs(cast(CallChannel, script)).stream_output("job") as chunks:
        return b"".join([chunk async for chunk in chunks])


@pytest.mark.parametrize(
    "script",
    [
        [[b"abc", b"def", OK]],
        [[b"abc", LOST], [b"ab", b"cdef", OK]],
        [[b"abc", LOST], LOST, LOST, [b"abcdef", OK]],
        [[LOST], [b"abcdef", OK]],
        [[UNAVAILABLE], [b"abc", UNAVAILABLE], [b"a", LOST], [b"a", b"b", b"c", b"d", b"e", b"f", OK]],
        [[b"abcdef", LOST], [b"abcdef", OK]],
        [LOST, [b"abcdef", OK]],
    ],
)
async def test_each_byte_once(script: list[list[Part] | Exception], autojump_clock: trio.testing.MockClock) -> None:
    """Over calls that break anywhere, or that do not come about, the output comes whole and once."""
    channel = Script(script)
    assert await received(channel) == b"abcdef"
    assert channel.script == []
    assert all(call.request == pb.JobIDRequest(job_id_request=pb.JobID(job_id="job")) for call in channel.calls)
    assert all(call.was_reset for call in channel.calls)


async def test_tries_in_vain_are_bounded(autojump_clock: trio.testing.MockClock) -> None:
    """A server that is gone for good is tried for some time, ever less often, and then the error is the connection's."""
    channel = Script([[b"abc", LOST], *[LOST] * TRIES])
    with pytest.raises(TransportError, match="connection was lost"):
        await received(channel)
    assert len(channel.attempts) == TRIES
    assert 10 < channel.attempts[-1] - channel.attempts[0] < 60


async def test_calls_that_bring_nothing_new_are_in_vain(autojump_clock: trio.testing.MockClock) -> None:
    """A server that breaks each call before it has come further is given up as well."""
    channel = Script([[b"abc", LOST] for _ in range(2 * TRIES)])
    with pytest.raises(TransportError):
        await received(channel)
    assert len(channel.calls) == TRIES


@pytest.mark.parametrize("code", ["NOT_FOUND", "DATA_LOSS", "UNAUTHENTICATED", "INTERNAL", "DEADLINE_EXCEEDED"])
async def test_refusals_are_final(code: str) -> None:
    """A status that would be the same the next time is the caller's at once."""
    channel = Script([[b"abc", Ends(code, "why")]])
    with pytest.raises(RpcFailedError) as failure:
        await received(channel)
    assert (failure.value.status.status_code.name, failure.value.status.status_message) == (code, "why")


async def test_a_refused_certificate_is_final() -> None:
    """A server that does not take this client is not asked again."""
    channel = Script([[ServerRefused("the certificate has expired")]])
    with pytest.raises(ServerRefused):
        await received(channel)


async def test_a_server_that_took_the_client_before(autojump_clock: trio.testing.MockClock) -> None:
    """What looks like a refusal, after the server had taken the client, may be a connection that was cut early."""
    channel = Script([[b"abc", LOST], [ServerRefused("it said nothing")], [b"abcdef", OK]])
    assert await received(channel) == b"abcdef"


async def test_a_job_that_the_server_has_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    """NOT_FOUND after a lost connection says that the rest of the output is lost, and how far it came."""
    channel = Script([[b"abc", LOST], [NOT_FOUND]])
    with pytest.raises(OutputIncomplete, match=r"does not know the job any more.* after 3 bytes"):
        await received(channel)


async def test_an_output_that_became_shorter(autojump_clock: trio.testing.MockClock) -> None:
    """A second call that ends before the bytes of the first is an error: it cannot be the same output."""
    channel = Script([[b"abc", LOST], [b"ab", OK]])
    with pytest.raises(OutputIncomplete, match="1 bytes shorter"):
        await received(channel)


@pytest.mark.parametrize("script", [[[b"abc", b"def", OK]], [[b"abc", LOST], LOST]])
async def test_leaving_ends_the_call(
    script: Sequence[list[Part] | Exception], autojump_clock: trio.testing.MockClock
) -> None:
    """Whoever leaves the block, or is cancelled while the next call is waited for, leaves no call open."""
    channel = Script(list(script))
    with trio.move_on_after(0.01):
        async with Jobs(cast(CallChannel, channel)).stream_output("job") as chunks:
            assert await anext(chunks) == b"abc"
            await trio.sleep(0.001)
            await anext(chunks)
    assert all(call.was_reset for call in channel.calls)


async def test_waits_that_are_given_up(autojump_clock: trio.testing.MockClock) -> None:
    """A reader with a timeout for each chunk may find a job quiet as often as it likes, and misses nothing."""
    script: list[list[Part] | Exception] = [[b"abc", Quiet()] for _ in range(2 * TRIES + 1)]
    channel = Script([*script, [b"abcdef", OK]])
    got = b""
    async with Jobs(cast(CallChannel, channel)).stream_output("job") as chunks:
        while True:
            with trio.move_on_after(1):
                try:
                    got += await anext(chunks)
                except StopAsyncIteration:
                    break
    assert got == b"abcdef"
    assert len(channel.calls) == 2 * TRIES + 2
