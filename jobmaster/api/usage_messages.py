"""What a job has used, as the contract has it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from jobmaster.job.state import Ended
from jobmaster.jobs.v1 import jobs_pb2 as pb

if TYPE_CHECKING:
    from datetime import datetime

    from google.protobuf.wrappers_pb2 import UInt64Value

    from jobmaster.job.record import JobRecord
    from jobmaster.job.usage import CpuUsage, IoUsage, MemoryUsage, Pressure, Sample, Stalled, Usage


def put_usage(message: pb.Usage, usage: Usage | None, wall: timedelta) -> None:
    """Says what a job has used, as far as that is known, in the time `wall`."""
    message.wall_usec.value = max(timedelta(), wall) // timedelta(microseconds=1)
    if usage is None:
        return
    _put(message.pids_peak, usage.pids_peak)
    if usage.cpu is not None:
        _put_cpu(message.cpu, usage.cpu)
    if usage.memory is not None:
        _put_memory(message.memory, usage.memory)
    if usage.io is not None:
        message.io.CopyFrom(_io(usage.io))
    for place, stalled in (
        (message.cpu_stalled, usage.cpu_stalled),
        (message.memory_stalled, usage.memory_stalled),
        (message.io_stalled, usage.io_stalled),
    ):
        if stalled is not None:
            _put_stalled(place, stalled)


def stats_of(record: JobRecord, sample: Sample | None, now: datetime) -> pb.JobStats:
    """What a running job has used by now; all but how long it has run is unset without a sample."""
    stats = pb.JobStats(paused=record.paused)
    stats.time.FromDatetime(now)
    put_usage(stats.usage, None if sample is None else sample.usage, now - record.state.started_at)
    if sample is None:
        return stats
    _put(stats.memory_now, sample.memory)
    _put(stats.pids_now, sample.pids)
    for place, pressure in (
        (stats.cpu_pressure, sample.cpu_pressure),
        (stats.memory_pressure, sample.memory_pressure),
        (stats.io_pressure, sample.io_pressure),
    ):
        if pressure is not None:
            _put_pressure(place, pressure)
    return stats


def last_stats_of(record: JobRecord) -> pb.JobStats:
    """What an ended job has used."""
    end = record.state
    assert isinstance(end, Ended)  # noqa: S101  # for the type checker
    stats = pb.JobStats(ended=True)
    stats.time.FromDatetime(end.ended_at)
    put_usage(stats.usage, record.usage, end.ended_at - end.started_at)
    return stats


def _put_pressure(place: pb.Pressure, pressure: Pressure) -> None:
    place.SetInParent()
    place.some, place.full = pressure.some, pressure.full


def _put(place: UInt64Value, count: int | None) -> None:
    if count is not None:
        place.SetInParent()  # 0 is a fact, too
        place.value = count


def _put_cpu(message: pb.CpuUsage, cpu: CpuUsage) -> None:
    message.SetInParent()
    _put(message.user_usec, cpu.user)
    _put(message.system_usec, cpu.system)
    _put(message.periods, cpu.periods)
    _put(message.throttled_periods, cpu.throttled_periods)
    _put(message.throttled_usec, cpu.throttled)


def _put_memory(message: pb.MemoryUsage, memory: MemoryUsage) -> None:
    message.SetInParent()
    _put(message.peak, memory.peak)
    _put(message.anon_left, memory.anon_left)
    _put(message.file_left, memory.file_left)
    events = memory.events
    if events is not None:
        message.events.SetInParent()
        _put(message.events.low, events.low)
        _put(message.events.high, events.high)
        _put(message.events.max, events.max)
        _put(message.events.oom, events.oom)
        _put(message.events.oom_kill, events.oom_kill)
        _put(message.events.oom_group_kill, events.oom_group_kill)


def _io(io: IoUsage) -> pb.IoUsage:
    devices = (
        pb.DeviceUsage(
            device=each.device,
            read_bytes=each.read_bytes,
            written_bytes=each.written_bytes,
            reads=each.reads,
            writes=each.writes,
        )
        for each in io.devices
    )
    return pb.IoUsage(devices=devices, devices_omitted=io.omitted)


def _put_stalled(message: pb.Stalled, stalled: Stalled) -> None:
    message.SetInParent()
    _put(message.some_usec, stalled.some)
    _put(message.full_usec, stalled.full)
