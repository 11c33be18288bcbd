"""Limits that jobs ask for, on any host: what is refused, and in which words. That they hold, tests/kernel shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from purerpc.grpclib.exceptions import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    RpcFailedError,
)

from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.harness import serving
from tests.integration.test_command_line import jobmaster


@pytest.mark.parametrize(
    ("controller", "limits"),
    [
        ("cpu", pb.JobLimits(cpu_millicores=100)),
        ("memory", pb.JobLimits(memory_max=2**28)),
        ("pids", pb.JobLimits(pids_max=7)),
    ],
)
async def test_a_limit_is_in_the_record_or_refused(
    tmp_path: Path, certificates: Path, controller: str, limits: pb.JobLimits
) -> None:
    """Where this host enforces it, the record says that it was asked for; else the error names the controller and why."""
    async with serving(tmp_path, certificates) as server, server.connect() as jobs:
        if controller in (server.cgroup_root / "jobs" / "cgroup.subtree_control").read_text().split():
            record = await jobs.wait(await jobs.start("true", limits=limits))
            assert controller in {limit.name for limit in record.limits if limit.requested and limit.enforced}
        else:
            with pytest.raises(FailedPreconditionError, match=f"cannot enforce .* of the {controller} controller: "):
                await jobs.start("true", limits=limits)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"memory_max": 60 * 2**20}, "memory_max is 52428800 at most on this server, not 62914560"),
        ({"pids_max": 5000}, "pids_max is 4096 at most on this server, not 5000"),
        ({"cpu_millicores": 10}, "cpu_millicores is from 50 to"),
        ({"io": [pb.IoLimit(device="/dev/sda", read_bps=2**30)]}, "write MAJ:MIN"),
        ({"io": [pb.IoLimit(device="8:0", read_bps=2)]}, "read_bps is from 8388608 to"),
        ({"io": [pb.IoLimit(device="8:0")]}, "an io limit without a rate"),
    ],
)
async def test_what_no_job_may_have(
    tmp_path: Path, certificates: Path, limits: dict[str, int | list[pb.IoLimit]], words: str
) -> None:
    """What is beyond the operator's options, or the kernel's bounds, is refused with both numbers, on any host."""
    async with serving(tmp_path, certificates, "--memory-max", "50M") as server, server.connect() as jobs:
        with pytest.raises(InvalidArgumentError, match=words):
            await jobs.start("true", limits=pb.JobLimits(**limits))  # type: ignore[arg-type]  # names are parameters
        assert not list(server.output.glob("*.log"))


async def test_an_option_below_what_jobs_may_ask_for(
    tmp_path: Path, certificates: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A server starts with it as ever, says what it does, and does not let a job ask for another such limit."""
    async with serving(tmp_path, certificates, "--cpu-max", "0.01") as server, server.connect() as jobs:
        said = [line for line in capfd.readouterr().out.splitlines() if "--cpu-max" in line]
        with pytest.raises(InvalidArgumentError, match="cpu_millicores is 10 on this server, neither more nor less"):
            await jobs.start("true", limits=pb.JobLimits(cpu_millicores=100))
    assert len(said) == 1
    assert said[0].startswith("warning: --cpu-max 0.01 is so little")


async def test_the_same_request_with_other_limits(tmp_path: Path, certificates: Path) -> None:
    """It is another request: its id is refused, whether or not the limits could be had."""
    async with serving(tmp_path, certificates) as server, server.connect() as jobs:
        await jobs.start("true", request_id="r")
        with pytest.raises(RpcFailedError) as caught:
            await jobs.start("true", request_id="r", limits=pb.JobLimits(pids_max=7))
    assert isinstance(caught.value, AlreadyExistsError)


async def test_the_command_line(tmp_path: Path, certificates: Path) -> None:
    """`run` and `start` say what the server says of a limit, and exit as where a command could not be run."""
    async with serving(tmp_path, certificates, "--memory-max", "50M") as server:
        for verb, status in (("run", 125), ("start", 1)):
            result = await jobmaster(server, verb, "--memory", "60M", "echo", "hello")
            assert (result.returncode, result.stdout) == (status, b"")
            assert b"memory_max is 52428800 at most on this server, not 62914560" in result.stderr
