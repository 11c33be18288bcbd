"""JobService as a caller sees it, over the generated purerpc stub."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Final

from jobmaster.certs.contexts import client_context
from jobmaster.grpc.channel import CallChannel, CallStream, open_channel
from jobmaster.grpc.purerpc_adapter import Client, raise_status
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.jobs.v1.jobs_grpc import JobServiceStub

_SERVICE: Final = "jobmaster.jobs.v1.JobService"


class Jobs:
    """The jobs of a server, as far as this client may touch them. Made by `connect`."""

    def __init__(self, channel: CallChannel) -> None:
        self._stub = JobServiceStub(channel)  # type: ignore[no-untyped-call]  # generated without types
        self._client = Client(_SERVICE, channel)

    async def start(self, command: str, *args: str) -> str:
        """Starts a command; returns the job's id."""
        answer: pb.JobID = await self._stub.Start(pb.JobCreateRequest(command=command, args=args))
        return answer.job_id

    async def stop(self, job_id: str) -> pb.JobResponse:
        """Stops a job; returns its record when it has ended."""
        answer: pb.JobResponse = await self._stub.Stop(_request(job_id))
        return answer

    async def status(self, job_id: str) -> pb.JobResponse:
        """The job's record as of now."""
        answer: pb.JobResponse = await self._stub.Status(_request(job_id))
        return answer

    @asynccontextmanager
    async def stream_output(self, job_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """All output of a job from its first byte, live, until it has ended. Leaving the block ends the call."""
        stream: CallStream = await self._client.rpc("StreamOutput", pb.JobIDRequest, pb.JobOutputResponse)
        try:
            await stream.send_message(_request(job_id))
            await stream.close()
            async with aclosing(_chunks(stream)) as chunks:
                yield chunks
        finally:
            stream.reset()


async def _chunks(stream: CallStream) -> AsyncGenerator[bytes, None]:
    while (message := await stream.receive_message()) is not None:
        assert isinstance(message, pb.JobOutputResponse)  # noqa: S101  # for the type checker
        yield message.output
    raise_status(stream.end_status)


def _request(job_id: str) -> pb.JobIDRequest:
    return pb.JobIDRequest(job_id_request=pb.JobID(job_id=job_id))


@asynccontextmanager
async def connect(host: str, port: int, *, folder: Path, name: str) -> AsyncIterator[Jobs]:
    """Connects as the client called `name`, with the certificates of `folder`.

    Raises:
        ConfigurationError: a file of `folder` is missing or unusable; says which.
        TransportError: no secure connection; says why.
    """
    context = client_context(folder, name)
    async with open_channel(host, port, context) as channel:
        yield Jobs(channel)
