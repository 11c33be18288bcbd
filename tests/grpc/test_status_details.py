"""What a program reads of an error: google.rpc.Status and its payloads, and the trailers that bring them."""

from __future__ import annotations

import base64
from typing import Any, Final

import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status as RichStatus
from purerpc import Status, StatusCode

from jobmaster.api.statuses import ServiceUnknown, status_of
from jobmaster.errors import (
    CommandNotFound,
    CommandNotRunnable,
    InvalidRequest,
    JobNotFound,
    LimitNotEnforceable,
    OutputIncomplete,
    PermissionRefused,
    ServerBusy,
    ServerDraining,
    StartRateExceeded,
)
from jobmaster.grpc.headers import (
    MAX_STATUS_DETAILS,
    MAX_STATUS_MESSAGE,
    DetailedStatus,
    parse_status,
    status_trailers,
)
from jobmaster.grpc.purerpc_adapter import RpcFailedError, raise_status
from jobmaster.grpc.status_details import reason_in
from jobmaster.job.specification import JobSpecification

REASONS: Final[dict[Exception, str]] = {
    InvalidRequest("x"): "INVALID_REQUEST",
    JobNotFound("x"): "JOB_NOT_FOUND",
    PermissionRefused("x"): "PERMISSION_REFUSED",
    CommandNotRunnable("x"): "COMMAND_NOT_RUNNABLE",
    CommandNotFound("x"): "COMMAND_NOT_FOUND",
    LimitNotEnforceable("x"): "LIMIT_NOT_ENFORCEABLE",
    ServerBusy("x"): "SERVER_BUSY",
    ServerDraining("x"): "SERVER_DRAINING",
    StartRateExceeded("x", retry_seconds=1): "START_RATE_EXCEEDED",
    OutputIncomplete(1): "OUTPUT_INCOMPLETE",
    ServiceUnknown("x"): "SERVICE_UNKNOWN",
}


def rich_status(status: DetailedStatus) -> RichStatus:
    """The google.rpc.Status in a status."""
    result: RichStatus = RichStatus.FromString(status.details)
    return result


def payloads(status: DetailedStatus, kind: type[Message]) -> list[Any]:
    """The payloads of one kind."""
    found = []
    for detail in rich_status(status).details:
        assert detail.type_url.startswith("type.googleapis.com/google.rpc.")
        if detail.Is(kind.DESCRIPTOR):
            found.append(kind.FromString(detail.value))
    return found


def trailers(status: Status) -> dict[bytes, bytes]:
    """The trailers of a status, by name."""
    return {bytes(name): bytes(value) for name, value in status_trailers(status)}


@pytest.mark.parametrize(("error", "reason"), REASONS.items(), ids=REASONS.values())
def test_reason(error: Exception, reason: str) -> None:
    """Each error for the client has its own reason, of jobmaster's domain, and repeats code and text."""
    status = status_of(error)
    (info,) = payloads(status, ErrorInfo)
    assert (info.reason, info.domain) == (reason, "jobmaster")
    rich = rich_status(status)
    assert (rich.code, rich.message) == (status.int_value, status.status_message)


@pytest.mark.parametrize("error", REASONS, ids=REASONS.values())
def test_retry(error: Exception) -> None:
    """A client is told when to try again where that may help, and nowhere else."""
    delays = [info.retry_delay.seconds for info in payloads(status_of(error), RetryInfo)]
    assert delays == ([1] if isinstance(error, ServerBusy | ServerDraining) else [])


def test_wrong_field() -> None:
    """An error of a field names the field and says what is wrong with it; one of no single field names none."""
    (violations,) = payloads(status_of(InvalidRequest("too long", field="args[3]")), BadRequest)
    assert [(one.field, one.description) for one in violations.field_violations] == [("args[3]", "too long")]
    assert payloads(status_of(InvalidRequest("x")), BadRequest) == []


@pytest.mark.parametrize(
    ("command", "args", "field"),
    [(" ", (), "command"), ("a\0b", (), "command"), ("ls", ("ok", "a\0b"), "args[1]"), ("x" * 5000, (), "command")],
)
def test_fields_of_a_request(command: str, args: tuple[str, ...], field: str) -> None:
    """Every check of a request says which of its fields is wrong."""
    with pytest.raises(InvalidRequest) as caught:
        JobSpecification(command=command, args=args)
    assert caught.value.field == field


