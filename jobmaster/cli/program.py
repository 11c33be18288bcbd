"""What the client's command line does, verb by verb."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final, assert_never

import trio

from jobmaster.certs.folder import certificate_folder
from jobmaster.cli.arguments import Action, Start, Status, Stop, StreamOutput, Target, parse
from jobmaster.cli.presentation import as_block, as_json
from jobmaster.client import Jobs, RpcFailedError, connect
from jobmaster.errors import ConfigurationError, JobmasterError
from jobmaster.jobs.v1 import jobs_pb2 as pb

FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """The program."""
    target, action = parse(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_run(target, action))


def _run(target: Target, action: Action) -> int:
    try:
        trio.run(_act, target, action)
    except RpcFailedError as error:
        return _complain(f"{error.status.status_message or 'no details'} ({error.status.status_code.name})", FAILED)
    except ConfigurationError as error:
        return _complain(str(error), USAGE)
    except JobmasterError as error:
        return _complain(str(error), FAILED)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BaseExceptionGroup as group:  # the connection's nursery wraps what is no Exception
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        return INTERRUPTED
    return 0


def _complain(text: str, code: int) -> int:
    print(f"jobmaster: {text}", file=sys.stderr)
    return code


async def _act(target: Target, action: Action) -> None:
    folder = certificate_folder(target.certificates)
    async with connect(target.host, target.port, folder=folder, name=target.name) as jobs:
        match action:
            case Start(argv):
                print(await jobs.start(*argv))
            case Stop(job_id=job_id, as_json=wants_json):
                _show(await jobs.stop(job_id), wants_json=wants_json)
            case Status(job_id=job_id, as_json=wants_json):
                _show(await jobs.status(job_id), wants_json=wants_json)
            case StreamOutput(job_id):
                await _copy_output(jobs, job_id)
            case unreachable:
                assert_never(unreachable)


def _show(record: pb.JobResponse, *, wants_json: bool) -> None:
    print(as_json(record) if wants_json else as_block(record))


async def _copy_output(jobs: Jobs, job_id: str) -> None:
    """Copies a job's output to stdout as it comes. Writing blocks in a thread, so that a slow pipe is no stall."""
    async with jobs.stream_output(job_id) as chunks:
        async for chunk in chunks:
            await trio.to_thread.run_sync(_write_all, chunk)


def _write_all(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(sys.stdout.fileno(), view) :]
