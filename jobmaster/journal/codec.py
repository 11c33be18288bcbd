"""Events and records as JSON text, and back.

The text is what stays on disk for years, so the tables below name what is written; a class may be renamed freely, an
attribute not. The text is ASCII: a byte of an argument that is no UTF-8 is an escaped lone surrogate, as Python has it.
Reading ignores fields that it does not know and takes the class's default for one that is missing: a field with a
default may be added without a new version of the database, any other change needs a migration.

A time is ISO 8601 in UTC, to the microsecond. A variant of a sum type is an object whose `is` names the variant.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from jobmaster.errors import JobmasterError
from jobmaster.job.cause import (
    Cause,
    Exited,
    FailedToStart,
    OomKilled,
    OutputCapped,
    ServerLost,
    ServerShutdown,
    Signalled,
    StopOrder,
    Stopped,
    TimedOut,
)
from jobmaster.job.identifier import parse_job_id
from jobmaster.job.labels import Labels, checked_labels
from jobmaster.job.memory import OomLimit
from jobmaster.job.record import (
    JobEvent,
    JobRecord,
    Launched,
    LimitReport,
    OomKillsCounted,
    OutputLost,
    OutputPruned,
    Paused,
    Resumed,
    SignalOrdered,
)
from jobmaster.job.request import RequestError, RequestKey
from jobmaster.job.run_time import RunTime
from jobmaster.job.specification import CommandLine
from jobmaster.job.state import (
    Closing,
    Ended,
    Executed,
    Finished,
    Held,
    KillSent,
    MainProcessDied,
    Running,
    RunTimeWarned,
    State,
    StopOrdered,
    Stopping,
    StopSignalled,
)
from jobmaster.job.stop_terms import DEFAULT_SIGNAL, StopTerms
from jobmaster.job.usage import CpuUsage, DeviceUsage, IoUsage, MemoryEventCounts, MemoryUsage, Stalled, Usage


class Undecodable(Exception):
    """Text that this program did not write, or that the disk has changed."""


_NONE_IS: Final = object()


@dataclass(frozen=True, slots=True)
class Codec:
    """How a value becomes what JSON has, and back; `decode` raises TypeError, ValueError or KeyError.

    Attributes:
        left_out: as an attribute, this value is not written: it is the class's default.
    """

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    left_out: object = _NONE_IS


# --- plain values -----------------------------------------------------------------------------------------------------


def _plain(kind: type) -> Codec:
    def decode(value: object) -> object:
        if type(value) is not kind:  # True is no integer
            raise TypeError(f"{value!r:.40} is no {kind.__name__}")
        return value

    return Codec(lambda value: value, decode)


def _encode_time(time: datetime) -> str:
    if time.tzinfo is None:
        raise ValueError(f"{time} has no time zone")
    return time.astimezone(UTC).isoformat()


def _decode_time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _decode_job_id(text: str) -> str:
    if (job_id := parse_job_id(text)) is None:
        raise ValueError(f"{text!r:.40} is no job id")
    return job_id


def _encode_command(command: CommandLine) -> dict[str, Any]:
    return {"words": [command.command, *command.args], "omitted": command.omitted}


def _decode_command(document: dict[str, Any]) -> CommandLine:
    words = [_TEXT.decode(word) for word in document["words"]]
    if not words:
        raise ValueError("a command has no words")
    return CommandLine("\0".join(words).encode("utf-8", "surrogateescape"), _INTEGER.decode(document["omitted"]))


def _decode_labels(document: dict[str, Any]) -> Labels:
    return checked_labels((key, _TEXT.decode(value)) for key, value in document.items())


_INTEGER: Final = _plain(int)
_TEXT: Final = _plain(str)
_FLAG: Final = _plain(bool)
_TIME: Final = Codec(_encode_time, _decode_time)
_BYTES: Final = Codec(bytes.hex, bytes.fromhex)
_JOB_ID: Final = Codec(str, _decode_job_id)
_LABELS: Final = Codec(dict, _decode_labels)
_COMMAND: Final = Codec(_encode_command, _decode_command)


# --- composed ones ----------------------------------------------------------------------------------------------------


def _optional(codec: Codec) -> Codec:
    return Codec(
        lambda value: None if value is None else codec.encode(value),
        lambda value: None if value is None else codec.decode(value),
    )


def _array(codec: Codec) -> Codec:
    return Codec(
        lambda values: [codec.encode(value) for value in values],
        lambda values: tuple(codec.decode(value) for value in values),
    )


def _sparse(codec: Codec, default: object) -> Codec:
    """Of an attribute that is the class's `default` in most values."""
    return replace(codec, left_out=default)


