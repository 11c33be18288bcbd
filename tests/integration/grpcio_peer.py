"""A client on gRPC's own C core, as a program: does the calls it reads on stdin, prints how each went.

A program of its own, because the C core's threads and descriptors would stay in a process that counts its own.
"""

from __future__ import annotations

import json
import queue
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import grpc

from jobmaster.certs.folder import SERVER_AUTHORITY, certificate_path, key_path

NAME: Final = "client1"
_DETAILS: Final = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call, its messages as hexadecimal digits.

    Attributes:
        kind: `in_turn` sends each request once the one before it has been answered.
        seconds: its deadline.
        leave_after: cancel it after this many answers.
    """

    method: str
    requests: list[str]
    kind: Literal["unary", "server_streaming", "in_turn"] = "unary"
    seconds: float = 20.0
    is_compressed: bool = False
    leave_after: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a call went: the status's name and text, its details and the answers as hexadecimal digits."""

    code: str
    text: str
    details: str = ""
    answers: list[str] = field(default_factory=list)


def main() -> None:
    """Does all calls on one connection, one after another."""
    order = json.load(sys.stdin)
    folder = Path(order["folder"])
    credentials = grpc.ssl_channel_credentials(
        certificate_path(folder, SERVER_AUTHORITY).read_bytes(),
        key_path(folder, NAME).read_bytes(),
        certificate_path(folder, NAME).read_bytes(),
    )
    options = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
    with grpc.secure_channel(f"localhost:{order['port']}", credentials, options) as channel:
        outcomes = [_do(channel, Call(**call)) for call in order["calls"]]
    json.dump([asdict(outcome) for outcome in outcomes], sys.stdout)


def _do(channel: Any, call: Call) -> Outcome:
    answers: list[bytes] = []
    try:
        running = _begin(channel, call, answers)
    except grpc.RpcError as error:  # what a unary call raises is its end
        running = error
    text = running.details() or ""
    trailers = {name: value for name, value in running.trailing_metadata() or () if name == _DETAILS}
    return Outcome(
        code=running.code().name,
        text=text,
        details=trailers.get(_DETAILS, b"").hex(),
        answers=[answer.hex() for answer in answers],
    )


def _begin(channel: Any, call: Call, answers: list[bytes]) -> Any:
    """Does the call; returns what knows its status."""
    options = {
        "timeout": call.seconds,
        "compression": grpc.Compression.Gzip if call.is_compressed else grpc.Compression.NoCompression,
    }
    requests = [bytes.fromhex(request) for request in call.requests]
    if call.kind == "unary":
        answer, running = channel.unary_unary(call.method).with_call(requests[0], **options)
        answers.append(answer)
        return running
    if call.kind == "server_streaming":
        running = channel.unary_stream(call.method)(requests[0], **options)
        _take(running, answers, call.leave_after)
        return running
    answered: queue.SimpleQueue[None] = queue.SimpleQueue()
    running = channel.stream_stream(call.method)(_in_turn(requests, answered), **options)
    for answer in running:
        answers.append(answer)
        answered.put(None)
    return running


def _take(running: Any, answers: list[bytes], leave_after: int) -> None:
    try:
        for answer in running:
            answers.append(answer)
            if len(answers) == leave_after:
                running.cancel()
    except grpc.RpcError:
        return  # its status is asked for by the caller


def _in_turn(requests: list[bytes], answered: queue.SimpleQueue[None]) -> Iterator[bytes]:
    for request in requests:
        yield request
        answered.get()


if __name__ == "__main__":
    main()
