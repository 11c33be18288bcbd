"""Signals to jobs, and jobs that are paused, over real mTLS."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio
from purerpc.grpclib.exceptions import FailedPreconditionError, InvalidArgumentError, NotFoundError

from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.audit.entries import entries_in
from tests.harness import Server, ended, output_of, serving_program, until_output
from tests.integration.test_adoption import DEADLINE, wait_for_successor

COUNTS = "trap 'echo got; exit 7' USR1; echo up; while :; do sleep 0.01; done"


def is_frozen(server: Server, job_id: str) -> bool:
    """Whether the kernel says that all of a job's processes are."""
    return "frozen 1" in (server.cgroup_of(job_id) / "cgroup.events").read_text()


async def test_who_has_sent_the_signal(server: Server) -> None:
    """A job that dies of a client's signal has completed by it, and the cause says whose it was."""
    async with server.connect() as jobs:
        job_id = await jobs.start("sleep", "1000")
        await jobs.signal(job_id, signal.SIGUSR1)
        record = await ended(jobs, job_id)
        assert (record.state, record.exit_code, record.signal_str) == (
            pb.JOBSTATE_COMPLETED,
            -1,
            "user defined signal 1",
        )
        assert (record.cause.signalled.signal, record.cause.signalled.by) == (signal.SIGUSR1, "client1")
        with pytest.raises(FailedPreconditionError, match="has ended"):
            await jobs.signal(job_id, signal.SIGUSR1)
        other = await jobs.start("sleep", "1000")
        os.kill((await jobs.status(other)).pid, signal.SIGUSR1)
        assert (await ended(jobs, other)).cause.signalled.by == ""


@pytest.mark.parametrize("to_all", [True, False])
async def test_whom_a_signal_reaches(server: Server, to_all: bool) -> None:
    """The main process alone, or its children as well."""
    script = (
        "(trap 'echo child' USR1; echo up; while :; do sleep 0.01; done) & "
        "trap 'echo main; exit 0' USR1; echo ready; wait; wait"
    )
    async with server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", f"{script}; sleep 0.2")
        await until_output(jobs, job_id, b"up\n")
        await until_output(jobs, job_id, b"ready\n")
        await jobs.signal(job_id, signal.SIGUSR1, to_all=to_all)
        await ended(jobs, job_id)
        output = await output_of(jobs, job_id)
    assert b"main\n" in output
    assert b"child" not in output or to_all


@pytest.mark.parametrize("number", [-1, 0, 65, 2**31 - 1])
async def test_what_is_no_signal(server: Server, number: int) -> None:
    """It is refused, and so is everything about a stranger's job."""
    async with server.connect() as jobs, server.connect("client2") as others:
        job_id = await jobs.start("sleep", "1000")
        with pytest.raises(InvalidArgumentError, match="from 1 to 64"):
            await jobs.signal(job_id, number)
        for call in (others.pause, others.resume):
            with pytest.raises(NotFoundError):
                await call(job_id)
        with pytest.raises(NotFoundError):
            await others.signal(job_id, signal.SIGKILL)


async def test_a_job_stays_paused(tmp_path: Path, certificates: Path) -> None:
    """Over a crash and an upgrade of the server, until it is resumed; who asked is in the events and in the audit."""
    async with serving_program(tmp_path, certificates) as (server, _), server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", COUNTS)
        await until_output(jobs, job_id, b"up\n")
        for _ in range(2):
            assert (await jobs.pause(job_id)).paused
        assert is_frozen(server, job_id)
        for process, number in ((server.pid, signal.SIGKILL), (server.launcher, signal.SIGUSR2)):
            old = server.pid
            os.kill(process, number)
            await wait_for_successor(server, old)
            assert (await jobs.status(job_id)).paused
            assert is_frozen(server, job_id)
        await jobs.signal(job_id, signal.SIGUSR1)  # which it handles when it goes on
        assert not (await jobs.resume(job_id)).paused
        record = await ended(jobs, job_id)
        assert (record.exit_code, record.paused, await output_of(jobs, job_id)) == (7, False, b"up\ngot\n")
        told = []
        async with jobs.watch(0) as events:
            async for event in events:
                if event.WhichOneof("kind") == "finished":
                    break
                if (kind := event.WhichOneof("kind")) in {"paused", "resumed", "signal_ordered"}:
                    told.append((kind, getattr(event, kind).by))
        assert told == [("paused", "client1"), ("signal_ordered", "client1"), ("resumed", "client1")]
    audit = entries_in(tmp_path / "output" / "audit")
    assert {(entry["event"], entry["by"]) for entry in audit if entry["kind"] == "job"} >= set(told)
    called = {entry["method"].rpartition("/")[2] for entry in audit if entry["kind"] == "call" and entry["job"]}
    assert called >= {"Pause", "Resume", "Signal"}


@pytest.mark.parametrize("force", [True, False])
async def test_a_paused_job_is_stopped(server: Server, force: bool) -> None:
    """It goes on, and acts on SIGTERM; or is killed, as soon as it has gone on."""
    async with server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.01; done")
        await until_output(jobs, job_id, b"up\n")
        await jobs.pause(job_id)
        assert is_frozen(server, job_id)
        with trio.fail_after(DEADLINE):
            record = await jobs.stop(job_id, force=force)
        stopped = record.cause.stopped
        assert stopped.exit_code == 3 or (stopped.killed and force)
        assert not record.paused


async def test_a_paused_job_is_killed(server: Server) -> None:
    """SIGKILL is acted on at once."""
    async with server.connect() as jobs:
        job_id = await jobs.start("sleep", "1000")
        await jobs.pause(job_id)
        assert is_frozen(server, job_id)
        await jobs.signal(job_id, signal.SIGKILL)
        with trio.fail_after(DEADLINE):
            assert (await ended(jobs, job_id)).cause.signalled.by == "client1"
