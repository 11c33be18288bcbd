"""A job's record for people and for programs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Final

import pytest
from google.protobuf.json_format import Parse
from google.protobuf.timestamp_pb2 import Timestamp

from jobmaster.cli.presentation import as_block, as_json
from jobmaster.jobs.v1 import jobs_pb2 as pb

JOB: Final = "0ujtsYcgvSTl8PAuAdqWYSMnLOv"


def moment(second: int) -> Timestamp:
    """A moment of the record."""
    result = Timestamp()
    result.FromDatetime(datetime(2026, 1, 2, 3, 4, second, tzinfo=UTC))
    return result


def running() -> pb.JobResponse:
    """The record of a job that runs."""
    return pb.JobResponse(
        job_id_response=pb.JobID(job_id=JOB),
        job_msg="running",
        client="client1",
        pid=42,
        state=pb.JOBSTATE_RUNNING,
        cmd=pb.JobCreateRequest(command="sh", args=["-c", "echo 'a b'"]),
        started=moment(5),
        limits=[pb.Limit(name="pids", value="pids.max 4096", enforced=True)],
        output_bytes=7,
    )


def ended() -> pb.JobResponse:
    """The record of a job of which there is everything to tell."""
    record = running()
    record.state, record.exit_code, record.signal_str = pb.JOBSTATE_TERMINATED_BY_API, -1, "killed"
    record.job_msg, record.oom_kills, record.output_bytes_lost = "out of memory", 2, 9
    record.ended.CopyFrom(moment(6))
    record.limits.append(pb.Limit(name="io", value="io.max 8:0", enforced=False, reason="no io controller"))
    return record


def test_a_running_job_for_people() -> None:
    """One line each, and none about an end that there has not been."""
    assert as_block(running()).splitlines() == [
        f"job        {JOB}",
        "command    sh -c 'echo '\"'\"'a b'\"'\"''",
        "client     client1",
        "state      JOBSTATE_RUNNING (running)",
        "pid        42",
        "started    2026-01-02T03:04:05Z",
        "limit      pids.max 4096",
        "output     7 bytes",
    ]


def test_an_ended_job_for_people() -> None:
    """The end, its code and signal, what was killed and what was lost are told, and limits that do not hold."""
    assert as_block(ended()).splitlines()[3:] == [
        "state      JOBSTATE_TERMINATED_BY_API (out of memory)",
        "pid        42",
        "started    2026-01-02T03:04:05Z",
        "ended      2026-01-02T03:04:06Z",
        "exit code  -1",
        "signal     killed",
        "oom kills  2",
        "limit      pids.max 4096",
        "limit      io.max 8:0 NOT ENFORCED: no io controller",
        "output     7 bytes",
        "lost       9 bytes of output that the server's disk did not take",
    ]


def test_a_running_job_of_an_older_server() -> None:
    """An older server says nothing of sizes, and sends the epoch as the end of a job that runs: neither is shown."""
    record = running()
    record.ClearField("limits")
    record.ClearField("output_bytes")
    record.ended.FromSeconds(0)
    assert as_block(record).splitlines()[3:] == [
        "state      JOBSTATE_RUNNING (running)",
        "pid        42",
        "started    2026-01-02T03:04:05Z",
    ]


def test_an_ended_job_of_an_older_server() -> None:
    """What an older server says of an end is shown, and nothing that it did not say."""
    record = running()
    record.ClearField("limits")
    record.ClearField("output_bytes")
    record.state, record.job_msg = pb.JOBSTATE_COMPLETED, ""
    record.ended.CopyFrom(moment(6))
    assert as_block(record).splitlines()[3:] == [
        "state      JOBSTATE_COMPLETED",
        "pid        42",
        "started    2026-01-02T03:04:05Z",
        "ended      2026-01-02T03:04:06Z",
        "exit code  0",
    ]


@pytest.mark.parametrize("knows", ["limits", "cause", "output_bytes_lost"])
def test_no_output_is_a_fact_of_a_server_that_knows_sizes(knows: str) -> None:
    """0 bytes are shown where the server sent something that only a server with sizes sends."""
    record = ended()
    for field in {"limits", "cause", "output_bytes", "output_bytes_lost"} - {knows}:
        record.ClearField(field)
    if knows == "cause":
        record.cause.exited.code = 0
    assert "output     0 bytes" in as_block(record)


def test_why_a_job_was_stopped() -> None:
    """The reason that came with a stop is shown, without what a terminal would obey."""
    record = ended()
    record.cause.stopped.reason = "too old\x1b[2J"
    assert "reason     too old\\x1b[2J" in as_block(record).splitlines()


def test_a_job_that_was_never_launched() -> None:
    """No process, no pid; not started, no moment of it."""
    record = running()
    record.ClearField("pid")
    record.ClearField("started")
    assert [line.split()[0] for line in as_block(record).splitlines()] == [
        *("job", "command", "client", "state", "limit", "output")
    ]


def test_a_state_of_a_newer_server() -> None:
    """A state that this client does not know is shown by its number."""
    record = running()
    record.ParseFromString(record.SerializeToString() + b"\x28\x2a")  # field 5, state, again: 42
    assert "state      state 42 (running)" in as_block(record)


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nstate      fine", "a\\nstate"),
        ("\u202eevil", "\\u202eevil"),
        ("\r", "\\r"),
        ("\x9b", "\\x9b"),
    ],
)
def test_a_terminal_is_safe_from_a_job(hostile: str, shown: str) -> None:
    """Control characters of the command or a message are shown, not obeyed, and make no line of their own."""
    record = running()
    record.cmd.args.append(hostile)
    record.job_msg = hostile
    block = as_block(record)
    assert hostile not in block
    assert block.count(shown) == 2
    assert len(block.splitlines()) == len(as_block(running()).splitlines())


def test_letters_of_all_languages_are_shown() -> None:
    """Text that can be printed is printed as it is."""
    record = running()
    record.cmd.args[:] = ["é", "日本"]
    assert "command    sh 'é' '日本'" in as_block(record)


@pytest.mark.parametrize("record", [running(), ended()], ids=["running", "ended"])
def test_json_is_one_line_with_all_of_it(record: pb.JobResponse) -> None:
    """The record as JSON is one line that gives the same record back."""
    text = as_json(record)
    assert "\n" not in text
    assert Parse(text, pb.JobResponse()) == record


def test_json_has_the_names_of_the_contract() -> None:
    """Fields have the contract's names; numbers and texts are there when they are 0 or empty, an end is not."""
    shown = json.loads(as_json(running()))
    assert shown["jobIDResponse"] == {"jobID": JOB}
    assert (shown["exitCode"], shown["signalStr"], shown["state"]) == (0, "", "JOBSTATE_RUNNING")
    assert shown["outputBytes"] == "7"
    assert "ended" not in shown


def test_a_job_that_is_paused() -> None:
    """Its record says so."""
    record = running()
    record.paused = True
    assert "paused     yes" in as_block(record).splitlines()
