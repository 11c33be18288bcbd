"""A network that cuts connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio


@dataclass(slots=True)
class Network:
    """A proxy for TCP that cuts a connection when it has passed on so many bytes of the server's.

    Attributes:
        port: where clients connect to.
        target: the port that it passes them on to.
        cuts: bytes for each connection, in their order; later ones are not cut.
        connections: how many there have been.
        passed: bytes of the server's that were passed on.
        open: what ends each of those there are.
    """

    target: int
    cuts: Iterator[int]
    port: int = 0
    connections: int = 0
    passed: int = 0
    open: set[trio.CancelScope] = field(default_factory=set)

    def cut(self) -> None:
        """Cuts the connections that there are."""
        for scope in self.open:
            scope.cancel()

    async def serve(self, client: trio.SocketStream) -> None:
        """Passes one connection on."""
        self.connections += 1
        left = next(self.cuts, 1 << 62)
        try:
            async with await trio.open_tcp_stream("127.0.0.1", self.target) as server, trio.open_nursery() as nursery:
                self.open.add(nursery.cancel_scope)
                nursery.start_soon(self._pass_on, client, server, 1 << 62, nursery.cancel_scope, False)
                nursery.start_soon(self._pass_on, server, client, left, nursery.cancel_scope, True)
        except* (trio.BrokenResourceError, OSError):
            pass
        finally:
            await trio.aclose_forcefully(client)

    async def _pass_on(
        self, source: trio.SocketStream, sink: trio.SocketStream, left: int, both: trio.CancelScope, is_counted: bool
    ) -> None:
        while left and (data := await source.receive_some(min(left, 65536))):
            await sink.send_all(data)
            left -= len(data)
            self.passed += len(data) * is_counted
        both.cancel()


@asynccontextmanager
async def network(target: int, cuts: Sequence[int]) -> AsyncIterator[Network]:
    """Such a proxy, for the block."""
    proxy = Network(target=target, cuts=iter(cuts))
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        proxy.port = listener.socket.getsockname()[1]
        await nursery.start(trio.serve_listeners, proxy.serve, [listener])
        yield proxy
        nursery.cancel_scope.cancel()
