"""What the audit is told of a call's messages."""

from __future__ import annotations

from typing import Any

import pytest

from jobmaster.api.subjects import BEGUN, MAX_JOB_ID, START, command_of, job_of, secret_values_of
from jobmaster.job.secret import MASK
from jobmaster.jobs.v1 import jobs_pb2 as pb

SERVICE = "jobmaster.jobs.v1.JobService"
ID = pb.JobID(job_id="J")


@pytest.mark.parametrize(
    ("message", "job"),
    [
        (ID, "J"),
        (pb.JobIDRequest(job_id_request=ID), "J"),
        (pb.JobIDRequest(), None),
        (pb.JobResponse(job_id_response=ID), "J"),
        (pb.JobEventMessage(job_id=ID), "J"),
        (pb.AttachRequest(start=pb.AttachStart(job_id=ID)), "J"),
        (pb.AttachRequest(input=pb.AttachInput(data=b"typed")), None),
        (pb.JobCreateRequest(command="ls"), None),
        (pb.ListRequest(client="client1"), None),
        (pb.JobID(job_id="x" * 1000), "x" * MAX_JOB_ID),
    ],
)
def test_jobs(message: Any, job: str | None) -> None:
    """A message names a job or none, in no more characters than there is reason for."""
    assert job_of(message) == job


def test_commands() -> None:
    """A Start has one, with all its words but for what is secret."""
    message = pb.JobCreateRequest(command="sh", args=["-c", "x"])
    assert command_of(message) == ("sh", "-c", "x")
    assert command_of(ID) is None
    assert secret_values_of(message) == secret_values_of(ID) == frozenset()
    message.secrets.add(word=2, end=1)
    assert command_of(message) == ("sh", "-c", MASK)
    assert secret_values_of(message) == {b"x"}


def test_secrets_that_are_nowhere() -> None:
    """A Start that names places which it does not have, and which is refused, may mean any of its words."""
    message = pb.JobCreateRequest(command="sh", args=["-c", "x"], secrets=[pb.SecretRange(word=2, end=9)])
    assert command_of(message) == (MASK, MASK, MASK)
    assert secret_values_of(message) == {b"sh", b"-c", b"x"}


def test_what_has_a_beginning() -> None:
    """Every method of JobService but those that only look, and at once."""
    methods = {f"{SERVICE}/{method.name}" for method in pb.DESCRIPTOR.services_by_name["JobService"].methods}
    assert methods - BEGUN == {f"{SERVICE}/{name}" for name in ("Status", "List", "ServerInfo")}
    assert BEGUN - methods == {"grpc.health.v1.Health/Watch"}
    assert START in BEGUN
