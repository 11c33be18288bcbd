"""The reflection service by itself: each kind of question, and when a stream ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final, cast

import pytest
import trio
import trio.testing
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from purerpc import StatusCode

from jobmaster.api.reflection import MAX_REQUEST, ReflectionService, answer
from jobmaster.errors import InvalidRequest, ServerDraining
from jobmaster.standard import reflection_v1_pb2 as pb
from jobmaster.standard import reflection_v1alpha_pb2 as alpha

JOBS_FILE: Final = "jobmaster/jobs/v1/jobs.proto"
TIMESTAMP_FILE: Final = "google/protobuf/timestamp.proto"
WRAPPERS_FILE: Final = "google/protobuf/wrappers.proto"
SERVICES: Final = ("b.Second", "a.First")


def ask(**question: Any) -> pb.ServerReflectionResponse:
    """The answer to one question."""
    return answer(pb.ServerReflectionRequest(host="localhost", **question), SERVICES)


def files(response: pb.ServerReflectionResponse) -> list[FileDescriptorProto]:
    """The files of an answer."""
    assert response.WhichOneof("message_response") == "file_descriptor_response"
    return [FileDescriptorProto.FromString(file) for file in response.file_descriptor_response.file_descriptor_proto]


def stream(
    service: ReflectionService, requests: AsyncGenerator[pb.ServerReflectionRequest, None]
) -> AsyncGenerator[pb.ServerReflectionResponse, None]:
    """The answers as a generator that can be closed."""
    answers = service.ServerReflectionInfo(requests)
    return cast("AsyncGenerator[pb.ServerReflectionResponse, None]", answers)


async def sequence(*requests: pb.ServerReflectionRequest) -> AsyncGenerator[pb.ServerReflectionRequest, None]:
    """Requests that are all there."""
    for request in requests:
        await trio.lowlevel.checkpoint()
        yield request


async def silence() -> AsyncGenerator[pb.ServerReflectionRequest, None]:
    """A client that asks nothing and stays."""
    silent = trio.Event()
    while not silent.is_set():
        await silent.wait()
        yield pb.ServerReflectionRequest()


def test_list_services() -> None:
    """The services are listed by full name, with the question and its host repeated."""
    response = ask(list_services="*")
    assert [service.name for service in response.list_services_response.service] == list(SERVICES)
    assert response.valid_host == "localhost"
    assert response.original_request.list_services == "*"


@pytest.mark.parametrize(
    "symbol",
    [
        "JobService",
        "JobService.Start",
        "JobID",
        "JobID.job_id",
        "Cause.Exited",
        "Cause.kind",
        "JobState",
        "JOBSTATE_RUNNING",
    ],
)
def test_file_containing_symbol(symbol: str) -> None:
    """Every kind of symbol leads to its file, which comes with what it imports."""
    names = [file.name for file in files(ask(file_containing_symbol=f"jobmaster.jobs.v1.{symbol}"))]
    assert names == [JOBS_FILE, TIMESTAMP_FILE, WRAPPERS_FILE]


def test_file_by_filename() -> None:
    """A file can be asked for by name, one that imports nothing too."""
    assert [file.name for file in files(ask(file_by_filename=JOBS_FILE))] == [JOBS_FILE, TIMESTAMP_FILE, WRAPPERS_FILE]
    assert [file.name for file in files(ask(file_by_filename=TIMESTAMP_FILE))] == [TIMESTAMP_FILE]


def test_an_answer_is_enough() -> None:
    """From the files of one answer a client with nothing else builds the service, with the contract's JSON names."""
    pool = DescriptorPool()
    for file in reversed(files(ask(file_containing_symbol="jobmaster.jobs.v1.JobService"))):
        pool.AddSerializedFile(file.SerializeToString())
    service = pool.FindServiceByName("jobmaster.jobs.v1.JobService")
    output = service.methods_by_name["StreamOutput"]
    response = service.methods_by_name["Status"].output_type
    assert output.server_streaming
    assert response.fields_by_name["job_id_response"].json_name == "jobIDResponse"


@pytest.mark.parametrize(
    "question",
    [
        {"file_by_filename": "no/such.proto"},
        {"file_by_filename": "/etc/passwd"},
        {"file_by_filename": ""},
        {"file_containing_symbol": "no.such.Symbol"},
        {"file_containing_symbol": "jobmaster.jobs.v1.JobService.NoSuchMethod"},
        {"file_containing_symbol": ""},
        {"file_containing_symbol": "a\0b"},
        {"file_containing_extension": pb.ExtensionRequest(containing_type="google.protobuf.Any", extension_number=1)},
        {"all_extension_numbers_of_type": "google.protobuf.Any"},
    ],
)
def test_what_there_is_not(question: dict[str, Any]) -> None:
    """What the server does not have is a NOT_FOUND inside the answer."""
    response = ask(**question)
    assert response.error_response.error_code == StatusCode.NOT_FOUND.value
    assert response.error_response.error_message
    assert response.original_request == pb.ServerReflectionRequest(host="localhost", **question)


def test_unknown_question() -> None:
    """A question of a later version of the protocol is answered as one that is not understood."""
    assert ask().error_response.error_code == StatusCode.INVALID_ARGUMENT.value


def test_both_versions_are_one_on_the_wire() -> None:
    """v1alpha has the same messages, fields and numbers as v1, which is why one servicer may serve both."""
    first, second = FileDescriptorProto(), FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(first)
    alpha.DESCRIPTOR.CopyToProto(second)
    text = str(second).replace("grpc.reflection.v1alpha", "grpc.reflection.v1").replace("_v1alpha", "_v1")
    assert text == str(first)


def test_names() -> None:
    """Both versions have the standard's names and their one method."""
    service = ReflectionService([])
    assert service.service.name == "grpc.reflection.v1.ServerReflection"
    assert service.alpha_service.name == "grpc.reflection.v1alpha.ServerReflection"
    for one in (service.service, service.alpha_service):
        assert set(one.methods) == {"ServerReflectionInfo"}


async def test_stream_answers_in_turn() -> None:
    """Each question of a stream has its answer, in order; an unanswerable one does not end the stream."""
    questions = [
        pb.ServerReflectionRequest(list_services=""),
        pb.ServerReflectionRequest(file_by_filename="none"),
        pb.ServerReflectionRequest(file_by_filename=TIMESTAMP_FILE),
    ]
    async with aclosing(stream(ReflectionService(SERVICES), sequence(*questions))) as answers:
        kinds = [one.WhichOneof("message_response") async for one in answers]
    assert kinds == ["list_services_response", "error_response", "file_descriptor_response"]


async def test_long_questions_end_the_stream() -> None:
    """A question longer than any name is refused, for its answer would repeat it."""
    question = pb.ServerReflectionRequest(file_containing_symbol="x" * MAX_REQUEST)
    async with aclosing(stream(ReflectionService([]), sequence(question))) as answers:
        with pytest.raises(InvalidRequest):
            await anext(answers)


async def test_end_of_the_server_ends_idle_streams() -> None:
    """Streams of clients that ask nothing end with the server, those that come later at once."""
    service = ReflectionService([])
    ended = []

    async def idle() -> None:
        async with aclosing(stream(service, silence())) as answers:
            with pytest.raises(ServerDraining):
                await anext(answers)
            ended.append(True)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(idle)
        await trio.testing.wait_all_tasks_blocked()
        assert not ended
        service.end()
    assert len(ended) == 3
    await idle()
    assert len(ended) == 4
