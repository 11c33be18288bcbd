"""Verbs that are a call or some, with a scripted server."""

from __future__ import annotations

import re
from typing import Final

import pytest
import trio.testing

from jobmaster.cli.actions import Run, Start
from jobmaster.cli.running import Runner
from jobmaster.cli.verbs import CommandFailed, remove_jobs, start_job
from jobmaster.client import RpcFailedError
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.client.scripted import LOST, NOT_FOUND, OK, UNAVAILABLE, Answer, Ends, Script

DONE: Final[Answer] = [pb.RemoveResponse(), OK]


@pytest.mark.parametrize("answer", [LOST, [UNAVAILABLE]], ids=["lost", "unavailable"])
async def test_a_start_of_which_nobody_knows(answer: Answer, autojump_clock: trio.testing.MockClock) -> None:
    """Where no server answers to the end, what is to be done to find the job, or to start it after all, is said."""
    script = Script([answer] * 1000)
    with pytest.raises(CommandFailed) as raised:
        await start_job(script.jobs(), Start(argv=("make",)))
    told = re.search("is not known; `run -d --request-id ([^ ]+) ", str(raised.value))
    assert told is not None
    again = Script([[pb.JobID(job_id="job"), OK]])
    await Runner(again.jobs(), Run(argv=("make",), detach=True, request_id=told[1])).run()
    assert all(call.request == again.calls[0].request for call in script.calls)


async def test_a_start_that_is_refused() -> None:
    """It is known then that there is no job."""
    with pytest.raises(RpcFailedError):
        await start_job(Script([[Ends("FAILED_PRECONDITION", "no cpu controller")]]).jobs(), Start(argv=("make",)))


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
