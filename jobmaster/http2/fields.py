"""Which header fields make a well-formed HTTP/2 message (RFC 9113, section 8).

A malformed message is a stream error. What a well-formed one means to gRPC is decided in `jobmaster.grpc.headers`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from jobmaster.http2.header_blocks import Field

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE: Final = re.compile(rb"[\0\r\n]")
_LENGTH: Final = re.compile(rb"[0-9]{1,19}")
_REQUEST_FIELDS: Final = frozenset({b":method", b":scheme", b":path", b":authority"})
_RESPONSE_FIELDS: Final = frozenset({b":status"})
_CONNECTION_SPECIFIC: Final = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
)


def request_problem(fields: Iterable[Field]) -> str | None:
    """What is wrong with the fields that open a request; None for nothing."""
    fields = tuple(fields)
    problem = _problem(fields, _REQUEST_FIELDS)
    if problem is not None:
        return problem
    found = dict(fields)
    if b":method" not in found:
        return "no :method"
    if found[b":method"] != b"CONNECT" and not (found.get(b":scheme") and found.get(b":path")):
        return "no :scheme or no :path"
    return None


def response_problem(fields: Iterable[Field]) -> str | None:
    """What is wrong with the fields that open a response; None for nothing."""
    fields = tuple(fields)
    return _problem(fields, _RESPONSE_FIELDS) or (None if b":status" in dict(fields) else "no :status")


def trailers_problem(fields: Iterable[Field]) -> str | None:
    """What is wrong with the fields that end a message; None for nothing."""
    return _problem(fields, frozenset())


def _problem(fields: Iterable[Field], pseudo: frozenset[bytes]) -> str | None:
    seen: set[bytes] = set()
    regular = False
    for name, value in fields:
        if name.startswith(b":"):
            if regular or name in seen or name not in pseudo:
                return "a pseudo-header that is late, repeated or not allowed"
            seen.add(name)
        else:
            regular = True
            if not _NAME.fullmatch(name):
                return "a field name that is empty or has invalid characters"
            if name in _CONNECTION_SPECIFIC or (name == b"te" and value != b"trailers"):
                return "a connection-specific field"
        if _BAD_VALUE.search(value):
            return "a field value with an end of line in it"
    return None


def content_length(fields: Iterable[Field]) -> int | None:
    """The length of the body that a message announces; None where it does not.

    Raises:
        ValueError: it is no number, or there are several that differ.
    """
    found = {value for name, value in fields if name == b"content-length"}
    if not found:
        return None
    if len(found) > 1 or not _LENGTH.fullmatch(min(found)):
        raise ValueError("content-length is not one number")
    return int(min(found))
