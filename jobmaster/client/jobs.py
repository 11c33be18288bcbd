"""JobService as a caller sees it, over the generated purerpc stub."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Self

import trio

from jobmaster.certs.credentials import client_context
from jobmaster.client.resumption import OutputIncomplete, Resumption
from jobmaster.errors import TransportError
from jobmaster.grpc.channel import CallChannel, CallStream, open_channel
from jobmaster.grpc.client import ServerRefused
from jobmaster.grpc.purerpc_adapter import Client, RpcFailedError, StatusCode, raise_status
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.jobs.v1.jobs_grpc import JobServiceStub

__all__ = ["Jobs", "RpcFailedError", "connect"]

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
        """All output of a job from its first byte, live, until it has ended. Leaving the block ends the call.

        Each byte comes once, whatever becomes of the connection: where it is lost, the next chunk is that of a new call
        on a new one. The number of such calls that bring nothing new is bounded (`resumption.TRIES`).

        While iterating, raises:
            RpcFailedError: the server refused; UNAVAILABLE, which may pass, only after those calls.
            TransportError: no connection was to be had for any of those calls.
            OutputIncomplete: the server that answers now does not have the output any more.
        """
        output = _Output(self._client, job_id)
        try:
            yield output
        finally:
            output.abandon_call()


class _Output:
    """The output of one job, over as many calls as it takes; has one reader."""

    def __init__(self, client: Client, job_id: str) -> None:
        self._client = client
        self._job_id = job_id
        self._call: CallStream | None = None
        self._resumption = Resumption()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while True:
            try:
                chunk = await self._receive()
            except (TransportError, RpcFailedError) as error:
                self.abandon_call()
                await trio.sleep(self._pause_after(error))
                continue
            except trio.Cancelled:
                self.abandon_call()  # a wait that was given up is no call that broke
                raise
            if chunk is None:
                self._resumption.call_ends()
                raise StopAsyncIteration
            if fresh := self._resumption.take(chunk):
                return fresh

    def abandon_call(self) -> None:
        """Ends the call that is open, if any. Does not wait."""
        if self._call is not None:
            self._call.reset()
            self._call = None

    async def _receive(self) -> bytes | None:
        """The next bytes of the call that is open, or of a new one; None where the server has sent all."""
        if self._call is None:
            self._call = await self._client.rpc("StreamOutput", pb.JobIDRequest, pb.JobOutputResponse)
            self._resumption.call_begins()
            await self._call.send_message(_request(self._job_id))
            await self._call.close()
        message = await self._call.receive_message()
        if message is None:
            raise_status(self._call.end_status)
            return None
        assert isinstance(message, pb.JobOutputResponse)  # noqa: S101  # for the type checker
        return message.output

    def _pause_after(self, error: TransportError | RpcFailedError) -> float:
        """Seconds until the next call; raises where there is to be none.

        A server that took this client before is asked again where it seems to refuse it: a connection that is cut
        before the server's first word looks the same.
        """
        if isinstance(error, RpcFailedError):
            code = error.status.status_code
            if code is StatusCode.NOT_FOUND and self._resumption.is_resumed:
                raise OutputIncomplete(
                    f"the server does not know the job any more (it has restarted since, or forgotten the job): its "
                    f"output ends here, after {self._resumption.received} bytes, as far as anybody can tell"
                ) from error
            may_pass = code is StatusCode.UNAVAILABLE
        else:
            may_pass = self._resumption.is_resumed or not isinstance(error, ServerRefused)
        pause = self._resumption.next_pause(random.uniform(0.5, 1.5)) if may_pass else None  # noqa: S311  # no secret
        if pause is None:
            raise error
        return pause


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
