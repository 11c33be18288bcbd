"""What happened to a job, as a message."""

from __future__ import annotations

from typing import Final, assert_never

from jobmaster.api.messages import cause_message, command_message, limit_message, pruned_message, put_cause, timestamp
from jobmaster.job.cause import Death, Exited, Signalled, describe
from jobmaster.job.record import (
    JobEvent,
    Launched,
    OomKillsCounted,
    OutputLost,
    OutputPruned,
    Paused,
    Resumed,
    SignalOrdered,
)
from jobmaster.job.state import Executed, Finished, KillSent, MainProcessDied, RunTimeWarned, StopOrdered, StopSignalled
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.journal.stored import JournalledEvent, Removed

_Message: Final = pb.JobEventMessage


def position_message(seq: int) -> pb.JobEventMessage:
    """Says that all events up to `seq` have been sent."""
    return pb.JobEventMessage(seq=seq)


def event_message(event: JournalledEvent) -> pb.JobEventMessage:
    """An event as the contract has it."""
    message = pb.JobEventMessage(
        seq=event.seq, time=timestamp(event.at), job_id=pb.JobID(job_id=event.job_id), client=event.owner
    )
    _put_kind(message, event.event)
    return message


def _put_kind(message: pb.JobEventMessage, event: JobEvent | Removed) -> None:
    match event:
        case Launched():
            message.launched.CopyFrom(_launched(event))
        case Executed():
            message.executed.SetInParent()
        case RunTimeWarned(signal=number):
            message.run_time_warned.signal = number
        case StopOrdered(order=order):
            message.stop_ordered.by = order.by or ""
            message.stop_ordered.requested.CopyFrom(timestamp(order.requested_at))
            message.stop_ordered.reason = order.reason
        case StopSignalled():
            message.stop_signalled.SetInParent()
        case KillSent():
            message.kill_sent.SetInParent()
        case MainProcessDied(death=death, killed_for_memory=for_memory):
            message.main_process_died.CopyFrom(_died(death))
            message.main_process_died.killed_for_memory = for_memory
        case OomKillsCounted(count=count):
            message.oom_kills_counted.count = count
        case OutputLost(count=count, dropped=dropped):
            message.output_lost.bytes = count
            message.output_lost.bytes_dropped = dropped
        case OutputPruned():
            message.output_pruned.CopyFrom(pruned_message(event))
        case Paused(by=by):
            message.paused.by = by
        case Resumed(by=by):
            message.resumed.by = by
        case SignalOrdered(signal=number, by=by, to_all=to_all):
            message.signal_ordered.signal, message.signal_ordered.by, message.signal_ordered.all = number, by, to_all
        case Finished():
            message.finished.CopyFrom(_finished(event))
        case Removed():
            message.removed.SetInParent()
        case unreachable:
            assert_never(unreachable)


def _launched(event: Launched) -> pb.JobEventMessage.Launched:
    return _Message.Launched(
        cmd=command_message(event),
        cmd_args_omitted=event.command.omitted,
        pid=event.pid,
        limits=map(limit_message, event.limits),
    )


def _died(death: Death) -> pb.JobEventMessage.MainProcessDied:
    match death:
        case Exited(code):
            return _Message.MainProcessDied(exited=pb.Cause.Exited(code=code))
        case Signalled(number, core_dumped):
            return _Message.MainProcessDied(signalled=pb.Cause.Signalled(signal=number, core_dumped=core_dumped))
        case unreachable:
            assert_never(unreachable)


def _finished(event: Finished) -> pb.JobEventMessage.Finished:
    message = _Message.Finished(
        job_msg=describe(event.cause),
        cause=cause_message(event.cause),
        output_bytes=event.output_bytes,
        output_bytes_lost=event.output_bytes_lost,
        output_bytes_dropped=event.output_bytes_dropped,
    )
    put_cause(message, event.cause)
    return message
