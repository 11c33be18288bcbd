"""What jobmaster uses of purerpc; besides the generated code, the one module that imports it.

purerpc provides the service definitions and client stubs that its protoc plugin generates (`Service`, `Client` and what
they are made of), statuses and the errors of failed calls, and the loops that run a streaming handler on a stream
(`STREAMING_CALLS`). A stream, for it, is any object with `expect_message_type`, `receive_message`, `end_stream_event`,
`send_message` and `close`; a channel one with `_host`, `_port` and `_grpc_socket.start_request`. Connections, calls and
channels are jobmaster's own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from purerpc import Cardinality, Client, RPCSignature, Service, Status, StatusCode, wrappers
from purerpc.grpclib.events import RequestEnded, ResponseEnded
from purerpc.grpclib.exceptions import ProtocolError, RpcFailedError
from purerpc.grpclib.exceptions import raise_status as purerpc_raise_status

__all__ = [
    "STREAMING_CALLS",
    "Cardinality",
    "Client",
    "ProtocolError",
    "RPCSignature",
    "RequestEnded",
    "ResponseEnded",
    "RpcFailedError",
    "Service",
    "Status",
    "StatusCode",
    "raise_status",
]


def raise_status(status: Status) -> None:
    """Raises the error of a call that ended so, where it failed; the error's `status` is the one given, with its details."""
    try:
        purerpc_raise_status(status)
    except RpcFailedError as error:
        error._status = status  # purerpc makes one of code and text alone
        raise


STREAMING_CALLS: Final[dict[Cardinality, Callable[[Callable[..., Any], Any], Awaitable[None]]]] = {
    Cardinality.UNARY_STREAM: wrappers.call_server_unary_stream,
    Cardinality.STREAM_UNARY: wrappers.call_server_stream_unary,
    Cardinality.STREAM_STREAM: wrappers.call_server_stream_stream,
}
"""Runs a handler of each kind with a stream. A `ProtocolError` means none or several messages in place of one."""
