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


def test_the_user_of_a_job() -> None:
    """It is shown where the server says it, beside the client."""
    record = running()
    record.user = "2100023575"
    assert as_block(record).splitlines()[2:4] == ["client     client1", "user       2100023575"]


def test_the_terms_of_a_job_for_people() -> None:
    """Those that it was started with are told, and what it is called."""
    record = running()
    record.cmd.MergeFrom(
        pb.JobCreateRequest(
            name="night",
            labels={"b": "\x1b", "a": "1"},
            max_run_ms=90_500,
            warn_before_ms=500,
            warn_signal=10,
            environment={"B": "***", "A": "***"},
            working_folder="/srv",
            stop_signal=2,
        )
    )
    lines = as_block(record).splitlines()
    assert lines[2:5] == ["name       night", "label      a=1", "label      b=\\x1b"]
    assert lines[5:7] == ["folder     /srv", "variables  A B"]
    assert "time       90.5 s at most (signal 10 0.5 s before)" in lines
    assert "stop       signal 2" in lines
    record.cmd.grace_ms = 0
    assert "stop       signal 2 and 0 s" in as_block(record).splitlines()


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


def test_what_an_ended_job_has_used() -> None:
    """One line of what the server could tell; what it could not is left out, and 0 is a fact."""
    record = ended()
    usage = record.usage
    usage.wall_usec.value = 1_000_000
    assert "used" not in as_block(record)
    usage.cpu.user_usec.value, usage.cpu.system_usec.value = 1_200_000, 34_500
    usage.memory.peak.value = 24 * 1024**2 + 512 * 1024
    usage.pids_peak.value = 1
    assert "used       1.234 s cpu, 24.5 MiB memory at most, 1 task at most" in as_block(record).splitlines()
    usage.cpu.throttled_usec.value = 500_000
    usage.io.devices.add(device="254:0", read_bytes=1000, written_bytes=2**40)
    usage.io.devices.add(device="254:1", read_bytes=0, written_bytes=2**40)
    assert as_block(record).splitlines()[10] == (
        "used       1.234 s cpu, throttled 0.500 s, 24.5 MiB memory at most, 1 task at most, 1000 B read, 2.0 TiB written"
    )


def test_what_is_not_known_is_no_zero_in_json() -> None:
    """A number that the host cannot tell is not there for programs either, and one that is 0 is."""
    record = ended()
    record.usage.pids_peak.value = 0
    assert json.loads(as_json(record))["usage"] == {"pidsPeak": "0"}


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
    """When it was asked for and the reason that came with it are shown, without what a terminal would obey."""
    record = ended()
    record.cause.stopped.requested.CopyFrom(moment(6))
    record.cause.stopped.reason = "too old\x1b[2J"
    assert as_block(record).splitlines()[9:11] == ["asked      2026-01-02T03:04:06Z", "reason     too old\\x1b[2J"]


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
