"""The wire contract, and domain values as messages."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, get_args

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict, MessageToJson

from jobmaster.api.messages import OUTPUT_MESSAGE_SIZE, attach_gap, attach_messages, response_of, specification_of
from jobmaster.errors import InvalidRequest
from jobmaster.grpc.framing import MessageDecoder
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
from jobmaster.job.identifier import JobId
from jobmaster.job.limits import NO_LIMITS, IoRequest, LimitRequest
from jobmaster.job.memory import OomLimit
from jobmaster.job.record import JobRecord, LimitReport
from jobmaster.job.run_time import RunTime
from jobmaster.job.specification import CommandLine, JobSpecification
from jobmaster.job.state import Closing, Ended, Held, Running, Stopping
from jobmaster.job.stop_terms import StopTerms
from jobmaster.job.terminal import Terminal, Window
from jobmaster.job.usage import (
    CpuUsage,
    DeviceUsage,
    IoUsage,
    MemoryEventCounts,
    MemoryUsage,
    Stalled,
    Usage,
)
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.output.index import GapReason, Stream
from jobmaster.output.reading import GapPiece
from tests.grpc.test_lazy_messages import Memory, whole_of

START: Final = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
END: Final = datetime(2026, 1, 2, 3, 5, 0, tzinfo=UTC)
ID: Final = JobId("0ujtsYcgvSTl8PAuAdqWYSMnLOv")
SPECIFICATION: Final = JobSpecification(command="ls", args=("-l", ""))
RECORD: Final = JobRecord(
    id=ID,
    owner="client1",
    command=CommandLine.of(SPECIFICATION),
    state=Running(pid=42, started_at=START),
    limits=(),
    oom_kills=0,
    output_bytes=0,
    output_bytes_lost=0,
)

# The contract: message, and for each field its number, its JSON name and its type.
TEXT, BYTES, INT32, SINT32 = (
    FieldDescriptor.TYPE_STRING,
    FieldDescriptor.TYPE_BYTES,
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_SINT32,
)
MESSAGE, ENUM = FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_ENUM
CONTRACT: Final[dict[str, set[tuple[int, str, int]]]] = {
    "JobID": {(1, "jobID", TEXT)},
    "JobCreateRequest": {(1, "command", TEXT), (2, "args", TEXT)},
    "JobIDRequest": {(1, "jobIDRequest", MESSAGE)},
    "JobOutputResponse": {(1, "output", BYTES)},
    "JobResponse": {
        (1, "jobIDResponse", MESSAGE),
        (2, "jobMsg", TEXT),
        (3, "client", TEXT),
        (4, "pid", INT32),
        (5, "state", ENUM),
        (6, "exitCode", SINT32),
        (7, "signalStr", TEXT),
        (8, "cmd", MESSAGE),
        (9, "started", MESSAGE),
        (10, "ended", MESSAGE),
    },
}
MESSAGE_FIELDS: Final = {
    "JobIDRequest.jobIDRequest": "jobmaster.jobs.v1.JobID",
    "JobResponse.jobIDResponse": "jobmaster.jobs.v1.JobID",
    "JobResponse.cmd": "jobmaster.jobs.v1.JobCreateRequest",
    "JobResponse.started": "google.protobuf.Timestamp",
    "JobResponse.ended": "google.protobuf.Timestamp",
}


def fields_of(message: str) -> list[FieldDescriptor]:
    """The fields of a message of the API."""
    return list(pb.DESCRIPTOR.message_types_by_name[message].fields)


@pytest.mark.parametrize("message", CONTRACT)
def test_fields_of_the_contract(message: str) -> None:
    """Each field of the contract has its number, JSON name and type; others may stand beside them."""
    present = {(field.number, field.json_name, field.type) for field in fields_of(message)}
    assert CONTRACT[message] <= present
    for field in fields_of(message):
        if name := MESSAGE_FIELDS.get(f"{message}.{field.json_name}"):
            assert field.message_type is not None
            assert field.message_type.full_name == name


def test_only_args_is_repeated_in_the_contract() -> None:
    """A field of the contract is one value, but args, which is a list."""
    repeated = {field.json_name for message in CONTRACT for field in fields_of(message) if field.is_repeated}
    assert {json_name for fields in CONTRACT.values() for _, json_name, _ in fields} & repeated == {"args"}


def test_states_of_the_contract() -> None:
    """The states have their names and numbers, and there is no other."""
    assert dict(pb.JobState.items()) == {
        "JOBSTATE_UNSPECIFIED": 0,
        "JOBSTATE_RUNNING": 1,
        "JOBSTATE_TERMINATED_BY_API": 2,
        "JOBSTATE_COMPLETED": 3,
    }


def test_calls_of_the_contract() -> None:
    """The service has the contract's name and calls, with their types; only output is a stream."""
    service = pb.DESCRIPTOR.services_by_name["JobService"]
    assert service.full_name == "jobmaster.jobs.v1.JobService"
    calls = {
        call.name: (call.input_type.name, call.output_type.name, call.client_streaming, call.server_streaming)
        for call in service.methods
    }
    contract = {
        "Start": ("JobCreateRequest", "JobID", False, False),
        "Stop": ("JobIDRequest", "JobResponse", False, False),
        "Status": ("JobIDRequest", "JobResponse", False, False),
        "StreamOutput": ("JobIDRequest", "JobOutputResponse", False, True),
    }
    assert contract.items() <= calls.items()


