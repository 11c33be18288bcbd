"""What `stream_output` does with calls that break, with a scripted server in the place of a connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import pytest
import trio
import trio.testing

from jobmaster import errors
from jobmaster.client import OutputIncomplete, RpcFailedError
from jobmaster.client.jobs import FOLLOWING, PATIENCE
from jobmaster.client.patience import LAST_PAUSE
from jobmaster.errors import TransportError
from jobmaster.grpc.client import CertificateNotAccepted, ServerRefused
from jobmaster.grpc.status_details import reason_in
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.client.scripted import LOST, NOT_FOUND, OK, UNAVAILABLE, UNIMPLEMENTED, Answer, Call, Ends, Quiet, Script


async def receive(script: Script, got: list[bytes]) -> None:
    """Notes all that a follower gets."""
    async with script.jobs().stream_output("job") as chunks:
        async for chunk in chunks:
            got.append(chunk)  # noqa: PERF401  # what came before an error counts


async def received(script: Script) -> bytes:
    """All that a follower gets."""
    got: list[bytes] = []
    await receive(script, got)
    return b"".join(got)


def job_of(call: Call) -> str:
    """Which job a call is about."""
    match call.request:
        case pb.FollowOutputRequest() as request:
            return request.job_id.job_id
        case pb.JobIDRequest() as request:
            return request.job_id_request.job_id
    raise AssertionError(call.request)


TRIES: Final = 10
"""Calls in a row that bring nothing new."""

either = pytest.mark.parametrize("has_parts", [True, False], ids=["now", "earlier"])
"""A server that has FollowOutput, and one of an earlier version, which has StreamOutput alone."""


def data(offset: int, text: bytes) -> pb.OutputChunk:
    """Bytes."""
    return pb.OutputChunk(offset=offset, data=text)


def gap(offset: int, length: int, reason: int = pb.GAPREASON_CAPPED) -> pb.OutputChunk:
    """Bytes that are not there."""
    return pb.OutputChunk(offset=offset, gap=pb.OutputGap(length=length, reason=cast(pb.GapReason, reason)))


@either
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
async def test_each_byte_once(script: list[Answer], has_parts: bool, autojump_clock: trio.testing.MockClock) -> None:
    """Over calls that break anywhere, or that do not come about, the output comes whole and once."""
    channel = Script(list(script), has_parts=has_parts)
    assert await received(channel) == b"abcdef"
    assert channel.script == []
    assert {job_of(call) for call in channel.calls} == {"job"}
    assert {call.method for call in channel.calls} == {"FollowOutput" if has_parts else "StreamOutput"}
    assert all(call.was_reset for call in channel.calls)


async def test_a_middle_that_is_dropped_while_there_is_no_connection(autojump_clock: trio.testing.MockClock) -> None:
    """What was dropped before it came is left out and counted; what had come before it was dropped is not counted."""
    channel = Script([[data(0, b"abcdef"), LOST], [gap(5, 4), data(9, b"jkl"), OK]])
    got: list[bytes] = []
    with pytest.raises(RpcFailedError) as failure:
        await receive(channel, got)
    assert got == [b"abcdef", b"jkl"]
    assert failure.value.status.status_code.name == "DATA_LOSS"
    assert failure.value.status.status_message == str(errors.OutputIncomplete(0, dropped=3))
    assert reason_in(failure.value.status) == "OUTPUT_INCOMPLETE"
    assert [cast(pb.FollowOutputRequest, call.request).from_offset for call in channel.calls] == [0, 5]


async def test_a_middle_that_is_dropped_when_it_has_come(autojump_clock: trio.testing.MockClock) -> None:
    """An output of which every byte has come is whole, whatever the server has dropped of it since."""
    assert await received(Script([[data(0, b"abcdef"), LOST], [gap(5, 1), data(6, b"ghi"), OK]])) == b"abcdefghi"
    assert await received(Script([[data(0, b"abcdef"), LOST], [gap(5, 1), OK]])) == b"abcdef"


async def test_each_missing_byte_is_counted_once(autojump_clock: trio.testing.MockClock) -> None:
    """Gaps are counted by their reasons, over calls that break in the midst of them, as the server itself would."""
    channel = Script(
        [
            [gap(0, 2, pb.GAPREASON_NO_SPACE), LOST],
            [gap(1, 3, pb.GAPREASON_DISK_FAILED), data(4, b"x"), data(10, b"y"), gap(11, 5), UNAVAILABLE],
            [gap(15, 1), gap(16, 7, pb.GAPREASON_NOT_SYNCED), gap(23, 1, 99), OK],
        ]
    )
    with pytest.raises(RpcFailedError) as failure:
        await received(channel)
    lost = 4 + 5 + 1  # those of the two gaps, those that were left out without a word, and of a later server's reason
    assert failure.value.status.status_message == str(errors.OutputIncomplete(lost, dropped=5, missing=7))


async def test_a_server_of_an_earlier_version_in_its_place(autojump_clock: trio.testing.MockClock) -> None:
    """One that has no FollowOutput is asked for what is left by StreamOutput, unless something is missing already."""
    channel = Script([[b"abc", LOST], [UNIMPLEMENTED], [b"abcd", LOST], [b"abcdef", OK]])
    assert await received(channel) == b"abcdef"
    assert [call.method for call in channel.calls] == ["FollowOutput", "FollowOutput", "StreamOutput", "StreamOutput"]
    with pytest.raises(RpcFailedError, match="no such method"):
        await received(Script([[gap(0, 1), LOST], [UNIMPLEMENTED]]))
    with pytest.raises(OutputIncomplete, match="after 3 bytes"):
        await received(Script([[b"abc", LOST], [UNIMPLEMENTED], [NOT_FOUND]]))


@pytest.mark.parametrize(
    "calls", [[LOST], [[b"abc", LOST]], [[UNAVAILABLE]]], ids=["refused", "repeated", "unavailable"]
)
@either
async def test_time_in_vain_is_bounded(
    calls: list[Answer], has_parts: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """A server that is gone for good, or brings nothing new, is tried for minutes, and then the error is its last one."""
    channel = Script([[b"abc", LOST], *(calls * 1000)], has_parts=has_parts)
    with pytest.raises((TransportError, RpcFailedError)):
        await received(channel)
    assert channel.attempts[-1] - channel.attempts[1] == pytest.approx(PATIENCE * FOLLOWING, abs=LAST_PAUSE)
    assert len(channel.attempts) > 50


async def test_a_quiet_job_over_a_network_that_cuts(autojump_clock: trio.testing.MockClock) -> None:
    """Calls that were open for an hour each and brought nothing are none in vain, however many they are."""
    quiet: list[Answer] = [[Quiet(), LOST] for _ in range(1000)]
    channel = Script([*quiet, [b"abcdef", OK]])
    assert await received(channel) == b"abcdef"


@pytest.mark.parametrize("code", ["NOT_FOUND", "DATA_LOSS", "UNAUTHENTICATED", "INTERNAL", "DEADLINE_EXCEEDED"])
async def test_refusals_are_final(code: str) -> None:
    """A status that would be the same the next time is the caller's at once."""
    channel = Script([[b"abc", Ends(code, "why")]])
    with pytest.raises(RpcFailedError) as failure:
        await received(channel)
    assert (failure.value.status.status_code.name, failure.value.status.status_message) == (code, "why")


