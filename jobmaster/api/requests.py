"""Bounds on the requests of JobService, checked on their bytes before these become objects."""

from __future__ import annotations

from typing import Final

from jobmaster.errors import InvalidRequest
from jobmaster.grpc.methods import count_fields
from jobmaster.job.specification import (
    MAX_ARGUMENT_BYTES,
    MAX_ARGUMENTS,
    too_long_arguments,
    too_many_arguments,
)

MAX_JOB_ID_REQUEST: Final = 1024
"""Bytes of a request that names a job, whose id has 27 characters; a follower holds its own as long as it follows."""
_OBJECT_BYTES: Final = 64
"""What an argument costs beside its characters."""


def check_start(serialized: bytes) -> int:
    """What a Start holds in memory, in bytes.

    Raises:
        InvalidRequest: its command and arguments are too many or too long.
        DecodeError: it is no message.
    """
    if len(serialized) > MAX_ARGUMENT_BYTES:
        raise too_long_arguments()
    count = count_fields(serialized, MAX_ARGUMENTS + 1)
    if count > MAX_ARGUMENTS + 1:
        raise too_many_arguments()
    return len(serialized) + _OBJECT_BYTES * count


def check_job_id(serialized: bytes) -> int:
    """What a request that names a job holds in memory, in bytes.

    Raises:
        InvalidRequest: it is longer than any such request.
    """
    if len(serialized) > MAX_JOB_ID_REQUEST:
        text = f"the request has more than {MAX_JOB_ID_REQUEST} bytes; name a job by its id"
        raise InvalidRequest(text, field="jobIDRequest")
    return len(serialized)
