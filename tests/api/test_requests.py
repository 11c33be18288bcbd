"""Bounds on requests, checked before a request becomes objects; and what a refused one leaves behind."""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.api.requests import (
    MAX_ATTACH_REQUEST,
    MAX_JOB_ID_REQUEST,
    MAX_QUERY,
    MAX_REASON,
    OTHER_BYTES,
    check_attach,
    check_job_id,
    check_query,
    check_start,
    checked_reason,
)
from jobmaster.errors import InvalidRequest
from jobmaster.grpc.methods import count_fields
from jobmaster.job.environment import MOST_FOLDER_BYTES, MOST_VARIABLES
from jobmaster.job.labels import MOST_BYTES as MOST_LABEL_BYTES
from jobmaster.job.labels import MOST_LABELS, MOST_NAME
from jobmaster.job.limits import MOST_DEVICES
from jobmaster.job.secret import MAX_SECRETS
from jobmaster.job.specification import MAX_ARGUMENT_BYTES, MAX_ARGUMENTS
from jobmaster.jobs.v1 import jobs_pb2 as pb

TERMS = pb.JobCreateRequest(
    max_run_ms=2**40,
    warn_before_ms=2**39,
    warn_signal=64,
    stop_signal=64,
    grace_ms=3_600_000,
    name="\U0001f600" * MOST_NAME,
    environment={f"V{number:03}": "" for number in range(MOST_VARIABLES)},
    working_folder="/" * MOST_FOLDER_BYTES,
    labels={f"key-{number:02}": "x" * (MOST_LABEL_BYTES // MOST_LABELS - 6) for number in range(MOST_LABELS)},
)


def all_limits(devices: int) -> pb.JobLimits:
    """Limits with as large numbers as there are, for so many disks."""
    most = 2**64 - 1
    rates = pb.IoLimit(device="1234567:1234567", read_bps=most, write_bps=most, read_iops=most, write_iops=most)
    return pb.JobLimits(
        cpu_millicores=most,
        memory_max=most,
        memory_high=most,
        swap_max=most,
        pids_max=most,
        cpu_weight=2**32 - 1,
        io_weight=2**32 - 1,
        io=[rates] * devices,
    )


def start(*args: str, stdin: bool = False) -> bytes:
    """A serialized Start."""
    message = pb.JobCreateRequest(
        command="true",
        args=args,
        request_id="x" * 128,
        output_max=2**40,
        output_full=pb.OUTPUTFULL_END_JOB,
        stdin=stdin,
        separate_streams=stdin,
        terminal=pb.Terminal(window=pb.WindowSize(rows=65535, columns=65535), term="x" * 64) if stdin else None,
        limits=all_limits(MOST_DEVICES) if stdin else None,
        secrets=[pb.SecretRange(word=65_536, start=131_072, end=131_073)] * (MAX_SECRETS if stdin else 0),
    )
    if stdin:
        message.MergeFrom(TERMS)
    return message.SerializeToString()


def test_as_many_arguments_as_are_allowed() -> None:
    """So many are taken, one more is not; what is said names the bound."""
    check_start(start(*[""] * MAX_ARGUMENTS, stdin=True))
    with pytest.raises(InvalidRequest, match=f"more than {MAX_ARGUMENTS} arguments") as caught:
        check_start(start(*[""] * (MAX_ARGUMENTS + 1), stdin=True))
    assert caught.value.field == "args"


def test_all_that_a_start_can_have_besides() -> None:
    """Its options leave room for all of the arguments that are allowed."""
    assert len(start(stdin=True)) <= OTHER_BYTES


def test_as_many_bytes_as_are_allowed() -> None:
    """So many are taken, one more is not."""
    spare = MAX_ARGUMENT_BYTES + OTHER_BYTES - len(start("y" * 900_000, "x" * 1_000_000, stdin=True))
    check_start(start("y" * 900_000, "x" * (1_000_000 + spare), stdin=True))
    with pytest.raises(InvalidRequest, match="more than 2 MiB of arguments"):
        check_start(start("y" * 900_000, "x" * (1_000_001 + spare), stdin=True))


@pytest.mark.parametrize("parts", [1, 3])
def test_limits_are_few(parts: int) -> None:
    """More limits than there may be, which make an object of two bytes each, are refused before they are objects."""
    empty = pb.JobCreateRequest(limits=pb.JobLimits(io=[pb.IoLimit()] * (3 * 100 * MOST_DEVICES // parts)))
    request = start() + empty.SerializeToString() * parts
    with pytest.raises(InvalidRequest, match=f"more than {MOST_DEVICES} devices") as caught:
        check_start(request)
    assert caught.value.field == "limits.io"
    check_start(pb.JobCreateRequest(command="true", limits=all_limits(MOST_DEVICES)).SerializeToString())


def test_input_in_pieces() -> None:
    """A message with 128 KiB of input is taken, and counts for what it holds; one with more than any is refused."""
    piece = pb.AttachRequest(input=pb.AttachInput(offset=2**40, data=bytes(128 * 1024), end=True))
    assert check_attach(piece.SerializeToString()) >= 128 * 1024
    with pytest.raises(InvalidRequest, match="smaller pieces"):
        check_attach(bytes(MAX_ATTACH_REQUEST + 1))


def test_what_a_request_holds_grows_with_its_arguments() -> None:
    """Objects count as well as bytes: two bytes on the wire are not two in memory."""
    assert check_start(start(*["x"] * 1000)) > check_start(start("x" * 3000)) > 3000


def test_a_request_that_names_a_job_is_short() -> None:
    """A follower holds its request as long as it follows."""
    request = pb.JobIDRequest(job_id_request=pb.JobID(job_id="x" * 27)).SerializeToString()
    assert check_job_id(request) == len(request)
    with pytest.raises(InvalidRequest, match="name a job by its id"):
        check_job_id(bytes(MAX_JOB_ID_REQUEST + 1))


def test_the_longest_reason_fits_into_a_request() -> None:
    """A reason has so many characters, of whatever language; one more is refused by the name of the field."""
    request = pb.JobIDRequest(job_id_request=pb.JobID(job_id="x" * 27), reason="\U0001f600" * MAX_REASON, force=True)
    check_job_id(request.SerializeToString())
    assert checked_reason(request.reason) == request.reason
    with pytest.raises(InvalidRequest, match=f"more than {MAX_REASON} characters") as caught:
        checked_reason(request.reason + "x")
    assert caught.value.field == "reason"


def test_a_query_is_short() -> None:
    """A watcher holds its request as long as it watches, and a state can be named once."""
    states = pb.ListRequest(states=pb.JobState.keys()[1:], causes=pb.CauseKind.keys()[1:])
    assert check_query(states.SerializeToString()) > 0
    with pytest.raises(InvalidRequest, match="name each state and cause once"):
        check_query(pb.ListRequest(states=[pb.JOBSTATE_RUNNING] * MAX_QUERY).SerializeToString())


@given(st.lists(st.text(max_size=5), max_size=20), st.integers(0, 30))
def test_fields_are_counted_as_protobuf_has_them(args: list[str], most: int) -> None:
    """Each field of a message is counted, up to one more than is asked for."""
    assert count_fields(start(*args), most)[0] == min(4 + len(args), most + 1)


@given(st.binary(max_size=40))
def test_what_is_no_message_is_no_crash(data: bytes) -> None:
    """Any bytes have a count or are a DecodeError; what protobuf parses has a count."""
    message = pb.JobCreateRequest()
    try:
        message.ParseFromString(data)
    except DecodeError:
        is_message = False
    else:
        is_message = True
    try:
        assert count_fields(data, 100)[0] <= len(data)
    except DecodeError:
        assert not is_message or data_has_groups(data)


def data_has_groups(data: bytes) -> bool:
    """Whether there may be a group in it: protobuf still parses those, and no client of ours sends one."""
    return any(byte & 7 in {3, 4} for byte in data)


def test_refusing_too_many_arguments_costs_less_than_making_them() -> None:
    """A million empty arguments are refused in a part of the time that their objects would take."""
    request = start(*[""] * 1_000_000)

    def make_objects() -> None:
        message = pb.JobCreateRequest.FromString(request)
        tuple(message.args)

    def refuse() -> None:
        with pytest.raises(InvalidRequest):
            check_start(request)

    def processor_seconds(function: Callable[[], None]) -> float:
        return min(timeit.repeat(function, timer=time.thread_time, number=1, repeat=7))

    assert processor_seconds(refuse) < processor_seconds(make_objects) / 2