def test_json_of_the_contract() -> None:
    """A whole answer as JSON, as the contract's clients know it."""
    record = replace(RECORD, state=Ended(pid=42, started_at=START, ended_at=END, cause=Exited(3)))
    answer = json.loads(MessageToJson(response_of(record)))
    assert (
        answer.items()
        >= {
            "jobIDResponse": {"jobID": ID},
            "jobMsg": "exited with code 3",
            "client": "client1",
            "pid": 42,
            "state": "JOBSTATE_COMPLETED",
            "exitCode": 3,
            "cmd": {"command": "ls", "args": ["-l", ""]},
            "started": "2026-01-02T03:04:05.678901Z",
            "ended": "2026-01-02T03:05:00Z",
        }.items()
    )


ORDER: Final = StopOrder(by="client1", requested_at=START)


@pytest.mark.parametrize(
    "state",
    [
        Held(pid=42, started_at=START),
        Running(pid=42, started_at=START),
        Stopping(pid=42, started_at=START, order=ORDER, signalled=True, killed=True),
        Closing(pid=42, started_at=START, death=Exited(3)),
    ],
    ids=["is held", "runs", "stops", "closes"],
)
def test_while_it_runs(state: Held | Running | Stopping | Closing) -> None:
    """A job runs until it has ended, also while it is being stopped; end, code, signal and cause are unset."""
    answer = response_of(replace(RECORD, state=state))
    assert (answer.state, answer.pid, answer.exit_code, answer.signal_str) == (pb.JOBSTATE_RUNNING, 42, 0, "")
    assert answer.started.ToDatetime(UTC) == START
    assert not answer.HasField("ended")
    assert not answer.HasField("cause")


