"""A job's record for people (a block of lines) and for programs (one line of JSON)."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from jobmaster.jobs.v1 import jobs_pb2 as pb


def as_json(record: pb.JobResponse) -> str:
    """The record with the field names of the contract; numbers of 64 bits are strings, as protobuf's JSON has it."""
    return json.dumps(MessageToDict(record, always_print_fields_with_no_presence=True))


def as_block(record: pb.JobResponse) -> str:
    """The record as lines of "name  value". Control characters of the job's own words are made visible."""
    return "\n".join(f"{name:<10} {_visible(value)}" for name, value in _lines(record))


def _lines(record: pb.JobResponse) -> Iterator[tuple[str, str]]:
    yield "job", record.job_id_response.job_id
    yield "command", shlex.join([record.cmd.command, *record.cmd.args])
    yield "client", record.client
    yield "state", f"{pb.JobState.Name(record.state)} ({record.job_msg})"
    yield "pid", str(record.pid)
    yield "started", _moment(record.started)
    if record.HasField("ended"):
        yield "ended", _moment(record.ended)
        yield "exit code", str(record.exit_code)
    if record.signal_str:
        yield "signal", record.signal_str
    if record.oom_kills:
        yield "oom kills", str(record.oom_kills)
    for limit in record.limits:
        yield "limit", limit.value if limit.enforced else f"{limit.value} NOT ENFORCED: {limit.reason}"
    yield "output", f"{record.output_bytes} bytes"
    if record.output_bytes_lost:
        yield "lost", f"{record.output_bytes_lost} bytes of output that the server's disk did not take"


def _moment(timestamp: Timestamp) -> str:
    return timestamp.ToJsonString()


def _visible(text: str) -> str:
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
