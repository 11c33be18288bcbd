"""Between protobuf messages and domain values. Messages go no further in than this package."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Final, assert_never

from google.protobuf.timestamp_pb2 import Timestamp

from jobmaster.api.usage_messages import put_usage
from jobmaster.errors import InvalidRequest
from jobmaster.grpc.lazy_messages import Content, StoredMessages
from jobmaster.job.cause import (
    Cause,
    Exited,
    FailedToStart,
    OomKilled,
    OutputCapped,
    ServerLost,
    ServerShutdown,
    Signalled,
    Stopped,
    TimedOut,
    signal_words,
)
from jobmaster.job.limits import NO_LIMITS, IoRequest, LimitRequest
from jobmaster.job.memory import OomLimit
from jobmaster.job.record import JobRecord, Launched, LimitReport, OutputPruned, describe_job
from jobmaster.job.run_time import RunTime
from jobmaster.job.secret import MASK, Secret
from jobmaster.job.specification import JobSpecification
from jobmaster.job.state import Closing, Ended, Held, Running, Stopping
from jobmaster.job.stop_terms import StopTerms
from jobmaster.job.terminal import DEFAULT_TERM, Terminal, Window
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.output.index import GapReason, Stream
from jobmaster.output.reading import GapPiece

STREAMS: Final = {
    Stream.BOTH: pb.OUTPUTSTREAM_UNSPECIFIED,
    Stream.STDOUT: pb.OUTPUTSTREAM_STDOUT,
    Stream.STDERR: pb.OUTPUTSTREAM_STDERR,
}
GAP_REASONS: Final = {
    GapReason.DISK_FAILED: pb.GAPREASON_DISK_FAILED,
    GapReason.NO_SPACE: pb.GAPREASON_NO_SPACE,
    GapReason.CAPPED: pb.GAPREASON_CAPPED,
    GapReason.NOT_SYNCED: pb.GAPREASON_NOT_SYNCED,
    GapReason.PRUNED: pb.GAPREASON_PRUNED,
}
_OOM_LIMITS: Final = {
    OomLimit.JOB: pb.OOMLIMIT_JOB,
    OomLimit.CLIENT: pb.OOMLIMIT_CLIENT,
    OomLimit.JOBS: pb.OOMLIMIT_JOBS,
    OomLimit.HOST: pb.OOMLIMIT_HOST,
}
OUTPUT_MESSAGE_SIZE: Final = 96 * 1024 - 16
"""Bytes of output in one message, at most: two of them are a stretch of the log, and clients need no huge pieces of
memory."""


_OUTPUT_TAG: Final = 0x0A
"""Field 1 of a JobOutputResponse, length-delimited."""


def specification_of(message: pb.JobCreateRequest) -> JobSpecification:
    """What a caller asks to run.

    Raises:
        InvalidRequest: it cannot be run on any host.
    """
    if message.output_full not in pb.OutputFull.values():
        raise InvalidRequest(f"{message.output_full} is nothing that can happen to an output", field="output_full")
    return JobSpecification(
        command=message.command,
        args=tuple(message.args),
        output_max=message.output_max,
        ends_when_full=message.output_full == pb.OUTPUTFULL_END_JOB,
        stdin=message.stdin,
        separate_streams=message.separate_streams,
        terminal=_terminal_of(message.terminal) if message.HasField("terminal") else None,
        run_time=RunTime.asked(message.max_run_ms, message.warn_before_ms, message.warn_signal),
        stop=StopTerms.asked(message.stop_signal, message.grace_ms if message.HasField("grace_ms") else None),
        name=message.name,
        labels=tuple(message.labels.items()),
        environment=tuple(message.environment.items()),
        working_folder=message.working_folder,
        limits=_limits_of(message.limits) if message.HasField("limits") else NO_LIMITS,
        secrets=secrets_of(message),
    )


def _terminal_of(message: pb.Terminal) -> Terminal:
    window = window_of(message.window) if message.HasField("window") else Window()
    return Terminal(window=window, term=message.term or DEFAULT_TERM)


def _limits_of(message: pb.JobLimits) -> LimitRequest:
    return LimitRequest(
        cpu_millicores=message.cpu_millicores or None,
        memory_max=message.memory_max or None,
        memory_high=message.memory_high or None,
        swap_max=message.swap_max if message.HasField("swap_max") else None,
        pids_max=message.pids_max or None,
        cpu_weight=message.cpu_weight or None,
        io_weight=message.io_weight or None,
        io=tuple(map(_io_limit_of, message.io)),
    )


def _io_limit_of(message: pb.IoLimit) -> IoRequest:
    return IoRequest(
        device=message.device,
        read_bps=message.read_bps or None,
        write_bps=message.write_bps or None,
        read_iops=message.read_iops or None,
        write_iops=message.write_iops or None,
    )


def window_of(message: pb.WindowSize) -> Window:
    """The size of a terminal.

    Raises:
        InvalidRequest: a terminal has no such size.
    """
    return Window(rows=message.rows, columns=message.columns)


def secrets_of(message: pb.JobCreateRequest) -> tuple[Secret, ...]:
    """What of a command its caller wants nobody to read; not checked."""
    return tuple(Secret(each.word, each.start, each.end) for each in message.secrets)


def response_of(record: JobRecord) -> pb.JobResponse:
    """A job's record as the contract has it."""
    pruned = record.output_pruned
    response = pb.JobResponse(
        job_id_response=pb.JobID(job_id=record.id),
        job_msg=describe_job(record),
        client=record.owner,
        cmd=command_message(record),
        cmd_args_omitted=record.command.omitted,
        oom_kills=record.oom_kills,
        output_bytes=record.output_bytes if pruned is None else 0,
        output_bytes_lost=record.output_bytes_lost,
        output_bytes_dropped=record.output_bytes_dropped,
        terminal=record.terminal,
        user=record.user,
        paused=record.paused,
        paused_ms=record.paused_for // 1000,
        output_pruned=None if pruned is None else pruned_message(pruned, record.output_bytes),
    )
    response.MergeFrom(_limits_alone(record.limits))
    response.pid = record.state.pid
    _put_time(response.started, record.state.started_at)
    match record.state:
        case Held() | Running() | Stopping() | Closing():
            response.state = pb.JOBSTATE_RUNNING
        case Ended() as state:
            _put_time(response.ended, state.ended_at)
            response.cause.CopyFrom(cause_message(state.cause))
            put_usage(response.usage, record.usage, state.ended_at - state.started_at)
            put_cause(response, state.cause)
        case unreachable:
            assert_never(unreachable)
    return response


