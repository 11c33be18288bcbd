"""What a call is about, read from its messages for the audit: the job, the command, whether its beginning is written too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jobmaster.api.health import HEALTH
from jobmaster.api.messages import secrets_of
from jobmaster.errors import InvalidRequest
from jobmaster.job.secret import MASK, check_secrets, masked_words, values_of
from jobmaster.jobs.v1 import jobs_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.message import Message

_JOBS: Final = pb.DESCRIPTOR.services_by_name["JobService"]
START: Final = f"{_JOBS.full_name}/Start"
"""The method that has to wait until its beginning is written."""
_READS: Final = frozenset({"Status", "List", "ServerInfo"})
"""Methods that change nothing and are answered at once."""
BEGUN: Final = frozenset(
    {
        f"{HEALTH}/Watch",
        *(f"{_JOBS.full_name}/{method.name}" for method in _JOBS.methods if method.name not in _READS),
    }
)
"""The methods whose beginning has an entry of its own, for they change something or last."""
_FIELDS_OF_JOB: Final = {
    kind.full_name: field.name
    for kind in pb.DESCRIPTOR.message_types_by_name.values()
    for field in kind.fields
    if field.message_type is not None and field.message_type.full_name == pb.JobID.DESCRIPTOR.full_name
}
"""The field of each message that names a job."""
MAX_JOB_ID: Final = 64
"""Characters of what a caller calls a job's id, which has 27."""


def job_of(message: Message) -> str | None:
    """The job that a request or an answer names; None where it names none."""
    if isinstance(message, pb.JobID):
        return message.job_id[:MAX_JOB_ID] or None
    if isinstance(message, pb.AttachRequest):
        return job_of(message.start)
    field = _FIELDS_OF_JOB.get(message.DESCRIPTOR.full_name)
    return None if field is None else job_of(getattr(message, field))


def command_of(message: Message) -> tuple[str, ...] | None:
    """The words of the command that a request wants to be run, without its secrets; None where it wants none.

    Where the secrets are not in the command, each word may be one.
    """
    if not isinstance(message, pb.JobCreateRequest):
        return None
    words, secrets = (message.command, *message.args), secrets_of(message)
    try:
        check_secrets(words, secrets)
    except InvalidRequest:
        return (MASK,) * len(words)
    return masked_words(words, secrets) if secrets else words


def secret_values_of(message: Message) -> frozenset[bytes]:
    """What of a request's command its caller wants nobody to read."""
    if not isinstance(message, pb.JobCreateRequest) or not message.secrets:
        return frozenset()
    words, secrets = (message.command, *message.args), secrets_of(message)
    try:
        check_secrets(words, secrets)
    except InvalidRequest:
        return frozenset(word.encode() for word in words)
    return values_of(words, secrets)