TERMINATED, COMPLETED = pb.JOBSTATE_TERMINATED_BY_API, pb.JOBSTATE_COMPLETED
NOON: Final = "2026-01-02T03:04:05.678901Z"
ENDS: Final[dict[str, tuple[Cause, tuple[int, int, str], dict[str, Any]]]] = {
    "success": (Exited(0), (COMPLETED, 0, ""), {"exited": {}}),
    "failure": (Exited(255), (COMPLETED, 255, ""), {"exited": {"code": 255}}),
    "signal": (
        Signalled(signal.SIGSEGV, core_dumped=True),
        (COMPLETED, -1, "segmentation fault"),
        {"signalled": {"signal": 11, "coreDumped": True}},
    ),
    "killed by somebody": (Signalled(9), (COMPLETED, -1, "killed"), {"signalled": {"signal": 9}}),
    "stopped": (
        Stopped(by="superuser", requested_at=START, signal=15, killed=False),
        (TERMINATED, -1, "terminated"),
        {"stopped": {"by": "superuser", "requested": NOON, "signal": 15}},
    ),
    "stopped, SIGTERM handled": (
        Stopped(by="client1", requested_at=START, signal=15, exit_code=0, killed=False),
        (TERMINATED, -1, "terminated"),
        {"stopped": {"by": "client1", "requested": NOON, "signal": 15, "returned": True}},
    ),
    "stopped, SIGTERM handled with a failure": (
        Stopped(by="client1", requested_at=START, signal=15, exit_code=7, killed=False),
        (TERMINATED, -1, "terminated"),
        {"stopped": {"by": "client1", "requested": NOON, "signal": 15, "returned": True, "exitCode": 7}},
    ),
    "stopped and killed": (
        Stopped(by="client1", requested_at=START, signal=9, killed=True),
        (TERMINATED, -1, "killed"),
        {"stopped": {"by": "client1", "requested": NOON, "signal": 9, "killed": True}},
    ),
    "out of memory": (
        OomKilled(memory_max=2**40, processes_killed=3),
        (TERMINATED, -1, "killed"),
        {"oomKilled": {"memoryMax": str(2**40), "processesKilled": "3"}},
    ),
    "out of the host's memory": (
        OomKilled(memory_max=None, processes_killed=1),
        (TERMINATED, -1, "killed"),
        {"oomKilled": {"processesKilled": "1"}},
    ),
    "out of memory, all that is known": (
        OomKilled(memory_max=1, processes_killed=1, memory_peak=2**40, whole_job=True, limit_of=OomLimit.CLIENT),
        (TERMINATED, -1, "killed"),
        {
            "oomKilled": {
                "memoryMax": "1",
                "processesKilled": "1",
                "memoryPeak": str(2**40),
                "wholeJob": True,
                "limitOf": "OOMLIMIT_CLIENT",
            }
        },
    ),
    "never ran": (
        FailedToStart("no interpreter"),
        (COMPLETED, -1, ""),
        {"failedToStart": {"reason": "no interpreter"}},
    ),
    "lost": (
        ServerLost("the launcher was killed"),
        (TERMINATED, -1, ""),
        {"serverLost": {"reason": "the launcher was killed"}},
    ),
    "shutdown, handled": (
        ServerShutdown(signal=15, exit_code=3),
        (TERMINATED, -1, "terminated"),
        {"serverShutdown": {"signal": 15, "returned": True, "exitCode": 3}},
    ),
    "output": (
        OutputCapped(output_max=2**40, signal=15),
        (TERMINATED, -1, "terminated"),
        {"outputCapped": {"outputMax": str(2**40), "signal": 15}},
    ),
    "time": (
        TimedOut(max_run_ms=2**40, signal=15, exit_code=3, killed=False),
        (TERMINATED, -1, "terminated"),
        {"timedOut": {"maxRunMs": str(2**40), "signal": 15, "returned": True, "exitCode": 3}},
    ),
    "time, killed": (
        TimedOut(max_run_ms=1, signal=9, killed=True),
        (TERMINATED, -1, "killed"),
        {"timedOut": {"maxRunMs": "1", "signal": 9, "killed": True}},
    ),
    "shutdown": (ServerShutdown(signal=15), (TERMINATED, -1, "terminated"), {"serverShutdown": {"signal": 15}}),
}


