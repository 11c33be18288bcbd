"""The calls of JobService. Each gets the caller's identity as a value; none knows of TLS or HTTP/2."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from itertools import pairwise
from typing import Any, Final

import trio

from jobmaster.api.attachments import attach
from jobmaster.api.events import event_message, position_message
from jobmaster.api.followers import Followers
from jobmaster.api.following import follow_output
from jobmaster.api.messages import output_messages, response_of, specification_of
from jobmaster.api.queries import page_token, query_of
from jobmaster.api.requests import (
    check_attach,
    check_follow,
    check_job_id,
    check_query,
    check_signal,
    check_start,
    checked_reason,
    checked_signal,
)
from jobmaster.api.server_info import ServerFacts, draining_of, server_info
from jobmaster.api.stats import follow_stats
from jobmaster.errors import InvalidRequest, OutputCut, OutputIncomplete, OutputUnreadable
from jobmaster.grpc.lazy_messages import StoredMessages
from jobmaster.grpc.methods import Unadmitted, checked, lasting, takes_admission, takes_call
from jobmaster.grpc.server_call import ServerCall
from jobmaster.identity.policy import Identity
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.jobs.v1.jobs_grpc import JobServiceServicer
from jobmaster.journal.stored import Page
from jobmaster.run.registry import Registry

logger = logging.getLogger(__name__)

LIST_BYTES: Final = 1024 * 1024
"""Bytes of a page's jobs, at most: clients take messages of 4 MiB."""
AT_ONCE: Final = 10
"""Jobs of a page that are written before other tasks have a turn."""
POSITION_EVERY: Final = 1_000
"""Others' events after which a watcher is told how far it has come, so that it need not look at them again."""


