"""Jobs and their events for people, a line each. Pure."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from jobmaster.cli.presentation import visible
from jobmaster.cli.signals import signal_name
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.sizes import size_text

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp
    from google.protobuf.wrappers_pb2 import UInt64Value

NARROW: Final = 100
"""Columns of a terminal, below which a line leaves out of times what would have its last column cut off."""
_UNITS: Final = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def jobs_header(width: int) -> str:
    """What stands over the lines of jobs, in `width` columns; as wide as it is, where that is 0."""
    started = "" if _is_narrow(width) else f"{'STARTED':<19}  "
    return _cut(f"{'JOB':<27}  {'CLIENT':<10}  {'STATE':<14}  {started}{'TIME':>6}  COMMAND", width)


def job_line(record: pb.JobResponse, now: datetime, width: int) -> str:
    """A job in `width` columns; as wide as it is, where that is 0."""
    started = "" if _is_narrow(width) else f"{_moment(record.started, 'seconds'):<19}  "
    line = (
        f"{record.job_id_response.job_id:<27}  {visible(record.client):<10}  {_state(record):<14}  "
        f"{started}{_duration(record, now):>6}  {_called(record.cmd)}"
    )
    return _cut(line, width)


def events_header(width: int) -> str:
    """What stands over the lines of events, in `width` columns; as wide as it is, where that is 0."""
    time = f"{'TIME':<8}" if _is_narrow(width) else f"{'TIME':<23}"
    return _cut(f"{'SEQ':>8}  {time}  {'JOB':<27}  {'CLIENT':<10}  EVENT", width)


def event_line(event: pb.JobEventMessage, width: int) -> str:
    """An event in `width` columns; as wide as it is, where that is 0."""
    if _is_narrow(width):
        time = _moment(event.time, "seconds").rpartition(" ")[2]  # of the day
    else:
        time = f"{_moment(event.time, 'milliseconds'):<23}"
    line = f"{event.seq:>8}  {time:<8}  {event.job_id.job_id:<27}  {visible(event.client):<10}  {_happening(event)}"
    return _cut(line, width)


def stats_header(width: int) -> str:
    """What stands over the lines of samples, in `width` columns; as wide as it is, where that is 0."""
    return _cut(
        f"{'TIME':<8}  {'CPU':>6}  {'CPU TIME':>9}  {'MEMORY':>9}  {'PEAK':>9}  {'PIDS':>5}  {'READ':>9}  {'WRITTEN':>9}  "
        "WAITS CPU/MEMORY/IO",
        width,
    )


def stats_line(stats: pb.JobStats, before: pb.JobStats | None, width: int) -> str:
    """A sample in `width` columns, and how busy the processors were since the one `before` it; - for what nobody tells."""
    usage = stats.usage
    time = _moment(stats.time, "seconds").rpartition(" ")[2]
    cpu = f"{_cpu_seconds(usage):.2f}s" if usage.HasField("cpu") else "-"
    read = written = "-"
    if usage.HasField("io"):
        read = size_text(sum(each.read_bytes for each in usage.io.devices))
        written = size_text(sum(each.written_bytes for each in usage.io.devices))
    memory = _known_size(stats.HasField("memory_now"), stats.memory_now)
    peak = _known_size(usage.memory.HasField("peak"), usage.memory.peak)
    waits = "/".join(
        f"{pressure.some:.0f}%" if is_known else "-"
        for is_known, pressure in (
            (stats.HasField("cpu_pressure"), stats.cpu_pressure),
            (stats.HasField("memory_pressure"), stats.memory_pressure),
            (stats.HasField("io_pressure"), stats.io_pressure),
        )
    )
    state = "ended" if stats.ended else f"{waits}  paused" if stats.paused else waits
    line = (
        f"{time:<8}  {_busy(stats, before):>6}  {cpu:>9}  {memory:>9}  {peak:>9}  "
        f"{stats.pids_now.value if stats.HasField('pids_now') else '-':>5}  {read:>9}  {written:>9}  {state}"
    )
    return _cut(line, width)


def _cpu_seconds(usage: pb.Usage) -> float:
    return (usage.cpu.user_usec.value + usage.cpu.system_usec.value) / 1e6


def _busy(stats: pb.JobStats, before: pb.JobStats | None) -> str:
    """In percent of one processor."""
    if before is None or not (stats.usage.HasField("cpu") and before.usage.HasField("cpu")):
        return "-"
    seconds = (stats.usage.wall_usec.value - before.usage.wall_usec.value) / 1e6
    return f"{100 * (_cpu_seconds(stats.usage) - _cpu_seconds(before.usage)) / seconds:.0f}%" if seconds > 0 else "-"


def _known_size(is_known: bool, size: UInt64Value) -> str:
    return size_text(size.value) if is_known else "-"


def _is_narrow(width: int) -> bool:
    return 0 < width < NARROW


def _cut(line: str, width: int) -> str:
    return line if not width or len(line) <= width else f"{line[: width - 1]}…"


def _called(command: pb.JobCreateRequest) -> str:
    """What a job is called, where it is, and its command."""
    return f"{visible(command.name)}: {_command(command)}" if command.name else _command(command)


def _command(command: pb.JobCreateRequest) -> str:
    return visible(shlex.join([command.command, *command.args]))


def _moment(timestamp: Timestamp, precision: str) -> str:
    """A time of the place where the user is."""
    try:
        return timestamp.ToDatetime(UTC).astimezone().replace(tzinfo=None).isoformat(" ", precision)
    except (ValueError, OverflowError):
        return "?"


def _duration(record: pb.JobResponse, now: datetime) -> str:
    """How long it has run, in its greatest unit."""
    end = record.ended.ToDatetime(UTC) if record.HasField("ended") else now
    seconds = max(timedelta(), end - record.started.ToDatetime(UTC)) // timedelta(seconds=1)
    name, size = next((unit for unit in _UNITS if seconds >= 2 * unit[1]), _UNITS[-1])
    return f"{seconds // size}{name}"


def _state(record: pb.JobResponse) -> str:
    """A job's state or its end, in a word or two."""
    cause = record.cause
    match cause.WhichOneof("kind"):
        case "exited":
            return f"exited {cause.exited.code}{' oom' if record.oom_kills else ''}"
        case "signalled":
            return signal_name(cause.signalled.signal)
        case None if record.paused:
            return "paused"
        case None:
            known = pb.JobState.values()
            name = pb.JobState.Name(record.state) if record.state in known else str(int(record.state))
            return name.removeprefix("JOBSTATE_").lower()
        case kind:
            return str(kind).replace("_", " ")


