"""Ordinary use of grpcio, a program: `python -m tests.abuse.honest_grpcio PORT CERTIFICATES PATTERN` prints the failures.

Each pattern is what a client does that is in a hurry and means no harm.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.wrappers_pb2 import BytesValue

from jobmaster.certs.folder import SERVER_AUTHORITY, certificate_path, key_path
from tests.abuse.server import SERVICE

ERRORS: Final = 6000
AT_A_TIME: Final = 90
PEEKS: Final = 300
GIVEN_UP: Final = 150
PATIENCE: Final = 0.012
"""Seconds."""


def errors(channel: grpc.Channel) -> list[str]:
    """Many calls that are answered with errors, as fast as they are."""
    call = _method(channel.unary_unary, "Nope")
    slots = threading.Semaphore(AT_A_TIME)
    failures: list[str] = []

    def done(future: Any) -> None:
        if future.code() is not grpc.StatusCode.UNIMPLEMENTED:
            failures.append(future.details())
        slots.release()

    for _ in range(ERRORS):
        slots.acquire()
        call.future(BytesValue()).add_done_callback(done)
    for _ in range(AT_A_TIME):
        slots.acquire()
    return failures


def peeks(channel: grpc.Channel) -> list[str]:
    """Streams whose first message is enough."""
    stream = _method(channel.unary_stream, "Flood")
    for _ in range(PEEKS):
        answers = stream(BytesValue())
        next(answers)
        answers.cancel()
    return []


def given_up(channel: grpc.Channel) -> list[str]:
    """Calls with a deadline that a slow handler does not meet."""
    call = _method(channel.unary_unary, "Hang")
    failures = []
    for _ in range(GIVEN_UP):
        try:
            call(BytesValue(), timeout=PATIENCE)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                failures.append(error.details())
    return failures


def _method(kind: Any, name: str) -> Any:
    return kind(
        f"/{SERVICE}/{name}",
        request_serializer=BytesValue.SerializeToString,
        response_deserializer=BytesValue.FromString,
    )


def main() -> None:
    """The program."""
    port, folder, pattern = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    files = certificate_path(folder, SERVER_AUTHORITY), key_path(folder, "client1"), certificate_path(folder, "client1")
    credentials = grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))
    with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
        print(json.dumps({"errors": errors, "peeks": peeks, "given_up": given_up}[pattern](channel)))


if __name__ == "__main__":
    main()
