"""The client's side: a channel that purerpc's stubs and `purerpc.Client` run on.

purerpc's client asks its channel for `_host`, `_port` and `_grpc_socket.start_request`; a `ClientConnection` is all
three. The deadline of the scope around a call is sent as its grpc-timeout, and a call that is cancelled or left
early is reset, so that the server stops working for it.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import h2.events
import h2.exceptions
import trio
from google.protobuf.message import Message
from purerpc import Status, StatusCode
from purerpc.grpclib.events import ResponseEnded

from jobmaster.errors import TransportError
from jobmaster.transport.connection import Http2Connection
from jobmaster.transport.headers import parse_status, refusal_of, request_headers
from jobmaster.transport.stream import GrpcStream

STREAM_WINDOW: Final = 1024 * 1024
CONNECTION_WINDOW: Final = 4 * 1024 * 1024
CONNECT_SECONDS: Final = 10.0
"""How long connecting and the TLS handshake may take."""


class ServerRefused(TransportError):
    """The server closed the connection before it said a word of HTTP/2: it does not take this client."""


class ClientStream(GrpcStream):
    """A call as its caller sees it."""

    def __init__(self, connection: Http2Connection, stream_id: int) -> None:
        super().__init__(connection, stream_id)
        self._status: Status | None = None

    def on_headers(self, headers: list[tuple[bytes, bytes]]) -> None:
        """The response's headers or its trailers."""
        self._status = (
            self._status or parse_status(headers) or (refusal_of(headers) if self._is_opening(headers) else None)
        )

    @staticmethod
    def _is_opening(headers: list[tuple[bytes, bytes]]) -> bool:
        return any(bytes(name) == b":status" for name, _ in headers)

    @property
    def end_status(self) -> Status:
        """The status of a call that the server has ended."""
        return self._status or Status(StatusCode.UNKNOWN, "the server ended the call without a status")

    def _end_event(self) -> ResponseEnded:
        return ResponseEnded(self.stream_id, self.end_status)

    def on_reset(self, code: int) -> None:
        """A server resets a call with NO_ERROR after its trailers; that is a normal end."""
        if self._status is not None:
            self.on_end()
        else:
            super().on_reset(code)

    async def receive_message(self) -> Message | None:
        """As `GrpcStream.receive_message`; a cancelled wait abandons the call."""
        try:
            return await super().receive_message()
        except trio.Cancelled:
            self.reset()
            raise

    async def send_message(self, message: Message) -> None:
        """As `GrpcStream.send_message`; a cancelled wait abandons the call.

        A server may answer before it has read the request: its status, found by receiving, is then what counts.
        """
        try:
            await super().send_message(message)
        except trio.Cancelled:
            self.reset()
            raise
        except h2.exceptions.ProtocolError:
            if self._status is None:
                raise

    async def close(self, status: Status | None = None) -> None:
        """Ends the request. A client has no status to give."""
        if status is not None:
            raise ValueError("a client ends a request without a status")
        await trio.lowlevel.checkpoint()
        if self._local_ended or self._failure is not None:
            return
        self._local_ended = True
        if self._remote_ended:
            self._connection.forget(self.stream_id)
            return
        self._connection.send_data(self.stream_id, b"", end_stream=True)


