"""An attacked server's audit: each request of an attacker once, with what it was answered, and each refused connection."""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from jobmaster.audit.names import HANDSHAKES
from jobmaster.http2.settings import MAX_CONCURRENT_STREAMS
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.abuse.attacker import Attacker, attacking, data, headers, request_fields, reset
from tests.abuse.program import Program
from tests.audit.entries import entries_in
from tests.certs.hostile_certificates import make
from tests.faults.account import problems_of_trail
from tests.harness import serving_program

pytestmark = pytest.mark.abuse

REFUSED_STREAM: Final = 7
STATUSES: Final = {
    b"0": "OK",
    b"3": "INVALID_ARGUMENT",
    b"4": "DEADLINE_EXCEEDED",
    b"5": "NOT_FOUND",
    b"8": "RESOURCE_EXHAUSTED",
    b"12": "UNIMPLEMENTED",
}
ROUNDS: Final = 40
CONNECTIONS: Final = 90
"""That are refused: more than have entries of their own."""
AT_ONCE: Final = 140
"""Calls of one connection: more than it may have open."""


def asked(
    stream_id: int,
    name: str,
    job_id: str,
    *,
    verb: bytes = b"POST",
    content_type: bytes | None = b"application/grpc",
    grpc_timeout: bytes | None = None,
) -> bytes:
    """A call that names a job."""
    message = pb.JobIDRequest(job_id_request=pb.JobID(job_id=job_id)).SerializeToString()
    path = f"/jobmaster.jobs.v1.JobService/{name}".encode()
    fields = request_fields(path=path, content_type=content_type, grpc_timeout=grpc_timeout)
    fields[0] = (b":method", verb)
    return headers(stream_id, fields) + data(stream_id, b"\0" + len(message).to_bytes(4, "big") + message)


Request = Callable[[int, str], bytes]
REQUESTS: Final[dict[str, Request]] = {
    "read": lambda stream, job: asked(stream, "Status", job),
    "unknown job": lambda stream, _: asked(stream, "Status", f"{stream:027d}"),
    "a stop of an unknown job": lambda stream, _: asked(stream, "Stop", f"{stream:027d}"),
    "a removal of a running job": lambda stream, _: asked(stream, "Remove", f"{stream:027d}"),
    "unknown method": lambda stream, job: asked(stream, "Nope", job),
    "no POST": lambda stream, job: asked(stream, "Status", job, verb=b"PUT"),
    "no content-type": lambda stream, job: asked(stream, "Status", job, content_type=None),
    "no timeout": lambda stream, job: asked(stream, "Status", job, grpc_timeout=b"soon"),
    "a short deadline": lambda stream, job: asked(stream, "Wait", job, grpc_timeout=b"10m"),
    "a long message": lambda stream, _: asked(stream, "Status", "x" * 2000),
}


async def seen(attacker: Attacker, stream_id: int) -> str:
    """What a request was answered, in the audit's words."""
    answer = await attacker.answer(stream_id)
    assert answer is not None, f"the connection was closed: {attacker.goaway}"
    if answer.reset_code == REFUSED_STREAM:
        return "UNAVAILABLE"
    status = answer.fields[b":status"]
    return f"HTTP_{status.decode()}" if status != b"200" else STATUSES[answer.fields[b"grpc-status"]]


async def ask_for_all(program: Program, job: str) -> tuple[str, list[str]]:
    """One request after the other: the attacker's address, and what each was answered."""
    async with attacking(program) as attacker:
        answers = []
        for number, request in enumerate([*REQUESTS.values()] * ROUNDS):
            stream_id = 2 * number + 1
            await attacker.send(request(stream_id, job))
            answers.append(await seen(attacker, stream_id))
        return own_address(attacker), answers


async def leave_and_flood(program: Program, job: str) -> tuple[str, Counter[str]]:
    """Calls that are reset, and more calls than one connection may have open."""
    async with attacking(program) as attacker:
        left = range(1, 1 + 2 * ROUNDS, 2)
        for stream_id in left:
            await attacker.send(asked(stream_id, "Wait", job) + reset(stream_id))
        many = range(left.stop, left.stop + 2 * AT_ONCE, 2)
        await attacker.send(b"".join(asked(stream_id, "Wait", job) for stream_id in many))
        await attacker.until(lambda: len(attacker.answers.keys() & many) >= AT_ONCE - MAX_CONCURRENT_STREAMS)
        refused = [stream_id for stream_id in many if stream_id in attacker.answers]
        outcomes = Counter([await seen(attacker, stream_id) for stream_id in refused])
        return own_address(attacker), outcomes + Counter({"CANCELLED": ROUNDS + AT_ONCE - len(refused)})


def own_address(attacker: Attacker) -> str:
    """As the server has it."""
    host, port = attacker.tcp.socket.getsockname()
    return f"{host}:{port}"


def told(entries: list[dict[str, Any]], peer: str) -> list[str]:
    """The outcomes of an address's calls."""
    return [entry["outcome"] for entry in entries if entry["kind"] == "call" and entry["peer"] == peer]


async def test_every_request_of_an_attacker(tmp_path: Path, certificates: Path) -> None:
    """Answered, refused, given up or past its deadline: once, in order, with its outcome, while files follow each other."""
    audit = tmp_path / "output" / "audit"
    options = ("--audit-size", "64K", "--audit-files", "0")
    async with serving_program(tmp_path, certificates, *options) as (server, _), server.connect() as jobs:
        program = Program(certificates, server.port, server.pid, None)  # type: ignore[arg-type]  # it is not asked
        job = await jobs.start("sleep", "1000")
        asking: dict[str, list[str]] = {}
        flooding: dict[str, Counter[str]] = {}

        async def note(into: dict[str, Any], work: Callable[[], Any]) -> None:
            peer, outcomes = await work()
            into[peer] = outcomes

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(note, asking, partial(ask_for_all, program, job))
                nursery.start_soon(note, flooding, partial(leave_and_flood, program, job))
        await jobs.stop(job)
    entries = entries_in(audit)
    assert len(list(audit.glob("audit-*.jsonl"))) > 5
    for peer, outcomes in asking.items():
        assert told(entries, peer) == outcomes
        assert len(set(outcomes)) == 7
    for peer, counted in flooding.items():
        assert Counter(told(entries, peer)) == counted
    last = max(entry["journal_sequence"] for entry in entries if entry["kind"] == "job")
    assert problems_of_trail(entries, last) == []


async def test_every_refused_connection(tmp_path: Path, certificates: Path) -> None:
    """A flood of them is told to the last one: some by name, the others counted, and none of them among the calls."""
    audit = tmp_path / "output" / "audit"
    async with serving_program(tmp_path, certificates) as (server, _):
        program = Program(certificates, server.port, server.pid, None)  # type: ignore[arg-type]  # it is not asked
        context = make(certificates, "expired").context()
        for _ in range(CONNECTIONS):
            with suppress(ssl.SSLError, ConnectionError):
                async with attacking(program, context=context) as attacker:
                    await attacker.until_closed()
    entries = entries_in(audit, HANDSHAKES)
    named = [entry for entry in entries if entry["kind"] == "handshake"]
    counted = sum(entry["count"] for entry in entries if entry["kind"] == "counted")
    assert len(named) + counted == CONNECTIONS
    assert 10 <= len(named) < CONNECTIONS
    assert all("expired" in entry["why"] for entry in named)
    assert [entry["sequence"] for entry in entries] == list(range(1, len(entries) + 1))
    assert not [entry for entry in entries_in(audit) if entry["kind"] == "call"]
