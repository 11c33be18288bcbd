"""All output of a job over as many calls as it takes: each byte once, and at the end how many there are that did not come.

It is asked for by FollowOutput, whose chunks say where they belong and what is missing between them; of a server of an
earlier version, which does not have that, by StreamOutput.
"""

from __future__ import annotations

from typing import Self

from jobmaster import errors
from jobmaster.client.calls import Calls, Stream
from jobmaster.client.resumption import Extent, OutputIncomplete, Resumption
from jobmaster.grpc.purerpc_adapter import RpcFailedError, StatusCode, raise_status
from jobmaster.jobs.v1 import jobs_pb2 as pb


class WholeOutput:
    """The output of one job; has one reader."""

    def __init__(self, calls: Calls, job_id: str, patience: float) -> None:
        """Makes no call yet."""
        self._calls = calls
        self._job_id = job_id
        self._seconds = patience
        self._extent = Extent()
        self._stream = Stream(calls, "FollowOutput", pb.FollowOutputRequest, pb.OutputChunk, patience)
        self._of_earlier: _OutputOfEarlier | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while self._of_earlier is None:
            try:
                chunk = await self._receive()
            except RpcFailedError as error:
                if error.status.status_code is not StatusCode.UNIMPLEMENTED or not self._extent.is_whole:
                    raise
                resumption = Resumption(self._extent.received)
                self._of_earlier = _OutputOfEarlier(self._calls, self._job_id, self._seconds, resumption)
                break
            if chunk is None:
                self._end()
                raise StopAsyncIteration
            if fresh := self._take(chunk):
                return fresh
        return await anext(self._of_earlier)

    async def _receive(self) -> pb.OutputChunk | None:
        try:
            chunk = await self._stream.receive(self._request)
        except RpcFailedError as error:
            if self._extent.is_resumed and _is_forgotten(error):
                raise _forgotten(self._extent.received) from error
            raise
        assert chunk is None or isinstance(chunk, pb.OutputChunk)  # noqa: S101  # for the type checker
        return chunk

    def _take(self, chunk: pb.OutputChunk) -> bytes:
        """What is new of a chunk; nothing of a gap."""
        if chunk.HasField("gap"):
            fresh, is_news = b"", self._extent.take_gap(chunk.offset, chunk.gap.length, chunk.gap.reason)
        else:
            fresh = self._extent.take(chunk.offset, chunk.data)
            is_news = bool(fresh)
        if is_news:
            self._stream.patience.progress()
        return fresh

    def _end(self) -> None:
        extent = self._extent
        extent.call_ends()
        if not extent.is_whole:
            from jobmaster.grpc.status_details import status_for_client  # here, because few outputs are not whole

            incomplete = errors.OutputIncomplete(
                extent.lost, dropped=extent.dropped, missing=extent.missing, pruned=extent.pruned
            )
            raise_status(status_for_client(StatusCode.DATA_LOSS, incomplete))

    def _request(self) -> pb.FollowOutputRequest:
        return pb.FollowOutputRequest(job_id=pb.JobID(job_id=self._job_id), from_offset=self._extent.call_begins())

    def abandon(self) -> None:
        """Ends the call that is open, if any."""
        self._stream.abandon()
        if self._of_earlier is not None:
            self._of_earlier.abandon()


class _OutputOfEarlier:
    """The output of one job of a server that has StreamOutput alone, which says itself how much is missing."""

    def __init__(self, calls: Calls, job_id: str, patience: float, resumption: Resumption) -> None:
        self._job_id = job_id
        self._resumption = resumption
        self._stream = Stream(calls, "StreamOutput", pb.JobIDRequest, pb.JobOutputResponse, patience)

    async def __anext__(self) -> bytes:
        while (message := await self._receive()) is not None:
            if fresh := self._resumption.take(message.output):
                self._stream.patience.progress()
                return fresh
        self._resumption.call_ends()
        raise StopAsyncIteration

    async def _receive(self) -> pb.JobOutputResponse | None:
        try:
            message = await self._stream.receive(self._request)
        except RpcFailedError as error:
            if (self._resumption.is_resumed or self._resumption.received) and _is_forgotten(error):
                raise _forgotten(self._resumption.received) from error
            raise
        assert message is None or isinstance(message, pb.JobOutputResponse)  # noqa: S101  # for the type checker
        return message

    def _request(self) -> pb.JobIDRequest:
        self._resumption.call_begins()
        return pb.JobIDRequest(job_id_request=pb.JobID(job_id=self._job_id))

    def abandon(self) -> None:
        """Ends the call that is open, if any."""
        self._stream.abandon()


def _is_forgotten(error: RpcFailedError) -> bool:
    return error.status.status_code is StatusCode.NOT_FOUND


def _forgotten(received: int) -> OutputIncomplete:
    return OutputIncomplete(
        "the server does not know the job any more (it has forgotten the job, or is another server): its output ends "
        f"here, after {received} bytes, as far as anybody can tell"
    )
