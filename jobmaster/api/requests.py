"""Bounds on the requests of JobService, checked on their bytes before these become objects."""

from __future__ import annotations

from typing import Final

from jobmaster.errors import InvalidRequest
from jobmaster.grpc.methods import count_fields
from jobmaster.job.environment import MOST_FOLDER_BYTES, MOST_VARIABLES
from jobmaster.job.labels import MOST_BYTES as MOST_LABEL_BYTES
from jobmaster.job.labels import MOST_LABELS, MOST_NAME
from jobmaster.job.limits import MOST_DEVICES
from jobmaster.job.secret import MAX_SECRETS
from jobmaster.job.specification import (
    MAX_ARGUMENT_BYTES,
    MAX_ARGUMENTS,
    too_long_arguments,
    too_many_arguments,
)
from jobmaster.jobs.v1 import jobs_pb2 as pb

MAX_JOB_ID_REQUEST: Final = 1024
"""Bytes of a request that names a job, whose id has 27 characters; a follower holds its own as long as it follows."""
MAX_QUERY: Final = 4096
"""Bytes of a request for a list of jobs or their events: room for some labels. A watcher holds its own as long as it watches."""
MAX_REASON: Final = 200
"""Characters of a stop's reason, which the job's record keeps."""
MAX_SIGNAL: Final = 64
"""The greatest number of a signal (signal(7): SIGRTMAX)."""
MAX_ATTACH_REQUEST: Final = 128 * 1024 + 1024
"""Bytes of a message with input: twice as much as is taken at a time for a job that does not read."""
MAX_WRITER: Final = 64
"""Characters of a writer's name."""
LIMIT_BYTES: Final = 128 + 128 * MOST_DEVICES
"""More than limits may have: 7 numbers, and for each device its own with 4 rates. An object may be made of 2 of them."""
_LIMITS_FIELD: Final = pb.JobCreateRequest.LIMITS_FIELD_NUMBER
OTHER_BYTES: Final = (
    512
    + 4 * MOST_NAME
    + 20 * MAX_SECRETS
    + MOST_LABEL_BYTES
    + 16 * MOST_LABELS
    + MOST_FOLDER_BYTES
    + 16 * MOST_VARIABLES
    + LIMIT_BYTES
)
"""Bytes of a Start that are not its command: more than a request id, the options, the places of secrets, the labels, the limits
and the working folder may have."""
OTHER_FIELDS: Final = 15 + MAX_SECRETS + MOST_LABELS + MOST_VARIABLES
"""Fields of a Start that are no arguments."""
_OBJECT_BYTES: Final = 64
"""What an argument costs beside its characters."""


def check_start(serialized: bytes) -> int:
    """What a Start holds in memory, in bytes.

    Raises:
        InvalidRequest: its command and arguments are too many or too long, or its limits are too many.
        DecodeError: it is no message.
    """
    if len(serialized) > MAX_ARGUMENT_BYTES + OTHER_BYTES:
        raise too_long_arguments()
    count, of_limits = count_fields(serialized, MAX_ARGUMENTS + OTHER_FIELDS, _LIMITS_FIELD)
    if count > MAX_ARGUMENTS + OTHER_FIELDS:
        raise too_many_arguments()
    if of_limits > LIMIT_BYTES:
        raise InvalidRequest(f"limits for more than {MOST_DEVICES} devices", field="limits.io")
    return len(serialized) + _OBJECT_BYTES * count


def check_job_id(serialized: bytes) -> int:
    """What a request that names a job holds in memory, in bytes.

    Raises:
        InvalidRequest: it is longer than any such request.
    """
    if len(serialized) > MAX_JOB_ID_REQUEST:
        text = f"the request has more than {MAX_JOB_ID_REQUEST} bytes; name a job by its id, and a reason in {MAX_REASON} characters"
        raise InvalidRequest(text, field="jobIDRequest")
    return len(serialized)


def check_attach(serialized: bytes) -> int:
    """What a message of an attached client holds in memory, in bytes.

    Raises:
        InvalidRequest: it is longer than any such message.
    """
    if len(serialized) > MAX_ATTACH_REQUEST:
        raise InvalidRequest(f"a message with more than {MAX_ATTACH_REQUEST} bytes: send input in smaller pieces")
    return 2 * len(serialized)


def check_follow(serialized: bytes) -> int:
    """What a request for a part of an output holds in memory, in bytes.

    Raises:
        InvalidRequest: it is longer than any such request.
    """
    if len(serialized) > MAX_JOB_ID_REQUEST:
        raise InvalidRequest(
            f"the request has more than {MAX_JOB_ID_REQUEST} bytes; name a job by its id", field="jobID"
        )
    return len(serialized)


def check_signal(serialized: bytes) -> int:
    """What a request for a signal holds in memory, in bytes.

    Raises:
        InvalidRequest: it is longer than any such request.
    """
    return check_follow(serialized)


def check_query(serialized: bytes) -> int:
    """What a request for a list of jobs or their events holds in memory, in bytes.

    Raises:
        InvalidRequest: it is longer than any such request.
    """
    if len(serialized) > MAX_QUERY:
        raise InvalidRequest(
            f"the request has more than {MAX_QUERY} bytes; name each state and cause once, and few labels"
        )
    return _OBJECT_BYTES * len(serialized)


def checked_reason(reason: str) -> str:
    """A stop's reason.

    Raises:
        InvalidRequest: it is too long.
    """
    if len(reason) > MAX_REASON:
        raise InvalidRequest(f"reason has more than {MAX_REASON} characters: shorten it", field="reason")
    return reason


def checked_signal(number: int) -> int:
    """A signal's number.

    Raises:
        InvalidRequest: no signal has it.
    """
    if not 1 <= number <= MAX_SIGNAL:
        raise InvalidRequest(f"no signal has the number {number}: give one from 1 to {MAX_SIGNAL}", field="signal")
    return number
