"""The wire contract, and domain values as messages."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from datetime import UTC, datetime
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
)
from jobmaster.job.identifier import JobId
from jobmaster.job.limits import NO_LIMITS, IoRequest, LimitRequest
from jobmaster.job.record import JobRecord, LimitReport
from jobmaster.job.specification import CommandLine, JobSpecification
from jobmaster.job.state import Closing, Ended, Held, Running, Stopping
from jobmaster.job.terminal import Terminal, Window
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
