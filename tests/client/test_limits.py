"""A client that asks for limits and other terms notices a server that has ignored them."""

from __future__ import annotations

from typing import Any

import pytest

from jobmaster.client import LimitsIgnored, RpcFailedError
from jobmaster.client.limits import asks_for_terms, ignored_limits, ignored_terms
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.client.scripted import LOST, NOT_FOUND, OK, Ends, Script

ID = pb.JobID(job_id="job")
LIMITS = pb.JobLimits(memory_max=2**20, swap_max=0, io=[pb.IoLimit(read_bps=2**24)])


def record(*values: str, requested: bool = True, state: pb.JobState = pb.JOBSTATE_RUNNING) -> pb.JobResponse:
    """A record with these limits."""
    limits = [pb.Limit(value=value, enforced=True, requested=requested) for value in values]
    return pb.JobResponse(job_id_response=ID, limits=limits, state=state)


ALL = ("memory.max 1048576", "memory.swap.max 0", "io.max 8:0 rbps=16777216 wbps=max riops=max wiops=max")


def methods(script: Script) -> list[str]:
    """What was called."""
    return [call.method for call in script.calls]


async def test_a_server_that_takes_them() -> None:
    """The record has all that was asked for, and the job goes on; a lost connection is survived."""
    script = Script([[ID, OK], [LOST], [record(*ALL, "pids.max 7"), OK]])
    assert await script.jobs().start("ls", limits=LIMITS) == "job"
    assert methods(script) == ["Start", "Status", "Status"]
    start = script.calls[0].request
    assert isinstance(start, pb.JobCreateRequest)
    assert start.limits == LIMITS


async def test_who_asks_for_none_asks_for_no_record() -> None:
    """A start without limits is one call, as ever."""
    script = Script([[ID, OK]])
    assert await script.jobs().start("ls") == "job"
    assert methods(script) == ["Start"]


@pytest.mark.parametrize(
    ("answer", "ignored"),
    [
        (record(), ("memory_max", "swap_max", "io")),
        (record(*ALL, requested=False), ("memory_max", "swap_max", "io")),
        (record(*ALL[:2]), ("io",)),
    ],
)
async def test_a_server_that_ignores_them(answer: pb.JobResponse, ignored: tuple[str, ...]) -> None:
    """The job is killed, and the caller told which job it was and what the server does not know."""
    script = Script([[ID, OK], [answer, OK], [record(), OK]])
    with pytest.raises(LimitsIgnored, match=", ".join(ignored)) as caught:
        await script.jobs().start("ls", limits=LIMITS)
    assert (caught.value.job_id, caught.value.names) == ("job", ignored)
    assert methods(script) == ["Start", "Status", "Stop"]
    stop = script.calls[2].request
    assert isinstance(stop, pb.JobIDRequest)
    assert stop.force


async def test_a_job_that_had_ended_already() -> None:
    """It is not stopped, and the caller told all the same."""
    ended = record(state=pb.JOBSTATE_COMPLETED)
    ended.ended.GetCurrentTime()
    script = Script([[ID, OK], [ended, OK]])
    with pytest.raises(LimitsIgnored):
        await script.jobs().start("ls", limits=LIMITS)
    assert methods(script) == ["Start", "Status"]


async def test_a_job_that_is_removed_already() -> None:
    """Nobody can tell any more, and there is nothing to stop; any other refusal is told."""
    script = Script([[ID, OK], [NOT_FOUND]])
    assert await script.jobs().start("ls", limits=LIMITS) == "job"
    script = Script([[ID, OK], [Ends("INTERNAL")]])
    with pytest.raises(RpcFailedError):
        await script.jobs().start("ls", limits=LIMITS)


def test_every_limit_has_its_name_in_a_record() -> None:
    """A limit that is added to the message is not taken for ignored because this client cannot find it in the record."""
    values = ["cpu.max 1", "memory.max 1", "memory.high 1", "memory.swap.max 1", "pids.max 1", "cpu.weight 1"]
    every = pb.JobLimits(
        cpu_millicores=1,
        memory_max=1,
        memory_high=1,
        swap_max=1,
        pids_max=1,
        cpu_weight=1,
        io_weight=1,
        io=[pb.IoLimit(read_bps=1)],
    )
    assert {field.name for field, _ in every.ListFields()} == {field.name for field in pb.JobLimits.DESCRIPTOR.fields}
    assert ignored_limits(every, record(*values, "io.weight default 1", "io.max 8:0")) == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_run_ms", 1),
        ("stop_signal", 2),
        ("grace_ms", 0),
        ("working_folder", "/tmp"),
        ("environment", {"A": ""}),
    ],
)
async def test_a_server_that_ignores_another_term(name: str, value: Any) -> None:
    """It is told as a limit is; a record that has it lets the job go on."""
    script = Script([[ID, OK], [record(), OK], [record(), OK]])
    with pytest.raises(LimitsIgnored, match=f"knows nothing of {name}: "):
        await script.jobs().start("ls", **{name: value})
    assert methods(script) == ["Start", "Status", "Stop"]
    taken = pb.JobResponse(cmd=pb.JobCreateRequest(**{name: value}))
    script = Script([[ID, OK], [taken, OK]])
    assert await script.jobs().start("ls", **{name: value}) == "job"
    assert methods(script) == ["Start", "Status"]


async def test_a_name_is_no_term() -> None:
    """Nothing of the job depends on what it is called, so that a start with a name alone is one call."""
    script = Script([[ID, OK]])
    assert await script.jobs().start("ls", name="n", labels={"a": "b"}) == "job"


def test_every_term_is_looked_for() -> None:
    """A field that is added to the message is a term, unless it is said here that it is none."""
    none = {"command", "args", "request_id", "stdin", "separate_streams", "output_max", "output_full", "secrets"}
    none |= {"terminal", "name", "labels"}
    later = {"warn_signal"}  # which comes with warn_before_ms alone
    fields = {field.name for field in pb.JobCreateRequest.DESCRIPTOR.fields} - none - later
    every = pb.JobCreateRequest(
        max_run_ms=2,
        warn_before_ms=1,
        stop_signal=2,
        grace_ms=0,
        working_folder="/",
        environment={"A": ""},
        limits=pb.JobLimits(pids_max=7),
    )
    assert asks_for_terms(every)
    assert {*ignored_terms(every, record()), "limits"} == fields | {"pids_max"}
