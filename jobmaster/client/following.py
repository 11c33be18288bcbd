"""A part of one output over as many calls as it takes: where a call breaks, the next one goes on at the next offset."""

from __future__ import annotations

from typing import Self

from jobmaster.client.calls import Calls, Stream
from jobmaster.client.resumption import OutputIncomplete
from jobmaster.grpc.purerpc_adapter import RpcFailedError, StatusCode
from jobmaster.jobs.v1 import jobs_pb2 as pb


class FollowedOutput:
    """The chunks of one output; has one reader."""

    def __init__(self, calls: Calls, request: pb.FollowOutputRequest, patience: float) -> None:
        self._request = pb.FollowOutputRequest()
        self._request.CopyFrom(request)
        self._has_begun = False
        self._stream = Stream(calls, "FollowOutput", pb.FollowOutputRequest, pb.OutputChunk, patience)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> pb.OutputChunk:
        while (chunk := await self._receive()) is not None:
            self._stream.patience.progress()
            self._has_begun = True
            length = chunk.gap.length or len(chunk.data)
            self._request.from_offset = chunk.offset + length
            if length:
                return chunk
        raise StopAsyncIteration

    async def _receive(self) -> pb.OutputChunk | None:
        try:
            chunk = await self._stream.receive(lambda: self._request)
        except RpcFailedError as error:
            if error.status.status_code is StatusCode.NOT_FOUND and self._has_begun:
                raise OutputIncomplete(
                    "the server does not know the job any more (it has forgotten the job, or is another server): its "
                    f"output ends here, before offset {self._request.from_offset}, as far as anybody can tell"
                ) from error
            raise
        assert chunk is None or isinstance(chunk, pb.OutputChunk)  # noqa: S101  # for the type checker
        return chunk

    def abandon(self) -> None:
        """Ends the call that is open, if any."""
        self._stream.abandon()
