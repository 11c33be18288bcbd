import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf import wrappers_pb2 as _wrappers_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OutputFull(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTPUTFULL_UNSPECIFIED: _ClassVar[OutputFull]
    OUTPUTFULL_DROP: _ClassVar[OutputFull]
    OUTPUTFULL_END_JOB: _ClassVar[OutputFull]

class OutputStream(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTPUTSTREAM_UNSPECIFIED: _ClassVar[OutputStream]
    OUTPUTSTREAM_STDOUT: _ClassVar[OutputStream]
    OUTPUTSTREAM_STDERR: _ClassVar[OutputStream]

class GapReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GAPREASON_UNSPECIFIED: _ClassVar[GapReason]
    GAPREASON_DISK_FAILED: _ClassVar[GapReason]
    GAPREASON_NO_SPACE: _ClassVar[GapReason]
    GAPREASON_CAPPED: _ClassVar[GapReason]
    GAPREASON_NOT_SYNCED: _ClassVar[GapReason]
    GAPREASON_PRUNED: _ClassVar[GapReason]

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOBSTATE_UNSPECIFIED: _ClassVar[JobState]
    JOBSTATE_RUNNING: _ClassVar[JobState]
    JOBSTATE_TERMINATED_BY_API: _ClassVar[JobState]
    JOBSTATE_COMPLETED: _ClassVar[JobState]

class OomLimit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OOMLIMIT_UNSPECIFIED: _ClassVar[OomLimit]
    OOMLIMIT_JOB: _ClassVar[OomLimit]
    OOMLIMIT_CLIENT: _ClassVar[OomLimit]
    OOMLIMIT_JOBS: _ClassVar[OomLimit]
    OOMLIMIT_HOST: _ClassVar[OomLimit]

class CauseKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CAUSEKIND_UNSPECIFIED: _ClassVar[CauseKind]
    CAUSEKIND_EXITED: _ClassVar[CauseKind]
    CAUSEKIND_SIGNALLED: _ClassVar[CauseKind]
    CAUSEKIND_STOPPED: _ClassVar[CauseKind]
    CAUSEKIND_OOM_KILLED: _ClassVar[CauseKind]
    CAUSEKIND_FAILED_TO_START: _ClassVar[CauseKind]
    CAUSEKIND_SERVER_SHUTDOWN: _ClassVar[CauseKind]
    CAUSEKIND_SERVER_LOST: _ClassVar[CauseKind]
    CAUSEKIND_OUTPUT_CAPPED: _ClassVar[CauseKind]
    CAUSEKIND_TIMED_OUT: _ClassVar[CauseKind]

class InputStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INPUTSTATUS_UNSPECIFIED: _ClassVar[InputStatus]
    INPUTSTATUS_OPEN: _ClassVar[InputStatus]
    INPUTSTATUS_ENDED: _ClassVar[InputStatus]
    INPUTSTATUS_NOT_READ: _ClassVar[InputStatus]
OUTPUTFULL_UNSPECIFIED: OutputFull
OUTPUTFULL_DROP: OutputFull
OUTPUTFULL_END_JOB: OutputFull
OUTPUTSTREAM_UNSPECIFIED: OutputStream
OUTPUTSTREAM_STDOUT: OutputStream
OUTPUTSTREAM_STDERR: OutputStream
GAPREASON_UNSPECIFIED: GapReason
GAPREASON_DISK_FAILED: GapReason
GAPREASON_NO_SPACE: GapReason
GAPREASON_CAPPED: GapReason
GAPREASON_NOT_SYNCED: GapReason
GAPREASON_PRUNED: GapReason
JOBSTATE_UNSPECIFIED: JobState
JOBSTATE_RUNNING: JobState
JOBSTATE_TERMINATED_BY_API: JobState
JOBSTATE_COMPLETED: JobState
OOMLIMIT_UNSPECIFIED: OomLimit
OOMLIMIT_JOB: OomLimit
OOMLIMIT_CLIENT: OomLimit
OOMLIMIT_JOBS: OomLimit
OOMLIMIT_HOST: OomLimit
CAUSEKIND_UNSPECIFIED: CauseKind
CAUSEKIND_EXITED: CauseKind
CAUSEKIND_SIGNALLED: CauseKind
CAUSEKIND_STOPPED: CauseKind
CAUSEKIND_OOM_KILLED: CauseKind
CAUSEKIND_FAILED_TO_START: CauseKind
CAUSEKIND_SERVER_SHUTDOWN: CauseKind
CAUSEKIND_SERVER_LOST: CauseKind
CAUSEKIND_OUTPUT_CAPPED: CauseKind
CAUSEKIND_TIMED_OUT: CauseKind
INPUTSTATUS_UNSPECIFIED: InputStatus
INPUTSTATUS_OPEN: InputStatus
INPUTSTATUS_ENDED: InputStatus
INPUTSTATUS_NOT_READ: InputStatus

class JobID(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class JobCreateRequest(_message.Message):
    __slots__ = ("command", "args", "request_id", "separate_streams", "output_max", "output_full", "stdin", "secrets", "terminal", "limits", "max_run_ms", "warn_before_ms", "warn_signal", "stop_signal", "grace_ms", "name", "labels", "environment", "working_folder")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class EnvironmentEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SEPARATE_STREAMS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_MAX_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FULL_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    SECRETS_FIELD_NUMBER: _ClassVar[int]
    TERMINAL_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    MAX_RUN_MS_FIELD_NUMBER: _ClassVar[int]
    WARN_BEFORE_MS_FIELD_NUMBER: _ClassVar[int]
    WARN_SIGNAL_FIELD_NUMBER: _ClassVar[int]
    STOP_SIGNAL_FIELD_NUMBER: _ClassVar[int]
    GRACE_MS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    WORKING_FOLDER_FIELD_NUMBER: _ClassVar[int]
    command: str
    args: _containers.RepeatedScalarFieldContainer[str]
    request_id: str
    separate_streams: bool
    output_max: int
    output_full: OutputFull
    stdin: bool
    secrets: _containers.RepeatedCompositeFieldContainer[SecretRange]
    terminal: Terminal
    limits: JobLimits
    max_run_ms: int
    warn_before_ms: int
    warn_signal: int
    stop_signal: int
    grace_ms: int
    name: str
    labels: _containers.ScalarMap[str, str]
    environment: _containers.ScalarMap[str, str]
    working_folder: str
    def __init__(self, command: _Optional[str] = ..., args: _Optional[_Iterable[str]] = ..., request_id: _Optional[str] = ..., separate_streams: _Optional[bool] = ..., output_max: _Optional[int] = ..., output_full: _Optional[_Union[OutputFull, str]] = ..., stdin: _Optional[bool] = ..., secrets: _Optional[_Iterable[_Union[SecretRange, _Mapping]]] = ..., terminal: _Optional[_Union[Terminal, _Mapping]] = ..., limits: _Optional[_Union[JobLimits, _Mapping]] = ..., max_run_ms: _Optional[int] = ..., warn_before_ms: _Optional[int] = ..., warn_signal: _Optional[int] = ..., stop_signal: _Optional[int] = ..., grace_ms: _Optional[int] = ..., name: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., environment: _Optional[_Mapping[str, str]] = ..., working_folder: _Optional[str] = ...) -> None: ...

class JobLimits(_message.Message):
    __slots__ = ("cpu_millicores", "memory_max", "memory_high", "swap_max", "pids_max", "cpu_weight", "io_weight", "io")
    CPU_MILLICORES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MAX_FIELD_NUMBER: _ClassVar[int]
    MEMORY_HIGH_FIELD_NUMBER: _ClassVar[int]
    SWAP_MAX_FIELD_NUMBER: _ClassVar[int]
    PIDS_MAX_FIELD_NUMBER: _ClassVar[int]
    CPU_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    IO_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    IO_FIELD_NUMBER: _ClassVar[int]
    cpu_millicores: int
    memory_max: int
    memory_high: int
    swap_max: int
    pids_max: int
    cpu_weight: int
    io_weight: int
    io: _containers.RepeatedCompositeFieldContainer[IoLimit]
    def __init__(self, cpu_millicores: _Optional[int] = ..., memory_max: _Optional[int] = ..., memory_high: _Optional[int] = ..., swap_max: _Optional[int] = ..., pids_max: _Optional[int] = ..., cpu_weight: _Optional[int] = ..., io_weight: _Optional[int] = ..., io: _Optional[_Iterable[_Union[IoLimit, _Mapping]]] = ...) -> None: ...

class IoLimit(_message.Message):
    __slots__ = ("device", "read_bps", "write_bps", "read_iops", "write_iops")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    READ_BPS_FIELD_NUMBER: _ClassVar[int]
    WRITE_BPS_FIELD_NUMBER: _ClassVar[int]
    READ_IOPS_FIELD_NUMBER: _ClassVar[int]
    WRITE_IOPS_FIELD_NUMBER: _ClassVar[int]
    device: str
    read_bps: int
    write_bps: int
    read_iops: int
    write_iops: int
    def __init__(self, device: _Optional[str] = ..., read_bps: _Optional[int] = ..., write_bps: _Optional[int] = ..., read_iops: _Optional[int] = ..., write_iops: _Optional[int] = ...) -> None: ...

class SecretRange(_message.Message):
    __slots__ = ("word", "start", "end")
    WORD_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    word: int
    start: int
    end: int
    def __init__(self, word: _Optional[int] = ..., start: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class Terminal(_message.Message):
    __slots__ = ("window", "term")
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    window: WindowSize
    term: str
    def __init__(self, window: _Optional[_Union[WindowSize, _Mapping]] = ..., term: _Optional[str] = ...) -> None: ...

class WindowSize(_message.Message):
    __slots__ = ("rows", "columns")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    columns: int
    def __init__(self, rows: _Optional[int] = ..., columns: _Optional[int] = ...) -> None: ...

class JobIDRequest(_message.Message):
    __slots__ = ("job_id_request", "reason", "force")
    JOB_ID_REQUEST_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    job_id_request: JobID
    reason: str
    force: bool
    def __init__(self, job_id_request: _Optional[_Union[JobID, _Mapping]] = ..., reason: _Optional[str] = ..., force: _Optional[bool] = ...) -> None: ...

class SignalRequest(_message.Message):
    __slots__ = ("job_id", "signal", "all")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    job_id: JobID
    signal: int
    all: bool
    def __init__(self, job_id: _Optional[_Union[JobID, _Mapping]] = ..., signal: _Optional[int] = ..., all: _Optional[bool] = ...) -> None: ...

class RemoveResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class JobOutputResponse(_message.Message):
    __slots__ = ("output",)
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    output: bytes
    def __init__(self, output: _Optional[bytes] = ...) -> None: ...

class FollowOutputRequest(_message.Message):
    __slots__ = ("job_id", "from_offset", "last_bytes", "last_lines", "since", "no_follow", "until", "stream", "timestamps")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_OFFSET_FIELD_NUMBER: _ClassVar[int]
    LAST_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAST_LINES_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    NO_FOLLOW_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMPS_FIELD_NUMBER: _ClassVar[int]
    job_id: JobID
    from_offset: int
    last_bytes: int
    last_lines: int
    since: _timestamp_pb2.Timestamp
    no_follow: bool
    until: _timestamp_pb2.Timestamp
    stream: OutputStream
    timestamps: bool
    def __init__(self, job_id: _Optional[_Union[JobID, _Mapping]] = ..., from_offset: _Optional[int] = ..., last_bytes: _Optional[int] = ..., last_lines: _Optional[int] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., no_follow: _Optional[bool] = ..., until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., stream: _Optional[_Union[OutputStream, str]] = ..., timestamps: _Optional[bool] = ...) -> None: ...

class OutputChunk(_message.Message):
    __slots__ = ("offset", "time", "stream", "gap", "data")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offset: int
    time: _timestamp_pb2.Timestamp
    stream: OutputStream
    gap: OutputGap
    data: bytes
    def __init__(self, offset: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., stream: _Optional[_Union[OutputStream, str]] = ..., gap: _Optional[_Union[OutputGap, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class OutputGap(_message.Message):
    __slots__ = ("length", "reason")
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    length: int
    reason: GapReason
    def __init__(self, length: _Optional[int] = ..., reason: _Optional[_Union[GapReason, str]] = ...) -> None: ...

class JobResponse(_message.Message):
    __slots__ = ("job_id_response", "job_msg", "client", "pid", "state", "exit_code", "signal_str", "cmd", "started", "ended", "cause", "oom_kills", "limits", "output_bytes", "output_bytes_lost", "cmd_args_omitted", "output_bytes_dropped", "terminal", "output_pruned", "usage", "paused", "user", "paused_ms")
    JOB_ID_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    JOB_MSG_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_STR_FIELD_NUMBER: _ClassVar[int]
    CMD_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    OOM_KILLS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_BYTES_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_BYTES_LOST_FIELD_NUMBER: _ClassVar[int]
    CMD_ARGS_OMITTED_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_BYTES_DROPPED_FIELD_NUMBER: _ClassVar[int]
    TERMINAL_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_PRUNED_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    PAUSED_MS_FIELD_NUMBER: _ClassVar[int]
    job_id_response: JobID
    job_msg: str
    client: str
    pid: int
    state: JobState
    exit_code: int
    signal_str: str
    cmd: JobCreateRequest
    started: _timestamp_pb2.Timestamp
    ended: _timestamp_pb2.Timestamp
    cause: Cause
    oom_kills: int
    limits: _containers.RepeatedCompositeFieldContainer[Limit]
    output_bytes: int
    output_bytes_lost: int
    cmd_args_omitted: int
    output_bytes_dropped: int
    terminal: bool
    output_pruned: OutputPruned
    usage: Usage
    paused: bool
    user: str
    paused_ms: int
    def __init__(self, job_id_response: _Optional[_Union[JobID, _Mapping]] = ..., job_msg: _Optional[str] = ..., client: _Optional[str] = ..., pid: _Optional[int] = ..., state: _Optional[_Union[JobState, str]] = ..., exit_code: _Optional[int] = ..., signal_str: _Optional[str] = ..., cmd: _Optional[_Union[JobCreateRequest, _Mapping]] = ..., started: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ended: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., cause: _Optional[_Union[Cause, _Mapping]] = ..., oom_kills: _Optional[int] = ..., limits: _Optional[_Iterable[_Union[Limit, _Mapping]]] = ..., output_bytes: _Optional[int] = ..., output_bytes_lost: _Optional[int] = ..., cmd_args_omitted: _Optional[int] = ..., output_bytes_dropped: _Optional[int] = ..., terminal: _Optional[bool] = ..., output_pruned: _Optional[_Union[OutputPruned, _Mapping]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., paused: _Optional[bool] = ..., user: _Optional[str] = ..., paused_ms: _Optional[int] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("wall_usec", "cpu", "memory", "pids_peak", "io", "cpu_stalled", "memory_stalled", "io_stalled")
    WALL_USEC_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    PIDS_PEAK_FIELD_NUMBER: _ClassVar[int]
    IO_FIELD_NUMBER: _ClassVar[int]
    CPU_STALLED_FIELD_NUMBER: _ClassVar[int]
    MEMORY_STALLED_FIELD_NUMBER: _ClassVar[int]
    IO_STALLED_FIELD_NUMBER: _ClassVar[int]
    wall_usec: _wrappers_pb2.UInt64Value
    cpu: CpuUsage
    memory: MemoryUsage
    pids_peak: _wrappers_pb2.UInt64Value
    io: IoUsage
    cpu_stalled: Stalled
    memory_stalled: Stalled
    io_stalled: Stalled
    def __init__(self, wall_usec: _Optional[_Union[_wrappers_pb2.UInt64Value, _Mapping]] = ..., cpu: _Optional[_Union[CpuUsage, _Mapping]] = ..., memory: _Optional[_Union[MemoryUsage, _Mapping]] = ..., pids_peak: _Optional[_Union[_wrappers_pb2.UInt64Value, _Mapping]] = ..., io: _Optional[_Union[IoUsage, _Mapping]] = ..., cpu_stalled: _Optional[_Union[Stalled, _Mapping]] = ..., memory_stalled: _Optional[_Union[Stalled, _Mapping]] = ..., io_stalled: _Optional[_Union[Stalled, _Mapping]] = ...) -> None: ...

class CpuUsage(_message.Message):
    __slots__ = ("user_usec", "system_usec", "periods", "throttled_periods", "throttled_usec")
    USER_USEC_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_USEC_FIELD_NUMBER: _ClassVar[int]
    PERIODS_FIELD_NUMBER: _ClassVar[int]
    THROTTLED_PERIODS_FIELD_NUMBER: _ClassVar[int]
    THROTTLED_USEC_FIELD_NUMBER: _ClassVar[int]
    user_usec: _wrappers_pb2.UInt64Value
    system_usec: _wrappers_pb2.UInt64Value
    periods: _wrappers_pb2.UInt64Value
    throttled_periods: _wrappers_pb2.UInt64Value
    throttled_usec: _wrappers_pb2.UInt64Value
    def __init__(self, user_usec: _Optional[_Union[_wrappers_pb2.UInt64Value, _Mapping]] = ..., system_usec: _Optional[_Union[_wrappers_pb2.UInt64Value, _Mapping]] = ..., periods: _Optional[_Union[_wrappers_pb2.UInt64Value, _Mapping]] = ..., throttled_periods: _Optional[_Union[_wrappers_pb2.UInt64Value, _Mapping]] = ..., throttled_usec: _Optional[_Union[_wrappers_pb2.UInt64Value, _Mapping]] = ...) -> None: ...

class MemoryUsage(_message.Message):
    __slots__ = ("peak", "anon_left", "file_left", "events")
    PEAK_FIELD_NUMBER: _ClassVar[int]
    ANON_LEFT_FIELD_NUMBER: _ClassVar[int]
    FILE_LEFT_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    peak: _wrappers_pb2.UInt64Value
    anon_left: _wrappers_pb2.UInt64Value
    file_left: _wrappers_pb2.UInt64Value
    events: MemoryEvents
    def __init__(self, peak: _Optional[_Union[_wrappers_pb2.UInt64Value, _Mapping]] = ..., anon_left: _Optional[_Union[_wrappers_pb2.UInt64Value, _Mapping]] = ..., file_left: _Optional[_Union[_wrappers_pb2.UInt64Value, _Mapping]] = ..., events: _Optional[_Union[MemoryEvents, _Mapping]] = ...) -> None: ...

class MemoryEvents(_message.Message):
    __slots__ = ("low", "high", "max", "oom", "oom_kill", "oom_group_kill")
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    OOM_FIELD_NUMBER: _ClassVar[int]
    OOM_KILL_FIELD_NUMBER: _ClassVar[int]
    OOM_GROUP_KILL_FIELD_NUMBER: _ClassVar[int]
    low: _wrappers_pb2.UInt64Value
    high: _wrappers_pb2.UInt64Value
    max: _wrappers_pb2.UInt64Value
    oom: _wrappers_pb2.UInt64Value
    oom_kill: _wrappers_pb2.UInt64Value
    oom_group_kill: _wrappers_pb2.UInt64Value
    def __init__(self, low: _Optional[_Union[_wrappers_pb2.UInt64Value, _Mapping]] = ..., high: _Optional[_Union[_wrappers_pb2.UInt64Value, _Mapping]] = ..., max: _Optional[_Union[_wrappers_pb2.UInt64Value, _Mapping]] = ..., oom: _Optional[_Union[_wrappers_pb2.UInt64Value, _Mapping]] = ..., oom_kill: _Optional[_Union[_wrappers_pb2.UInt64Value, _Mapping]] = ..., oom_group_kill: _Optional[_Union[_wrappers_pb2.UInt64Value, _Mapping]] = ...) -> None: ...

class IoUsage(_message.Message):
    __slots__ = ("devices", "devices_omitted")
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    DEVICES_OMITTED_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedCompositeFieldContainer[DeviceUsage]
    devices_omitted: int
    def __init__(self, devices: _Optional[_Iterable[_Union[DeviceUsage, _Mapping]]] = ..., devices_omitted: _Optional[int] = ...) -> None: ...

class DeviceUsage(_message.Message):
    __slots__ = ("device", "read_bytes", "written_bytes", "reads", "writes")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    READS_FIELD_NUMBER: _ClassVar[int]
    WRITES_FIELD_NUMBER: _ClassVar[int]
    device: str
    read_bytes: int
    written_bytes: int
    reads: int
    writes: int
    def __init__(self, device: _Optional[str] = ..., read_bytes: _Optional[int] = ..., written_bytes: _Optional[int] = ..., reads: _Optional[int] = ..., writes: _Optional[int] = ...) -> None: ...

class Stalled(_message.Message):
    __slots__ = ("some_usec", "full_usec")
    SOME_USEC_FIELD_NUMBER: _ClassVar[int]
    FULL_USEC_FIELD_NUMBER: _ClassVar[int]
    some_usec: _wrappers_pb2.UInt64Value
    full_usec: _wrappers_pb2.UInt64Value
    def __init__(self, some_usec: _Optional[_Union[_wrappers_pb2.UInt64Value, _Mapping]] = ..., full_usec: _Optional[_Union[_wrappers_pb2.UInt64Value, _Mapping]] = ...) -> None: ...

class OutputPruned(_message.Message):
    __slots__ = ("time", "reason", "bytes")
    TIME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    reason: str
    bytes: int
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reason: _Optional[str] = ..., bytes: _Optional[int] = ...) -> None: ...

class Cause(_message.Message):
    __slots__ = ("exited", "signalled", "stopped", "oom_killed", "failed_to_start", "server_shutdown", "server_lost", "output_capped", "timed_out")
    class Exited(_message.Message):
        __slots__ = ("code",)
        CODE_FIELD_NUMBER: _ClassVar[int]
        code: int
        def __init__(self, code: _Optional[int] = ...) -> None: ...
    class Signalled(_message.Message):
        __slots__ = ("signal", "core_dumped", "by")
        SIGNAL_FIELD_NUMBER: _ClassVar[int]
        CORE_DUMPED_FIELD_NUMBER: _ClassVar[int]
        BY_FIELD_NUMBER: _ClassVar[int]
        signal: int
        core_dumped: bool
        by: str
        def __init__(self, signal: _Optional[int] = ..., core_dumped: _Optional[bool] = ..., by: _Optional[str] = ...) -> None: ...
    class Stopped(_message.Message):
        __slots__ = ("by", "requested", "signal", "killed", "returned", "exit_code", "reason")
        BY_FIELD_NUMBER: _ClassVar[int]
        REQUESTED_FIELD_NUMBER: _ClassVar[int]
        SIGNAL_FIELD_NUMBER: _ClassVar[int]
        KILLED_FIELD_NUMBER: _ClassVar[int]
        RETURNED_FIELD_NUMBER: _ClassVar[int]
        EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        by: str
        requested: _timestamp_pb2.Timestamp
        signal: int
        killed: bool
        returned: bool
        exit_code: int
        reason: str
        def __init__(self, by: _Optional[str] = ..., requested: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., signal: _Optional[int] = ..., killed: _Optional[bool] = ..., returned: _Optional[bool] = ..., exit_code: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...
    class OomKilled(_message.Message):
        __slots__ = ("memory_max", "processes_killed", "memory_peak", "whole_job", "limit_of")
        MEMORY_MAX_FIELD_NUMBER: _ClassVar[int]
        PROCESSES_KILLED_FIELD_NUMBER: _ClassVar[int]
        MEMORY_PEAK_FIELD_NUMBER: _ClassVar[int]
        WHOLE_JOB_FIELD_NUMBER: _ClassVar[int]
        LIMIT_OF_FIELD_NUMBER: _ClassVar[int]
        memory_max: int
        processes_killed: int
        memory_peak: int
        whole_job: bool
        limit_of: OomLimit
        def __init__(self, memory_max: _Optional[int] = ..., processes_killed: _Optional[int] = ..., memory_peak: _Optional[int] = ..., whole_job: _Optional[bool] = ..., limit_of: _Optional[_Union[OomLimit, str]] = ...) -> None: ...
    class FailedToStart(_message.Message):
        __slots__ = ("reason",)
        REASON_FIELD_NUMBER: _ClassVar[int]
        reason: str
        def __init__(self, reason: _Optional[str] = ...) -> None: ...
    class ServerShutdown(_message.Message):
        __slots__ = ("signal", "returned", "exit_code")
        SIGNAL_FIELD_NUMBER: _ClassVar[int]
        RETURNED_FIELD_NUMBER: _ClassVar[int]
        EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
        signal: int
        returned: bool
        exit_code: int
        def __init__(self, signal: _Optional[int] = ..., returned: _Optional[bool] = ..., exit_code: _Optional[int] = ...) -> None: ...
    class ServerLost(_message.Message):
        __slots__ = ("reason",)
        REASON_FIELD_NUMBER: _ClassVar[int]
        reason: str
        def __init__(self, reason: _Optional[str] = ...) -> None: ...
    class OutputCapped(_message.Message):
        __slots__ = ("output_max", "signal")
        OUTPUT_MAX_FIELD_NUMBER: _ClassVar[int]
        SIGNAL_FIELD_NUMBER: _ClassVar[int]
        output_max: int
        signal: int
        def __init__(self, output_max: _Optional[int] = ..., signal: _Optional[int] = ...) -> None: ...
    class TimedOut(_message.Message):
        __slots__ = ("max_run_ms", "signal", "killed", "returned", "exit_code")
        MAX_RUN_MS_FIELD_NUMBER: _ClassVar[int]
        SIGNAL_FIELD_NUMBER: _ClassVar[int]
        KILLED_FIELD_NUMBER: _ClassVar[int]
        RETURNED_FIELD_NUMBER: _ClassVar[int]
        EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
        max_run_ms: int
        signal: int
        killed: bool
        returned: bool
        exit_code: int
        def __init__(self, max_run_ms: _Optional[int] = ..., signal: _Optional[int] = ..., killed: _Optional[bool] = ..., returned: _Optional[bool] = ..., exit_code: _Optional[int] = ...) -> None: ...
    EXITED_FIELD_NUMBER: _ClassVar[int]
    SIGNALLED_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    OOM_KILLED_FIELD_NUMBER: _ClassVar[int]
    FAILED_TO_START_FIELD_NUMBER: _ClassVar[int]
    SERVER_SHUTDOWN_FIELD_NUMBER: _ClassVar[int]
    SERVER_LOST_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_CAPPED_FIELD_NUMBER: _ClassVar[int]
    TIMED_OUT_FIELD_NUMBER: _ClassVar[int]
    exited: Cause.Exited
    signalled: Cause.Signalled
    stopped: Cause.Stopped
    oom_killed: Cause.OomKilled
    failed_to_start: Cause.FailedToStart
    server_shutdown: Cause.ServerShutdown
    server_lost: Cause.ServerLost
    output_capped: Cause.OutputCapped
    timed_out: Cause.TimedOut
    def __init__(self, exited: _Optional[_Union[Cause.Exited, _Mapping]] = ..., signalled: _Optional[_Union[Cause.Signalled, _Mapping]] = ..., stopped: _Optional[_Union[Cause.Stopped, _Mapping]] = ..., oom_killed: _Optional[_Union[Cause.OomKilled, _Mapping]] = ..., failed_to_start: _Optional[_Union[Cause.FailedToStart, _Mapping]] = ..., server_shutdown: _Optional[_Union[Cause.ServerShutdown, _Mapping]] = ..., server_lost: _Optional[_Union[Cause.ServerLost, _Mapping]] = ..., output_capped: _Optional[_Union[Cause.OutputCapped, _Mapping]] = ..., timed_out: _Optional[_Union[Cause.TimedOut, _Mapping]] = ...) -> None: ...

class Limit(_message.Message):
    __slots__ = ("name", "value", "enforced", "reason", "requested")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ENFORCED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    enforced: bool
    reason: str
    requested: bool
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ..., enforced: _Optional[bool] = ..., reason: _Optional[str] = ..., requested: _Optional[bool] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("client", "states", "causes", "started_after", "started_before", "page_size", "page_token", "name", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    CAUSES_FIELD_NUMBER: _ClassVar[int]
    STARTED_AFTER_FIELD_NUMBER: _ClassVar[int]
    STARTED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    client: str
    states: _containers.RepeatedScalarFieldContainer[JobState]
    causes: _containers.RepeatedScalarFieldContainer[CauseKind]
    started_after: _timestamp_pb2.Timestamp
    started_before: _timestamp_pb2.Timestamp
    page_size: int
    page_token: str
    name: str
    labels: _containers.ScalarMap[str, str]
    def __init__(self, client: _Optional[str] = ..., states: _Optional[_Iterable[_Union[JobState, str]]] = ..., causes: _Optional[_Iterable[_Union[CauseKind, str]]] = ..., started_after: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., started_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., name: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("jobs", "next_page_token")
    JOBS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[JobResponse]
    next_page_token: str
    def __init__(self, jobs: _Optional[_Iterable[_Union[JobResponse, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("after", "only_new")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    ONLY_NEW_FIELD_NUMBER: _ClassVar[int]
    after: int
    only_new: bool
    def __init__(self, after: _Optional[int] = ..., only_new: _Optional[bool] = ...) -> None: ...

class JobEventMessage(_message.Message):
    __slots__ = ("seq", "time", "job_id", "client", "launched", "executed", "stop_ordered", "stop_signalled", "kill_sent", "main_process_died", "oom_kills_counted", "output_lost", "finished", "removed", "output_pruned", "run_time_warned", "paused", "resumed", "signal_ordered")
    class Launched(_message.Message):
        __slots__ = ("cmd", "cmd_args_omitted", "pid", "limits")
        CMD_FIELD_NUMBER: _ClassVar[int]
        CMD_ARGS_OMITTED_FIELD_NUMBER: _ClassVar[int]
        PID_FIELD_NUMBER: _ClassVar[int]
        LIMITS_FIELD_NUMBER: _ClassVar[int]
        cmd: JobCreateRequest
        cmd_args_omitted: int
        pid: int
        limits: _containers.RepeatedCompositeFieldContainer[Limit]
        def __init__(self, cmd: _Optional[_Union[JobCreateRequest, _Mapping]] = ..., cmd_args_omitted: _Optional[int] = ..., pid: _Optional[int] = ..., limits: _Optional[_Iterable[_Union[Limit, _Mapping]]] = ...) -> None: ...
    class Executed(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class RunTimeWarned(_message.Message):
        __slots__ = ("signal",)
        SIGNAL_FIELD_NUMBER: _ClassVar[int]
        signal: int
        def __init__(self, signal: _Optional[int] = ...) -> None: ...
    class StopOrdered(_message.Message):
        __slots__ = ("by", "requested", "reason")
        BY_FIELD_NUMBER: _ClassVar[int]
        REQUESTED_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        by: str
        requested: _timestamp_pb2.Timestamp
        reason: str
        def __init__(self, by: _Optional[str] = ..., requested: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...
    class StopSignalled(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class KillSent(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class MainProcessDied(_message.Message):
        __slots__ = ("exited", "signalled", "killed_for_memory")
        EXITED_FIELD_NUMBER: _ClassVar[int]
        SIGNALLED_FIELD_NUMBER: _ClassVar[int]
        KILLED_FOR_MEMORY_FIELD_NUMBER: _ClassVar[int]
        exited: Cause.Exited
        signalled: Cause.Signalled
        killed_for_memory: bool
        def __init__(self, exited: _Optional[_Union[Cause.Exited, _Mapping]] = ..., signalled: _Optional[_Union[Cause.Signalled, _Mapping]] = ..., killed_for_memory: _Optional[bool] = ...) -> None: ...
    class OomKillsCounted(_message.Message):
        __slots__ = ("count",)
        COUNT_FIELD_NUMBER: _ClassVar[int]
        count: int
        def __init__(self, count: _Optional[int] = ...) -> None: ...
    class OutputLost(_message.Message):
        __slots__ = ("bytes", "bytes_dropped")
        BYTES_FIELD_NUMBER: _ClassVar[int]
        BYTES_DROPPED_FIELD_NUMBER: _ClassVar[int]
        bytes: int
        bytes_dropped: int
        def __init__(self, bytes: _Optional[int] = ..., bytes_dropped: _Optional[int] = ...) -> None: ...
    class Finished(_message.Message):
        __slots__ = ("state", "exit_code", "signal_str", "job_msg", "cause", "output_bytes", "output_bytes_lost", "output_bytes_dropped")
        STATE_FIELD_NUMBER: _ClassVar[int]
        EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
        SIGNAL_STR_FIELD_NUMBER: _ClassVar[int]
        JOB_MSG_FIELD_NUMBER: _ClassVar[int]
        CAUSE_FIELD_NUMBER: _ClassVar[int]
        OUTPUT_BYTES_FIELD_NUMBER: _ClassVar[int]
        OUTPUT_BYTES_LOST_FIELD_NUMBER: _ClassVar[int]
        OUTPUT_BYTES_DROPPED_FIELD_NUMBER: _ClassVar[int]
        state: JobState
        exit_code: int
        signal_str: str
        job_msg: str
        cause: Cause
        output_bytes: int
        output_bytes_lost: int
        output_bytes_dropped: int
        def __init__(self, state: _Optional[_Union[JobState, str]] = ..., exit_code: _Optional[int] = ..., signal_str: _Optional[str] = ..., job_msg: _Optional[str] = ..., cause: _Optional[_Union[Cause, _Mapping]] = ..., output_bytes: _Optional[int] = ..., output_bytes_lost: _Optional[int] = ..., output_bytes_dropped: _Optional[int] = ...) -> None: ...
    class Paused(_message.Message):
        __slots__ = ("by",)
        BY_FIELD_NUMBER: _ClassVar[int]
        by: str
        def __init__(self, by: _Optional[str] = ...) -> None: ...
    class Resumed(_message.Message):
        __slots__ = ("by",)
        BY_FIELD_NUMBER: _ClassVar[int]
        by: str
        def __init__(self, by: _Optional[str] = ...) -> None: ...
    class SignalOrdered(_message.Message):
        __slots__ = ("signal", "by", "all")
        SIGNAL_FIELD_NUMBER: _ClassVar[int]
        BY_FIELD_NUMBER: _ClassVar[int]
        ALL_FIELD_NUMBER: _ClassVar[int]
        signal: int
        by: str
        all: bool
        def __init__(self, signal: _Optional[int] = ..., by: _Optional[str] = ..., all: _Optional[bool] = ...) -> None: ...
    class Removed(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    SEQ_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    LAUNCHED_FIELD_NUMBER: _ClassVar[int]
    EXECUTED_FIELD_NUMBER: _ClassVar[int]
    STOP_ORDERED_FIELD_NUMBER: _ClassVar[int]
    STOP_SIGNALLED_FIELD_NUMBER: _ClassVar[int]
    KILL_SENT_FIELD_NUMBER: _ClassVar[int]
    MAIN_PROCESS_DIED_FIELD_NUMBER: _ClassVar[int]
    OOM_KILLS_COUNTED_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_LOST_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_PRUNED_FIELD_NUMBER: _ClassVar[int]
    RUN_TIME_WARNED_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_ORDERED_FIELD_NUMBER: _ClassVar[int]
    seq: int
    time: _timestamp_pb2.Timestamp
    job_id: JobID
    client: str
    launched: JobEventMessage.Launched
    executed: JobEventMessage.Executed
    stop_ordered: JobEventMessage.StopOrdered
    stop_signalled: JobEventMessage.StopSignalled
    kill_sent: JobEventMessage.KillSent
    main_process_died: JobEventMessage.MainProcessDied
    oom_kills_counted: JobEventMessage.OomKillsCounted
    output_lost: JobEventMessage.OutputLost
    finished: JobEventMessage.Finished
    removed: JobEventMessage.Removed
    output_pruned: OutputPruned
    run_time_warned: JobEventMessage.RunTimeWarned
    paused: JobEventMessage.Paused
    resumed: JobEventMessage.Resumed
    signal_ordered: JobEventMessage.SignalOrdered
    def __init__(self, seq: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., job_id: _Optional[_Union[JobID, _Mapping]] = ..., client: _Optional[str] = ..., launched: _Optional[_Union[JobEventMessage.Launched, _Mapping]] = ..., executed: _Optional[_Union[JobEventMessage.Executed, _Mapping]] = ..., stop_ordered: _Optional[_Union[JobEventMessage.StopOrdered, _Mapping]] = ..., stop_signalled: _Optional[_Union[JobEventMessage.StopSignalled, _Mapping]] = ..., kill_sent: _Optional[_Union[JobEventMessage.KillSent, _Mapping]] = ..., main_process_died: _Optional[_Union[JobEventMessage.MainProcessDied, _Mapping]] = ..., oom_kills_counted: _Optional[_Union[JobEventMessage.OomKillsCounted, _Mapping]] = ..., output_lost: _Optional[_Union[JobEventMessage.OutputLost, _Mapping]] = ..., finished: _Optional[_Union[JobEventMessage.Finished, _Mapping]] = ..., removed: _Optional[_Union[JobEventMessage.Removed, _Mapping]] = ..., output_pruned: _Optional[_Union[OutputPruned, _Mapping]] = ..., run_time_warned: _Optional[_Union[JobEventMessage.RunTimeWarned, _Mapping]] = ..., paused: _Optional[_Union[JobEventMessage.Paused, _Mapping]] = ..., resumed: _Optional[_Union[JobEventMessage.Resumed, _Mapping]] = ..., signal_ordered: _Optional[_Union[JobEventMessage.SignalOrdered, _Mapping]] = ...) -> None: ...

class BackupRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BackupChunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class ServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ServerInfoResponse(_message.Message):
    __slots__ = ("version", "kernel", "enforcement", "client", "role", "running_jobs", "max_jobs_of_client", "max_jobs", "output_max", "grace_seconds", "draining")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    ENFORCEMENT_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    RUNNING_JOBS_FIELD_NUMBER: _ClassVar[int]
    MAX_JOBS_OF_CLIENT_FIELD_NUMBER: _ClassVar[int]
    MAX_JOBS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_MAX_FIELD_NUMBER: _ClassVar[int]
    GRACE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    version: str
    kernel: str
    enforcement: _containers.RepeatedCompositeFieldContainer[Enforcement]
    client: str
    role: str
    running_jobs: int
    max_jobs_of_client: int
    max_jobs: int
    output_max: int
    grace_seconds: float
    draining: Draining
    def __init__(self, version: _Optional[str] = ..., kernel: _Optional[str] = ..., enforcement: _Optional[_Iterable[_Union[Enforcement, _Mapping]]] = ..., client: _Optional[str] = ..., role: _Optional[str] = ..., running_jobs: _Optional[int] = ..., max_jobs_of_client: _Optional[int] = ..., max_jobs: _Optional[int] = ..., output_max: _Optional[int] = ..., grace_seconds: _Optional[float] = ..., draining: _Optional[_Union[Draining, _Mapping]] = ...) -> None: ...

class Enforcement(_message.Message):
    __slots__ = ("controller", "enforced", "reason")
    CONTROLLER_FIELD_NUMBER: _ClassVar[int]
    ENFORCED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    controller: str
    enforced: bool
    reason: str
    def __init__(self, controller: _Optional[str] = ..., enforced: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class AttachRequest(_message.Message):
    __slots__ = ("start", "input", "window")
    START_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    start: AttachStart
    input: AttachInput
    window: WindowSize
    def __init__(self, start: _Optional[_Union[AttachStart, _Mapping]] = ..., input: _Optional[_Union[AttachInput, _Mapping]] = ..., window: _Optional[_Union[WindowSize, _Mapping]] = ...) -> None: ...

class AttachStart(_message.Message):
    __slots__ = ("job_id", "output_offset", "writer", "window")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    WRITER_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    job_id: JobID
    output_offset: int
    writer: str
    window: WindowSize
    def __init__(self, job_id: _Optional[_Union[JobID, _Mapping]] = ..., output_offset: _Optional[int] = ..., writer: _Optional[str] = ..., window: _Optional[_Union[WindowSize, _Mapping]] = ...) -> None: ...

class AttachInput(_message.Message):
    __slots__ = ("offset", "data", "end")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: bytes
    end: bool
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ..., end: _Optional[bool] = ...) -> None: ...

class AttachResponse(_message.Message):
    __slots__ = ("output", "input")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    output: OutputChunk
    input: InputState
    def __init__(self, output: _Optional[_Union[OutputChunk, _Mapping]] = ..., input: _Optional[_Union[InputState, _Mapping]] = ...) -> None: ...

class InputState(_message.Message):
    __slots__ = ("offset", "status")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    offset: int
    status: InputStatus
    def __init__(self, offset: _Optional[int] = ..., status: _Optional[_Union[InputStatus, str]] = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ("job_id", "interval_ms")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    job_id: JobID
    interval_ms: int
    def __init__(self, job_id: _Optional[_Union[JobID, _Mapping]] = ..., interval_ms: _Optional[int] = ...) -> None: ...

class JobStats(_message.Message):
    __slots__ = ("time", "usage", "memory_now", "pids_now", "cpu_pressure", "memory_pressure", "io_pressure", "paused", "ended")
    TIME_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_NOW_FIELD_NUMBER: _ClassVar[int]
    PIDS_NOW_FIELD_NUMBER: _ClassVar[int]
    CPU_PRESSURE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_PRESSURE_FIELD_NUMBER: _ClassVar[int]
    IO_PRESSURE_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    usage: Usage
    memory_now: _wrappers_pb2.UInt64Value
    pids_now: _wrappers_pb2.UInt64Value
    cpu_pressure: Pressure
    memory_pressure: Pressure
    io_pressure: Pressure
    paused: bool
    ended: bool
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., memory_now: _Optional[_Union[_wrappers_pb2.UInt64Value, _Mapping]] = ..., pids_now: _Optional[_Union[_wrappers_pb2.UInt64Value, _Mapping]] = ..., cpu_pressure: _Optional[_Union[Pressure, _Mapping]] = ..., memory_pressure: _Optional[_Union[Pressure, _Mapping]] = ..., io_pressure: _Optional[_Union[Pressure, _Mapping]] = ..., paused: _Optional[bool] = ..., ended: _Optional[bool] = ...) -> None: ...

class Pressure(_message.Message):
    __slots__ = ("some", "full")
    SOME_FIELD_NUMBER: _ClassVar[int]
    FULL_FIELD_NUMBER: _ClassVar[int]
    some: float
    full: float
    def __init__(self, some: _Optional[float] = ..., full: _Optional[float] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("note", "timeout_ms")
    NOTE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    note: str
    timeout_ms: int
    def __init__(self, note: _Optional[str] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class Draining(_message.Message):
    __slots__ = ("note", "by", "since", "until")
    NOTE_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    note: str
    by: str
    since: _timestamp_pb2.Timestamp
    until: _timestamp_pb2.Timestamp
    def __init__(self, note: _Optional[str] = ..., by: _Optional[str] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class UndrainRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UndrainResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
