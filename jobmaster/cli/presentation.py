"""A job's record for people (a block of lines) and for programs (one line of JSON)."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from google.protobuf.timestamp_pb2 import Timestamp

from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.sizes import size_text


def as_json(record: pb.JobResponse | pb.JobEventMessage | pb.ServerInfoResponse) -> str:
    """The record, event or server, with the field names of the contract; numbers of 64 bits are strings, as protobuf's JSON has it."""
    import json  # here, because most calls show no JSON

    from google.protobuf.json_format import MessageToDict

    return json.dumps(MessageToDict(record, always_print_fields_with_no_presence=True))


def as_block(record: pb.JobResponse) -> str:
    """The record as lines of "name  value". Control characters of the job's own words are made visible.

    What a server did not say is not shown: an older one knows nothing of limits, causes and sizes, and sends an end in
    1970 for a job that runs.
    """
    return "\n".join(f"{name:<10} {visible(value)}" for name, value in _lines(record))


def info_block(info: pb.ServerInfoResponse) -> str:
    """What a server tells of itself, as lines like those of a record."""
    lines = [
        ("version", info.version),
        ("kernel", info.kernel),
        ("client", f"{info.client} ({info.role})"),
        ("jobs", f"{info.running_jobs} running; {info.max_jobs_of_client} at most, {info.max_jobs} of all clients"),
        ("output", f"{size_text(info.output_max)} at most are kept of a job's" if info.output_max else "all is kept"),
        ("grace", f"{info.grace_seconds:g} s between SIGTERM and SIGKILL of a stop"),
        *(
            ("limit", f"{each.controller}: {'enforced' if each.enforced else f'NOT ENFORCED: {each.reason}'}")
            for each in info.enforcement
        ),
    ]
    return "\n".join(f"{name:<10} {visible(value)}" for name, value in lines)


def _lines(record: pb.JobResponse) -> Iterator[tuple[str, str]]:
    yield "job", record.job_id_response.job_id
    yield "command", shlex.join([record.cmd.command, *record.cmd.args])
    yield "client", record.client
    yield "state", _state(record)
    if record.pid:
        yield "pid", str(record.pid)
    if record.HasField("started"):
        yield "started", _moment(record.started)
    if _has_ended(record):
        yield "ended", _moment(record.ended)
        yield "exit code", str(record.exit_code)
    if record.signal_str:
        yield "signal", record.signal_str
    if record.cause.stopped.reason:
        yield "reason", record.cause.stopped.reason
    if record.oom_kills:
        yield "oom kills", str(record.oom_kills)
    for limit in record.limits:
        yield "limit", limit.value if limit.enforced else f"{limit.value} NOT ENFORCED: {limit.reason}"
    if record.HasField("output_pruned"):
        pruned = record.output_pruned
        yield "output", f"{pruned.bytes} bytes, removed {_moment(pruned.time)}: {pruned.reason}"
    elif record.output_bytes or _knows_sizes(record):
        yield "output", f"{record.output_bytes} bytes"
    if record.output_bytes_lost:
        yield "lost", f"{record.output_bytes_lost} bytes of output that the server's disk did not take"
    if record.output_bytes_dropped:
        yield "dropped", f"{record.output_bytes_dropped} bytes from the middle of an output that was too large"


def _state(record: pb.JobResponse) -> str:
    known = pb.JobState.values()
    name = pb.JobState.Name(record.state) if record.state in known else f"state {record.state:d}"
    return f"{name} ({record.job_msg})" if record.job_msg else name


def _has_ended(record: pb.JobResponse) -> bool:
    return record.HasField("ended") and record.state != pb.JOBSTATE_RUNNING


def _knows_sizes(record: pb.JobResponse) -> bool:
    """Whether 0 bytes of output are a fact: whoever tells limits or a cause tells sizes too, and 0 is not sent as such."""
    return (
        bool(record.limits) or record.HasField("cause") or bool(record.output_bytes_lost or record.output_bytes_dropped)
    )


def _moment(timestamp: Timestamp) -> str:
    return timestamp.ToJsonString()


def visible(text: str) -> str:
    """Text without characters that a terminal would obey."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def how_to_find(request_id: str, *, run: str = "run") -> str:
    """What is said to who has asked for a job and has got no answer; `run` as it asks for the same: `start` has no stdin."""
    return f"whether the job was started is not known; `{run} --request-id {request_id} …` finds it or starts it"