@pytest.mark.parametrize("name", ENDS)
def test_each_end(name: str) -> None:
    """Each cause has the contract's state, exit code and signal, and its own message beside them."""
    cause, (state, exit_code, signal_str), message = ENDS[name]
    ended = Ended(pid=42, started_at=START, ended_at=END, cause=cause)
    answer = response_of(replace(RECORD, state=ended))
    assert (answer.state, answer.exit_code, answer.signal_str) == (state, exit_code, signal_str)
    assert MessageToDict(answer.cause) == message
    assert (answer.pid, answer.started.ToDatetime(UTC), answer.ended.ToDatetime(UTC)) == (42, START, END)


def test_every_cause_has_an_end() -> None:
    """The table above has an example of every cause, and the message has a field for each."""
    assert {type(cause) for cause, _, _ in ENDS.values()} == set(get_args(Cause))
    assert len(pb.Cause.DESCRIPTOR.oneofs_by_name["kind"].fields) == len(get_args(Cause))


def test_answers_share_nothing() -> None:
    """Who changes one changes no other, also of jobs with the same limits."""
    record = replace(RECORD, limits=(LimitReport(name="pids", value="pids.max 64"),))
    first, second = response_of(record), response_of(replace(record, owner="client2"))
    first.limits[0].value = "none"
    del first.limits[:]
    assert [limit.value for limit in second.limits] == [limit.value for limit in response_of(record).limits]
    assert len(second.limits) == 1
    assert not response_of(replace(record, limits=())).limits


USED: Final = Usage(
    cpu=CpuUsage(user=1, system=2, periods=3, throttled_periods=4, throttled=5),
    memory=MemoryUsage(
        peak=2**40,
        anon_left=0,
        file_left=7,
        events=MemoryEventCounts(low=8, high=9, max=10, oom=11, oom_kill=12, oom_group_kill=13),
    ),
    pids_peak=14,
    io=IoUsage(
        devices=(DeviceUsage(device="254:0", read_bytes=15, written_bytes=16, reads=17, writes=18),), omitted=19
    ),
    cpu_stalled=Stalled(some=20, full=21),
    memory_stalled=Stalled(some=22, full=23),
    io_stalled=Stalled(some=24),
)


def test_what_a_job_has_used() -> None:
    """Each number is in its field; of a job that runs there is none."""
    ended = Ended(pid=42, started_at=START, ended_at=START + timedelta(seconds=1.5), cause=Exited(0))
    assert MessageToDict(response_of(replace(RECORD, state=ended, usage=USED)).usage) == {
        "wallUsec": "1500000",
        "cpu": {"userUsec": "1", "systemUsec": "2", "periods": "3", "throttledPeriods": "4", "throttledUsec": "5"},
        "memory": {
            "peak": str(2**40),
            "anonLeft": "0",
            "fileLeft": "7",
            "events": {"low": "8", "high": "9", "max": "10", "oom": "11", "oomKill": "12", "oomGroupKill": "13"},
        },
        "pidsPeak": "14",
        "io": {
            "devices": [{"device": "254:0", "readBytes": "15", "writtenBytes": "16", "reads": "17", "writes": "18"}],
            "devicesOmitted": 19,
        },
        "cpuStalled": {"someUsec": "20", "fullUsec": "21"},
        "memoryStalled": {"someUsec": "22", "fullUsec": "23"},
        "ioStalled": {"someUsec": "24"},
    }
    assert not response_of(RECORD).HasField("usage")


def test_what_nobody_could_tell_is_unset() -> None:
    """How long a job took is known of each that has ended; what is not known is no 0."""
    ended = Ended(pid=42, started_at=START, ended_at=START - timedelta(seconds=1), cause=Exited(0))
    empty = Usage(cpu=CpuUsage(), memory=MemoryUsage(events=MemoryEventCounts()), io=IoUsage(), io_stalled=Stalled())
    told = MessageToDict(response_of(replace(RECORD, state=ended, usage=empty)).usage)
    assert told == {"wallUsec": "0", "cpu": {}, "memory": {"events": {}}, "io": {}, "ioStalled": {}}
    assert MessageToDict(response_of(replace(RECORD, state=ended)).usage) == {"wallUsec": "0"}


