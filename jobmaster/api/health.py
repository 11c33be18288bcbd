"""The gRPC health checking protocol (grpc.health.v1): whether the server, or one of its services, takes calls now."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Final

import trio

from jobmaster.api.statuses import ServiceUnknown
from jobmaster.errors import InvalidRequest, ServerDraining
from jobmaster.standard import health_pb2 as pb
from jobmaster.standard.health_grpc import HealthServicer

HEALTH: Final = pb.DESCRIPTOR.services_by_name["Health"].full_name
"""The service's full name."""
MAX_REQUEST: Final = 1024
"""Bytes of a request; a watch keeps its own for as long as it lasts."""
_WHOLE_SERVER: Final = ""


class HealthService(HealthServicer):
    """Serving until `drain`; a watch lasts until its client leaves or `end` is called."""

    def __init__(self, services: Iterable[str]) -> None:
        self._names = frozenset({_WHOLE_SERVER, *services})
        self._status = pb.HealthCheckResponse.SERVING
        self._ended = False
        self._changed = trio.Event()

    def drain(self) -> None:
        """Every service is NOT_SERVING from now on. Idempotent."""
        self._status = pb.HealthCheckResponse.NOT_SERVING
        self._wake()

    def end(self) -> None:
        """As `drain`, and ends every watch, so that none keeps its connection open. Idempotent."""
        self._ended = True
        self.drain()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def Check(self, message: pb.HealthCheckRequest) -> pb.HealthCheckResponse:
        """How a service is now.

        Raises:
            ServiceUnknown: there is none of this name.
            InvalidRequest: the name is longer than any service's.
        """
        _require_short(message)
        if message.service not in self._names:
            raise ServiceUnknown("no such service")
        return pb.HealthCheckResponse(status=self._status)

    async def Watch(  # type: ignore[override]  # an async generator, as purerpc wants it
        self, message: pb.HealthCheckRequest
    ) -> AsyncIterator[pb.HealthCheckResponse]:
        """How a service is now and at each change, and SERVICE_UNKNOWN for one that there is not.

        Raises:
            InvalidRequest: the name is longer than any service's.
            ServerDraining: the server has ended; raised after the last change.
        """
        _require_short(message)
        is_known = message.service in self._names
        told = None
        while True:
            changed = self._changed  # taken before the look, so that no change falls between the two
            status = self._status if is_known else pb.HealthCheckResponse.SERVICE_UNKNOWN
            if status != told:
                told = status
                yield pb.HealthCheckResponse(status=status)
            elif self._ended:
                raise ServerDraining("the server is shutting down")
            else:
                await changed.wait()


def _require_short(message: pb.HealthCheckRequest) -> None:
    if message.ByteSize() > MAX_REQUEST:
        raise InvalidRequest(f"the request has more than {MAX_REQUEST} bytes; name a service", field="service")
