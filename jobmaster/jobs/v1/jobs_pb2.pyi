import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOBSTATE_UNSPECIFIED: _ClassVar[JobState]
    JOBSTATE_RUNNING: _ClassVar[JobState]
    JOBSTATE_TERMINATED_BY_API: _ClassVar[JobState]
    JOBSTATE_COMPLETED: _ClassVar[JobState]
JOBSTATE_UNSPECIFIED: JobState
JOBSTATE_RUNNING: JobState
JOBSTATE_TERMINATED_BY_API: JobState
JOBSTATE_COMPLETED: JobState

class JobID(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class JobCreateRequest(_message.Message):
    __slots__ = ("command", "args")
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    command: str
    args: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, command: _Optional[str] = ..., args: _Optional[_Iterable[str]] = ...) -> None: ...

class JobIDRequest(_message.Message):
    __slots__ = ("job_id_request",)
    JOB_ID_REQUEST_FIELD_NUMBER: _ClassVar[int]
    job_id_request: JobID
    def __init__(self, job_id_request: _Optional[_Union[JobID, _Mapping]] = ...) -> None: ...

class JobOutputResponse(_message.Message):
    __slots__ = ("output",)
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    output: bytes
    def __init__(self, output: _Optional[bytes] = ...) -> None: ...

class JobResponse(_message.Message):
    __slots__ = ("job_id_response", "job_msg", "client", "pid", "state", "exit_code", "signal_str", "cmd", "started", "ended", "cause", "oom_kills", "limits", "output_bytes", "output_bytes_lost", "cmd_args_omitted")
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
    def __init__(self, job_id_response: _Optional[_Union[JobID, _Mapping]] = ..., job_msg: _Optional[str] = ..., client: _Optional[str] = ..., pid: _Optional[int] = ..., state: _Optional[_Union[JobState, str]] = ..., exit_code: _Optional[int] = ..., signal_str: _Optional[str] = ..., cmd: _Optional[_Union[JobCreateRequest, _Mapping]] = ..., started: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ended: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., cause: _Optional[_Union[Cause, _Mapping]] = ..., oom_kills: _Optional[int] = ..., limits: _Optional[_Iterable[_Union[Limit, _Mapping]]] = ..., output_bytes: _Optional[int] = ..., output_bytes_lost: _Optional[int] = ..., cmd_args_omitted: _Optional[int] = ...) -> None: ...

class Cause(_message.Message):
    __slots__ = ("exited", "signalled", "stopped", "oom_killed", "failed_to_start", "server_shutdown", "server_lost")
    class Exited(_message.Message):
        __slots__ = ("code",)
        CODE_FIELD_NUMBER: _ClassVar[int]
        code: int
        def __init__(self, code: _Optional[int] = ...) -> None: ...
    class Signalled(_message.Message):
        __slots__ = ("signal", "core_dumped")
        SIGNAL_FIELD_NUMBER: _ClassVar[int]
        CORE_DUMPED_FIELD_NUMBER: _ClassVar[int]
        signal: int
        core_dumped: bool
        def __init__(self, signal: _Optional[int] = ..., core_dumped: _Optional[bool] = ...) -> None: ...
    class Stopped(_message.Message):
        __slots__ = ("by", "requested", "signal", "killed", "returned", "exit_code")
        BY_FIELD_NUMBER: _ClassVar[int]
        REQUESTED_FIELD_NUMBER: _ClassVar[int]
        SIGNAL_FIELD_NUMBER: _ClassVar[int]
        KILLED_FIELD_NUMBER: _ClassVar[int]
        RETURNED_FIELD_NUMBER: _ClassVar[int]
        EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
        by: str
        requested: _timestamp_pb2.Timestamp
        signal: int
        killed: bool
        returned: bool
        exit_code: int
        def __init__(self, by: _Optional[str] = ..., requested: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., signal: _Optional[int] = ..., killed: _Optional[bool] = ..., returned: _Optional[bool] = ..., exit_code: _Optional[int] = ...) -> None: ...
    class OomKilled(_message.Message):
        __slots__ = ("memory_max", "processes_killed")
        MEMORY_MAX_FIELD_NUMBER: _ClassVar[int]
        PROCESSES_KILLED_FIELD_NUMBER: _ClassVar[int]
        memory_max: int
        processes_killed: int
        def __init__(self, memory_max: _Optional[int] = ..., processes_killed: _Optional[int] = ...) -> None: ...
    class FailedToStart(_message.Message):
        __slots__ = ("reason",)
        REASON_FIELD_NUMBER: _ClassVar[int]
        reason: str
        def __init__(self, reason: _Optional[str] = ...) -> None: ...
    class ServerShutdown(_message.Message):
        __slots__ = ("signal",)
        SIGNAL_FIELD_NUMBER: _ClassVar[int]
        signal: int
        def __init__(self, signal: _Optional[int] = ...) -> None: ...
    class ServerLost(_message.Message):
        __slots__ = ("reason",)
        REASON_FIELD_NUMBER: _ClassVar[int]
        reason: str
        def __init__(self, reason: _Optional[str] = ...) -> None: ...
    EXITED_FIELD_NUMBER: _ClassVar[int]
    SIGNALLED_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    OOM_KILLED_FIELD_NUMBER: _ClassVar[int]
    FAILED_TO_START_FIELD_NUMBER: _ClassVar[int]
    SERVER_SHUTDOWN_FIELD_NUMBER: _ClassVar[int]
    SERVER_LOST_FIELD_NUMBER: _ClassVar[int]
    exited: Cause.Exited
    signalled: Cause.Signalled
    stopped: Cause.Stopped
    oom_killed: Cause.OomKilled
    failed_to_start: Cause.FailedToStart
    server_shutdown: Cause.ServerShutdown
    server_lost: Cause.ServerLost
    def __init__(self, exited: _Optional[_Union[Cause.Exited, _Mapping]] = ..., signalled: _Optional[_Union[Cause.Signalled, _Mapping]] = ..., stopped: _Optional[_Union[Cause.Stopped, _Mapping]] = ..., oom_killed: _Optional[_Union[Cause.OomKilled, _Mapping]] = ..., failed_to_start: _Optional[_Union[Cause.FailedToStart, _Mapping]] = ..., server_shutdown: _Optional[_Union[Cause.ServerShutdown, _Mapping]] = ..., server_lost: _Optional[_Union[Cause.ServerLost, _Mapping]] = ...) -> None: ...

class Limit(_message.Message):
    __slots__ = ("name", "value", "enforced", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ENFORCED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    enforced: bool
    reason: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ..., enforced: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...
