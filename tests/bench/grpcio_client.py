"""The loads by grpcio's client: its blocking calls where they come one after another, its asyncio ones for many at once.

Each is the faster of the two at that (measured), so that the server is what is measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import Message

from jobmaster.certs.folder import SERVER_AUTHORITY, certificate_path, key_path
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.bench.load import CLIENT, WARM_UP, Kind, Load, Outcome, require_bytes, require_success
from tests.bench.stopwatch import Stopwatch

READY_SECONDS: Final = 10.0
_TRUE: Final = pb.JobCreateRequest(command="true")


@dataclass(frozen=True, slots=True)
class Stub:
    """JobService on a channel, blocking or asyncio's: typed as what the callers make of it."""

    start: Callable[[pb.JobCreateRequest], Any]
    status: Callable[[pb.JobIDRequest], Any]
    stream_output: Callable[[pb.JobIDRequest], Any]


def run(load: Load) -> Outcome:
    """Connects, warms up and does the load."""
    credentials = _credentials(load)
    target = f"localhost:{load.port}"
    if load.in_flight > 1:
        return asyncio.run(_run_many(load, target, credentials))
    with grpc.secure_channel(target, credentials) as channel:
        grpc.channel_ready_future(channel).result(READY_SECONDS)
        return _run_in_turn(load, _stub(channel))


def _credentials(load: Load) -> Any:
    folder = load.certificates
    return grpc.ssl_channel_credentials(
        certificate_path(folder, SERVER_AUTHORITY).read_bytes(),
        key_path(folder, CLIENT).read_bytes(),
        certificate_path(folder, CLIENT).read_bytes(),
    )


def _stub(channel: Any) -> Stub:
    service = "/jobmaster.jobs.v1.JobService"
    return Stub(
        channel.unary_unary(f"{service}/Start", _serialise, pb.JobID.FromString),
        channel.unary_unary(f"{service}/Status", _serialise, pb.JobResponse.FromString),
        channel.unary_stream(f"{service}/StreamOutput", _serialise, pb.JobOutputResponse.FromString),
    )


def _serialise(message: Message) -> bytes:
    return message.SerializeToString()


def _request(job_id: str) -> pb.JobIDRequest:
    return pb.JobIDRequest(job_id_request=pb.JobID(job_id=job_id))


# --- one after another ------------------------------------------------------------------------------------------------


def _run_in_turn(load: Load, stub: Stub) -> Outcome:
    match load.kind:
        case Kind.START:
            return _start(stub, load)
        case Kind.STATUS:
            return _status(stub, load)
        case Kind.STREAM:
            return _stream(stub, load)
        case _:
            raise ValueError("this is a load for several workers, or for jobmaster's client")


def _start(stub: Stub, load: Load) -> Outcome:
    _check(stub, [stub.start(_TRUE).job_id for _ in range(WARM_UP)])
    ids, latencies = [], []
    with Stopwatch(load.server) as watch:
        for _ in range(load.count):
            begun = perf_counter()
            ids.append(stub.start(_TRUE).job_id)
            latencies.append(perf_counter() - begun)
    _check(stub, ids)
    return Outcome.of(watch, latencies=latencies)


def _stream(stub: Stub, load: Load) -> Outcome:
    with Stopwatch(load.server) as watch:
        received = _follow(stub, load.job_id)
    require_bytes(received, load.count)
    return Outcome.of(watch)


def _status(stub: Stub, load: Load) -> Outcome:
    job_id = stub.start(_TRUE).job_id
    _check(stub, [job_id] * WARM_UP)
    request = _request(job_id)
    with Stopwatch(load.server) as watch:
        for _ in range(load.count):
            stub.status(request)
    return Outcome.of(watch)


def _check(stub: Stub, ids: list[str]) -> None:
    for job_id in ids:
        _follow(stub, job_id)
        record = stub.status(_request(job_id))
        require_success(record.state, record.exit_code, pb.JOBSTATE_COMPLETED)


def _follow(stub: Stub, job_id: str) -> int:
    return sum(len(message.output) for message in stub.stream_output(_request(job_id)))


# --- many at once -----------------------------------------------------------------------------------------------------


async def _run_many(load: Load, target: str, credentials: Any) -> Outcome:
    async with grpc.aio.secure_channel(target, credentials) as channel:
        await asyncio.wait_for(channel.channel_ready(), READY_SECONDS)
        stub = _stub(channel)
        await _check_many(stub, [(await stub.start(_TRUE)).job_id for _ in range(WARM_UP)])
        match load.kind:
            case Kind.JOBS:
                return await _jobs(stub, load)
            case Kind.STATUS:
                return await _status_many(stub, load)
            case _:
                raise ValueError("these come one at a time, or by jobmaster's client")


async def _jobs(stub: Stub, load: Load) -> Outcome:
    ids: list[str] = []

    async def work(count: int) -> None:
        own = [(await stub.start(_TRUE)).job_id for _ in range(count)]
        for job_id in own:
            await _follow_async(stub, job_id)
        ids.extend(own)

    with Stopwatch(load.server) as watch:
        await _together(load, work)
    await _check_many(stub, ids)
    return Outcome.of(watch)


async def _status_many(stub: Stub, load: Load) -> Outcome:
    request = _request((await stub.start(_TRUE)).job_id)
    await _check_many(stub, [request.job_id_request.job_id])

    async def ask(count: int) -> None:
        for _ in range(count):
            await stub.status(request)

    with Stopwatch(load.server) as watch:
        await _together(load, ask)
    return Outcome.of(watch)


async def _together(load: Load, work: Callable[[int], Awaitable[None]]) -> None:
    await asyncio.gather(*(work(share) for share in load.shares()))


async def _check_many(stub: Stub, ids: list[str]) -> None:
    for job_id in ids:
        await _follow_async(stub, job_id)
        record = await stub.status(_request(job_id))
        require_success(record.state, record.exit_code, pb.JOBSTATE_COMPLETED)


async def _follow_async(stub: Stub, job_id: str) -> None:
    async for _message in stub.stream_output(_request(job_id)):
        pass
