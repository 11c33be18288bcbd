"""gRPC request, response and trailer headers, sans-io: header lists in, values out, and back.

Sources: "gRPC over HTTP2" (PROTOCOL-HTTP2.md) for names and grammar, "HTTP to gRPC Status Code Mapping" for
responses that are not gRPC.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from jobmaster.grpc.purerpc_adapter import Status, StatusCode
from jobmaster.http2.header_blocks import Field, encode_block

_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_TIMEOUT_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_CONTENT_TYPE: Final = re.compile(rb"application/grpc(?:\+proto)?(?:;.*)?")
_PATH: Final = re.compile(rb"/([\w.]{1,256})/(\w{1,128})", re.ASCII)

RESPONSE_HEADERS: Final[tuple[Field, ...]] = (
    (b":status", b"200"),
    (b"content-type", b"application/grpc+proto"),
)
RESPONSE_BLOCK: Final = encode_block(RESPONSE_HEADERS)
OK_BLOCK: Final = encode_block(((b"grpc-status", b"0"),))
"""The trailers of a call that went well."""
MAX_STATUS_MESSAGE: Final = 1024
"""Characters of a status's text that are sent."""
MAX_STATUS_DETAILS: Final = 4 * 1024
"""Bytes of a status's details; more are not sent, for peers take only so much of headers (8 KiB is a usual bound)."""


class DetailedStatus(Status):  # type: ignore[misc]  # purerpc ships no types
    """A status with details for programs: a serialized google.rpc.Status of the same code and text."""

    def __init__(self, code: StatusCode | int, message: str, details: bytes) -> None:
        super().__init__(code, message)
        self.details = details


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHead:
    """What a caller asks for: the method, and how long it is willing to wait (seconds)."""

    service: str
    method: str
    timeout: float | None


@dataclass(frozen=True, slots=True)
class NotGrpc:
    """A request that is not gRPC: answered with a plain HTTP status."""

    http_status: int


@dataclass(frozen=True, slots=True)
class BadCall:
    """A gRPC request that cannot be dispatched: answered with a gRPC status."""

    status: Status


def parse_request(headers: Iterable[Field]) -> RequestHead | NotGrpc | BadCall:
    """Reads a request's headers. Never raises: whatever is wrong with them is a value."""
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        fields.setdefault(name, value)
    if fields.get(b":method") != b"POST":
        return NotGrpc(405)
    if not _CONTENT_TYPE.fullmatch(fields.get(b"content-type", b"")):
        return NotGrpc(415)
    return _parse_grpc_request(fields)


def _parse_grpc_request(fields: dict[bytes, bytes]) -> RequestHead | BadCall:
    path = _PATH.fullmatch(fields.get(b":path", b""))
    if path is None:
        return BadCall(Status(StatusCode.UNIMPLEMENTED, "malformed method name"))
    if fields.get(b"grpc-encoding", b"identity") != b"identity":
        return BadCall(Status(StatusCode.UNIMPLEMENTED, "compressed requests are not taken; send identity"))
    timeout = None
    if (text := fields.get(b"grpc-timeout")) is not None:
        timeout = parse_timeout(text)
        if timeout is None:
            return BadCall(Status(StatusCode.INVALID_ARGUMENT, "malformed grpc-timeout"))
    return RequestHead(service=path[1].decode(), method=path[2].decode(), timeout=timeout)


def method_name(request: RequestHead | NotGrpc | BadCall) -> str | None:
    """The method that a request names, in the form `service/name`; None where it names none."""
    return f"{request.service}/{request.method}" if isinstance(request, RequestHead) else None


def parse_timeout(text: bytes) -> float | None:
    """Seconds meant by a grpc-timeout value (1 to 8 digits and a unit); None when it is malformed."""
    match = _TIMEOUT.fullmatch(text)
    return int(match[1]) * _TIMEOUT_UNITS[match[2]] if match else None


def format_timeout(seconds: float) -> bytes:
    """A grpc-timeout value for a wait of `seconds`, rounded up, in the finest unit that fits eight digits."""
    for unit in (b"u", b"m", b"S", b"M", b"H"):
        count = max(1, -int(-seconds // _TIMEOUT_UNITS[unit]))
        if count < 10**8:
            return b"%d%s" % (count, unit)
    return b"99999999H"


def status_trailers(status: Status) -> list[Field]:
    """The trailers that end a call."""
    trailers: list[Field] = [(b"grpc-status", b"%d" % status.int_value)]
    if status.status_message:
        text = _percent_encode(status.status_message[:MAX_STATUS_MESSAGE])
        trailers.append((b"grpc-message", text))
    if isinstance(status, DetailedStatus) and len(status.details) <= MAX_STATUS_DETAILS:
        encoded = base64.b64encode(status.details).rstrip(b"=")  # gRPC sends binary metadata without padding
        trailers.append((b"grpc-status-details-bin", encoded))
    return trailers


def parse_status(headers: Iterable[Field]) -> Status | None:
    """The status in trailers (or in a response that is trailers only); None when there is none."""
    fields = dict(headers)
    code = fields.get(b"grpc-status")
    if code is None or not code.isdigit() or len(code) > 3:
        return None
    message = unquote_to_bytes(fields.get(b"grpc-message", b"")).decode("utf-8", "replace")
    details = fields.get(b"grpc-status-details-bin")
    return Status(int(code), message) if details is None else DetailedStatus(int(code), message, _unbase64(details))


def _unbase64(text: bytes) -> bytes:
    """Binary metadata, which comes with padding or without; nothing where it is none."""
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except ValueError:
        return b""


_HTTP_STATUSES: Final = {
    400: StatusCode.INTERNAL,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.UNIMPLEMENTED,
    429: StatusCode.UNAVAILABLE,
    502: StatusCode.UNAVAILABLE,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.UNAVAILABLE,
}


def refusal_of(headers: Iterable[Field]) -> Status | None:
    """What a response's first headers mean when they are not those of a gRPC answer; None when they are."""
    fields = dict(headers)
    code = fields.get(b":status", b"")
    if code != b"200":
        number = int(code) if code.isdigit() and len(code) == 3 else 0
        return Status(_HTTP_STATUSES.get(number, StatusCode.UNKNOWN), f"the peer answered with HTTP status {number}")
    if not fields.get(b"content-type", b"").startswith(b"application/grpc"):
        return Status(StatusCode.UNKNOWN, "the peer's answer is not gRPC")
    return None


def request_headers(*, authority: str, service: str, method: str, timeout: float | None) -> list[Field]:
    """The headers that open a call."""
    headers: list[Field] = [
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", authority.encode()),
        (b":path", f"/{service}/{method}".encode()),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc+proto"),
    ]
    if timeout is not None:
        headers.append((b"grpc-timeout", format_timeout(timeout)))
    return headers


def _percent_encode(text: str) -> bytes:
    """Status-Message ::= printable ASCII without "%" as it is, every other byte of the UTF-8 as %XX."""
    return b"".join(
        bytes((byte,)) if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte
        for byte in text.encode("utf-8", "replace")
    )
