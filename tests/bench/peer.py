"""The peer, a program: JobService by grpcio's own server (C core, threads), with the least that a job can be.

A command is spawned by `subprocess.Popen`, without cgroup, change of user or log; its output goes nowhere.
What StreamOutput sends is read from the log that the jobmaster server wrote for the job of that id, in messages of
the same size, so that both servers send the same bytes from the same file.
"""

from __future__ import annotations

import argparse
import secrets
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from jobmaster.api.messages import OUTPUT_MESSAGE_SIZE
from jobmaster.certs.folder import CLIENT_AUTHORITY, SERVER, certificate_path, key_path
from jobmaster.jobs.v1 import jobs_pb2 as pb

SERVICE: Final = "jobmaster.jobs.v1.JobService"
THREADS: Final = 16
STOP_SECONDS: Final = 5.0


class Peer:
    """The service's methods. Each runs in a thread of the server's pool."""

    def __init__(self, output_folder: Path) -> None:
        self._output_folder = output_folder
        self._started: dict[str, tuple[subprocess.Popen[bytes], Timestamp, pb.JobCreateRequest]] = {}

    def start(self, request: pb.JobCreateRequest, _context: object) -> pb.JobID:
        """Spawns a command."""
        process = subprocess.Popen(
            [request.command, *request.args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        job_id = secrets.token_urlsafe(20)  # 27 characters, as those of jobmaster
        self._started[job_id] = process, _now(), request
        return pb.JobID(job_id=job_id)

    def status(self, request: pb.JobIDRequest, _context: object) -> pb.JobResponse:
        """The record of a command, with the fields that jobmaster fills in."""
        job_id = request.job_id_request.job_id
        process, started, command = self._started[job_id]
        code = process.poll()
        response = pb.JobResponse(
            job_id_response=pb.JobID(job_id=job_id),
            job_msg="running" if code is None else f"exited with code {code}",
            client="client1",
            pid=process.pid,
            state=pb.JOBSTATE_RUNNING if code is None else pb.JOBSTATE_COMPLETED,
            cmd=command,
            started=started,
            limits=[pb.Limit(name="pids", value="pids.max 4096", enforced=True)],
        )
        if code is not None:
            response.exit_code = code
            response.ended.CopyFrom(started)
            response.cause.CopyFrom(pb.Cause(exited=pb.Cause.Exited(code=code)))
        return response

    def stream_output(self, request: pb.JobIDRequest, _context: object) -> Iterator[pb.JobOutputResponse]:
        """Waits for the end of a command spawned here, or sends the log of jobmaster's job."""
        job_id = request.job_id_request.job_id
        if (started := self._started.get(job_id)) is not None:
            started[0].wait()
            return
        with (self._output_folder / f"{job_id}.log").open("rb", buffering=0) as log:
            while chunk := log.read(OUTPUT_MESSAGE_SIZE):
                yield pb.JobOutputResponse(output=chunk)


def _now() -> Timestamp:
    result = Timestamp()
    result.FromDatetime(datetime.now(UTC))
    return result


def _service(peer: Peer) -> Any:
    def unary(method: Callable[..., Message], request: type[Message]) -> Any:
        return grpc.unary_unary_rpc_method_handler(method, request.FromString, _serialise)

    stream = grpc.unary_stream_rpc_method_handler(peer.stream_output, pb.JobIDRequest.FromString, _serialise)
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "Start": unary(peer.start, pb.JobCreateRequest),
            "Status": unary(peer.status, pb.JobIDRequest),
            "StreamOutput": stream,
        },
    )


def _serialise(message: Message) -> bytes:
    return message.SerializeToString()


def main() -> None:
    """Serves until SIGTERM; says `ready on HOST:PORT` as jobmaster does."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peer")
    parser.add_argument("--certs-dir", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path, required=True)
    options = parser.parse_args()
    folder: Path = options.certs_dir
    pair = key_path(folder, SERVER).read_bytes(), certificate_path(folder, SERVER).read_bytes()
    authority = certificate_path(folder, CLIENT_AUTHORITY).read_bytes()
    credentials = grpc.ssl_server_credentials([pair], authority, require_client_auth=True)
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    server = grpc.server(ThreadPoolExecutor(THREADS), handlers=[_service(Peer(options.output_dir))])
    port = server.add_secure_port("localhost:0", credentials)
    server.start()
    print(f"ready on localhost:{port}", flush=True)
    told.wait()
    server.stop(STOP_SECONDS).wait()


if __name__ == "__main__":
    main()