def test_limits_and_counts() -> None:
    """Limits, OOM kills and counts of output are passed on, beyond 32 bits too."""
    limits = (
        LimitReport(name="memory", value="memory.max 52428800"),
        LimitReport(name="io", value="io.max 8:0 rbps=1", not_enforced_because="no io controller"),
    )
    answer = response_of(replace(RECORD, limits=limits, oom_kills=2, output_bytes=2**40, output_bytes_lost=2**33))
    assert (answer.oom_kills, answer.output_bytes, answer.output_bytes_lost) == (2, 2**40, 2**33)
    assert response_of(replace(RECORD, output_bytes_dropped=2**41)).output_bytes_dropped == 2**41

    assert list(answer.limits) == [
        pb.Limit(name="memory", value="memory.max 52428800", enforced=True),
        pb.Limit(name="io", value="io.max 8:0 rbps=1", enforced=False, reason="no io controller"),
    ]


def test_how_much_output_is_wanted() -> None:
    """What a Start says of its output is passed on; what it cannot mean is refused, and named."""
    asked = pb.JobCreateRequest(command="x", output_max=2**20, output_full=pb.OUTPUTFULL_END_JOB)
    assert specification_of(asked) == JobSpecification(command="x", output_max=2**20, ends_when_full=True)
    assert specification_of(pb.JobCreateRequest(command="x", output_full=pb.OUTPUTFULL_DROP)).ends_when_full is False
    for field, value in (("output_max", 1000), ("output_full", 3)):
        message = pb.JobCreateRequest(command="x")
        setattr(message, field, value)
        with pytest.raises(InvalidRequest) as refused:
            specification_of(message)
        assert refused.value.field == field


def test_the_user_of_a_job() -> None:
    """It is told as it is recorded; of a job of an older server it is not known."""
    assert response_of(replace(RECORD, user="2100023575")).user == "2100023575"
    assert not response_of(RECORD).user


def test_a_run_time_that_is_wanted() -> None:
    """What a Start says of it is passed on and told again, SIGUSR1 is the signal where none is said; what cannot be is named."""
    asked = pb.JobCreateRequest(command="x", max_run_ms=2**33, warn_before_ms=2000)
    run_time = RunTime(max_ms=2**33, warn_before_ms=2000, warn_signal=10)
    assert specification_of(asked).run_time == run_time
    told = response_of(replace(RECORD, run_time=run_time)).cmd
    assert (told.max_run_ms, told.warn_before_ms, told.warn_signal) == (2**33, 2000, 10)
    assert not response_of(RECORD).cmd.HasField("terminal")
    assert specification_of(pb.JobCreateRequest(command="x")).run_time is None
    wrongs: tuple[tuple[dict[str, Any], str], ...] = (
        ({"max_run_ms": 2**60}, "max_run_ms"),
        ({"warn_before_ms": 5}, "max_run_ms"),
        ({"max_run_ms": 5, "warn_signal": 10}, "warn_before_ms"),
        ({"max_run_ms": 5, "warn_before_ms": 5}, "warn_before_ms"),
        *(({"max_run_ms": 5, "warn_before_ms": 1, "warn_signal": number}, "warn_signal") for number in (-1, 9, 19, 65)),
    )
    for wrong, field in wrongs:
        with pytest.raises(InvalidRequest) as refused:
            specification_of(pb.JobCreateRequest(command="x", **wrong))
        assert refused.value.field == field


