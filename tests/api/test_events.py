"""Events as messages."""

from __future__ import annotations

import signal
from datetime import UTC, datetime
from typing import Any, Final, get_args

import pytest
from google.protobuf.json_format import MessageToDict

from jobmaster.api.events import event_message, position_message
from jobmaster.job.cause import Exited, Signalled, StopOrder, Stopped
from jobmaster.job.identifier import JobId
from jobmaster.job.record import (
    JobEvent,
    Launched,
    LimitReport,
    OomKillsCounted,
    OutputLost,
    OutputPruned,
    Paused,
    Resumed,
    SignalOrdered,
)
from jobmaster.job.specification import CommandLine, JobSpecification
from jobmaster.job.state import Executed, Finished, KillSent, MainProcessDied, RunTimeWarned, StopOrdered, StopSignalled
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.journal.stored import JournalledEvent, Removed

AT: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ID: Final = JobId("0ujtsYcgvSTl8PAuAdqWYSMnLOv")
LAUNCHED: Final = Launched(
    id=ID,
    owner="client1",
    command=CommandLine.of(JobSpecification(command="ls", args=("-l",))),
    pid=42,
    start_time=1,
    boot_id="",
    at=AT,
    limits=(LimitReport(name="pids", value="pids.max 5"),),
)
STOPPED: Final = Stopped(by="client2", requested_at=AT, signal=signal.SIGTERM, killed=False, reason="old")
CASES: Final[list[tuple[JobEvent | Removed, str, dict[str, Any]]]] = [
    (
        LAUNCHED,
        "launched",
        {
            "cmd": {"command": "ls", "args": ["-l"]},
            "pid": 42,
            "limits": [{"name": "pids", "value": "pids.max 5", "enforced": True}],
        },
    ),
    (Executed(), "executed", {}),
    (RunTimeWarned(signal=10), "runTimeWarned", {"signal": 10}),
    (
        StopOrdered(order=StopOrder(by="client2", requested_at=AT, reason="old")),
        "stopOrdered",
        {"by": "client2", "requested": "2026-01-02T03:04:05Z", "reason": "old"},
    ),
    (StopOrdered(order=StopOrder(by=None, requested_at=AT)), "stopOrdered", {"requested": "2026-01-02T03:04:05Z"}),
    (StopSignalled(), "stopSignalled", {}),
    (KillSent(), "killSent", {}),
    (MainProcessDied(death=Exited(0)), "mainProcessDied", {"exited": {}}),
    (
        MainProcessDied(death=Signalled(9, core_dumped=True), killed_for_memory=True),
        "mainProcessDied",
        {"signalled": {"signal": 9, "coreDumped": True}, "killedForMemory": True},
    ),
    (OomKillsCounted(count=3), "oomKillsCounted", {"count": "3"}),
    (OutputLost(count=7), "outputLost", {"bytes": "7"}),
    (
        OutputPruned(at=AT, reason="too much"),
        "outputPruned",
        {"time": "2026-01-02T03:04:05Z", "reason": "too much"},
    ),
    (Paused(by="client2", at=AT), "paused", {"by": "client2"}),
    (Resumed(by="client2", at=AT), "resumed", {"by": "client2"}),
    (
        SignalOrdered(signal=10, by="client2", at=AT, to_all=True),
        "signalOrdered",
        {"signal": 10, "by": "client2", "all": True},
    ),
    (
        Finished(cause=STOPPED, at=AT, output_bytes=5, output_bytes_lost=6),
        "finished",
        {
            "state": "JOBSTATE_TERMINATED_BY_API",
            "exitCode": -1,
            "signalStr": "terminated",
            "jobMsg": "stopped by client2 (terminated)",
            "cause": {"stopped": {"by": "client2", "requested": "2026-01-02T03:04:05Z", "signal": 15, "reason": "old"}},
            "outputBytes": "5",
            "outputBytesLost": "6",
        },
    ),
    (
        Finished(cause=Exited(0), at=AT, output_bytes=0, output_bytes_lost=0),
        "finished",
        {"state": "JOBSTATE_COMPLETED", "jobMsg": "exited with code 0", "cause": {"exited": {}}},
    ),
    (Removed(), "removed", {}),
]


@pytest.mark.parametrize(("event", "kind", "details"), CASES, ids=[type(case[0]).__name__ for case in CASES])
def test_each_kind(event: JobEvent | Removed, kind: str, details: dict[str, Any]) -> None:
    """A message has the event's number, time, job and client, and one kind with the event's own details."""
    message = event_message(JournalledEvent(seq=9, at=AT, job_id=ID, owner="client1", event=event))
    assert MessageToDict(message) == {
        "seq": "9",
        "time": "2026-01-02T03:04:05Z",
        "jobID": {"jobID": ID},
        "client": "client1",
        kind: details,
    }


def test_every_event_has_a_kind() -> None:
    """The cases above are of every event there is, and use every kind there is."""
    events = {type(case[0]) for case in CASES}
    assert events == {kind for part in get_args(JobEvent) for kind in (get_args(part) or (part,))} | {Removed}
    fields = pb.JobEventMessage.DESCRIPTOR.oneofs_by_name["kind"].fields
    assert {case[1] for case in CASES} == {field.json_name for field in fields}


def test_a_position_has_no_kind() -> None:
    """What tells how far a watcher has come is told from every event."""
    message = position_message(7)
    assert message.seq == 7
    assert message.WhichOneof("kind") is None
