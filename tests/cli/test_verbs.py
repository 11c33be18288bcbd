"""Verbs that are a call or some, with a scripted server."""

from __future__ import annotations

from typing import Final

import pytest

from jobmaster.cli.verbs import remove_jobs
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.client.scripted import NOT_FOUND, OK, Answer, Ends, Script

DONE: Final[Answer] = [pb.RemoveResponse(), OK]


async def test_jobs_are_removed(capfd: pytest.CaptureFixture[str]) -> None:
    """Where all can be removed, nothing is said."""
    script = Script([DONE, DONE])
    assert await remove_jobs(script.jobs(), ["one", "two"]) == 0
    assert [call.request for call in script.calls] == [
        pb.JobIDRequest(job_id_request=pb.JobID(job_id=job_id)) for job_id in ("one", "two")
    ]
    assert capfd.readouterr() == ("", "")


async def test_jobs_that_cannot_be_removed(capfd: pytest.CaptureFixture[str]) -> None:
    """Each is named with the reason, the others are removed, and the exit status is 1."""
    script = Script([[NOT_FOUND], DONE, [Ends("FAILED_PRECONDITION", "stop it first")], DONE])
    assert await remove_jobs(script.jobs(), ["one", "two", "three", "four"]) == 1
    assert len(script.calls) == 4
    assert capfd.readouterr() == (
        "",
        "jobmaster: one: no such job (NOT_FOUND)\njobmaster: three: stop it first (FAILED_PRECONDITION)\n",
    )
