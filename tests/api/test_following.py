"""FollowOutput: requests as selections, pieces as messages."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from google.protobuf.timestamp_pb2 import Timestamp

from jobmaster.api.followers import Followers
from jobmaster.api.following import chunk_of, selection_of
from jobmaster.api.jobs import JobService
from jobmaster.api.messages import OUTPUT_MESSAGE_SIZE
from jobmaster.errors import InvalidRequest, JobNotFound, OutputIncomplete
from jobmaster.grpc.framing import PREFIX
from jobmaster.grpc.lazy_messages import StoredMessages
from jobmaster.identity.policy import Identity, Role
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.output.files import unlink_output
from jobmaster.output.index import GapReason, Stream
from jobmaster.output.log import OutputLog
from jobmaster.output.reading import FromOffset, GapPiece, LastBytes, LastLines, Piece, Position, Selection, Since
from jobmaster.output.stored_output import StoredOutput
from jobmaster.run.registry import Registry

MOMENT = Timestamp(seconds=1_790_000_000, nanos=123_456_000)
MICROSECONDS = 1_790_000_000_123_456


@pytest.mark.parametrize(
    ("message", "selection"),
    [
        (pb.FollowOutputRequest(), Selection()),
        (pb.FollowOutputRequest(from_offset=2**40), Selection(start=FromOffset(2**40))),
        (pb.FollowOutputRequest(last_bytes=5, no_follow=True), Selection(start=LastBytes(5), follows=False)),
        (pb.FollowOutputRequest(last_lines=0, timestamps=True), Selection(start=LastLines(0), in_time=True)),
        (pb.FollowOutputRequest(since=MOMENT), Selection(start=Since(MICROSECONDS))),
        (pb.FollowOutputRequest(until=MOMENT), Selection(until=MICROSECONDS)),
        (pb.FollowOutputRequest(stream=pb.OUTPUTSTREAM_STDERR), Selection(stream=Stream.STDERR)),
    ],
)
def test_selections(message: pb.FollowOutputRequest, selection: Selection) -> None:
    """Every field of a request is one of the selection."""
    assert selection_of(message) == selection


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stream", 3),
        ("since", Timestamp(seconds=2**62)),
        ("since", Timestamp(nanos=-1)),
        ("until", Timestamp(nanos=10**9)),
    ],
)
def test_what_cannot_be_meant(field: str, value: Any) -> None:
    """It is refused, and the field is named."""
    message = pb.FollowOutputRequest()
    if isinstance(value, Timestamp):
        getattr(message, field).CopyFrom(value)
    else:
        setattr(message, field, value)
    with pytest.raises(InvalidRequest) as refused:
        selection_of(message)
    assert refused.value.field == field


class Content:
    """A stretch of bytes in memory."""

    def __init__(self, offset: int, data: bytes) -> None:
        self.offset = offset
        self.length = len(data)
        self._data = data

    def read_at_once(self, places: list[memoryview], start: int) -> bool:
        """As that of a stretch."""
        for place in places:
            place[:] = self._data[start : start + len(place)]
            start += len(place)
        return True


def chunks_in(messages: StoredMessages) -> list[pb.OutputChunk]:
    """What a client makes of them."""
    data = bytearray(messages.length)
    assert messages.fill(0, [memoryview(data)])
    found = []
    while data:
        _flags, length = PREFIX.unpack_from(data)
        found.append(pb.OutputChunk.FromString(bytes(data[PREFIX.size : PREFIX.size + length])))
        del data[: PREFIX.size + length]
    return found


@pytest.mark.parametrize("offset", [0, 1, 2**45])
@pytest.mark.parametrize("time", [None, MICROSECONDS])
@pytest.mark.parametrize("size", [1, OUTPUT_MESSAGE_SIZE, 2 * OUTPUT_MESSAGE_SIZE, 2 * OUTPUT_MESSAGE_SIZE + 7])
def test_bytes(offset: int, time: int | None, size: int) -> None:
    """A piece is one message or more, each with its own offset."""
    data = os.urandom(size)
    messages = chunk_of(Piece(time=time, stream=Stream.STDERR, stretch=cast(Any, Content(offset, data))))
    assert isinstance(messages, StoredMessages)
    chunks = chunks_in(messages)
    assert b"".join(chunk.data for chunk in chunks) == data
    place = offset
    for chunk in chunks:
        assert (chunk.offset, chunk.stream, chunk.HasField("time")) == (place, pb.OUTPUTSTREAM_STDERR, time is not None)
        assert time is None or chunk.time == MOMENT
        place += len(chunk.data)


@pytest.mark.parametrize("reason", GapReason)
def test_gaps(reason: GapReason) -> None:
    """A gap is a message with its extent and its reason; a position has neither bytes nor extent."""
    gap = chunk_of(GapPiece(start=5, end=12, reason=reason, time=MICROSECONDS))
    assert isinstance(gap, pb.OutputChunk)
    assert (gap.offset, gap.gap.length, pb.GapReason.Name(gap.gap.reason)) == (5, 7, f"GAPREASON_{reason.name}")
    assert gap.time == MOMENT
    assert chunk_of(Position(9)) == pb.OutputChunk(offset=9)


class OneJob:
    """A registry with one job, for the first so many questions."""

    def __init__(self, output: StoredOutput | OutputLog, questions: int = 10) -> None:
        self._output = output
        self._left = questions

    async def find(self, _caller: Identity, job_id: str) -> Any:
        """As `Registry.find`."""
        await trio.lowlevel.checkpoint()
        self._left -= 1
        if job_id != "job" or self._left < 0:
            raise JobNotFound("no such job")
        return SimpleNamespace(output=self._output, wait_ended=trio.lowlevel.checkpoint)


async def answers(registry: OneJob, **fields: Any) -> list[pb.OutputChunk]:
    """What a call is answered."""
    request = pb.FollowOutputRequest(job_id=pb.JobID(job_id="job"), **fields)
    service = JobService(cast(Registry, registry), Followers())
    found = []
    async for message in service.FollowOutput(request, Identity(name="client1", role=Role.USER)):
        found += [message] if isinstance(message, pb.OutputChunk) else chunks_in(message)
    return found


async def test_a_call(tmp_path: Path) -> None:
    """Bytes and gaps come in their order; a beginning that was not named by its offset is told first."""
    (tmp_path / "job.log").write_bytes(b"first\nsecond\n")
    registry = OneJob(StoredOutput(path=tmp_path / "job.log", kept=13, lost=4))
    whole = await answers(registry)
    assert [(chunk.offset, chunk.data, chunk.gap.length) for chunk in whole] == [
        (0, b"first\nsecond\n", 0),
        (13, b"", 4),
    ]
    last = await answers(registry, last_lines=1, no_follow=True)
    assert [(chunk.offset, chunk.data, chunk.gap.length) for chunk in last] == [
        (6, b"", 0),
        (6, b"second\n", 0),
        (13, b"", 4),
    ]


async def test_missing_bytes_that_are_in_no_gap(tmp_path: Path) -> None:
    """Where an unusable index has taken their places along, who asks for all of an output is told that some are missing."""
    (tmp_path / "job.log").write_bytes(bytes(100))
    (tmp_path / "job.index").write_bytes(b"no index" * 1000)
    log = OutputLog.reopen(tmp_path / "job.log", lost=40)
    log.lose(3)
    log.seal()
    for output in (log, log.stored()):
        with pytest.raises(OutputIncomplete, match="does not have 43 bytes"):
            await answers(OneJob(output))
        with pytest.raises(OutputIncomplete, match="does not have 43 bytes"):
            await answers(OneJob(output), from_offset=1)
        assert len(await answers(OneJob(output), last_bytes=1)) == 2
        assert len(await answers(OneJob(output), no_follow=True)) == 2
        log.close()


async def test_a_gap_before_where_somebody_goes_on(tmp_path: Path) -> None:
    """Who goes on behind bytes that are known to be missing has been told of them: that is no error."""
    (tmp_path / "job.log").write_bytes(bytes(100))
    log = OutputLog.reopen(tmp_path / "job.log", lost=40)
    log.seal()
    for output in (log, log.stored()):
        assert [chunk.gap.length for chunk in await answers(OneJob(output), from_offset=99)] == [0, 40]
        assert [chunk.gap.length for chunk in await answers(OneJob(output), from_offset=101)] == [39]
    log.close()
    stored = StoredOutput(path=tmp_path / "job.log", kept=100, lost=40)
    (tmp_path / "job.index").write_bytes(b"no index" * 1000)
    assert [chunk.gap.length for chunk in await answers(OneJob(stored), from_offset=99)] == [0, 40]


async def test_an_output_that_is_removed_while_it_is_read(tmp_path: Path) -> None:
    """What was missing before where somebody began does not become an error when the job is removed meanwhile."""
    (tmp_path / "job.log").write_bytes(bytes(100))
    log = OutputLog.reopen(tmp_path / "job.log", lost=40)
    log.seal()
    log.close()
    request = pb.FollowOutputRequest(job_id=pb.JobID(job_id="job"), from_offset=101)
    service = JobService(cast(Registry, OneJob(log.stored())), Followers())
    found = []
    async for message in service.FollowOutput(request, Identity(name="client1", role=Role.USER)):
        assert isinstance(message, pb.OutputChunk)
        found.append(message.gap.length)
        unlink_output(log.path)
    assert found == [39]


async def test_a_job_that_is_forgotten_meanwhile(tmp_path: Path) -> None:
    """Where its file is gone with it, it is not found."""
    (tmp_path / "file").touch()
    with pytest.raises(JobNotFound):
        await answers(OneJob(StoredOutput(path=tmp_path / "file" / "job.log", kept=5, lost=0), questions=1))
