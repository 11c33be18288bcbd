"""JobService as a caller sees it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, Literal, Self

import trio

from jobmaster.certs.credentials import client_context
from jobmaster.client.attachment import Attachment
from jobmaster.client.calls import Calls, OnTrouble, Stream, Trouble, jitter
from jobmaster.client.following import FollowedOutput
from jobmaster.client.limits import LimitsIgnored, asks_for_terms, ignored_terms
from jobmaster.client.masking import secret_ranges
from jobmaster.client.output import WholeOutput
from jobmaster.client.patience import Patience
from jobmaster.grpc.channel import CallChannel, Channel, HandshakeLost, open_channel
from jobmaster.grpc.purerpc_adapter import RpcFailedError, StatusCode
from jobmaster.jobs.v1 import jobs_pb2 as pb

__all__ = ["Jobs", "RpcFailedError", "connect", "new_request_id"]

PATIENCE: Final = 30.0
"""Seconds for which a call is repeated while no server can be reached."""
FOLLOWING: Final = 10
"""So many times as long is a server waited for by calls that last as long as a job: as a launcher tries to start one."""
MAX_PAGE: Final = 1_000
"""Jobs of a page, at most, as a server has it."""


def new_request_id() -> str:
    """A name for a Start that nothing else has."""
    return os.urandom(16).hex()


class Jobs:
    """The jobs of a server, as far as this client may touch them. Made by `connect`.

    Every call survives a lost connection and a server that is replaced: it is made again until its patience is over.
    """

    def __init__(self, channel: CallChannel, *, patience: float = PATIENCE, trouble: Trouble | None = None) -> None:
        """Makes no call yet.

        Args:
            channel: to the server.
            patience: seconds for which a call may be repeated in vain; those that last as long as a job, FOLLOWING times
                as long.
            trouble: told why nothing comes, where that goes on for long.
        """
        self._calls = Calls(channel, Trouble(None) if trouble is None else trouble)
        self._patience = patience
        self._following_patience = FOLLOWING * patience

    async def start(
        self,
        command: str,
        *args: str,
        request_id: str | None = None,
        stdin: bool = False,
        separate_streams: bool = False,
        terminal: pb.Terminal | None = None,
        output_max: int = 0,
        output_full: Literal["drop", "end"] = "drop",
        limits: pb.JobLimits | None = None,
        secrets: Iterable[str] = (),
        max_run_ms: int = 0,
        warn_before_ms: int = 0,
        warn_signal: int = 0,
        stop_signal: int = 0,
        grace_ms: int | None = None,
        name: str = "",
        labels: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        environment: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        working_folder: str = "",
    ) -> str:
        """Starts a command, once, however often the call has to be repeated; returns the job's id.

        Args:
            command: the program.
            args: its arguments.
            request_id: the caller's own name for this start, so that the same one, made again, finds the same job; a new
                one by default.
            stdin: whether it has an input, for `attach`; else that is /dev/null.
            separate_streams: whether its stdout and stderr are told apart.
            terminal: what its standard streams are, for `attach`; None where they are no terminal.
            output_max: bytes of its output that are kept; 0: as many as the server keeps of any job.
            output_full: what happens when there are more: the middle is dropped, or the job ended.
            limits: what it may use of the host; the server's defaults where none is set.
            secrets: texts that nobody is to read: wherever command and arguments have one, the server's records, journal,
                audit and log have ***. 64 places at most.
            max_run_ms: milliseconds for which it may run before it is ended as by a stop; 0: for ever.
            warn_before_ms: its main process gets a signal so many before that; 0: none.
            warn_signal: that signal; 0: SIGUSR1.
            stop_signal: what its processes get first when it is stopped; 0: SIGTERM.
            grace_ms: milliseconds that they have then, an hour at most; None: as many as the server leaves any job.
            name: what it is called, 128 characters at most; no secret.
            labels: keys and values, for `list` to be asked for; no secrets.
            environment: variables that it gets beside those of the server, or in their place; the values are kept nowhere.
            working_folder: where it begins, an absolute path; empty: /.

        Raises:
            LimitsIgnored: the server is an older one, which knows nothing of these limits or terms; the job is stopped.
        """
        request = pb.JobCreateRequest(
            command=command,
            args=args,
            request_id=request_id or new_request_id(),
            stdin=stdin,
            separate_streams=separate_streams,
            terminal=terminal,
            output_max=output_max,
            output_full=pb.OUTPUTFULL_END_JOB if output_full == "end" else pb.OUTPUTFULL_UNSPECIFIED,
            limits=limits,
            secrets=secret_ranges((command, *args), secrets),
            max_run_ms=max_run_ms,
            warn_before_ms=warn_before_ms,
            warn_signal=warn_signal,
            stop_signal=stop_signal,
            grace_ms=grace_ms,
            name=name,
            labels=dict(labels),
            environment=dict(environment),
            working_folder=working_folder,
        )
        job_id = (await self._calls.unary("Start", request, pb.JobID, self._patience)).job_id
        if asks_for_terms(request):
            await self._require_terms(job_id, request)
        return job_id

    async def _require_terms(self, job_id: str, request: pb.JobCreateRequest) -> None:
        """Stops a job whose server has ignored its limits or other terms, as protobuf has one do that does not know the field."""
        try:
            record = await self.status(job_id)
        except RpcFailedError as error:
            if error.status.status_code is not StatusCode.NOT_FOUND:
                raise
            return  # removed already: who found the job by its request id, or another client of this name
        ignored = ignored_terms(request, record)
        if not ignored:
            return
        if not record.HasField("ended") or record.state == pb.JOBSTATE_RUNNING:
            await self.stop(job_id, "the server does not know its terms", force=True)
        raise LimitsIgnored(job_id, ignored)

    async def stop(self, job_id: str, reason: str = "", *, force: bool = False) -> pb.JobResponse:
        """Stops a job; returns its record when it has ended.

        Args:
            job_id: the job.
            reason: why; kept in the job's record.
            force: without a grace period, or with no more of the one that has begun.
        """
        request = pb.JobIDRequest(job_id_request=pb.JobID(job_id=job_id), reason=reason, force=force)
        return await self._calls.unary("Stop", request, pb.JobResponse, self._patience, lasts=True)

    async def signal(self, job_id: str, number: int, *, to_all: bool = False) -> pb.JobResponse:
        """Sends a signal to a running job's main process, or to all of its processes; returns its record.

        A call that breaks is not made again: the signal may have been sent.

        Raises:
            RpcFailedError: FAILED_PRECONDITION where the job has ended or is ending.
        """
        request = pb.SignalRequest(job_id=pb.JobID(job_id=job_id), signal=number, all=to_all)
        return await self._calls.unary("Signal", request, pb.JobResponse, 0.0)

    async def pause(self, job_id: str) -> pb.JobResponse:
        """Freezes the processes of a running job; returns its record."""
        return await self._calls.unary("Pause", _request(job_id), pb.JobResponse, self._patience)

    async def resume(self, job_id: str) -> pb.JobResponse:
        """Lets the processes of a paused job go on; returns its record."""
        return await self._calls.unary("Resume", _request(job_id), pb.JobResponse, self._patience)

    async def status(self, job_id: str) -> pb.JobResponse:
        """The job's record as of now."""
        return await self._calls.unary("Status", _request(job_id), pb.JobResponse, self._patience)

    async def wait(self, job_id: str) -> pb.JobResponse:
        """The job's record when it has ended."""
        return await self._calls.unary("Wait", _request(job_id), pb.JobResponse, self._following_patience, lasts=True)

    async def server_info(self) -> pb.ServerInfoResponse:
        """What the server is, which limits its host enforces, and what this client may have and has now.

        Raises:
            RpcFailedError: UNIMPLEMENTED of a server that is older.
        """
        return await self._calls.unary("ServerInfo", pb.ServerInfoRequest(), pb.ServerInfoResponse, self._patience)

    async def drain(self, note: str = "", *, timeout_ms: int = 0) -> pb.Draining:
        """Has the server take no new jobs, for an admin; those that run go on, and who starts one is told the note at once.

        Args:
            note: for those, a line of 200 characters at most.
            timeout_ms: milliseconds until jobs are taken again; 0: until `undrain`.
        """
        request = pb.DrainRequest(note=note, timeout_ms=timeout_ms)
        return await self._calls.unary("Drain", request, pb.Draining, self._patience)

    async def undrain(self) -> None:
        """Has the server take new jobs again, for an admin."""
        await self._calls.unary("Undrain", pb.UndrainRequest(), pb.UndrainResponse, self._patience)

    async def remove(self, job_id: str) -> None:
        """Removes an ended job: its output and its record. Whoever reads the output at that moment reads on.

        A job that is not there any more when a call that broke is made again has been removed.

        Raises:
            RpcFailedError: FAILED_PRECONDITION where the job has not ended, NOT_FOUND where there is none.
        """
        removed = pb.RemoveResponse()
        await self._calls.unary("Remove", _request(job_id), pb.RemoveResponse, self._patience, removed=removed)

    async def list(
        self, query: pb.ListRequest | None = None, *, limit: int | None = None
    ) -> AsyncIterator[pb.JobResponse]:
        """The records of jobs, the newest first.

        Args:
            query: which jobs, and of what size the pages are in which they are asked for; all of them by default.
            limit: how many at most; None: all.
        """
        request = pb.ListRequest()
        request.CopyFrom(query or pb.ListRequest())
        left = limit
        while left is None or left > 0:
            if left is not None:
                request.page_size = min(left, request.page_size or MAX_PAGE, MAX_PAGE)
            page = await self._calls.unary("List", request, pb.ListResponse, self._patience)
            found = [record for record in page.jobs if _is_called(record.cmd, request)]
            for record in found:
                yield record
            if left is not None:
                left -= len(found)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    @asynccontextmanager
    async def stream_output(self, job_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """All output of a job from its first byte, live, until it has ended. Leaving the block ends the call.

        Each byte comes once, whatever becomes of the connection and the server: where a call breaks, the next one goes on
        behind it.

        While iterating, raises:
            RpcFailedError: the server refused; UNAVAILABLE, which may pass, only when patience is over; DATA_LOSS, when all
                that there is has come, where some of it was lost or dropped before it came: says how much.
            TransportError: no connection was to be had in all that time.
            OutputIncomplete: the server that answers now does not have the output any more.
        """
        output = WholeOutput(self._calls, job_id, self._following_patience)
        try:
            yield output
        finally:
            output.abandon()

    @asynccontextmanager
    async def attach(
        self, job_id: str, *, output_offset: int = 0, with_input: bool = True, window: pb.WindowSize | None = None
    ) -> AsyncIterator[Attachment]:
        """A job's output from one of its bytes on, and its input, until it has ended. Leaving the block ends the call.

        Args:
            job_id: the job.
            output_offset: of the first byte of the output that is wanted.
            with_input: whether this client writes its input, as one at a time may.
            window: with input, for a job that has a terminal: the size that this is to have.
        """
        attachment = Attachment(
            self._calls,
            job_id,
            self._following_patience,
            output_offset=output_offset,
            with_input=with_input,
            window=window,
        )
        try:
            yield attachment
        finally:
            attachment.abandon()

    @asynccontextmanager
    async def follow_output(
        self, job_id: str, query: pb.FollowOutputRequest | None = None
    ) -> AsyncIterator[AsyncIterator[pb.OutputChunk]]:
        """A part of a job's output, with times, streams and gaps. Leaving the block ends the call.

        Each byte comes once, or is in the extent of a gap, whatever becomes of the connection and the server: where a call
        breaks, the next one goes on at the next offset.

        Args:
            job_id: the job.
            query: what of its output, and whether to follow it; all of it, until the job has ended, by default.

        While iterating, raises:
            RpcFailedError, TransportError, OutputIncomplete: as `stream_output`.
        """
        request = pb.FollowOutputRequest()
        request.CopyFrom(query or request)
        request.job_id.job_id = job_id
        output = FollowedOutput(self._calls, request, self._patience if request.no_follow else self._following_patience)
        try:
            yield output
        finally:
            output.abandon()

    @asynccontextmanager
    async def stats(self, job_id: str, *, interval_ms: int = 0) -> AsyncIterator[AsyncIterator[pb.JobStats]]:
        """What a job has used until now, at an interval until it has ended: the last one tells of its end.

        Args:
            job_id: the job.
            interval_ms: milliseconds between two, from 100 to 60,000; 0: 1000.

        While iterating, raises:
            RpcFailedError, TransportError: as `watch`; UNIMPLEMENTED of a server that is older.
        """
        request = pb.StatsRequest(job_id=pb.JobID(job_id=job_id), interval_ms=interval_ms)
        stats = _Stats(self._calls, request, self._following_patience)
        try:
            yield stats
        finally:
            stats.abandon()

    @asynccontextmanager
    async def watch(self, after: int | None = None) -> AsyncIterator[AsyncIterator[pb.JobEventMessage]]:
        """What happens to jobs, live, until the block is left.

        Each event comes once, whatever becomes of the connection and the server.

        Args:
            after: the `seq` of the last event that is known already; 0: all that are kept; None: those from now on.

        While iterating, raises:
            RpcFailedError: the server refused; FAILED_PRECONDITION where not all events after `after` are kept.
            TransportError: no connection was to be had until patience was over.
        """
        events = _Events(self._calls, after, self._following_patience)
        try:
            yield events
        finally:
            events.abandon()

    @asynccontextmanager
    async def backup(self) -> AsyncIterator[AsyncIterator[bytes]]:
        """The server's journal as of one moment, for an admin: all of it has come when the iteration ends.

        A backup whose call breaks has to be begun anew.

        While iterating, raises:
            RpcFailedError: the server refused, or the backup is not whole.
            TransportError: the connection was lost.
        """
        backup = _Backup(self._calls)
        try:
            yield backup
        finally:
            backup.abandon()


class _Events:
    """The events of a watch; has one reader."""

    def __init__(self, calls: Calls, after: int | None, patience: float) -> None:
        self._after = after
        self._stream = Stream(calls, "Watch", pb.WatchRequest, pb.JobEventMessage, patience)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> pb.JobEventMessage:
        while (message := await self._stream.receive(self._request)) is not None:
            assert isinstance(message, pb.JobEventMessage)  # noqa: S101  # for the type checker
            self._stream.patience.progress()
            self._after = message.seq
            if message.WhichOneof("kind") is not None:
                return message
        raise StopAsyncIteration

    def _request(self) -> pb.WatchRequest:
        return pb.WatchRequest(only_new=True) if self._after is None else pb.WatchRequest(after=self._after)

    def abandon(self) -> None:
        """Ends the call that is open, if any."""
        self._stream.abandon()


class _Stats:
    """The samples of a job; has one reader."""

    def __init__(self, calls: Calls, request: pb.StatsRequest, patience: float) -> None:
        self._request = request
        self._stream = Stream(calls, "Stats", pb.StatsRequest, pb.JobStats, patience)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> pb.JobStats:
        message = await self._stream.receive(lambda: self._request)
        if message is None:
            raise StopAsyncIteration
        assert isinstance(message, pb.JobStats)  # noqa: S101  # for the type checker
        self._stream.patience.progress()
        return message

    def abandon(self) -> None:
        """Ends the call that is open, if any."""
        self._stream.abandon()


class _Backup:
    """The chunks of a backup; has one reader."""

    def __init__(self, calls: Calls) -> None:
        self._stream = Stream(calls, "Backup", pb.BackupRequest, pb.BackupChunk, 0)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        message = await self._stream.receive(pb.BackupRequest)
        if message is None:
            raise StopAsyncIteration
        assert isinstance(message, pb.BackupChunk)  # noqa: S101  # for the type checker
        return message.data

    def abandon(self) -> None:
        """Ends the call that is open, if any."""
        self._stream.abandon()


def _request(job_id: str) -> pb.JobIDRequest:
    return pb.JobIDRequest(job_id_request=pb.JobID(job_id=job_id))


@asynccontextmanager
async def connect(
    host: str, port: int, *, folder: Path, name: str, patience: float = PATIENCE, on_trouble: OnTrouble | None = None
) -> AsyncIterator[Jobs]:
    """Connects as the client called `name`, with the certificates of `folder`.

    Args:
        host: of the server.
        port: of the server.
        folder: the certificate folder.
        name: who to be.
        patience: as of `Jobs`.
        on_trouble: called with why nothing comes, where that goes on for three seconds: once, until a server has answered.

    Raises:
        ConfigurationError: a file of `folder` is missing or unusable; says which.
        TransportError: no secure connection; says why.
    """
    context = client_context(folder, name)
    trouble = Trouble(on_trouble)
    async with AsyncExitStack() as stack:
        impatience = Patience(patience)
        channel: Channel | None = None
        while channel is None:
            try:
                channel = await stack.enter_async_context(open_channel(host, port, context, on_silence=trouble.tell))
            except HandshakeLost as error:  # a server that has just died; its launcher still has the socket
                pause = impatience.next_pause(trio.current_time(), jitter())
                if pause is None:
                    raise
                if impatience.is_to_be_told(trio.current_time()):
                    trouble.tell(error)
                await trio.sleep(pause)
        yield Jobs(channel, patience=patience, trouble=trouble)


def _is_called(command: pb.JobCreateRequest, query: pb.ListRequest) -> bool:
    """Whether a job has the name and labels that are asked for: an older server does not know them, and lists all jobs."""
    labels = dict(command.labels)  # a map of protobuf has every key that it is asked for
    return query.name in {"", command.name} and dict(query.labels).items() <= labels.items()