def _happening(event: pb.JobEventMessage) -> str:
    """What happened, in a sentence."""
    match event.WhichOneof("kind"):
        case "launched":
            return f"launched: {_command(event.launched.cmd)}"
        case "executed":
            return "started"
        case "run_time_warned":
            return f"warned of the end of its time by {signal_name(event.run_time_warned.signal)}"
        case "stop_ordered":
            order = event.stop_ordered
            reason = f": {order.reason}" if order.reason else ""
            return visible(f"stop ordered by {order.by or 'the server'}{reason}")
        case "stop_signalled":
            return "stop signalled"
        case "kill_sent":
            return "killed with all of its processes"
        case "main_process_died":
            return _death(event.main_process_died)
        case "oom_kills_counted":
            return f"processes killed for memory: {event.oom_kills_counted.count}"
        case "output_lost":
            lost, dropped = event.output_lost.bytes, event.output_lost.bytes_dropped
            told = [f"bytes of output lost: {lost}"] * bool(lost or not dropped) + [f"dropped: {dropped}"] * bool(
                dropped
            )
            return ", ".join(told)
        case "output_pruned":
            return visible(f"output removed: {event.output_pruned.reason}")
        case "paused":
            return visible(f"paused by {event.paused.by}")
        case "resumed":
            return visible(f"resumed by {event.resumed.by}")
        case "signal_ordered":
            ordered = event.signal_ordered
            whom = " to all of its processes" if ordered.all else ""
            return visible(f"{signal_name(ordered.signal)}{whom} ordered by {ordered.by}")
        case "finished":
            return visible(f"ended: {event.finished.job_msg}")
        case "removed":
            return "removed"
        case _:
            return "?"


def _death(died: pb.JobEventMessage.MainProcessDied) -> str:
    if died.HasField("exited"):
        return f"main process returned {died.exited.code}"
    memory = ", for memory" if died.killed_for_memory else ""
    return f"main process died of {signal_name(died.signalled.signal)}{memory}"
