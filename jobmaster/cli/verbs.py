"""What each verb does."""

from __future__ import annotations

from typing import assert_never

import trio

from jobmaster.certs.folder import certificate_folder
from jobmaster.cli.arguments import Action, Command, Start, Status, Stop, StreamOutput
from jobmaster.cli.descriptors import OutputFailed, require_writable, write_output, write_text
from jobmaster.cli.presentation import as_block, as_json
from jobmaster.client import Jobs, RpcFailedError, connect
from jobmaster.errors import JobmasterError
from jobmaster.jobs.v1 import jobs_pb2 as pb


class CommandFailed(JobmasterError):
    """The server refused, or what it answered was not delivered; the text says which."""


def perform(command: Command) -> None:
    """Make the call and write what comes of it to standard output.

    Raises:
        CommandFailed, ConfigurationError, TransportError: it did not work; the text is for the user.
        OutputFailed: standard output did not take it.
    """
    match command.action:
        case Start():
            _start(command)
        case _:
            write_text(_call(command))


def _start(command: Command) -> None:
    """Start a job whose id reaches the user, come what may of standard output."""
    try:
        require_writable()
    except OutputFailed as failure:
        raise CommandFailed(f"{failure}: there is nowhere to print the id of a job, so none was started") from failure
    line = _call(command)
    try:
        write_text(line)
    except OutputFailed as failure:
        raise CommandFailed(f"{failure}: started the job {line.strip()}") from failure


def _call(command: Command) -> str:
    """Make the call; return what is to be written when it is over."""
    try:
        return trio.run(_act, command)
    except RpcFailedError as error:
        raise CommandFailed(
            f"{error.status.status_message or 'no details'} ({error.status.status_code.name})"
        ) from error


async def _act(command: Command) -> str:
    target = command.target
    folder = certificate_folder(target.certificates)
    async with connect(target.host, target.port, folder=folder, name=target.name) as jobs:
        return await _answer(jobs, command.action)


async def _answer(jobs: Jobs, action: Action) -> str:
    match action:
        case Start(argv):
            return f"{await jobs.start(*argv)}\n"
        case Stop(job_id=job_id, as_json=wants_json):
            return _shown(await jobs.stop(job_id), wants_json=wants_json)
        case Status(job_id=job_id, as_json=wants_json):
            return _shown(await jobs.status(job_id), wants_json=wants_json)
        case StreamOutput(job_id):
            await _copy_output(jobs, job_id)
            return ""
        case unreachable:
            assert_never(unreachable)


def _shown(record: pb.JobResponse, *, wants_json: bool) -> str:
    return f"{as_json(record) if wants_json else as_block(record)}\n"


async def _copy_output(jobs: Jobs, job_id: str) -> None:
    """Copy a job's output to stdout as it comes.

    Writing blocks in a thread, so that a reader who stalls does not keep the connection from answering the server.
    """
    async with jobs.stream_output(job_id) as chunks:
        async for chunk in chunks:
            await trio.to_thread.run_sync(write_output, chunk, abandon_on_cancel=True)
