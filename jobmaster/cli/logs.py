"""`logs`: a part of a job's output on stdout, and on stderr what of it is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from jobmaster.cli.descriptors import write_notice, write_output
from jobmaster.cli.moments import utc_of
from jobmaster.client import Jobs, RpcFailedError
from jobmaster.grpc.purerpc_adapter import StatusCode
from jobmaster.jobs.v1 import jobs_pb2 as pb

if TYPE_CHECKING:
    from jobmaster.cli.actions import Logs

_REASONS: Final = {
    pb.GAPREASON_DISK_FAILED: "the server's disk did not take them",
    pb.GAPREASON_NO_SPACE: "the server's disk had no space for them",
    pb.GAPREASON_CAPPED: "the output is larger than what is kept of it",
    pb.GAPREASON_NOT_SYNCED: "the server's host went down before they were on its disk, or they were removed",
    pb.GAPREASON_PRUNED: "the output of the job, which has ended, was removed to make room",
}


async def show_logs(jobs: Jobs, action: Logs) -> None:
    """Writes what is asked for as it comes.

    Writing blocks in a thread, so that a reader who stalls does not keep the connection from answering the server.
    """
    stamps = Stamps() if action.timestamps else None
    try:
        async with jobs.follow_output(action.job_id, request_of(action)) as chunks:
            async for chunk in chunks:
                if chunk.HasField("gap"):
                    notice = f"jobmaster: {gap_in_words(chunk)}\n"
                    await trio.to_thread.run_sync(write_notice, notice, abandon_on_cancel=True)
                else:
                    data = chunk.data if stamps is None else stamps.stamped(chunk)
                    await trio.to_thread.run_sync(write_output, data, abandon_on_cancel=True)
    except RpcFailedError as error:
        if error.status.status_code is not StatusCode.UNIMPLEMENTED or not action.is_plain:
            raise
        await copy_output(jobs, action.job_id)  # a server of an earlier version


async def copy_output(jobs: Jobs, job_id: str) -> None:
    """Copies a job's output to stdout as it comes."""
    async with jobs.stream_output(job_id) as chunks:
        async for chunk in chunks:
            await trio.to_thread.run_sync(write_output, chunk, abandon_on_cancel=True)


def request_of(action: Logs) -> pb.FollowOutputRequest:
    """What a server is asked."""
    request = pb.FollowOutputRequest(no_follow=not action.follow, timestamps=action.timestamps)
    if action.from_offset is not None:
        request.from_offset = action.from_offset
    if action.tail is not None:
        request.last_lines = action.tail
    if action.since is not None:
        request.since.FromDatetime(utc_of(action.since))
    if action.until is not None:
        request.until.FromDatetime(utc_of(action.until))
    if action.stream:
        request.stream = pb.OUTPUTSTREAM_STDERR if action.stream == "stderr" else pb.OUTPUTSTREAM_STDOUT
    return request


def gap_in_words(chunk: pb.OutputChunk) -> str:
    """A sentence for people."""
    first, count = chunk.offset, chunk.gap.length
    reason = _REASONS.get(chunk.gap.reason, "the server says not why")
    return f"{count} bytes from offset {first} on are missing: {reason}"


class Stamps:
    """Puts its time before each line."""

    def __init__(self) -> None:
        self._is_at_start = True

    def stamped(self, chunk: pb.OutputChunk) -> bytes:
        """The bytes of the next chunk, with times."""
        stamp = f"{_time(chunk)} ".encode()
        lines = _lines(chunk.data)
        first = stamp if self._is_at_start else b""
        self._is_at_start = chunk.data.endswith(b"\n")
        return first + stamp.join(lines)


def _lines(data: bytes) -> list[bytes]:
    """Lines that end with a newline alone, whatever else is in them."""
    lines = [line + b"\n" for line in data.split(b"\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


def _time(chunk: pb.OutputChunk) -> str:
    if not chunk.HasField("time"):
        return "-" * 27
    moment = chunk.time.ToDatetime()
    return f"{moment.isoformat(timespec='microseconds')}Z"