@lru_cache(maxsize=16)
def _limits_alone(limits: tuple[LimitReport, ...]) -> pb.JobResponse:
    """A record with nothing but these limits, which many jobs of a server have: to be merged, and never changed."""
    return pb.JobResponse(limits=map(limit_message, limits))


def output_messages(content: Content) -> StoredMessages:
    """JobOutputResponses around bytes that are read when they are sent."""
    return StoredMessages(content, OUTPUT_MESSAGE_SIZE, lambda length: data_head(_OUTPUT_TAG, length))


def data_head(tag: int, length: int) -> bytes:
    """What comes before the last field of a message, which is length-delimited and has so many bytes."""
    head = bytearray([tag])
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head)


def attach_messages(content: Content, offset: int, stream: Stream) -> StoredMessages:
    """AttachResponses with OutputChunks around bytes that are read when they are sent; `offset` is that of the first."""
    return StoredMessages(content, OUTPUT_MESSAGE_SIZE, _AttachHead(offset, STREAMS[stream]))


class _AttachHead:
    """What an AttachResponse with the next so many bytes of output begins with; called for one after the other."""

    def __init__(self, offset: int, stream: pb.OutputStream) -> None:
        self._offset = offset
        self._stream = b"\x18" + _varint(stream) if stream else b""

    def __call__(self, length: int) -> bytes:
        chunk = b"\x08" + _varint(self._offset) + self._stream + b"\x2a" + _varint(length)
        self._offset += length
        return b"\x0a" + _varint(len(chunk) + length) + chunk


def attach_gap(gap: GapPiece) -> pb.AttachResponse:
    """A gap in an output."""
    missing = pb.OutputGap(length=gap.end - gap.start, reason=GAP_REASONS[gap.reason])
    return pb.AttachResponse(output=pb.OutputChunk(offset=gap.start, gap=missing))


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def put_cause(response: pb.JobResponse | pb.JobEventMessage.Finished, cause: Cause) -> None:
    """Sets what the first version of the contract says of an end: state, exit code and signal."""
    response.exit_code = -1
    match cause:
        case Exited(code):
            response.state, response.exit_code = pb.JOBSTATE_COMPLETED, code
        case Signalled(number):
            response.state, response.signal_str = pb.JOBSTATE_COMPLETED, signal_words(number)
        case FailedToStart():
            response.state = pb.JOBSTATE_COMPLETED
        case ServerLost():
            response.state = pb.JOBSTATE_TERMINATED_BY_API
        case OomKilled():
            response.state, response.signal_str = pb.JOBSTATE_TERMINATED_BY_API, "killed"
        case (
            Stopped(signal=number)
            | ServerShutdown(signal=number)
            | OutputCapped(signal=number)
            | TimedOut(signal=number)
        ):
            response.state, response.signal_str = pb.JOBSTATE_TERMINATED_BY_API, signal_words(number)
        case unreachable:
            assert_never(unreachable)