def _structure(kind: type, /, **fields: Codec) -> Codec:
    """An object with these attributes of `kind`."""
    encoders = [(name, codec.encode) for name, codec in fields.items() if codec.left_out is _NONE_IS]
    sparse = [(name, codec.encode, codec.left_out) for name, codec in fields.items() if codec.left_out is not _NONE_IS]
    decoders = [(name, codec.decode) for name, codec in fields.items()]

    def encode(value: object) -> dict[str, Any]:
        document = {name: encode_field(getattr(value, name)) for name, encode_field in encoders}
        for name, encode_field, left_out in sparse:
            if (attribute := getattr(value, name)) != left_out:
                document[name] = encode_field(attribute)
        return document

    def decode(document: object) -> object:
        if not isinstance(document, dict):
            raise TypeError(f"{document!r:.40} is no {kind.__name__}")
        return kind(**{name: decode_field(document[name]) for name, decode_field in decoders if name in document})

    return Codec(encode, decode)


def _of_known(kind: type, /, **fields: Codec) -> Codec:
    """As `_structure`, of attributes that may be None: those are left out."""
    return _structure(kind, **{name: _sparse(codec, None) for name, codec in fields.items()})


def _variant(names: dict[type, str], structures: dict[type, Codec]) -> Codec:
    """One of several kinds of objects, told apart by `is`."""
    by_name = {names[kind]: structure for kind, structure in structures.items()}

    def encode(value: object) -> dict[str, Any]:
        return {"is": names[type(value)], **structures[type(value)].encode(value)}

    return Codec(encode, lambda document: by_name[document["is"]].decode(document))


# --- what is written --------------------------------------------------------------------------------------------------

_CAUSES: Final[dict[type, str]] = {
    Exited: "exited",
    Signalled: "signalled",
    Stopped: "stopped",
    OomKilled: "oom_killed",
    FailedToStart: "failed_to_start",
    ServerShutdown: "server_shutdown",
    ServerLost: "server_lost",
    OutputCapped: "output_capped",
    TimedOut: "timed_out",
}
_STATES: Final[dict[type, str]] = {
    Held: "held",
    Running: "running",
    Stopping: "stopping",
    Closing: "closing",
    Ended: "ended",
}
_EVENT_TYPES: Final[dict[type, str]] = {
    Launched: "launched",
    Executed: "executed",
    RunTimeWarned: "run_time_warned",
    StopOrdered: "stop_ordered",
    StopSignalled: "stop_signalled",
    KillSent: "kill_sent",
    MainProcessDied: "main_process_died",
    Finished: "finished",
    OomKillsCounted: "oom_kills_counted",
    OutputLost: "output_lost",
    OutputPruned: "output_pruned",
    Paused: "paused",
    Resumed: "resumed",
    SignalOrdered: "signal_ordered",
}
_CARRIED: Final = frozenset({Paused, Resumed, SignalOrdered})
"""Events that older servers do not know, which would set their jobs aside and end them. They are written as the count of no
OOM kills, which changes nothing there, with a field that those servers pass over."""
_CARRIER: Final = _EVENT_TYPES[OomKillsCounted]
_CARGO: Final = "event"
_TYPES_OF_EVENTS: Final = {name: kind for kind, name in _EVENT_TYPES.items()}