async def test_a_refused_certificate_is_final() -> None:
    """A server that does not take this client is not asked again."""
    channel = Script([[CertificateNotAccepted("the certificate has expired")]])
    with pytest.raises(CertificateNotAccepted):
        await received(channel)


async def test_a_server_that_took_the_client_before(autojump_clock: trio.testing.MockClock) -> None:
    """What looks like a refusal, after the server had taken the client, may be a connection that was cut early."""
    channel = Script(
        [
            [b"abc", LOST],
            [CertificateNotAccepted("it has a new authority")],
            [ServerRefused("it said nothing")],
            [b"abcdef", OK],
        ]
    )
    assert await received(channel) == b"abcdef"


@either
async def test_a_job_that_the_server_has_forgotten(has_parts: bool, autojump_clock: trio.testing.MockClock) -> None:
    """NOT_FOUND after a lost connection says that the rest of the output is lost, and how far it came."""
    channel = Script([[b"abc", LOST], [NOT_FOUND]], has_parts=has_parts)
    with pytest.raises(OutputIncomplete, match=r"does not know the job any more.* after 3 bytes"):
        await received(channel)


@either
@pytest.mark.parametrize("script", [[LOST, [NOT_FOUND]], [[NOT_FOUND]]])
async def test_a_job_that_there_never_was(
    script: list[Answer], has_parts: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """NOT_FOUND of the first call that a server took is no output that is lost."""
    with pytest.raises(RpcFailedError, match="no such job"):
        await received(Script(list(script), has_parts=has_parts))


@either
async def test_an_output_that_became_shorter(has_parts: bool, autojump_clock: trio.testing.MockClock) -> None:
    """A second call that ends before the bytes of the first is an error: it cannot be the same output."""
    channel = Script([[b"abc", LOST], [b"ab", OK]], has_parts=has_parts)
    with pytest.raises(OutputIncomplete, match=r"1 bytes shorter|shorter than the 3 bytes"):
        await received(channel)


@pytest.mark.parametrize("script", [[[b"abc", b"def", OK]], [[b"abc", LOST], LOST]])
async def test_leaving_ends_the_call(script: Sequence[Answer], autojump_clock: trio.testing.MockClock) -> None:
    """Whoever leaves the block, or is cancelled while the next call is waited for, leaves no call open."""
    channel = Script(list(script))
    with trio.move_on_after(0.01):
        async with channel.jobs().stream_output("job") as chunks:
            assert await anext(chunks) == b"abc"
            await trio.sleep(0.001)
            await anext(chunks)
    assert all(call.was_reset for call in channel.calls)


async def test_waits_that_are_given_up(autojump_clock: trio.testing.MockClock) -> None:
    """A reader with a timeout for each chunk may find a job quiet as often as it likes, and misses nothing."""
    script: list[Answer] = [[b"abc", Quiet()] for _ in range(2 * TRIES + 1)]
    channel = Script([*script, [b"abcdef", OK]])
    got = b""
    async with channel.jobs().stream_output("job") as chunks:
        while True:
            with trio.move_on_after(1):
                try:
                    got += await anext(chunks)
                except StopAsyncIteration:
                    break
    assert got == b"abcdef"
    assert len(channel.calls) == 2 * TRIES + 2
