"""Bounds on the requests of JobService, checked on their bytes before these become objects."""

from __future__ import annotations

from typing import Final

from jobmaster.errors import InvalidRequest
from jobmaster.grpc.methods import count_fields

MAX_START: Final = 2 * 1024 * 1024
"""Bytes of a Start: what a command line may have in all (Linux: a quarter of the stack's limit, 2 MiB by default)."""
MAX_ARGUMENTS: Final = 65_536
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
    if len(serialized) > MAX_START:
        text = (
            f"more arguments than the kernel takes: {len(serialized)} bytes, at most {MAX_START}; pass a file instead"
        )
        raise InvalidRequest(text, field="args")
    count = count_fields(serialized, MAX_ARGUMENTS + 1)
    if count > MAX_ARGUMENTS + 1:
        raise InvalidRequest(f"more than {MAX_ARGUMENTS} arguments; pass a file instead", field="args")
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
