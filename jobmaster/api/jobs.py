"""The calls of JobService. Each gets the caller's identity as a value; none knows of TLS or HTTP/2."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any

from jobmaster.api.followers import Followers
from jobmaster.api.messages import output_messages, response_of, specification_of
from jobmaster.api.requests import check_job_id, check_start
from jobmaster.api.statuses import OutputIncomplete
from jobmaster.errors import OutputUnreadable
from jobmaster.grpc.lazy_messages import StoredMessages
from jobmaster.grpc.methods import checked
from jobmaster.identity.policy import Identity
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.jobs.v1.jobs_grpc import JobServiceServicer
from jobmaster.run.registry import Registry


class JobService(JobServiceServicer):
    """The generated servicer's methods over a registry. purerpc hands the caller over as `request`."""

    def __init__(self, registry: Registry, followers: Followers) -> None:
        self._registry = registry
        self._followers = followers

    @checked(check_start)
    async def Start(  # type: ignore[override]  # purerpc hands over the caller too
        self, message: pb.JobCreateRequest, request: Identity
    ) -> pb.JobID:
        """Starts a command."""
        job_id = await self._registry.start(request, specification_of(message))
        return pb.JobID(job_id=job_id)

    @checked(check_job_id)
    async def Stop(  # type: ignore[override]  # purerpc hands over the caller too
        self, message: pb.JobIDRequest, request: Identity
    ) -> pb.JobResponse:
        """Stops a job and answers when it has ended."""
        return response_of(await self._registry.stop(request, message.job_id_request.job_id))

    @checked(check_job_id)
    def Status(  # type: ignore[override]  # as above; of a job in memory it is answered without a task
        self, message: pb.JobIDRequest, request: Identity
    ) -> pb.JobResponse | Coroutine[Any, Any, pb.JobResponse]:
        """The job's record as of now."""
        job_id = message.job_id_request.job_id
        job = self._registry.known(request, job_id)
        return self._recorded_status(request, job_id) if job is None else response_of(job.record)

    async def _recorded_status(self, caller: Identity, job_id: str) -> pb.JobResponse:
        return response_of((await self._registry.find(caller, job_id)).record)

    @checked(check_job_id)
    async def StreamOutput(  # type: ignore[override]  # as above, and it is an async generator
        self, message: pb.JobIDRequest, request: Identity
    ) -> AsyncIterator[StoredMessages]:
        """All output from the first byte, then live, until the job has ended."""
        job_id = message.job_id_request.job_id
        job = await self._registry.find(request, job_id)
        try:
            with self._followers.counted(request.name):
                async with aclosing(job.output.follow()) as stretches:
                    async for stretch in stretches:
                        yield output_messages(stretch)  # noqa: ASYNC119  # purerpc closes the generator, whatever happens
        except OutputUnreadable:
            await self._registry.find(request, job_id)  # its file went with it, where it was forgotten meanwhile
            raise
        await job.wait_ended()
        if job.output.lost:
            raise OutputIncomplete(job.output.lost)
