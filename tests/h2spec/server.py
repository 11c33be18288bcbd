"""The transport's server side without TLS, for h2spec, which has no client certificate to show.

Without TLS, the identity and the bounds on connections it is what `jobmaster.server.listener` does: a `ServerConnection`
runs on the stream, which is closed without ceremony when `run` returns, and a bug is logged and ends one connection.

h2spec sends plain GET requests. For any path the connection refuses them by itself, as what is not gRPC, in headers
alone. That says nothing in cases that need a stream to stay open, or DATA to come; so a request for `CALL_PATH` is
taken for a call of that method, and from there on served like any other.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Final

import trio
from google.protobuf.wrappers_pb2 import BytesValue
from purerpc import Cardinality, RPCSignature, Service, Status, StatusCode

from jobmaster.grpc.headers import RequestHead
from jobmaster.grpc.server import Dispatcher, ServerConnection
from jobmaster.http2.events import HeadersReceived

logger = logging.getLogger(__name__)

SERVICE: Final = "h2spec.Echo"
CALL_PATH: Final = f"/{SERVICE}/Echo"
REFUSED_PATH: Final = "/"
GREETING: Final = b"a body for the cases of flow control"


async def echo(messages: AsyncIterable[BytesValue]) -> AsyncIterator[BytesValue]:
    """Greets, and sends every message back."""
    yield BytesValue(value=GREETING)
    async for message in messages:
        yield message


def dispatcher() -> Dispatcher:
    """The one service that is served here."""
    service = Service(SERVICE)
    service.add_method("Echo", echo, RPCSignature(Cardinality.STREAM_STREAM, BytesValue, BytesValue))
    return Dispatcher({SERVICE: service}, lambda error: Status(StatusCode.INTERNAL, type(error).__name__))


class H2specConnection(ServerConnection):
    """A `ServerConnection` that takes any request for `CALL_PATH` for a call."""

    def on_headers(self, event: HeadersReceived) -> None:
        """A request."""
        if (b":path", CALL_PATH.encode()) in event.headers.fields:
            head = RequestHead(service=SERVICE, method="Echo", timeout=None)
            event = event._replace(headers=replace(event.headers, parsed=head))
        super().on_headers(event)


async def serve_connection(served: Dispatcher, tcp: trio.SocketStream) -> None:
    """Serves one connection and closes it as `jobmaster.server.listener` does."""
    try:
        await H2specConnection(tcp, served, caller=None).run()
    except Exception:
        logger.exception("a bug in the server ended a connection")
    finally:
        await trio.aclose_forcefully(tcp)


async def serve(port: int) -> None:
    """Serves on the loopback address until cancelled; prints the port as soon as it is listened on."""
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    print(listeners[0].socket.getsockname()[1], flush=True)
    await trio.serve_listeners(partial(serve_connection, dispatcher()), listeners)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.h2spec.server", description=serve.__doc__)
    parser.add_argument("--port", type=int, default=0, help="0, the default: any free port")
    trio.run(serve, parser.parse_args().port)


if __name__ == "__main__":
    main()
