"""FollowOutput: what it asks for, and what is answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, assert_never

from google.protobuf.timestamp_pb2 import Timestamp

from jobmaster.api.messages import OUTPUT_MESSAGE_SIZE, data_head
from jobmaster.errors import InvalidRequest, OutputIncomplete, OutputUnreadable
from jobmaster.grpc.lazy_messages import StoredMessages
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.output.index import GapReason, Stream
from jobmaster.output.reading import (
    FromOffset,
    GapPiece,
    LastBytes,
    LastLines,
    Piece,
    Position,
    Selection,
    Since,
    Start,
)

if TYPE_CHECKING:
    from jobmaster.api.followers import Followers
    from jobmaster.identity.policy import Identity
    from jobmaster.output.log import OutputLog
    from jobmaster.output.stored_output import StoredOutput
    from jobmaster.run.registry import Registry

_STREAMS: Final[dict[int, Stream | None]] = {
    pb.OUTPUTSTREAM_UNSPECIFIED: None,
    pb.OUTPUTSTREAM_STDOUT: Stream.STDOUT,
    pb.OUTPUTSTREAM_STDERR: Stream.STDERR,
}
_OF_STREAMS: Final = {
    Stream.BOTH: pb.OUTPUTSTREAM_UNSPECIFIED,
    Stream.STDOUT: pb.OUTPUTSTREAM_STDOUT,
    Stream.STDERR: pb.OUTPUTSTREAM_STDERR,
}
_REASONS: Final = {
    GapReason.DISK_FAILED: pb.GAPREASON_DISK_FAILED,
    GapReason.NO_SPACE: pb.GAPREASON_NO_SPACE,
    GapReason.CAPPED: pb.GAPREASON_CAPPED,
    GapReason.NOT_SYNCED: pb.GAPREASON_NOT_SYNCED,
    GapReason.PRUNED: pb.GAPREASON_PRUNED,
}
_FIRST_SECOND: Final = int(datetime(1, 1, 1, tzinfo=UTC).timestamp())
_LAST_SECOND: Final = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())
_DATA_TAG: Final = 0x2A
"""Field 5 of an OutputChunk, length-delimited."""


async def follow_output(
    registry: Registry, followers: Followers, caller: Identity, message: pb.FollowOutputRequest
) -> AsyncGenerator[pb.OutputChunk | StoredMessages, None]:
    """Yields what is asked for, until it has ended.

    Raises:
        InvalidRequest: nothing can be meant.
        JobNotFound, ServerBusy, OutputUnreadable: it cannot be had.
        HandedOver: another server sees the job to its end; the output goes on there.
        OutputIncomplete: all was asked for and sent, and bytes are missing that are in no gap.
    """
    selection = selection_of(message)
    job = await registry.find(caller, message.job_id.job_id)
    told = Told()
    try:
        with followers.counted(caller.name):
            async with aclosing(job.output.read(selection)) as pieces:
                async for piece in pieces:
                    told.add(piece)
                    yield chunk_of(piece)  # noqa: ASYNC119  # its caller closes it, whatever happens
    except OutputUnreadable:
        # Its file went with it, where it was forgotten meanwhile.
        await registry.find(caller, message.job_id.job_id)  # noqa: ASYNC120  # a call that is cancelled has no answer
        raise
    if selection.follows and selection.until is None:
        await job.wait_ended()
        if isinstance(selection.start, FromOffset):
            await told.check(job.output, selection.start.offset)


class Told:
    """What a caller has been told of missing bytes."""

    def __init__(self) -> None:
        self._of: Counter[GapReason] = Counter()

    def add(self, piece: Piece | GapPiece | Position) -> None:
        """Takes note of the next piece of the output."""
        if isinstance(piece, GapPiece):
            self._of[piece.reason] += piece.end - piece.start

    async def check(self, output: OutputLog | StoredOutput, offset: int) -> None:
        """To be called at the end of an output that was sent from an offset on.

        Raises:
            OutputIncomplete: more is lost than was told: an index that was unusable has taken the places of the others along.
                Who goes on at an offset may have had zeros in the place of such bytes before.
        """
        lost = output.lost
        if offset and not await output.presumes_loss():
            return
        missing, dropped = self._of[GapReason.NOT_SYNCED], self._of[GapReason.CAPPED]
        if lost > self._of.total() - missing:  # what was lost before it was dropped is in the gap of what was dropped
            raise OutputIncomplete(lost, dropped=dropped, missing=missing)


def selection_of(message: pb.FollowOutputRequest) -> Selection:
    """What of an output is asked for.

    Raises:
        InvalidRequest: nothing can be meant; names the field.
    """
    if message.stream not in _STREAMS:
        raise InvalidRequest(f"{message.stream} is no stream; leave it out for both", field="stream")
    return Selection(
        start=_start(message),
        follows=not message.no_follow,
        until=_microseconds(message.until, "until") if message.HasField("until") else None,
        stream=_STREAMS[message.stream],
        in_time=message.timestamps,
    )


def _start(message: pb.FollowOutputRequest) -> Start:
    match message.WhichOneof("start"):
        case None | "from_offset":
            return FromOffset(message.from_offset)
        case "last_bytes":
            return LastBytes(message.last_bytes)
        case "last_lines":
            return LastLines(message.last_lines)
        case "since":
            return Since(_microseconds(message.since, "since"))
        case unreachable:
            assert_never(unreachable)


def _microseconds(moment: Timestamp, field: str) -> int:
    if not _FIRST_SECOND <= moment.seconds <= _LAST_SECOND or not 0 <= moment.nanos < 1_000_000_000:
        raise InvalidRequest(f"{field} is no time: it is from the year 1 to 9999", field=field)
    return int(moment.seconds) * 1_000_000 + int(moment.nanos) // 1_000


def chunk_of(piece: Piece | GapPiece | Position) -> pb.OutputChunk | StoredMessages:
    """A piece of an output, as one message or more."""
    match piece:
        case Position(offset):
            return pb.OutputChunk(offset=offset)
        case GapPiece(start=start, end=end, reason=reason, time=time):
            gap = pb.OutputGap(length=end - start, reason=_REASONS[reason])
            return pb.OutputChunk(offset=start, time=_timestamp(time), gap=gap)
        case Piece() as piece:
            return StoredMessages(piece.stretch, OUTPUT_MESSAGE_SIZE, _Heads(piece).next)
        case unreachable:
            assert_never(unreachable)


class _Heads:
    """What the chunks of a piece begin with, one after the other."""

    def __init__(self, piece: Piece) -> None:
        self._offset = piece.stretch.offset
        self._rest = pb.OutputChunk(time=_timestamp(piece.time), stream=_OF_STREAMS[piece.stream]).SerializeToString()

    def next(self, length: int) -> bytes:
        """That of the next one, which has so many bytes of output."""
        offset, self._offset = self._offset, self._offset + length
        return pb.OutputChunk(offset=offset).SerializeToString() + self._rest + data_head(_DATA_TAG, length)


def _timestamp(microseconds: int | None) -> Timestamp | None:
    if microseconds is None:
        return None
    seconds, rest = divmod(microseconds, 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest * 1_000)
