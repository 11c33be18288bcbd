"""`run` with a scripted server: what it writes, what it says, and how it exits."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any, Final

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from jobmaster.api.statuses import status_of
from jobmaster.cli import descriptors
from jobmaster.cli.actions import Limits, Output, Run, Terms
from jobmaster.cli.running import Runner
from jobmaster.errors import CommandNotFound, CommandNotRunnable, JobmasterError, LimitNotEnforceable, ServerBusy
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.cli.test_descriptors import stopped_reader
from tests.client.scripted import LOST, OK, UNAVAILABLE, Answer, Ends, Part, Quiet, Script

ID: Final = pb.JobID(job_id="job")
START: Final[Answer] = [ID, OK]
Cause = pb.Cause
RUN: Final = Run(argv=("make", "-j"))


def ended(cause: pb.Cause, words: str = "why") -> list[Part]:
    """What a server says of a job that has ended."""
    return [pb.JobResponse(job_id_response=ID, cause=cause, job_msg=words), OK]


SHUT_DOWN: Final = ended(Cause(server_shutdown=Cause.ServerShutdown(signal=15)), "ended by the server")
RETURNED: Final[Answer] = ended(Cause(exited=Cause.Exited(code=3)))


async def run(script: Script, action: Run = RUN) -> tuple[int, str]:
    """Runs it."""
    return await Runner(script.jobs(), action).run()


def methods(script: Script) -> list[str]:
    """What was called."""
    return [call.method for call in script.calls]


async def test_the_output_and_the_status(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """The job's output is written as it is, nothing else is, and the exit status is the job's."""
    script = Script([START, [b"one\xff", b"two\n", OK]], waits=[RETURNED])
    assert await run(script) == (3, "")
    assert capfdbinary.readouterr() == (b"one\xfftwo\n", b"")
    assert sorted(methods(script)) == ["FollowOutput", "Start", "Wait"]
    start = script.calls[0].request
    assert isinstance(start, pb.JobCreateRequest)
    assert (start.command, list(start.args)) == ("make", ["-j"])
    assert (start.output_max, start.output_full) == (0, pb.OUTPUTFULL_UNSPECIFIED)


async def test_the_bound_on_the_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """What is kept of the output, and what happens when there is more, is asked for in the start."""
    script = Script([START])
    action = Run(argv=("make",), detach=True, output=Output(most=1024 * 1024, full="end"))
    assert await run(script, action) == (0, "job\n")
    (call,) = script.calls
    assert isinstance(call.request, pb.JobCreateRequest)
    assert (call.request.output_max, call.request.output_full) == (1024 * 1024, pb.OUTPUTFULL_END_JOB)


async def test_the_terms_of_a_job(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """They are asked for in the start; what is not said is left to the server."""
    taken = pb.JobResponse(cmd=pb.JobCreateRequest(max_run_ms=9_000, warn_before_ms=2_000, stop_signal=2, grace_ms=0))
    script = Script([START, [taken, OK], START])
    terms = Terms(
        max_run_ms=9_000,
        warn_before_ms=2_000,
        warn_signal=12,
        stop_signal=2,
        grace_ms=0,
        name="n",
        labels=(("a", "1"),),
    )
    for each in (terms, Terms()):
        assert await run(script, Run(argv=("make",), detach=True, terms=each)) == (0, "job\n")
    told, untold = (call.request for call in script.calls if call.method == "Start")
    assert isinstance(told, pb.JobCreateRequest)
    assert (told.max_run_ms, told.warn_before_ms, told.warn_signal) == (9_000, 2_000, 12)
    assert (told.stop_signal, told.HasField("grace_ms"), told.grace_ms) == (2, True, 0)
    assert (told.name, dict(told.labels)) == ("n", {"a": "1"})
    assert isinstance(untold, pb.JobCreateRequest)
    assert {field.name for field, _ in untold.ListFields()} == {"command", "request_id"}


async def test_over_a_server_that_is_replaced(
    autojump_clock: trio.testing.MockClock, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """A server that dies at any moment of it changes neither output nor status, and starts no second job."""
    script = Script(
        [[LOST], START, [b"one", LOST], LOST, [b"one", b"two", UNAVAILABLE], [b"onetwo", OK]],
        waits=[[LOST], LOST, RETURNED],
    )
    assert await run(script) == (3, "")
    assert capfdbinary.readouterr() == (b"onetwo", b"")
    starts = [call.request for call in script.calls if call.method == "Start"]
    assert len({start.request_id for start in starts if isinstance(start, pb.JobCreateRequest)}) == 1


async def test_a_server_that_ends_with_the_job(
    autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str]
) -> None:
    """The end is asked for while the job runs: when the output has ended, there may be no server to answer."""
    output, end = Quiet(until=trio.Event()), Quiet(until=trio.Event())
    script = Script([START, [output, b"bye", OK]], waits=[[end, *SHUT_DOWN]])
    async with trio.open_nursery() as nursery:

        async def end_both() -> None:
            await trio.sleep(60)
            script.waits = [LOST] * 1000  # for who asks from now on
            output.until.set()
            end.until.set()

        nursery.start_soon(end_both)
        assert await run(script) == (143, "")
    assert capfd.readouterr() == ("bye", "jobmaster: job job: ended by the server\n")


@pytest.mark.parametrize(
    ("cause", "status"),
    [
        (Cause(signalled=Cause.Signalled(signal=11)), 139),
        (Cause(oom_killed=Cause.OomKilled()), 137),
        (Cause(server_lost=Cause.ServerLost(reason="x")), 125),
    ],
    ids=str,
)
async def test_an_end_that_a_status_does_not_tell(
    cause: pb.Cause, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """How a job ended that did not return is said on standard error."""
    assert await run(Script([START, [OK]], waits=[ended(cause, "the reason")])) == (status, "")
    assert capfd.readouterr() == ("", "jobmaster: job job: the reason\n")


@pytest.mark.parametrize(
    ("count", "said"),
    [(1, "1 process of the job was"), (2, "2 processes of the job were")],
)
async def test_a_job_that_returned_though_children_were_killed(
    count: int, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """That the kernel has killed processes of a job for memory is said, also where the job returned 0."""
    record = pb.JobResponse(job_id_response=ID, cause=Cause(exited=Cause.Exited(code=0)), oom_kills=count)
    assert await run(Script([START, [OK]], waits=[[record, OK]])) == (0, "")
    assert capfd.readouterr() == ("", f"jobmaster: {said} killed by the kernel for memory\n")


def refused(error: JobmasterError) -> Sequence[Part]:
    """The end of a call by an error of a server."""
    status = status_of(error)
    return [Ends(status.status_code.name, str(error), details=status.details)]


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CommandNotFound("no make"), 127),
        (CommandNotRunnable("make is a folder"), 126),
        (LimitNotEnforceable("no cpu controller"), 125),
        (ServerBusy("too many jobs"), 125),
    ],
    ids=["not found", "not executable", "limit", "busy"],
)
async def test_a_command_that_cannot_be_run(
    error: JobmasterError, status: int, detach: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """As in a shell: 127 where there is no such command, 126 where it cannot be executed; 125 for all else."""
    script = Script([refused(error)])
    assert await run(script, Run(argv=("make",), detach=detach)) == (status, "")
    assert str(error) in capfd.readouterr().err


@pytest.mark.parametrize("answer", [LOST, [UNAVAILABLE]], ids=["lost", "unavailable"])
async def test_a_start_of_which_nobody_knows(
    answer: Answer, autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where no server answers to the end, what is to be done to find the job, or to start it after all, is said."""
    script = Script([answer] * 1000)
    assert await run(script, Run(argv=("make",), request_id="nightly")) == (125, "")
    assert "whether the job was started is not known; `run --request-id nightly" in capfd.readouterr().err