class ClientConnection(Http2Connection):
    """A connection to a server, and the channel for purerpc's stubs."""

    def __init__(self, wire: trio.abc.Stream, *, host: str, port: int) -> None:
        super().__init__(wire, client_side=True, stream_window=STREAM_WINDOW, connection_window=CONNECTION_WINDOW)
        self._host, self._port = host, port
        self._grpc_socket = self
        self._going_away = False
        self._broken: Exception | None = None
        self._ended = False

    async def start_request(
        self, _scheme: str, service: str, method: str, _message_type: str, authority: str, **_unused: Any
    ) -> ClientStream:
        """Opens a call.

        Raises:
            ServerRefused: the server closed the connection without a word.
            TransportError: the connection is lost, or the server is going away.
        """
        await trio.lowlevel.checkpoint()
        if self._ended or self._going_away:
            raise self._loss()
        timeout = trio.current_effective_deadline() - trio.current_time()
        stream_id = self._h2.get_next_available_stream_id()
        stream = ClientStream(self, stream_id)
        headers = request_headers(
            authority=authority, service=service, method=method, timeout=None if math.isinf(timeout) else timeout
        )
        try:
            self.send_headers(stream_id, headers, end_stream=False)
        except h2.exceptions.TooManyStreamsError:
            raise TransportError("as many calls are open on this connection as the server allows") from None
        self._streams[stream_id] = stream
        return stream

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """As `Http2Connection.run`; afterwards no call can be opened."""
        try:
            await super().run(task_status=task_status)
        finally:
            self._ended = True

    def _end_streams(self) -> None:
        self._ended = True
        for stream in list(self._streams.values()):
            stream._fail(self._loss())  # the two classes are two halves of one thing
        self._streams.clear()

    def _loss(self) -> TransportError:
        if self._going_away:
            return TransportError("the server is shutting down")
        if not self._settings_received.is_set():
            detail = _tls_alert(self._broken)
            return ServerRefused(f"the server refused this client's certificate{detail}; its log says why")
        return TransportError("the connection to the server was lost")

    def _on_broken_wire(self, error: Exception) -> None:
        self._broken = self._broken or error

    def _on_headers(self, event: Any) -> None:
        headers_events = (h2.events.ResponseReceived, h2.events.TrailersReceived)
        if isinstance(event, headers_events) and isinstance(stream := self._streams.get(event.stream_id), ClientStream):
            stream.on_headers(event.headers)

    def _on_goaway(self, event: Any) -> None:
        self._going_away = True
        for stream_id, stream in list(self._streams.items()):
            if stream_id > (event.last_stream_id or 0):
                stream.on_connection_lost()
                self.forget(stream_id)


def _tls_alert(error: BaseException | None) -> str:
    """The TLS alert behind a broken stream, as words for an error text."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__
    reason = getattr(error, "reason", None)
    return f" ({str(reason).lower().replace('_', ' ')})" if reason else ""


@asynccontextmanager
async def open_connection(host: str, port: int, context: ssl.SSLContext) -> AsyncIterator[ClientConnection]:
    """Connects to a server, with TLS; the connection lives as long as the block.

    Raises:
        TransportError: nobody answers, or the TLS handshake fails; says which and why.
    """
    wire = await _connect(host, port, context)
    connection = ClientConnection(wire, host=_authority_host(host), port=port)
    failure: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(connection.run)
            try:
                yield connection
            except Exception as error:  # noqa: BLE001  # raised again outside, so that the nursery does not group it
                failure = error
            nursery.cancel_scope.cancel()
    finally:
        await trio.aclose_forcefully(wire)
    if failure is not None:
        raise failure


def _authority_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def _connect(host: str, port: int, context: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
    try:
        with trio.fail_after(CONNECT_SECONDS):
            tcp = await trio.open_tcp_stream(host, port)
    except (OSError, trio.TooSlowError) as error:
        raise TransportError(f"cannot connect to {host}:{port}: {_reason(error)}") from None
    wire = trio.SSLStream(tcp, context, server_hostname=host, https_compatible=True)
    try:
        with trio.fail_after(CONNECT_SECONDS):
            await wire.do_handshake()
        if wire.selected_alpn_protocol() != "h2":
            raise TransportError(f"{host}:{port} does not speak HTTP/2")
    except (trio.BrokenResourceError, trio.TooSlowError) as error:
        await trio.aclose_forcefully(tcp)
        raise TransportError(f"no secure connection to {host}:{port}: {_reason(error)}") from None
    except BaseException:
        await trio.aclose_forcefully(tcp)
        raise
    return wire


def _reason(error: BaseException) -> str:
    if isinstance(error, trio.TooSlowError):
        return f"no answer within {CONNECT_SECONDS:.0f} s"
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the server's certificate is not valid: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"TLS: {str(cause.reason).lower().replace('_', ' ')}"
    return getattr(error, "strerror", None) or str(cause or error)
