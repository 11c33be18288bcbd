"""A job's record for people (a block of lines) and for programs (one line of JSON)."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from google.protobuf.timestamp_pb2 import Timestamp

from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.sizes import size_text


def as_json(record: pb.JobResponse | pb.JobEventMessage | pb.JobStats | pb.ServerInfoResponse) -> str:
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
        *((("new jobs", _draining(info.draining)),) if info.HasField("draining") else ()),
        ("output", f"{size_text(info.output_max)} at most are kept of a job's" if info.output_max else "all is kept"),
        ("grace", f"{info.grace_seconds:g} s between SIGTERM and SIGKILL of a stop"),
        *(
            ("limit", f"{each.controller}: {'enforced' if each.enforced else f'NOT ENFORCED: {each.reason}'}")
            for each in info.enforcement
        ),
    ]
    return "\n".join(f"{name:<10} {visible(value)}" for name, value in lines)


def _draining(draining: pb.Draining) -> str:
    until = f" until {_moment(draining.until)}" if draining.HasField("until") else ""
    return f"NOT TAKEN{until}, as {draining.by or 'somebody'} said: {draining.note or 'no note'}"


def _lines(record: pb.JobResponse) -> Iterator[tuple[str, str]]:
    yield "job", record.job_id_response.job_id
    yield "command", shlex.join([record.cmd.command, *record.cmd.args])
    if record.cmd.name:
        yield "name", record.cmd.name
    for key, value in sorted(record.cmd.labels.items()):
        yield "label", f"{key}={value}"
    if record.cmd.working_folder:
        yield "folder", record.cmd.working_folder
    if record.cmd.environment:
        yield "variables", " ".join(sorted(record.cmd.environment))
    yield "client", record.client
    if record.user:
        yield "user", record.user
    yield "state", _state(record)
    if record.paused:
        yield "paused", "yes"
    if record.paused_ms:
        yield "was paused", f"for {record.paused_ms / 1000:.1f} s in all"
    if record.pid:
        yield "pid", str(record.pid)
    if record.HasField("started"):
        yield "started", _moment(record.started)
    if _has_ended(record):
        yield "ended", _moment(record.ended)
        yield "exit code", str(record.exit_code)
    if record.signal_str:
        yield "signal", record.signal_str
    if record.cmd.max_run_ms:
        yield "time", " ".join(_run_time(record.cmd))
    if record.cmd.stop_signal or record.cmd.HasField("grace_ms"):
        yield "stop", " ".join(_stop(record.cmd))
    if record.cause.stopped.HasField("requested"):
        yield "asked", _moment(record.cause.stopped.requested)
    if record.cause.stopped.reason:
        yield "reason", record.cause.stopped.reason
    if record.oom_kills:
        yield "oom kills", str(record.oom_kills)
    if used := _used(record.usage):
        yield "used", used
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


def _run_time(command: pb.JobCreateRequest) -> Iterator[str]:
    """How long it may run, in words."""
    yield f"{command.max_run_ms / 1000:g} s at most"
    if command.warn_before_ms:
        yield f"(signal {command.warn_signal} {command.warn_before_ms / 1000:g} s before)"


def _stop(command: pb.JobCreateRequest) -> Iterator[str]:
    """How it is stopped, in words."""
    yield f"signal {command.stop_signal}"
    if command.HasField("grace_ms"):
        yield f"and {command.grace_ms / 1000:g} s"


def killed_for_memory(record: pb.JobResponse) -> str:
    """What is said of a job that ended though processes of it were killed for memory; empty where its end says it, or none was."""
    count = record.oom_kills
    if not count or record.cause.WhichOneof("kind") == "oom_killed":
        return ""
    return f"{count} process{' of the job was' if count == 1 else 'es of the job were'} killed by the kernel for memory"


def _used(usage: pb.Usage) -> str:
    """What a job has used, as far as the server could tell."""
    told, cpu = [], usage.cpu
    if cpu.HasField("user_usec") and cpu.HasField("system_usec"):
        told.append(f"{_seconds(cpu.user_usec.value + cpu.system_usec.value)} cpu")
    if cpu.throttled_usec.value:
        told.append(f"throttled {_seconds(cpu.throttled_usec.value)}")
    if usage.memory.HasField("peak"):
        told.append(f"{_size(usage.memory.peak.value)} memory at most")
    if usage.HasField("pids_peak"):
        told.append(f"{usage.pids_peak.value} task{'s' * (usage.pids_peak.value != 1)} at most")
    if usage.HasField("io"):
        devices = usage.io.devices
        told.append(f"{_size(sum(each.read_bytes for each in devices))} read")
        told.append(f"{_size(sum(each.written_bytes for each in devices))} written")
    return ", ".join(told)


def _seconds(microseconds: int) -> str:
    return f"{microseconds / 1_000_000:.3f} s"


def _size(count: int) -> str:
    size, unit = float(count), "B"
    for greater in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:  # bytes in the next unit
            break
        size, unit = size / 1024, greater
    return f"{size:.1f} {unit}" if unit != "B" else f"{count} B"


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