@pytest.mark.parametrize(
    "parts",
    [[b"x", LOST, [Ends("NOT_FOUND", "no such job")]], [b"x", LOST]],
    ids=["forgotten", "lost server"],
)
async def test_output_that_does_not_come_to_its_end(
    parts: list[Any], autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where nobody tells any more what the job does, that is a failure; the job's id is said."""
    later: list[Answer] = [parts.pop()] if isinstance(parts[-1], list) else [LOST] * 1000
    assert await run(Script([START, parts, *later], waits=[[LOST]] * 1000)) == (125, "")
    captured = capfd.readouterr()
    assert captured.out == "x"
    assert "what the job job does is not known here" in captured.err


async def test_output_that_was_not_kept(capfd: pytest.CaptureFixture[str]) -> None:
    """What is missing of the output is said; the exit status is the job's all the same."""
    script = Script([START, [b"x", Ends("DATA_LOSS", "the disk was full")]], waits=[RETURNED])
    assert await run(script) == (3, "")
    assert capfd.readouterr() == ("x", "jobmaster: the disk was full (DATA_LOSS)\n")


async def test_detached() -> None:
    """The id is what is to be printed, and nothing is followed."""
    script = Script([START])
    assert await run(script, Run(argv=("make",), detach=True, request_id="nightly")) == (0, "job\n")
    start = script.calls[0].request
    assert isinstance(start, pb.JobCreateRequest)
    assert start.request_id == "nightly"


async def test_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is told where the command has the values of the variables that were named, and not the values."""
    monkeypatch.setenv("TOKEN", "hunter2")
    monkeypatch.setenv("OTHER", "nowhere")
    script = Script([START])
    action = Run(argv=("curl", "-u", "me:hunter2"), detach=True, secret_env=("TOKEN", "OTHER"))
    assert await run(script, action) == (0, "job\n")
    start = script.calls[0].request
    assert isinstance(start, pb.JobCreateRequest)
    assert list(start.secrets) == [pb.SecretRange(word=2, start=3, end=10)]


async def test_variables_of_a_job(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A job gets those that are said, and those that are named as they are here; one that is not here starts nothing."""
    monkeypatch.setenv("TOKEN", "hunter2")
    monkeypatch.setenv("WRONG", "hunter3\udcff")
    monkeypatch.delenv("GONE", raising=False)
    taken = pb.JobCreateRequest(environment={"TOKEN": "***", "A": "***"}, working_folder="/srv")
    script = Script([START, [pb.JobResponse(cmd=taken), OK]])
    terms = Terms(environment=(("TOKEN", None), ("A", "1")), working_folder="/srv")
    assert await run(script, Run(argv=("make",), detach=True, terms=terms)) == (0, "job\n")
    start = script.calls[0].request
    assert isinstance(start, pb.JobCreateRequest)
    assert (dict(start.environment), start.working_folder) == ({"TOKEN": "hunter2", "A": "1"}, "/srv")
    for name, words in (("GONE", "there is no such environment variable here"), ("WRONG", "its value is not UTF-8")):
        script = Script([])
        assert await run(script, Run(argv=("make",), terms=Terms(environment=((name, None),)))) == (125, "")
        told = capfd.readouterr().err
        assert f"-e {name}: {words}" in told
        assert "hunter" not in told
        assert script.calls == []


@pytest.mark.parametrize("value", [None, ""])
async def test_a_secret_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], value: str | None
) -> None:
    """A variable that is missing or empty starts nothing: what was meant to be hidden would not be."""
    monkeypatch.delenv("TOKEN", raising=False)
    if value is not None:
        monkeypatch.setenv("TOKEN", value)
    script = Script([])
    assert await run(script, Run(argv=("make",), secret_env=("TOKEN",))) == (125, "")
    assert "--secret-env TOKEN: there is no such environment variable, or it is empty" in capfd.readouterr().err
    assert script.calls == []


