"""What ends an HTTP/2 connection (RFC 9113, 5.4.1): the error code for the GOAWAY and a reason for its debug data."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from jobmaster.errors import TransportError

if TYPE_CHECKING:
    from jobmaster.http2.frames import ErrorCode


class ProtocolViolation(TransportError):
    """The peer violated HTTP/2 or a limit: the connection has to end. `reason` is short printable ASCII."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def connection_error(code: ErrorCode, reason: str) -> NoReturn:
    """Raises the ProtocolViolation."""
    raise ProtocolViolation(code, reason)
