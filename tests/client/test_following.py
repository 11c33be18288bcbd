"""What `follow_output` does with calls that break, with a scripted server in the place of a connection."""

from __future__ import annotations

from typing import cast

import pytest
import trio.testing

from jobmaster.client import OutputIncomplete, RpcFailedError
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.client.scripted import LOST, NOT_FOUND, OK, UNAVAILABLE, Answer, Script


def data(offset: int, text: bytes) -> pb.OutputChunk:
    """Bytes."""
    return pb.OutputChunk(offset=offset, data=text)


def gap(offset: int, length: int) -> pb.OutputChunk:
    """Bytes that are not there."""
    return pb.OutputChunk(offset=offset, gap=pb.OutputGap(length=length, reason=pb.GAPREASON_CAPPED))


ALL = [data(0, b"abc"), gap(3, 4), data(7, b"def")]


async def received(script: Script, query: pb.FollowOutputRequest | None = None) -> list[pb.OutputChunk]:
    """All that a follower gets."""
    async with script.jobs().follow_output("job", query) as chunks:
        return [chunk async for chunk in chunks]


def starts(script: Script) -> list[tuple[str | None, int]]:
    """Where each call was asked to begin."""
    requests = [cast(pb.FollowOutputRequest, call.request) for call in script.calls]
    assert all(request.job_id.job_id == "job" for request in requests)
    return [(request.WhichOneof("start"), request.from_offset) for request in requests]


@pytest.mark.parametrize(
    ("script", "begun"),
    [
        ([[*ALL, OK]], [(None, 0)]),
        ([[ALL[0], LOST], [*ALL[1:], OK]], [(None, 0), ("from_offset", 3)]),
        ([*[[part, UNAVAILABLE] for part in ALL], [OK]], [(None, 0), *(("from_offset", at) for at in (3, 7, 10))]),
        ([LOST, [LOST], [*ALL, OK]], [(None, 0), (None, 0)]),
    ],
)
async def test_each_byte_once(
    script: list[Answer], begun: list[tuple[str | None, int]], autojump_clock: trio.testing.MockClock
) -> None:
    """Over calls that break anywhere, each byte and each gap comes once: the next call goes on at the next offset."""
    channel = Script(script)
    assert await received(channel) == ALL
    assert starts(channel) == begun


async def test_a_beginning_that_is_told(autojump_clock: trio.testing.MockClock) -> None:
    """Where lines or times name the beginning, the server's word of where that is holds for every further call."""
    query = pb.FollowOutputRequest(last_lines=0, stream=pb.OUTPUTSTREAM_STDERR, timestamps=True)
    channel = Script([[data(5, b""), LOST], [data(7, b"new"), OK]])
    assert await received(channel, query) == [data(7, b"new")]
    assert starts(channel) == [("last_lines", 0), ("from_offset", 5)]
    again = cast(pb.FollowOutputRequest, channel.calls[1].request)
    assert (again.stream, again.timestamps) == (pb.OUTPUTSTREAM_STDERR, True)
    assert query.WhichOneof("start") == "last_lines", "a caller's query stays as it is"


async def test_a_server_that_has_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    """A job that is gone when a call is made anew is no refusal: what was received ends there."""
    with pytest.raises(OutputIncomplete, match="before offset 3"):
        await received(Script([[ALL[0], LOST], [NOT_FOUND]]))
    with pytest.raises(RpcFailedError):
        await received(Script([[NOT_FOUND]]))