def test_a_stop_that_is_wanted() -> None:
    """What a Start says of it is passed on and told again; no grace period is one, and what cannot be is named."""
    for asked, stop in (
        (pb.JobCreateRequest(command="x", stop_signal=2, grace_ms=1500), StopTerms(signal=2, grace_ms=1500)),
        (pb.JobCreateRequest(command="x", grace_ms=0), StopTerms(signal=15, grace_ms=0)),
        (pb.JobCreateRequest(command="x", stop_signal=64), StopTerms(signal=64)),
        (pb.JobCreateRequest(command="x"), None),
    ):
        assert specification_of(asked).stop == stop
        told = response_of(replace(RECORD, stop=stop)).cmd
        assert told.stop_signal == (stop.signal if stop else 0)
        assert (told.HasField("grace_ms"), told.grace_ms) == (asked.HasField("grace_ms"), asked.grace_ms)
    for wrong, field in (
        *((pb.JobCreateRequest(command="x", stop_signal=number), "stop_signal") for number in (-1, 9, 19, 65)),
        (pb.JobCreateRequest(command="x", grace_ms=3_600_001), "grace_ms"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            specification_of(wrong)
        assert refused.value.field == field


def test_what_a_job_is_called() -> None:
    """Name and labels come in as they were sent, and are told again."""
    asked = pb.JobCreateRequest(command="x", name="night", labels={"b": "2", "a": "1"})
    specification = specification_of(asked)
    assert (specification.name, specification.labels) == ("night", (("a", "1"), ("b", "2")))
    told = response_of(replace(RECORD, name=specification.name, labels=specification.labels)).cmd
    assert (told.name, dict(told.labels)) == ("night", {"a": "1", "b": "2"})
    assert not response_of(RECORD).cmd.labels


def test_where_a_job_is_to_run() -> None:
    """Variables and folder come in as they were sent; of the variables the names alone are told."""
    asked = pb.JobCreateRequest(command="x", environment={"B": "2", "A": "hunter2"}, working_folder="/srv")
    specification = specification_of(asked)
    assert specification.environment == (("A", "hunter2"), ("B", "2"))
    assert specification.working_folder == "/srv"
    told = response_of(replace(RECORD, variables=("A", "B"), working_folder="/srv")).cmd
    assert (dict(told.environment), told.working_folder) == ({"A": "***", "B": "***"}, "/srv")


def test_a_terminal_that_is_wanted() -> None:
    """What a Start says of it is passed on, what it leaves out has a value, and what cannot be is refused and named."""
    asked = pb.JobCreateRequest(command="vi", terminal=pb.Terminal())
    assert specification_of(asked).terminal == Terminal(window=Window(rows=24, columns=80), term="xterm-256color")
    asked.terminal.term, asked.terminal.window.rows, asked.terminal.window.columns = "screen", 50, 200
    assert specification_of(asked).terminal == Terminal(window=Window(rows=50, columns=200), term="screen")
    assert specification_of(pb.JobCreateRequest(command="vi")).terminal is None
    for terminal, field in (
        (pb.Terminal(term="a b"), "terminal.term"),
        (pb.Terminal(window=pb.WindowSize(rows=3)), "window.columns"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            specification_of(pb.JobCreateRequest(command="vi", terminal=terminal))
        assert refused.value.field == field
    assert response_of(replace(RECORD, terminal=True)).terminal
    assert not response_of(RECORD).terminal


def test_arguments_that_are_not_kept_are_counted() -> None:
    """A record of a command with many arguments tells the first of them and how many there were besides."""
    command = CommandLine.of(JobSpecification(command="ls", args=("x" * 1023,) * 50))
    answer = response_of(replace(RECORD, command=command))
    assert (len(answer.cmd.args), answer.cmd_args_omitted) == (16, 34)
    assert response_of(RECORD).cmd_args_omitted == 0


def test_an_answer_is_bounded_whatever_was_run() -> None:
    """The largest command that is taken makes an answer of at most 64 KiB."""
    command = CommandLine.of(JobSpecification(command="c" * 4095, args=("",) * 65_536))
    assert len(response_of(replace(RECORD, command=command)).SerializeToString()) <= 64 * 1024


def test_a_request_becomes_a_specification() -> None:
    """Command and arguments come in as they were sent."""
    request = pb.JobCreateRequest(command="ls", args=["-l", "", "é"])
    assert specification_of(request) == JobSpecification(command="ls", args=("-l", "", "é"))


def test_a_request_for_a_stdin() -> None:
    """A job has one where that was asked for."""
    assert specification_of(pb.JobCreateRequest(command="cat", stdin=True)).stdin
    assert not specification_of(pb.JobCreateRequest(command="cat")).stdin


@pytest.mark.parametrize("offset", [0, 1, 127, 128, 2**35, 2**48])
@pytest.mark.parametrize("length", [1, 127, 128, OUTPUT_MESSAGE_SIZE, OUTPUT_MESSAGE_SIZE + 1])
def test_chunks_of_an_output(offset: int, length: int) -> None:
    """Heads and content together are AttachResponses, each with the offset of its first byte."""
    data = bytes(range(256)) * (length // 256 + 1)
    decoder = MessageDecoder(OUTPUT_MESSAGE_SIZE * 2)
    messages = [
        pb.AttachResponse.FromString(raw)
        for raw in decoder.feed(whole_of(attach_messages(Memory(data[:length]), offset, Stream.STDERR)))
    ]
    assert b"".join(message.output.data for message in messages) == data[:length]
    assert {message.output.stream for message in messages} == {pb.OUTPUTSTREAM_STDERR}
    assert [message.output.offset for message in messages] == [
        offset + start for start in range(0, length, OUTPUT_MESSAGE_SIZE)
    ]


@pytest.mark.parametrize("reason", GapReason)
def test_a_gap_in_an_output(reason: GapReason) -> None:
    """It has its extent and its reason, each of which has a name of its own."""
    chunk = attach_gap(GapPiece(start=5, end=12, reason=reason)).output
    assert (chunk.offset, chunk.gap.length, chunk.data) == (5, 7, b"")
    assert pb.GapReason.Name(chunk.gap.reason) == f"GAPREASON_{reason.name}"


@pytest.mark.parametrize("request_", [pb.JobCreateRequest(), pb.JobCreateRequest(command="ls", args=["\0"])])
def test_a_request_that_cannot_run_is_refused(request_: pb.JobCreateRequest) -> None:
    """A wrong request never comes further in."""
    with pytest.raises(InvalidRequest):
        specification_of(request_)


def test_limits_of_a_request() -> None:
    """Each limit that is set is asked for; 0 is the server's default, but of swap it is none."""
    rates = pb.IoLimit(device="8:0", read_bps=1, write_bps=2, read_iops=3, write_iops=4)
    message = pb.JobLimits(
        cpu_millicores=1,
        memory_max=3,
        memory_high=2,
        swap_max=0,
        pids_max=4,
        cpu_weight=5,
        io_weight=6,
        io=[rates, pb.IoLimit(write_bps=7)],
    )
    assert specification_of(pb.JobCreateRequest(command="ls", limits=message)).limits == LimitRequest(
        cpu_millicores=1,
        memory_max=3,
        memory_high=2,
        swap_max=0,
        pids_max=4,
        cpu_weight=5,
        io_weight=6,
        io=(IoRequest(device="8:0", read_bps=1, write_bps=2, read_iops=3, write_iops=4), IoRequest(write_bps=7)),
    )
    for nothing in (None, pb.JobLimits(), pb.JobLimits(cpu_millicores=0, memory_max=0)):
        assert specification_of(pb.JobCreateRequest(command="ls", limits=nothing)).limits == NO_LIMITS


def test_a_limit_that_was_asked_for() -> None:
    """A record tells it from the server's default."""
    reports = (
        LimitReport(name="pids", value="pids.max 7", requested=True),
        LimitReport(name="cpu", value="cpu.max 1 1"),
    )
    assert [limit.requested for limit in response_of(replace(RECORD, limits=reports)).limits] == [True, False]