def test_internal_error_tells_the_reference_alone() -> None:
    """The details of an internal error are the reference that its text has; neither class nor text gets out."""
    status = status_of(KeyError("/var/lib/secret"))
    (info,) = payloads(status, ErrorInfo)
    assert info.reason == "INTERNAL"
    assert dict(info.metadata) == {"reference": status.status_message.split()[2].rstrip(";")}
    assert b"secret" not in status.details
    assert b"KeyError" not in status.details
    assert b"KEY_ERROR" not in status.details


@pytest.mark.parametrize("padding", [b"", b"="])
def test_a_client_reads_the_reason(padding: bytes) -> None:
    """What a status came with is in the error that it raises; a reason is read from it, with or without padding."""
    fields = trailers(status_of(CommandNotFound("no such command")))
    details = fields[b"grpc-status-details-bin"]
    fields[b"grpc-status-details-bin"] = details + padding * (-len(details) % 4)
    status = parse_status(fields.items())
    assert status is not None
    with pytest.raises(RpcFailedError) as caught:
        raise_status(status)
    assert reason_in(caught.value.status) == "COMMAND_NOT_FOUND"
    assert caught.value.status.status_message == "no such command"


@pytest.mark.parametrize(
    "status",
    [
        Status(StatusCode.NOT_FOUND, "no"),
        DetailedStatus(StatusCode.NOT_FOUND, "no", b""),
        DetailedStatus(StatusCode.NOT_FOUND, "no", b"\xff\xff"),
        parse_status([(b"grpc-status", b"5"), (b"grpc-status-details-bin", b"no base 64")]),
    ],
)
def test_a_status_without_a_reason(status: Status) -> None:
    """Of a status without details, or with such as are none, there is no reason, and no error either."""
    assert reason_in(status) is None


def test_the_reason_of_somebody_else() -> None:
    """A reason of another domain is not one of ours."""
    rich = RichStatus()
    rich.details.add().Pack(ErrorInfo(reason="COMMAND_NOT_FOUND", domain="proxy"))
    assert reason_in(DetailedStatus(StatusCode.NOT_FOUND, "no", rich.SerializeToString())) is None


def test_trailer() -> None:
    """The details travel in base64 without padding."""
    headers = status_trailers(DetailedStatus(StatusCode.NOT_FOUND, "no", b"\xff\xfe\xfd\xfc"))
    (header,) = (header for header in headers if header[0] == b"grpc-status-details-bin")
    assert header[1] == b"//79/A"


def test_status_without_details() -> None:
    """A plain status has no trailer for details."""
    assert b"grpc-status-details-bin" not in trailers(Status(StatusCode.NOT_FOUND, "no"))


def test_details_have_a_bound() -> None:
    """Details that a peer might not take are left out; code and text are sent all the same."""
    most = DetailedStatus(StatusCode.ABORTED, "no", bytes(MAX_STATUS_DETAILS))
    more = DetailedStatus(StatusCode.ABORTED, "no", bytes(MAX_STATUS_DETAILS + 1))
    assert len(base64.b64decode(trailers(most)[b"grpc-status-details-bin"] + b"==")) == MAX_STATUS_DETAILS
    assert trailers(more) == {b"grpc-status": b"10", b"grpc-message": b"no"}


@pytest.mark.parametrize("text", ["x" * 3 * MAX_STATUS_MESSAGE, "lone surrogate \ud800", "☺" * 255, ""])
def test_text_is_the_same_in_both_places(text: str) -> None:
    """Clients refuse details whose text is not that of the status: what is cut or replaced is so in both."""
    status = status_of(JobNotFound(text))
    assert rich_status(status).message == status.status_message
    assert len(status.status_message) == min(len(text), MAX_STATUS_MESSAGE)
    assert b"grpc-status-details-bin" in trailers(status)


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.0004, (0, 1_000_000)), (2, (2, 0)), (59.9996, (60, 0)), (6.5, (6, 500_000_000))]
)
def test_when_a_client_may_start_again(seconds: float, told: tuple[int, int]) -> None:
    """A client that starts too much is told when to come again, to the millisecond, and never too early."""
    [info] = payloads(status_of(StartRateExceeded("x", retry_seconds=seconds)), RetryInfo)
    assert (info.retry_delay.seconds, info.retry_delay.nanos) == told
