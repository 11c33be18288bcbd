"""Verbs that are a call or some, with a scripted server."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Final

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from jobmaster.cli.actions import Start
from jobmaster.cli.verbs import CommandFailed, remove_jobs, start_job
from jobmaster.errors import TransportError
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.client.scripted import LOST, NOT_FOUND, OK, UNAVAILABLE, Answer, Ends, Quiet, Script

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


@pytest.fixture
def interrupts() -> Iterator[None]:
    """What handles them is as before, in the end."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def request_of(script: Script) -> pb.JobCreateRequest:
    """The start that was asked for."""
    request = script.calls[0].request
    assert isinstance(request, pb.JobCreateRequest)
    return request


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("interrupts")
async def test_who_leaves_while_a_job_is_started(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """How the job is found is said; behind its start, its id is, which may not be printed any more."""
    statuses: list[int] = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    starting = Quiet(until=trio.Event())
    script = Script([[starting, pb.JobID(job_id="job"), OK]])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(start_job, script.jobs(), Start(("make",)))
        await wait_all_tasks_blocked(0.01)
        signal.raise_signal(number)
        starting.until.set()
    assert (
        f"left; whether the job was started is not known; `run -d --request-id {request_of(script).request_id} …`"
        in (capfd.readouterr().err)
    )
    signal.raise_signal(number)
    assert capfd.readouterr().err == "jobmaster: left; started the job job\n"
    assert statuses == [128 + number] * 2


@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize("answer", [UNAVAILABLE, LOST])
async def test_a_start_of_which_nobody_knows(answer: Ends | TransportError, autojump_clock: object) -> None:
    """What the server or the connection says of a start that may have gone well comes with how the job is found."""
    script = Script([[answer]] * 1000)
    with pytest.raises(CommandFailed) as caught:
        await start_job(script.jobs(), Start(("make",)))
    assert f"`run -d --request-id {request_of(script).request_id} …` finds it" in str(caught.value)
