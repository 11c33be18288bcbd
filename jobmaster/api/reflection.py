"""gRPC server reflection: clients such as grpcurl learn the API from the server itself.

Versions v1 and v1alpha differ in their package's name and nothing on the wire, so one servicer serves both. A file
is answered together with all files that it imports, so that one answer is enough for a client.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Final

import trio
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor

from jobmaster.errors import InvalidRequest, ServerDraining
from jobmaster.grpc.purerpc_adapter import Service, StatusCode
from jobmaster.standard import reflection_v1_pb2 as pb
from jobmaster.standard import reflection_v1alpha_pb2 as alpha
from jobmaster.standard.reflection_v1_grpc import ServerReflectionServicer

REFLECTION: Final = pb.DESCRIPTOR.services_by_name["ServerReflection"].full_name
REFLECTION_ALPHA: Final = alpha.DESCRIPTOR.services_by_name["ServerReflection"].full_name
"""The full names of the service's two versions."""
MAX_REQUEST: Final = 1024
"""Bytes of a request, which its answer repeats."""


class ReflectionService(ServerReflectionServicer):
    """Answers about the services it is given the full names of."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = tuple(sorted(services))
        self._waiting: set[trio.CancelScope] = set()
        self._ended = False

    @property
    def alpha_service(self) -> Service:
        """The service under its earlier name."""
        service = Service(REFLECTION_ALPHA)
        service.methods.update(self.service.methods)
        return service

    def end(self) -> None:
        """Ends every stream, so that none keeps its connection open. Idempotent."""
        self._ended = True
        for scope in self._waiting:
            scope.cancel()

    async def ServerReflectionInfo(  # type: ignore[override]  # an async generator, as purerpc wants it
        self, requests: AsyncGenerator[pb.ServerReflectionRequest, None]
    ) -> AsyncIterator[pb.ServerReflectionResponse]:
        """Answers one request after another; what cannot be answered is an `error_response` and ends nothing.

        Raises:
            InvalidRequest: a request is longer than any name.
            ServerDraining: the server has ended.
        """
        try:
            while (request := await self._next(requests)) is not None:
                if request.ByteSize() > MAX_REQUEST:
                    raise InvalidRequest(f"a reflection request has at most {MAX_REQUEST} bytes")
                yield answer(request, self._services)
        finally:
            await requests.aclose()

    async def _next(self, requests: AsyncIterator[pb.ServerReflectionRequest]) -> pb.ServerReflectionRequest | None:
        with trio.CancelScope() as scope:
            if self._ended:
                scope.cancel()
            self._waiting.add(scope)
            try:
                return await anext(requests, None)
            finally:
                self._waiting.discard(scope)
        raise ServerDraining("the server is shutting down")


def answer(request: pb.ServerReflectionRequest, services: Iterable[str]) -> pb.ServerReflectionResponse:
    """The answer to one request, for a server of these services."""
    response = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
    try:
        _put_answer(response, request, services)
    except KeyError:  # the pool's word for what it does not have
        _put_error(response, StatusCode.NOT_FOUND, "not found")
    return response


def _put_answer(
    response: pb.ServerReflectionResponse, request: pb.ServerReflectionRequest, services: Iterable[str]
) -> None:
    match request.WhichOneof("message_request"):
        case "list_services":
            response.list_services_response.service.extend(pb.ServiceResponse(name=name) for name in services)
        case "file_by_filename":
            _put_file(response, descriptor_pool.Default().FindFileByName(request.file_by_filename))
        case "file_containing_symbol":
            _put_file(response, _file_of(request.file_containing_symbol))
        case "file_containing_extension" | "all_extension_numbers_of_type":
            _put_error(response, StatusCode.NOT_FOUND, "this API has no extensions")
        case None:
            _put_error(response, StatusCode.INVALID_ARGUMENT, "the request asks for nothing known here")


def _file_of(symbol: str) -> FileDescriptor:
    pool = descriptor_pool.Default()
    try:
        return pool.FindFileContainingSymbol(symbol)
    except KeyError:  # which is also its word for every method
        return pool.FindMethodByName(symbol).containing_service.file


def _put_file(response: pb.ServerReflectionResponse, file: FileDescriptor) -> None:
    response.file_descriptor_response.file_descriptor_proto.extend(found.serialized_pb for found in with_imports(file))


def _put_error(response: pb.ServerReflectionResponse, code: StatusCode, text: str) -> None:
    response.error_response.error_code = code.value
    response.error_response.error_message = text


def with_imports(file: FileDescriptor) -> list[FileDescriptor]:
    """A file and, behind it, every file that it imports, directly or not, each once."""
    found = {file.name: file}
    pending = [file]
    while pending:
        new = [imported for imported in pending.pop().dependencies if imported.name not in found]
        found.update((imported.name, imported) for imported in new)
        pending.extend(new)
    return list(found.values())
