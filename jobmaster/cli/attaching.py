"""`attach`, and what `run` has of it: standard input to a job, and its output to standard output, at the same time."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from jobmaster.cli.descriptors import (
    STDIN,
    InputFailed,
    OutputFailed,
    complain,
    is_stdin_given,
    read_input,
    write_error,
    write_notice,
    write_output,
)
from jobmaster.cli.exit_status import DONE, OURS, ended_by_itself, exit_status
from jobmaster.cli.presentation import killed_for_memory
from jobmaster.client import InputLost, Jobs, OutputIncomplete, RpcFailedError
from jobmaster.errors import TransportError
from jobmaster.grpc.purerpc_adapter import StatusCode
from jobmaster.jobs.v1 import jobs_pb2 as pb

if TYPE_CHECKING:
    from jobmaster.cli.actions import Attach
    from jobmaster.client import Attachment

READ_SIZE: Final = 64 * 1024


def say(text: str) -> None:
    """Tells the user, who may see the job's output on stdout."""
    complain(f"jobmaster: {text}\n")


async def say_missing(text: str) -> None:
    """Tells the user what is missing of the output, as it would have come: waits for the reader as the output does."""
    await trio.to_thread.run_sync(write_notice, f"jobmaster: {text}\n", abandon_on_cancel=True)


def words_of(error: RpcFailedError) -> str:
    """What a server says of a call that failed."""
    return f"{error.status.status_message or 'no details'} ({error.status.status_code.name})"


async def despite_losses(copy_output: Callable[[], Awaitable[bool]]) -> bool:
    """Copies an output; says what the server says of bytes that are not kept: how the job ended is another matter.

    Raises:
        Exception: as `copy_output`.
    """
    try:
        return await copy_output()
    except RpcFailedError as error:
        if error.status.status_code is not StatusCode.DATA_LOSS:
            raise
        words = words_of(error)
    await say_missing(words)
    return True


class JobEnd:
    """The end of a job, asked for while its output is copied: a server that ends with the job answers who has asked before.

    Attributes:
        record: that of the job when it has ended, where it is known.
    """

    def __init__(self, jobs: Jobs) -> None:
        self.record: pb.JobResponse | None = None
        self._jobs = jobs
        self._asked = trio.Event()

    async def ask(self, job_id: str) -> None:
        """Waits for it; in a task of its own."""
        with suppress(RpcFailedError, TransportError):  # when the output has ended, it is asked for again
            self.record = await self._jobs.wait(job_id)
        self._asked.set()

    async def wait(self, job_id: str) -> pb.JobResponse:
        """The record of the job that has ended; while `ask` runs, or has run.

        Raises:
            Exception: as `Jobs.wait`.
        """
        await self._asked.wait()
        return self.record or await self._jobs.wait(job_id)


async def attach(jobs: Jobs, action: Attach) -> tuple[int, str]:
    """Attaches to a job until it has ended: the exit status, and nothing that is still to be written."""
    record = await jobs.status(action.job_id)
    end, failure, status = JobEnd(jobs), None, DONE
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end.ask, action.job_id)
        try:
            status = await _attach_until(end, jobs, action, record)
        except Exception as error:  # noqa: BLE001  # raised below, and not in a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return status, ""


async def _attach_until(end: JobEnd, jobs: Jobs, action: Attach, record: pb.JobResponse) -> int:
    try:
        if not await despite_losses(partial(_attach, jobs, action, record)):
            say(how_to_attach(action.job_id))
            return DONE
        record = await end.wait(action.job_id)
    except OutputFailed as failure:
        say(f"{failure}; the job {action.job_id} goes on")
        return OURS
    except (TransportError, OutputIncomplete, InputLost) as error:
        say(f"{error}; what the job {action.job_id} does is not known here")
        return OURS
    if not ended_by_itself(record):
        say(f"job {action.job_id}: {record.job_msg}")
    elif killed := killed_for_memory(record):
        say(killed)
    return exit_status(record)


