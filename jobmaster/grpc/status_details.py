"""Rich errors: what a program can read of an error, beside the sentence for people.

The status of a failed call carries a `google.rpc.Status` with the standard payloads of google/rpc/error_details.proto:
ErrorInfo always, BadRequest where a field is wrong, RetryInfo where trying again may help.
"""

from __future__ import annotations

import math
import re
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status as RichStatus

from jobmaster.errors import InvalidRequest, StartRateExceeded
from jobmaster.grpc.headers import MAX_STATUS_MESSAGE, DetailedStatus
from jobmaster.grpc.purerpc_adapter import Status, StatusCode

DOMAIN: Final = "jobmaster"
"""Of every ErrorInfo: whose reasons these are."""
INTERNAL_REASON: Final = "INTERNAL"
RETRY_SECONDS: Final = 1
"""How long a caller is told to wait before it tries again, where nothing else is known."""

_RETRYABLE: Final = frozenset({StatusCode.RESOURCE_EXHAUSTED, StatusCode.UNAVAILABLE})


def status_for_client(code: StatusCode, error: Exception) -> DetailedStatus:
    """The status of an error whose text and class the client may know."""
    text = str(error)
    details: list[Message] = [ErrorInfo(reason=reason_of(type(error)), domain=DOMAIN)]
    if isinstance(error, InvalidRequest) and error.field is not None:
        violation = BadRequest.FieldViolation(field=error.field, description=_sendable(text))
        details.append(BadRequest(field_violations=[violation]))
    if code in _RETRYABLE:
        seconds = error.retry_seconds if isinstance(error, StartRateExceeded) else RETRY_SECONDS
        milliseconds = math.ceil(seconds * 1000)
        delay = Duration(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)
        details.append(RetryInfo(retry_delay=delay))
    return _detailed(code, text, details)


def internal_status(reference: str) -> DetailedStatus:
    """The status of an error that stays inside: the client gets the number that the log has too, and no more."""
    info = ErrorInfo(reason=INTERNAL_REASON, domain=DOMAIN, metadata={"reference": reference})
    return _detailed(StatusCode.INTERNAL, f"internal error {reference}; the server's log has the details", [info])


def reason_of(kind: type[Exception]) -> str:
    """The reason of an ErrorInfo: an error class's name in UPPER_SNAKE_CASE, which is stable for programs."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__).upper()


def reason_in(status: Status) -> str | None:
    """The reason that a server of ours gives for an error; None where there is none."""
    if not isinstance(status, DetailedStatus):
        return None
    info = ErrorInfo()
    try:
        rich = RichStatus.FromString(status.details)
        found = next((detail for detail in rich.details if detail.Unpack(info)), None)
    except DecodeError:
        return None
    return info.reason if found is not None and info.domain == DOMAIN else None


def _detailed(code: StatusCode, text: str, details: list[Message]) -> DetailedStatus:
    message = _sendable(text)
    rich = RichStatus(code=code.value, message=message)
    for detail in details:
        rich.details.add().Pack(detail)
    return DetailedStatus(code, message, rich.SerializeToString())


def _sendable(text: str) -> str:
    """`text` as both grpc-message and a protobuf string can have it; readers require the two to be the same."""
    return text[:MAX_STATUS_MESSAGE].encode("utf-8", "replace").decode()
