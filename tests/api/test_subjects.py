"""What the audit is told of a call's messages."""

from __future__ import annotations

from typing import Any

import pytest

from jobmaster.api.subjects import BEGUN, MAX_JOB_ID, START, command_of, job_of, secrets_of
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
    """A Start has one, with all its words; nothing of it can be said to be secret yet."""
    message = pb.JobCreateRequest(command="sh", args=["-c", "x"])
    assert command_of(message) == ("sh", "-c", "x")
    assert command_of(ID) is None
    assert secrets_of(message) == frozenset()


def test_what_has_a_beginning() -> None:
    """Every method of JobService but those that only look, and at once."""
    methods = {f"{SERVICE}/{method.name}" for method in pb.DESCRIPTOR.services_by_name["JobService"].methods}
    assert methods - BEGUN == {f"{SERVICE}/Status", f"{SERVICE}/List"}
    assert BEGUN - methods == {"grpc.health.v1.Health/Watch"}
    assert START in BEGUN