async def _attach(jobs: Jobs, action: Attach, record: pb.JobResponse) -> bool:
    """Copies both ways until the output has ended; False where the user has detached before."""
    wants_stdin = (is_stdin_given() or os.isatty(STDIN)) if action.stdin is None else action.stdin
    is_needed = action.stdin is True
    offset = 0 if action.from_start else _end_of_output(record)
    if wants_stdin and record.terminal and record.state == pb.JOBSTATE_RUNNING:
        from jobmaster.cli.terminal import RawMode, has_terminal, use_terminal  # here, because few jobs have one

        if has_terminal():
            try:
                return await use_terminal(
                    jobs, action.job_id, RawMode(), offset=offset, detach_keys=action.detach_keys, is_new=False
                )
            except RpcFailedError as error:
                if is_needed or not _is_input_refused(error):
                    raise
                say(f"the keyboard is not the job's: {error.status.status_message}")
                wants_stdin = False
    await copy(jobs, action.job_id, offset, with_input=wants_stdin, is_needed=is_needed, ends_input=not record.terminal)
    return True


def how_to_attach(job_id: str) -> str:
    """What is said to who has detached."""
    return f"detached; the job goes on: `attach {job_id}` comes back to it"


def _end_of_output(record: pb.JobResponse) -> int:
    """Offsets count what is not kept, too."""
    return record.output_bytes + record.output_bytes_lost + record.output_bytes_dropped


async def copy(
    jobs: Jobs, job_id: str, offset: int, *, with_input: bool, is_needed: bool, ends_input: bool = True
) -> None:
    """Copies until the job has ended; of standard input, until it ends, or the job reads no more.

    Args:
        jobs: to call.
        job_id: the job.
        offset: the first byte of the output that is wanted.
        with_input: whether standard input is the job's.
        is_needed: what to do where the job does not take it: to fail, or to say so and go on without.
        ends_input: the end of standard input is the job's end-of-file; a terminal has none.

    Raises:
        OutputFailed: standard output did not take what came.
        Exception: as the iteration of an `Attachment`.
    """
    if with_input:
        async with jobs.attach(job_id, output_offset=offset) as attachment:
            try:
                await _copy_both_ways(attachment, ends_input=ends_input)
            except RpcFailedError as error:
                if is_needed or not _is_input_refused(error):
                    raise
                say(f"standard input is not the job's: {error.status.status_message}")
                offset = attachment.received
            else:
                return
    async with jobs.attach(job_id, output_offset=offset, with_input=False) as attachment:
        await copy_output(attachment)


def _is_input_refused(error: RpcFailedError) -> bool:
    from jobmaster.grpc.status_details import reason_in  # here, because little is refused

    return reason_in(error.status) == "INPUT_REFUSED"


async def _copy_both_ways(attachment: Attachment, *, ends_input: bool) -> None:
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_copy_input, attachment, ends_input)
        try:
            await copy_output(attachment)
        except Exception as error:  # noqa: BLE001  # raised below, and not in a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def copy_output(attachment: Attachment) -> None:
    """Copies the output to standard output, and says what of it is missing.

    Raises:
        OutputFailed: standard output did not take what came.
        Exception: as the iteration of an `Attachment`.
    """
    async for chunk in attachment:
        await show(chunk)


async def show(chunk: pb.OutputChunk) -> None:
    """Writes bytes of the output where they belong, or says that they are missing; returns when they are written.

    Raises:
        OutputFailed: standard output did not take them.
    """
    if chunk.HasField("gap"):
        await say_missing(f"{chunk.gap.length} bytes of the output are missing here")
    else:
        write = write_error if chunk.stream == pb.OUTPUTSTREAM_STDERR else write_output
        await trio.to_thread.run_sync(write, chunk.data, abandon_on_cancel=True)


async def _copy_input(attachment: Attachment, ends_input: bool) -> None:  # start_soon takes positions
    await attachment.send(_standard_input(), ends=ends_input)


async def _standard_input() -> AsyncIterator[bytes]:
    """Standard input, to its end. A read that is given up goes on in its thread, as long as this program lives."""
    try:
        while data := await trio.to_thread.run_sync(read_input, READ_SIZE, abandon_on_cancel=True):
            yield data
    except InputFailed as failure:
        say(f"{failure}; the job's stdin ends here")
