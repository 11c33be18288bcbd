"""The exit statuses of the program; those of a job's end are as shells and `docker run` have them. Pure."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from jobmaster.jobs.v1 import jobs_pb2 as pb

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
TIMED_OUT: Final = 124
"""As of timeout(1), whatever the process made of the signal."""
OURS: Final = 125
"""Of a verb whose exit status is a job's: the client or the server failed, or nobody knows how the job ended."""
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
OF_SIGNAL: Final = 128
"""And the signal's number: it ended the job."""

REASONS: Final = {"COMMAND_NOT_FOUND": NOT_FOUND, "COMMAND_NOT_RUNNABLE": NOT_EXECUTABLE}
"""By the reason of an error of Start."""


def exit_status(record: pb.JobResponse) -> int:
    """The exit status for a job that ended so."""
    cause = record.cause
    match cause.WhichOneof("kind"):
        case "exited":
            return cause.exited.code
        case "signalled":
            return OF_SIGNAL + cause.signalled.signal
        case "stopped":
            return cause.stopped.exit_code if cause.stopped.returned else OF_SIGNAL + cause.stopped.signal
        case "oom_killed":
            return OF_SIGNAL + signal.SIGKILL
        case "server_shutdown":
            shutdown = cause.server_shutdown
            return shutdown.exit_code if shutdown.returned else OF_SIGNAL + shutdown.signal
        case "output_capped":
            return OF_SIGNAL + cause.output_capped.signal
        case "timed_out":
            return TIMED_OUT
        case "failed_to_start" | "server_lost":
            return OURS
        case _:
            return _status_without_cause(record)


def _status_without_cause(record: pb.JobResponse) -> int:
    """For a server that tells no cause, or one that this client does not know."""
    for number in signal.valid_signals():
        if record.signal_str and (signal.strsignal(number) or "").lower() == record.signal_str:
            return OF_SIGNAL + number
    return record.exit_code if record.exit_code in range(256) else OURS


def ended_by_itself(record: pb.JobResponse) -> bool:
    """Whether the exit status says all there is to say of the job's end."""
    return bool(record.cause.WhichOneof("kind") == "exited")
