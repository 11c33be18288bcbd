"""A connection whose client is authenticated and not authorised: each call is answered UNAUTHENTICATED.

gRPC clients retry a connection that is closed; a status they show to who called. Such a connection has small windows,
few calls and a short life.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jobmaster.grpc.headers import RESPONSE_HEADERS, NotGrpc, method_name, parse_request, status_trailers
from jobmaster.grpc.purerpc_adapter import Status, StatusCode
from jobmaster.http2 import frames
from jobmaster.http2.frames import ErrorCode
from jobmaster.http2.header_blocks import encode_block
from jobmaster.http2.protocol import Configuration
from jobmaster.wire.connection import Connection
from jobmaster.wire.lifetime import LifetimePolicy

if TYPE_CHECKING:
    import trio

    from jobmaster.grpc.watch import ConnectionWatch
    from jobmaster.http2.events import DataReceived, GoawayReceived, HeadersReceived

MAX_CALLS: Final = 20
"""Calls that are answered before the connection is ended."""
POLICY: Final = LifetimePolicy(idle=5.0, age=10.0, grace=1.0)
_CONFIGURATION: Final = Configuration(
    is_client=False,
    stream_window=frames.DEFAULT_WINDOW,
    connection_window=frames.DEFAULT_WINDOW,
    max_frame_size=frames.LEAST_MAX_FRAME_SIZE,
    parse=parse_request,
)

_FORBIDDEN: Final = encode_block([(b":status", b"403")])


class RefusingConnection:
    """The `StreamHandler` of such a connection on `stream`, which the caller closes.

    `text` is for the client; `watch` is told of every call.
    """

    def __init__(self, stream: trio.abc.Stream, text: str, watch: ConnectionWatch | None = None) -> None:
        self.connection = Connection(stream, _CONFIGURATION, POLICY)
        self._text = text
        self._watch = watch
        status = Status(StatusCode.UNAUTHENTICATED, text)
        self._answer = encode_block([*RESPONSE_HEADERS, *status_trailers(status)])
        self._answered = 0

    async def run(self) -> None:
        """Serves the connection until it ends."""
        await self.connection.run(self)

    def on_headers(self, event: HeadersReceived) -> None:
        """A call, refused whatever it is."""
        request = event.headers.parsed
        is_grpc = not isinstance(request, NotGrpc)
        if self._watch is not None:
            outcome = StatusCode.UNAUTHENTICATED.name if is_grpc else "HTTP_403"
            self._watch.refused(method_name(request), outcome, self._text)
        block = self._answer if is_grpc else _FORBIDDEN
        self.connection.send_headers(event.stream_id, block, end_stream=True)
        if not event.ended:
            self.connection.reset(event.stream_id, ErrorCode.NO_ERROR)
        self._answered += 1
        if self._answered == MAX_CALLS:
            self.connection.send_final_goaway()

    def on_data(self, event: DataReceived) -> None:
        """Of calls that have been answered; the window is returned."""
        self.connection.acknowledge(0, event.length)

    def on_reset(self, stream_id: int, code: int) -> None:
        """All calls have been answered."""

    def on_settings(self) -> None:
        """Nothing depends on them here."""

    def on_goaway(self, event: GoawayReceived) -> None:
        """The client leaves."""

    def on_read_handled(self) -> None:
        """All calls have been answered."""

    def should_yield(self) -> bool:
        """An answer takes no time worth mentioning."""
        return False

    def on_closed(self) -> None:
        """No call is open."""
