"""What each verb does. Those that have more to do than a call have modules of their own, imported when they are used."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import assert_never

import trio

from jobmaster.certs.folder import certificate_folder
from jobmaster.cli.actions import (
    Action,
    ActionOnJob,
    Attach,
    Backup,
    Command,
    Drain,
    Events,
    Info,
    Kill,
    List,
    Logs,
    Pause,
    Remove,
    Resume,
    Run,
    Start,
    Stats,
    Status,
    Stop,
    StreamOutput,
    Undrain,
    Wait,
)
from jobmaster.cli.descriptors import OutputFailed, complain, require_writable, write_text
from jobmaster.cli.exit_status import DONE, FAILED, OF_SIGNAL, exit_status
from jobmaster.cli.presentation import as_block, as_json, how_to_find, info_block, visible
from jobmaster.client import Jobs, LimitsIgnored, RpcFailedError, connect, new_request_id
from jobmaster.errors import JobmasterError, TransportError
from jobmaster.grpc.purerpc_adapter import StatusCode
from jobmaster.jobs.v1 import jobs_pb2 as pb


class CommandFailed(JobmasterError):
    """The server refused, or what it answered was not delivered; the text says which."""


def perform(command: Command) -> int:
    """Make the call and write what comes of it to standard output; return the exit status.

    Raises:
        CommandFailed, ConfigurationError, TransportError: it did not work; the text is for the user.
        OutputFailed: standard output did not take it.
    """
    _require_writable(command.action)
    try:
        status, text = trio.run(_act, command)
    except RpcFailedError as error:
        raise CommandFailed(_in_words(error)) from error
    except OSError as error:  # of the event loop itself: whatever concerns the connection is told as TransportError
        raise CommandFailed(f"the system does not give what is needed: {error.strerror}") from error
    except (RuntimeError, ExceptionGroup) as error:
        if not _lacks_thread(error):
            raise
        raise CommandFailed("this host has no thread left for the client; a job that was started goes on") from error
    _deliver(command.action, text)
    return status


def _lacks_thread(error: Exception) -> bool:
    """Whether it comes of a thread that could not be started (pthread_create(3), EAGAIN), as Python and Trio tell it."""
    if isinstance(error, ExceptionGroup):
        return any(map(_lacks_thread, error.exceptions))
    return isinstance(error, RuntimeError) and "start new thread" in str(error)


def _require_writable(action: Action) -> None:
    """Have no job started that nobody would hear of."""
    match action:
        case Start() | Run(detach=True):
            what = "the id of a job"
        case Run() | Attach():
            what = "the output of a job"
        case _:
            return
    try:
        require_writable()
    except OutputFailed as failure:
        so = "" if isinstance(action, Attach) else ", so none was started"
        raise CommandFailed(f"{failure}: there is nowhere to print {what}{so}") from failure


def _deliver(action: Action, text: str) -> None:
    """Write the answer; the id of a job that was started reaches the user, come what may of standard output."""
    try:
        write_text(text)
    except OutputFailed as failure:
        if isinstance(action, Start | Run):
            raise CommandFailed(f"{failure}: started the job {text.strip()}") from failure
        raise


async def _act(command: Command) -> tuple[int, str]:
    """Make the call: the exit status, and what is to be written when the connection has ended."""
    target = command.target
    folder = certificate_folder(target.certificates)
    async with connect(target.host, target.port, folder=folder, name=target.name, on_trouble=_say_why_waiting) as jobs:
        return await _do(jobs, command.action)


def _say_why_waiting(error: TransportError | RpcFailedError) -> None:
    words = _in_words(error) if isinstance(error, RpcFailedError) else str(error)
    complain(f"jobmaster: {words}; trying again\n")


async def _do(jobs: Jobs, action: Action) -> tuple[int, str]:
    match action:
        case Start():
            return DONE, f"{await start_job(jobs, action)}\n"
        case Stop() | Kill() | Pause() | Resume() | Status() | Wait():
            record = await _record(jobs, action)
            status = exit_status(record) if isinstance(action, Wait) else DONE
            return status, _shown(record, wants_json=action.as_json)
        case Remove(job_ids):
            return await remove_jobs(jobs, job_ids), ""
        case (
            Run()
            | Attach()
            | StreamOutput()
            | Logs()
            | List()
            | Events()
            | Stats()
            | Backup()
            | Info()
            | Drain()
            | Undrain()
        ):
            return await _do_more(jobs, action)
        case unreachable:
            assert_never(unreachable)


async def _record(jobs: Jobs, action: ActionOnJob) -> pb.JobResponse:
    match action:
        case Stop(job_id=job_id, reason=reason, force=force):
            return await jobs.stop(job_id, reason, force=force)
        case Kill(job_id=job_id, number=number, to_all=to_all):
            return await jobs.signal(job_id, number, to_all=to_all)
        case Pause(job_id=job_id):
            return await jobs.pause(job_id)
        case Resume(job_id=job_id):
            return await jobs.resume(job_id)
        case Status(job_id=job_id):
            return await jobs.status(job_id)
        case Wait(job_id=job_id):
            return await jobs.wait(job_id)
        case unreachable:
            assert_never(unreachable)


async def _do_more(
    jobs: Jobs, action: Run | Attach | StreamOutput | Logs | List | Events | Stats | Backup | Info | Drain | Undrain
) -> tuple[int, str]:
    """The verbs of modules that are imported when they are used."""
    match action:
        case Run():
            from jobmaster.cli.running import Runner

            return await Runner(jobs, action).run()
        case Attach():
            from jobmaster.cli.attaching import attach

            return await attach(jobs, action)
        case StreamOutput(job_id):
            from jobmaster.cli.logs import copy_output

            await copy_output(jobs, job_id)
        case Logs():
            from jobmaster.cli.logs import show_logs

            await show_logs(jobs, action)
        case List():
            from jobmaster.cli.listing import list_jobs

            await list_jobs(jobs, action)
        case Events():
            from jobmaster.cli.listing import show_events

            await show_events(jobs, action)
        case Stats():
            from jobmaster.cli.listing import show_stats

            await show_stats(jobs, action)
        case Info(as_json=wants_json):
            info = await jobs.server_info()
            return DONE, f"{as_json(info) if wants_json else info_block(info)}\n"
        case Drain(note=note, timeout_ms=timeout_ms):
            await jobs.drain(note, timeout_ms=timeout_ms)
        case Undrain():
            await jobs.undrain()
        case Backup(file):
            from jobmaster.cli.copying import save_backup

            await save_backup(jobs, file)
        case unreachable:
            assert_never(unreachable)
    return DONE, ""


async def start_job(jobs: Jobs, action: Start) -> str:
    """Start a job, and return its id; whoever gets none is told how the job is found, should there be one.

    Raises:
        CommandFailed: nobody knows whether it was started; or it was, without its limits, and is stopped; or a variable that it
            was to get is not there.
        RpcFailedError, TransportError: it was not.
    """
    from jobmaster.cli.terms import NoSuchVariable, start_arguments

    try:
        given = start_arguments(action.terms)
    except NoSuchVariable as error:
        raise CommandFailed(str(error)) from error
    request_id = new_request_id()
    unknown = how_to_find(request_id, run="run -d")
    started = ""

    def leave(number: int, _frame: object) -> None:
        complain(f"jobmaster: left; {f'started the job {started}' if started else unknown}\n")
        os._exit(OF_SIGNAL + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, leave)  # to the program's end: who leaves before the id is printed is told it
    try:
        started = await jobs.start(
            *action.argv,
            request_id=request_id,
            output_max=action.output.most,
            output_full=action.output.full,
            **given,
        )
    except LimitsIgnored as error:
        raise CommandFailed(str(error)) from error
    except RpcFailedError as error:
        if error.status.status_code is not StatusCode.UNAVAILABLE:
            raise
        raise CommandFailed(f"{_in_words(error)}; {unknown}") from error
    except TransportError as error:
        raise CommandFailed(f"{error}; {unknown}") from error
    return started


async def remove_jobs(jobs: Jobs, job_ids: Sequence[str]) -> int:
    """Remove each job that can be removed, and complain of each other one; return the exit status."""
    status = DONE
    for job_id in job_ids:
        try:
            await jobs.remove(job_id)
        except RpcFailedError as error:
            complain(f"jobmaster: {visible(job_id)}: {_in_words(error)}\n")
            status = FAILED
    return status


def _in_words(error: RpcFailedError) -> str:
    return f"{error.status.status_message or 'no details'} ({error.status.status_code.name})"


def _shown(record: pb.JobResponse, *, wants_json: bool) -> str:
    return f"{as_json(record) if wants_json else as_block(record)}\n"