_OOM_LIMIT: Final = Codec(str, OomLimit)
_EXITED: Final = _structure(Exited, code=_INTEGER)
_SIGNALLED: Final = _structure(Signalled, signal=_INTEGER, core_dumped=_FLAG, by=_TEXT)
_DEATH: Final = _variant(_CAUSES, {Exited: _EXITED, Signalled: _SIGNALLED})
_CAUSE: Final = _variant(
    _CAUSES,
    {
        Exited: _EXITED,
        Signalled: _SIGNALLED,
        Stopped: _structure(
            Stopped,
            by=_TEXT,
            requested_at=_TIME,
            signal=_INTEGER,
            exit_code=_optional(_INTEGER),
            killed=_FLAG,
            reason=_TEXT,
        ),
        OomKilled: _structure(
            OomKilled,
            memory_max=_optional(_INTEGER),
            processes_killed=_INTEGER,
            memory_peak=_optional(_INTEGER),
            whole_job=_optional(_FLAG),
            limit_of=_optional(_OOM_LIMIT),
        ),
        FailedToStart: _structure(FailedToStart, reason=_TEXT),
        ServerShutdown: _structure(ServerShutdown, signal=_INTEGER, exit_code=_optional(_INTEGER)),
        ServerLost: _structure(ServerLost, reason=_TEXT),
        OutputCapped: _structure(OutputCapped, output_max=_INTEGER, signal=_INTEGER),
        TimedOut: _structure(
            TimedOut, max_run_ms=_INTEGER, signal=_INTEGER, exit_code=_optional(_INTEGER), killed=_FLAG
        ),
    },
)
_ORDER: Final = _structure(
    StopOrder,
    by=_optional(_TEXT),
    requested_at=_TIME,
    reason=_TEXT,
    for_output=_FLAG,
    for_run_time=_sparse(_FLAG, False),
    signal=_sparse(_INTEGER, DEFAULT_SIGNAL),
)
_STATE: Final = _variant(
    _STATES,
    {
        Held: _structure(Held, pid=_INTEGER, started_at=_TIME),
        Running: _structure(Running, pid=_INTEGER, started_at=_TIME, warned_by=_sparse(_INTEGER, 0)),
        Stopping: _structure(
            Stopping,
            pid=_INTEGER,
            started_at=_TIME,
            order=_ORDER,
            signalled=_FLAG,
            killed=_FLAG,
            warned_by=_sparse(_INTEGER, 0),
            unsent=_sparse(_FLAG, False),
        ),
        Closing: _structure(
            Closing,
            pid=_INTEGER,
            started_at=_TIME,
            death=_DEATH,
            order=_optional(_ORDER),
            killed=_FLAG,
            killed_for_memory=_FLAG,
            died_of_warning=_sparse(_FLAG, False),
            oom_limit=_optional(_OOM_LIMIT),
        ),
        Ended: _structure(Ended, pid=_INTEGER, started_at=_TIME, ended_at=_TIME, cause=_CAUSE),
    },
)
_LIMITS: Final = _array(
    _structure(
        LimitReport, name=_TEXT, value=_TEXT, not_enforced_because=_optional(_TEXT), requested=_sparse(_FLAG, False)
    )
)
_RUN_TIME: Final = _sparse(
    _optional(_structure(RunTime, max_ms=_INTEGER, warn_before_ms=_INTEGER, warn_signal=_INTEGER)), None
)
_STOP: Final = _sparse(_optional(_structure(StopTerms, signal=_INTEGER, grace_ms=_optional(_INTEGER))), None)
_STALLED: Final = _of_known(Stalled, some=_INTEGER, full=_INTEGER)
_USAGE: Final = _of_known(
    Usage,
    cpu=_of_known(
        CpuUsage, user=_INTEGER, system=_INTEGER, periods=_INTEGER, throttled_periods=_INTEGER, throttled=_INTEGER
    ),
    memory=_of_known(
        MemoryUsage,
        peak=_INTEGER,
        anon_left=_INTEGER,
        file_left=_INTEGER,
        events=_of_known(
            MemoryEventCounts,
            low=_INTEGER,
            high=_INTEGER,
            max=_INTEGER,
            oom=_INTEGER,
            oom_kill=_INTEGER,
            oom_group_kill=_INTEGER,
        ),
    ),
    pids_peak=_INTEGER,
    io=_structure(
        IoUsage,
        devices=_array(
            _structure(
                DeviceUsage,
                device=_TEXT,
                read_bytes=_INTEGER,
                written_bytes=_INTEGER,
                reads=_INTEGER,
                writes=_INTEGER,
            )
        ),
        omitted=_INTEGER,
    ),
    cpu_stalled=_STALLED,
    memory_stalled=_STALLED,
    io_stalled=_STALLED,
)
_AGE: Final = _sparse(_optional(_INTEGER), None)
_OUTPUT_PRUNED: Final = _structure(OutputPruned, at=_TIME, reason=_TEXT)
_SIGNAL_ORDERED: Final = _structure(SignalOrdered, signal=_INTEGER, by=_TEXT, at=_TIME, to_all=_FLAG)
_EVENTS: Final[dict[type, Codec]] = {
    Launched: _structure(
        Launched,
        id=_JOB_ID,
        owner=_TEXT,
        command=_COMMAND,
        pid=_INTEGER,
        start_time=_INTEGER,
        boot_id=_TEXT,
        at=_TIME,
        limits=_LIMITS,
        request=_optional(_structure(RequestKey, id=_TEXT, digest=_BYTES)),
        output_max=_INTEGER,
        ends_when_full=_FLAG,
        terminal=_FLAG,
        user=_sparse(_TEXT, ""),
        run_time=_RUN_TIME,
        stop=_STOP,
        name=_sparse(_TEXT, ""),
        labels=_sparse(_LABELS, ()),
        variables=_sparse(_array(_TEXT), ()),
        working_folder=_sparse(_TEXT, ""),
    ),
    Executed: _structure(Executed),
    RunTimeWarned: _structure(RunTimeWarned, signal=_INTEGER),
    StopOrdered: _structure(StopOrdered, order=_ORDER, age=_AGE, unsent=_sparse(_FLAG, False)),
    StopSignalled: _structure(StopSignalled),
    KillSent: _structure(KillSent),
    MainProcessDied: _structure(
        MainProcessDied, death=_DEATH, killed_for_memory=_FLAG, oom_limit=_optional(_OOM_LIMIT), age=_AGE
    ),
    Finished: _structure(
        Finished,
        cause=_CAUSE,
        at=_TIME,
        output_bytes=_INTEGER,
        output_bytes_lost=_INTEGER,
        output_bytes_dropped=_INTEGER,
        usage=_optional(_USAGE),
        age=_AGE,
    ),
    OomKillsCounted: _structure(OomKillsCounted, count=_INTEGER),
    OutputLost: _structure(OutputLost, count=_INTEGER, dropped=_INTEGER),
    OutputPruned: _OUTPUT_PRUNED,
    Paused: _structure(Paused, by=_TEXT, at=_TIME, age=_AGE),
    Resumed: _structure(Resumed, by=_TEXT, at=_TIME, age=_AGE),
    SignalOrdered: _SIGNAL_ORDERED,
}
_CARRIED_EVENT: Final = _variant(_EVENT_TYPES, {kind: _EVENTS[kind] for kind in _CARRIED})
_RECORD: Final = _structure(
    JobRecord,
    id=_JOB_ID,
    owner=_TEXT,
    command=_COMMAND,
    state=_STATE,
    limits=_LIMITS,
    oom_kills=_INTEGER,
    output_bytes=_INTEGER,
    output_bytes_lost=_INTEGER,
    output_bytes_dropped=_INTEGER,
    output_max=_INTEGER,
    ends_when_full=_FLAG,
    terminal=_FLAG,
    user=_sparse(_TEXT, ""),
    run_time=_RUN_TIME,
    stop=_STOP,
    name=_sparse(_TEXT, ""),
    labels=_sparse(_LABELS, ()),
    variables=_sparse(_array(_TEXT), ()),
    working_folder=_sparse(_TEXT, ""),
    output_pruned=_optional(_OUTPUT_PRUNED),
    usage=_optional(_USAGE),
    paused=_sparse(_FLAG, False),
    paused_at_age=_AGE,
    paused_for=_sparse(_INTEGER, 0),
    pauses=_sparse(_INTEGER, 0),
    signals=_sparse(_array(_SIGNAL_ORDERED), ()),
)