async def test_a_secret_that_is_no_text(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A variable whose value is not UTF-8 starts nothing, is named, and its value is not shown."""
    monkeypatch.setenv("TOKEN", "hunter2\udcff")
    script = Script([])
    assert await run(script, Run(argv=("make",), secret_env=("TOKEN",))) == (125, "")
    told = capfd.readouterr().err
    assert "--secret-env TOKEN: its value is not UTF-8" in told
    assert "hunter2" not in told
    assert script.calls == []


# --- interruptions ----------------------------------------------------------------------------------------------------


def stop(*, force: bool, name: str) -> pb.JobIDRequest:
    """The stop that an interruption is."""
    return pb.JobIDRequest(job_id_request=ID, reason=f"{name} at the client", force=force)


def stops(script: Script) -> list[Any]:
    """The stops that the server was asked for."""
    return [call.request for call in script.calls if call.method == "Stop"]


STOPPED: Final[list[Part]] = ended(Cause(stopped=Cause.Stopped(by="client1", signal=15)), "stopped by client1")
KILLED: Final[list[Part]] = ended(Cause(stopped=Cause.Stopped(by="client1", signal=9, killed=True)), "killed")


async def interrupted(script: Script, *numbers: signal.Signals) -> int:
    """Runs it, and is interrupted each time it has come to wait; the script goes on when it has been."""
    status = -1
    async with trio.open_nursery() as nursery:

        async def run_it() -> None:
            nonlocal status
            status, _ = await run(script)

        nursery.start_soon(run_it)
        for number in numbers:
            await wait_all_tasks_blocked(0.01)
            signal.raise_signal(number)
    return status


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_first_interruption_asks(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C and SIGTERM ask the job to stop; what it still writes is shown, and its end is the exit status."""
    output = Quiet(until=trio.Event())
    script = Script([START, [output, b"bye", OK], STOPPED], waits=[STOPPED], on_call={"Stop": output.until.set})
    assert await interrupted(script, number) == 143
    captured = capfd.readouterr()
    assert captured.out == "bye"
    assert "stopping the job job; once more to kill it" in captured.err
    assert stops(script) == [stop(force=False, name=number.name)]


async def test_an_interruption_that_nobody_reads_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job is stopped also where whoever reads standard error has stopped reading."""
    monkeypatch.setattr(descriptors, "COMPLAIN_SECONDS", 0.01)
    output = Quiet(until=trio.Event())
    script = Script([START, [output, OK], STOPPED], waits=[STOPPED], on_call={"Stop": output.until.set})
    with stopped_reader():
        assert await interrupted(script, signal.SIGINT) == 143
    assert stops(script) == [stop(force=False, name="SIGINT")]


async def test_the_second_one_kills(capfd: pytest.CaptureFixture[str]) -> None:
    """The job has no grace period any more; that it was killed is the exit status."""
    output = Quiet(until=trio.Event())
    first = Quiet(until=trio.Event())

    def end() -> None:
        if len(stops(script)) == 2:
            output.until.set()

    script = Script([START, [output, OK], [first, *KILLED], KILLED], waits=[KILLED], on_call={"Stop": end})
    assert await interrupted(script, signal.SIGINT, signal.SIGTERM) == 137
    assert stops(script) == [
        stop(force=False, name="SIGINT"),
        stop(force=True, name="SIGTERM"),
    ]
    assert "killing the job job; once more to leave it" in capfd.readouterr().err


async def test_an_interruption_before_the_start(capfd: pytest.CaptureFixture[str]) -> None:
    """What comes while the job is being started stops it as soon as it has."""
    starting = Quiet(until=trio.Event())
    output = Quiet(until=trio.Event())
    script = Script([[starting, ID, OK], [output, OK], STOPPED], waits=[STOPPED], on_call={"Stop": output.until.set})
    async with trio.open_nursery() as nursery:

        async def go_on() -> None:
            await wait_all_tasks_blocked(0.1)
            starting.until.set()

        nursery.start_soon(go_on)
        assert await interrupted(script, signal.SIGINT) == 143
    assert "the job will be stopped when it has started" in capfd.readouterr().err
    assert stops(script) == [stop(force=False, name="SIGINT")]


def test_who_leaves_before_the_start(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Whether the job was started nobody knows then: how it is found is said."""
    statuses: list[int] = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    Runner(Script([]).jobs(), Run(argv=("make",), request_id="nightly"))._leave(signal.SIGINT)
    assert statuses == [130]
    assert "`run --request-id nightly …` finds it" in capfd.readouterr().err


async def test_who_leaves_after_the_start(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """How the job has ended is said, or that nobody knows here; what it does is not made up."""
    statuses: list[int] = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    runner = Runner(Script([START]).jobs(), Run(argv=("make",)))
    await runner._start()
    runner._started.set()
    runner._leave(signal.SIGINT)
    assert "left; whether the job job has ended is not known here: `status job` tells" in capfd.readouterr().err
    runner._job_end.record = pb.JobResponse(job_msg="killed by client1")
    runner._leave(signal.SIGINT)
    assert "left; job job: killed by client1" in capfd.readouterr().err
    assert statuses == [130, 130]


async def test_a_stop_that_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    """An order that did not reach the job is said, and the job is followed to its end all the same."""
    output = Quiet(until=trio.Event())
    script = Script(
        [START, [output, OK], [Ends("PERMISSION_DENIED", "no")]],
        waits=[RETURNED],
        on_call={"Stop": output.until.set},
    )
    assert await interrupted(script, signal.SIGINT) == 3
    assert "the job job was not stopped: no" in capfd.readouterr().err


async def test_what_was_ignored_stays_ignored() -> None:
    """Under a parent that has SIGINT ignored, it does nothing."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        output = Quiet(until=trio.Event())
        script = Script([START, [output, OK]], waits=[RETURNED])
        async with trio.open_nursery() as nursery:

            async def go_on() -> None:
                await wait_all_tasks_blocked(0.1)
                output.until.set()

            nursery.start_soon(go_on)
            assert await interrupted(script, signal.SIGINT) == 3
        assert "Stop" not in methods(script)
    finally:
        signal.signal(signal.SIGINT, before)


async def test_a_server_that_ignores_limits(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """The job is stopped, which is told; the exit status is that of a server that failed."""
    script = Script([START, [pb.JobResponse(job_id_response=ID), OK], [pb.JobResponse(job_id_response=ID), OK]])
    assert await run(script, Run(argv=("make",), terms=Terms(limits=Limits(pids_max=7)))) == (125, "")
    out, err = capfdbinary.readouterr()
    assert out == b""
    assert b"knows nothing of pids_max: it had started the job job without, which is stopped" in err
    assert methods(script) == ["Start", "Status", "Stop"]
