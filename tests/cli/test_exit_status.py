"""A job's end as an exit status."""

from __future__ import annotations

import pytest

from jobmaster.cli.exit_status import exit_status
from jobmaster.jobs.v1 import jobs_pb2 as pb

Cause = pb.Cause


@pytest.mark.parametrize(
    ("cause", "status"),
    [
        (Cause(exited=Cause.Exited(code=0)), 0),
        (Cause(exited=Cause.Exited(code=3)), 3),
        (Cause(exited=Cause.Exited(code=255)), 255),
        (Cause(signalled=Cause.Signalled(signal=11, core_dumped=True)), 139),
        (Cause(signalled=Cause.Signalled(signal=64)), 192),
        (Cause(stopped=Cause.Stopped(signal=15)), 143),
        (Cause(stopped=Cause.Stopped(signal=9, killed=True)), 137),
        (Cause(stopped=Cause.Stopped(signal=15, returned=True)), 0),
        (Cause(stopped=Cause.Stopped(signal=15, returned=True, exit_code=4)), 4),
        (Cause(oom_killed=Cause.OomKilled()), 137),
        (Cause(server_shutdown=Cause.ServerShutdown(signal=15)), 143),
        (Cause(server_shutdown=Cause.ServerShutdown(signal=15, returned=True, exit_code=3)), 3),
        (Cause(timed_out=Cause.TimedOut(signal=15)), 124),
        (Cause(timed_out=Cause.TimedOut(signal=9, killed=True)), 124),
        (Cause(timed_out=Cause.TimedOut(signal=15, returned=True, exit_code=3)), 124),
        (Cause(failed_to_start=Cause.FailedToStart()), 125),
        (Cause(server_lost=Cause.ServerLost()), 125),
    ],
    ids=str,
)
def test_each_cause(cause: pb.Cause, status: int) -> None:
    """What the main process returned, 128 and the signal that ended it, 124 where its time was over, or 125 where nothing is known."""
    assert exit_status(pb.JobResponse(cause=cause, exit_code=-1)) == status


@pytest.mark.parametrize(
    ("code", "words", "status"), [(0, "", 0), (7, "", 7), (-1, "killed", 137), (-1, "terminated", 143), (-1, "", 125)]
)
def test_a_server_that_tells_no_cause(code: int, words: str, status: int) -> None:
    """Code and signal of the contract's first version say the same."""
    assert exit_status(pb.JobResponse(exit_code=code, signal_str=words)) == status


def test_every_cause_has_a_status() -> None:
    """No cause that this client knows is taken for one that it does not."""
    for field in Cause.DESCRIPTOR.oneofs_by_name["kind"].fields:
        cause = Cause()
        getattr(cause, field.name).SetInParent()
        assert exit_status(pb.JobResponse(cause=cause, exit_code=77)) != 77