def cause_message(cause: Cause) -> pb.Cause:
    """Why a job ended."""
    match cause:
        case Exited(code):
            return pb.Cause(exited=pb.Cause.Exited(code=code))
        case Signalled(number, core_dumped, by):
            return pb.Cause(signalled=pb.Cause.Signalled(signal=number, core_dumped=core_dumped, by=by))
        case Stopped() as stopped:
            return pb.Cause(stopped=_stopped(stopped))
        case OomKilled() as killed:
            return pb.Cause(oom_killed=_oom_killed(killed))
        case FailedToStart(reason):
            return pb.Cause(failed_to_start=pb.Cause.FailedToStart(reason=reason))
        case ServerLost(reason):
            return pb.Cause(server_lost=pb.Cause.ServerLost(reason=reason))
        case OutputCapped(output_max=limit, signal=number):
            return pb.Cause(output_capped=pb.Cause.OutputCapped(output_max=limit, signal=number))
        case TimedOut() as timed_out:
            return pb.Cause(timed_out=_timed_out(timed_out))
        case ServerShutdown(signal=number, exit_code=code):
            shutdown = pb.Cause.ServerShutdown(signal=number, returned=code is not None, exit_code=code or 0)
            return pb.Cause(server_shutdown=shutdown)
        case unreachable:
            assert_never(unreachable)


def _oom_killed(killed: OomKilled) -> pb.Cause.OomKilled:
    return pb.Cause.OomKilled(
        memory_max=killed.memory_max or 0,
        processes_killed=killed.processes_killed,
        memory_peak=killed.memory_peak or 0,
        whole_job=bool(killed.whole_job),
        limit_of=pb.OOMLIMIT_UNSPECIFIED if killed.limit_of is None else _OOM_LIMITS[killed.limit_of],
    )


def _stopped(stopped: Stopped) -> pb.Cause.Stopped:
    return pb.Cause.Stopped(
        by=stopped.by,
        requested=timestamp(stopped.requested_at),
        signal=stopped.signal,
        killed=stopped.killed,
        returned=stopped.exit_code is not None,
        exit_code=stopped.exit_code or 0,
        reason=stopped.reason,
    )


def _timed_out(timed_out: TimedOut) -> pb.Cause.TimedOut:
    return pb.Cause.TimedOut(
        max_run_ms=timed_out.max_run_ms,
        signal=timed_out.signal,
        killed=timed_out.killed,
        returned=timed_out.exit_code is not None,
        exit_code=timed_out.exit_code or 0,
    )


def command_message(job: JobRecord | Launched) -> pb.JobCreateRequest:
    """What was started, as a record keeps it."""
    message = pb.JobCreateRequest(
        command=job.command.command,
        args=job.command.args,
        name=job.name,
        labels=dict(job.labels),
        environment=dict.fromkeys(job.variables, MASK),
        working_folder=job.working_folder,
    )
    if job.run_time is not None:
        message.max_run_ms = job.run_time.max_ms
        message.warn_before_ms = job.run_time.warn_before_ms
        message.warn_signal = job.run_time.warn_signal
    if job.stop is not None:
        message.stop_signal = job.stop.signal
        if job.stop.grace_ms is not None:
            message.grace_ms = job.stop.grace_ms
    return message


def limit_message(report: LimitReport) -> pb.Limit:
    """A limit that was set for a job."""
    reason = report.not_enforced_because
    return pb.Limit(
        name=report.name,
        value=report.value,
        enforced=reason is None,
        reason=reason or "",
        requested=report.requested,
    )


def pruned_message(pruned: OutputPruned, count: int = 0) -> pb.OutputPruned:
    """That an output of so many bytes was removed to make room."""
    return pb.OutputPruned(time=timestamp(pruned.at), reason=pruned.reason, bytes=count)


def timestamp(moment: datetime) -> Timestamp:
    """A time."""
    message = Timestamp()
    _put_time(message, moment)
    return message


def _put_time(message: Timestamp, moment: datetime) -> None:
    message.seconds, message.nanos = int(moment.timestamp()), moment.microsecond * 1000
