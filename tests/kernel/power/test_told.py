"""The check of a server's records sees each kind of loss and lie that a power cut could leave."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.kernel.power.told import (
    SLEEPS,
    Asked,
    Told,
    findings,
    line_asked,
    line_ended,
    line_started,
    line_to_stop,
)


def asked(token: str, end: str) -> Asked:
    """A Start."""
    return Asked(token=token, owner="client1", command="sh", args=("-c", "x", token), end=end)


def record(token: str, cause: pb.Cause, job_id: str = "") -> pb.JobResponse:
    """What the server says of it."""
    code = cause.exited.code if cause.WhichOneof("kind") == "exited" else -1
    return pb.JobResponse(
        job_id_response=pb.JobID(job_id=job_id or f"id-{token}"),
        client="client1",
        cmd=pb.JobCreateRequest(command="sh", args=["-c", "x", token]),
        cause=cause,
        exit_code=code,
    )


LOST = pb.Cause(server_lost=pb.Cause.ServerLost(reason="gone"))
EXITED = pb.Cause(exited=pb.Cause.Exited(code=7))
STOPPED = pb.Cause(stopped=pb.Cause.Stopped(by="superuser", signal=15))
ASKED = [asked("a-0-0", "exited 7"), asked("a-0-1", SLEEPS), asked("a-0-2", SLEEPS), asked("a-0-3", "exited 7")]
LINES = [
    *map(line_asked, ASKED),
    *(line_started(each.token, f"id-{each.token}") for each in ASKED[:3]),
    line_ended("a-0-0", record("a-0-0", EXITED)),
    line_to_stop("a-0-2", "superuser"),
]
RECORDS = {"a-0-0": EXITED, "a-0-1": LOST, "a-0-2": STOPPED, "a-0-3": EXITED}


def records() -> list[pb.JobResponse]:
    """Those of a server that has lost nothing."""
    return [record(token, cause) for token, cause in RECORDS.items()]


def test_nothing_is_found_where_all_is_well() -> None:
    """Ends that were told, that a job may have had, and lost ones are all right; so is a Start that was not answered."""
    told = Told.of(LINES)
    assert findings(told, records()) == []
    assert findings(told, records()[:3]) == []
    assert told.in_doubt() == [ASKED[3]]


def test_the_server_may_give_up_a_start() -> None:
    """What nobody was answered the server may have stopped itself, as on a host that is so slow that a Start takes too long."""
    all_ = records()
    all_[3].cause.CopyFrom(pb.Cause(stopped=pb.Cause.Stopped(signal=9)))
    all_[3].exit_code = -1
    assert findings(Told.of(LINES), all_) == []


def test_torn_lines_say_nothing() -> None:
    """What the cut has torn was not said."""
    told = Told()
    assert not any(told.add(line[:-1]) for line in LINES)
    assert not told.add(json.dumps({"phase": "ready"}))
    assert told == Told()


def lose(all_: list[pb.JobResponse]) -> None:
    """One is not there."""
    del all_[1]


def double(all_: list[pb.JobResponse]) -> None:
    """A Start has made two."""
    all_.append(record("a-0-3", LOST, job_id="another"))


def rename(all_: list[pb.JobResponse]) -> None:
    """It has another id than was answered."""
    all_[1].job_id_response.job_id = "another"


def give_away(all_: list[pb.JobResponse]) -> None:
    """It is somebody else's."""
    all_[1].client = "client2"


def change_command(all_: list[pb.JobResponse]) -> None:
    """It is another command."""
    all_[1].cmd.args[1] = "y"


def change_end(all_: list[pb.JobResponse]) -> None:
    """It has ended otherwise than was told."""
    all_[0].cause.CopyFrom(LOST)


def change_a_field(all_: list[pb.JobResponse]) -> None:
    """Its end is that which was told, but for one field."""
    all_[0].output_bytes = 3


def invent_an_end(all_: list[pb.JobResponse]) -> None:
    """What sleeps did not return."""
    all_[1].cause.CopyFrom(EXITED)


def invent_a_stop(all_: list[pb.JobResponse]) -> None:
    """Nobody has stopped it."""
    all_[1].cause.CopyFrom(STOPPED)


def give_up_what_was_answered(all_: list[pb.JobResponse]) -> None:
    """The server gives up no Start that it has answered."""
    all_[1].cause.CopyFrom(pb.Cause(stopped=pb.Cause.Stopped(signal=9)))


def change_who_stopped(all_: list[pb.JobResponse]) -> None:
    """Somebody else has stopped it."""
    all_[2].cause.stopped.by = "client1"


def let_it_run(all_: list[pb.JobResponse]) -> None:
    """No process outlives a power cut."""
    all_[1].ClearField("cause")


def invent(all_: list[pb.JobResponse]) -> None:
    """Nobody has asked for it."""
    all_.append(record("b-0-0", LOST))


@pytest.mark.parametrize(
    "change",
    [
        lose,
        double,
        rename,
        give_away,
        change_command,
        change_end,
        change_a_field,
        invent_an_end,
        invent_a_stop,
        give_up_what_was_answered,
        change_who_stopped,
        let_it_run,
        invent,
    ],
)
def test_each_loss_and_lie_is_found(change: Callable[[list[pb.JobResponse]], None]) -> None:
    """A record that is missing, another's, or not what happened is named."""
    changed = records()
    change(changed)
    assert findings(Told.of(LINES), changed)