def _decode_carrier(document: Any) -> object:
    return _CARRIED_EVENT.decode(document[_CARGO]) if _CARGO in document else _EVENTS[OomKillsCounted].decode(document)


_CARRYING: Final = Codec(_EVENTS[OomKillsCounted].encode, _decode_carrier)
_REQUEST_ERROR: Final = _structure(RequestError, kind=_TEXT, text=_TEXT)


def encode_event(event: JobEvent) -> tuple[str, str]:
    """The name of the event's type and its document.

    Raises:
        ValueError: a time of it has no time zone.
    """
    kind = type(event)
    if kind in _CARRIED:
        return _CARRIER, _text_of({"count": 0, _CARGO: _CARRIED_EVENT.encode(event)})
    return _EVENT_TYPES[kind], _text_of(_EVENTS[kind].encode(event))


def event_name(event: JobEvent) -> str:
    """The name of an event, as the audit has it."""
    return _EVENT_TYPES[type(event)]


def decode_event(name: str, text: str) -> JobEvent:
    """The event that `encode_event` was given.

    Raises:
        Undecodable: it gave no such text.
    """
    if name not in _TYPES_OF_EVENTS:
        raise Undecodable(f"there is no event {name!r:.40}")
    event: JobEvent = _value_of(_CARRYING if name == _CARRIER else _EVENTS[_TYPES_OF_EVENTS[name]], text)
    return event


def encode_record(record: JobRecord) -> str:
    """The document of a record."""
    return _text_of(_RECORD.encode(record))


def decode_record(text: str) -> JobRecord:
    """The record that `encode_record` was given.

    Raises:
        Undecodable: it gave no such text.
    """
    record: JobRecord = _value_of(_RECORD, text)
    return record


def encode_request_error(error: RequestError) -> str:
    """The document of an error that is to be repeated."""
    return _text_of(_REQUEST_ERROR.encode(error))


def decode_request_error(text: str) -> RequestError:
    """The error that `encode_request_error` was given.

    Raises:
        Undecodable: it gave no such text.
    """
    error: RequestError = _value_of(_REQUEST_ERROR, text)
    return error


def state_name(state: State) -> str:
    """The name of a state, as documents and the column `state` have it."""
    return _STATES[type(state)]


def cause_name(cause: Cause) -> str:
    """The name of a cause, as documents and the column `cause` have it."""
    return _CAUSES[type(cause)]


_write_json: Final = json.JSONEncoder(separators=(",", ":")).encode  # ASCII, by default


def _text_of(document: dict[str, Any]) -> str:
    return _write_json(document)


def _value_of(codec: Codec, text: str) -> Any:
    try:
        return codec.decode(json.loads(text))
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, JobmasterError) as error:
        raise Undecodable(f"{type(error).__name__}: {error}") from error