class JobService(JobServiceServicer):
    """The generated servicer's methods over a registry. purerpc hands the caller over as `request`."""

    def __init__(self, registry: Registry, followers: Followers, facts: ServerFacts = ServerFacts()) -> None:  # noqa: B008  # a value
        self._registry = registry
        self._facts = facts
        self._followers = followers

    @takes_admission
    @checked(check_start)
    async def Start(  # type: ignore[override]  # purerpc hands over the caller too
        self, asked: Unadmitted, request: Identity
    ) -> pb.JobID:
        """Starts a command: prepares it while the call is being admitted."""
        message: pb.JobCreateRequest = asked.request
        specification = specification_of(message)
        job_id = await self._registry.start(request, specification, message.request_id, admitted=asked.admission)
        return pb.JobID(job_id=job_id)

    @checked(check_job_id)
    async def Stop(  # type: ignore[override]  # purerpc hands over the caller too
        self, message: pb.JobIDRequest, request: Identity
    ) -> pb.JobResponse:
        """Stops a job and answers when it has ended."""
        reason = checked_reason(message.reason)
        job_id = message.job_id_request.job_id
        return response_of(await self._registry.stop(request, job_id, reason, force=message.force))

    @checked(check_signal)
    async def Signal(  # type: ignore[override]  # purerpc hands over the caller too
        self, message: pb.SignalRequest, request: Identity
    ) -> pb.JobResponse:
        """Sends a signal to a job."""
        number = checked_signal(message.signal)
        return response_of(await self._registry.signal(request, message.job_id.job_id, number, to_all=message.all))

    @checked(check_job_id)
    async def Pause(  # type: ignore[override]  # as above
        self, message: pb.JobIDRequest, request: Identity
    ) -> pb.JobResponse:
        """Freezes a job."""
        return response_of(await self._registry.pause(request, message.job_id_request.job_id))

    @checked(check_job_id)
    async def Resume(  # type: ignore[override]  # as above
        self, message: pb.JobIDRequest, request: Identity
    ) -> pb.JobResponse:
        """Lets a job go on."""
        return response_of(await self._registry.resume(request, message.job_id_request.job_id))

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
        sent = 0
        try:
            with self._followers.counted(request.name):
                async with aclosing(job.output.follow()) as stretches:
                    async for stretch in stretches:
                        sent += stretch.length
                        yield output_messages(stretch)  # noqa: ASYNC119  # purerpc closes the generator, whatever happens
        except OutputUnreadable as error:
            # Its file went with it, where it was forgotten meanwhile.
            await self._registry.find(request, job_id)  # noqa: ASYNC120  # a call that is cancelled has no answer
            if isinstance(error, OutputCut):
                logger.warning("%s", error)
                raise OutputIncomplete(job.output.lost, dropped=job.output.dropped, missing=error.missing) from error
            raise
        await job.wait_ended()
        output = job.output
        lost = output.lost
        not_sent = max(0, output.end - sent - lost)
        pruned = max(0, not_sent - output.dropped) if output.file.is_pruned else 0
        if lost or not_sent:  # what was not kept, the rest was dropped before it was sent
            raise OutputIncomplete(lost, dropped=not_sent - pruned, pruned=pruned)

    @checked(check_follow)
    async def FollowOutput(  # type: ignore[override]  # as above
        self, message: pb.FollowOutputRequest, request: Identity
    ) -> AsyncIterator[pb.OutputChunk | StoredMessages]:
        """A part of the output, with times, streams and gaps."""
        async with aclosing(follow_output(self._registry, self._followers, request, message)) as chunks:
            async for chunk in chunks:
                yield chunk  # noqa: ASYNC119  # purerpc closes the generator, whatever happens

    @takes_call
    @checked(check_attach)
    async def Attach(  # type: ignore[override]  # a handler of the call itself
        self, call: ServerCall, request: Identity
    ) -> None:
        """The job's input and output."""
        await attach(call, request, self._registry, self._followers)

    @lasting
    @checked(check_job_id)
    async def Wait(  # type: ignore[override]  # purerpc hands over the caller too
        self, message: pb.JobIDRequest, request: Identity
    ) -> pb.JobResponse:
        """The job's record when it has ended."""
        job = await self._registry.find(request, message.job_id_request.job_id)
        await job.wait_ended()
        return response_of(job.record)

    @checked(check_job_id)
    async def Remove(  # type: ignore[override]  # purerpc hands over the caller too
        self, message: pb.JobIDRequest, request: Identity
    ) -> pb.RemoveResponse:
        """Removes an ended job."""
        await self._registry.remove(request, message.job_id_request.job_id)
        return pb.RemoveResponse()

    @checked(check_query)
    async def List(  # type: ignore[override]  # as above
        self, message: pb.ListRequest, request: Identity
    ) -> pb.ListResponse:
        """Jobs, the newest first."""
        query = query_of(message)
        async with self._registry.history.turn(request):
            return await _answer(await self._registry.history.page(request, query))

    @checked(check_query)
    async def Watch(  # type: ignore[override]  # as above, and it is an async generator
        self, message: pb.WatchRequest, request: Identity
    ) -> AsyncIterator[pb.JobEventMessage]:
        """What happens to jobs."""
        if message.only_new and message.after:
            raise InvalidRequest("only_new and after exclude each other: leave one of them out", field="after")
        told, has_caught_up = message.after, False
        async with aclosing(
            self._registry.history.events(request, None if message.only_new else message.after)
        ) as watch:
            async for news in watch:
                for event in news.events:
                    yield event_message(event)  # noqa: ASYNC119  # purerpc closes the generator, whatever happens
                    told = event.seq
                if news.position - told >= POSITION_EVERY or (news.is_current and not has_caught_up):
                    told, has_caught_up = news.position, has_caught_up or news.is_current
                    yield position_message(told)  # noqa: ASYNC119  # as above

    @checked(check_query)
    async def Backup(  # type: ignore[override]  # as above
        self, message: pb.BackupRequest, request: Identity
    ) -> AsyncIterator[pb.BackupChunk]:
        """A copy of the journal, for an admin."""
        del message
        async with aclosing(self._registry.history.backup(request)) as pieces:
            async for data in pieces:
                yield pb.BackupChunk(data=data)  # noqa: ASYNC119  # as above

    @checked(check_query)
    def ServerInfo(  # type: ignore[override]  # as of Status
        self, message: pb.ServerInfoRequest, request: Identity
    ) -> pb.ServerInfoResponse:
        """What this server is, and what the caller may have and has."""
        del message
        registry = self._registry
        return server_info(
            self._facts,
            request,
            running=registry.running_of(request),
            most_running=registry.most_running_of(request),
            draining=registry.starts_refused,
        )

    @checked(check_query)
    async def Drain(  # type: ignore[override]  # as above
        self, message: pb.DrainRequest, request: Identity
    ) -> pb.Draining:
        """Takes no new jobs."""
        return draining_of(await self._registry.refuse_starts(request, message.note, message.timeout_ms))

    @checked(check_query)
    async def Undrain(  # type: ignore[override]  # as above
        self, message: pb.UndrainRequest, request: Identity
    ) -> pb.UndrainResponse:
        """Takes new jobs again."""
        del message
        await self._registry.accept_starts(request)
        return pb.UndrainResponse()

    @checked(check_follow)
    async def Stats(  # type: ignore[override]  # as of StreamOutput
        self, message: pb.StatsRequest, request: Identity
    ) -> AsyncIterator[pb.JobStats]:
        """What a job uses, until it has ended."""
        async with aclosing(follow_stats(self._registry, self._followers, request, message)) as stats:
            async for each in stats:
                yield each  # noqa: ASYNC119  # as above

    def take_up(self, facts: ServerFacts) -> None:
        """Has the server tell these of itself from now on."""
        self._facts = facts

    def end_streams(self) -> None:
        """Ends the watches, which have no end of their own."""
        self._registry.history.end()


async def _answer(page: Page) -> pb.ListResponse:
    """As much of a page as one message may have."""
    response = pb.ListResponse(next_page_token=page_token(page.next))
    size = 0
    for before, job in pairwise((None, *page.jobs)):
        assert job is not None  # noqa: S101  # for the type checker
        record = response_of(job.record)
        size += record.ByteSize()
        if before is not None and size > LIST_BYTES:
            response.next_page_token = page_token(before.key)
            break
        response.jobs.append(record)
        if len(response.jobs) % AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
    return response
