"""Twenty kinds of wrong requests. Nineteen are answered for themselves, and their connection serves the next one.

Garbage alone, which is no HTTP/2, ends the connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.abuse.attacker import (
    CONTINUATION,
    EMPTY_MESSAGE,
    END_HEADERS,
    HEADERS,
    Answer,
    attacking,
    block,
    call,
    data,
    frame,
    headers,
    request_fields,
    window_update,
)
from tests.abuse.program import Shared, shared

pytestmark = pytest.mark.abuse

BAD, NEXT = 1, 3  # streams


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is sent on stream `BAD`, and what the server says to it: one of an HTTP status, a gRPC status, a reset."""

    sent: bytes
    http: bytes | None = None
    grpc: bytes | None = None
    reset: int | None = None

    def is_answered_by(self, answer: Answer) -> bool:
        """Whether that is the answer."""
        if self.reset is not None:
            return answer.reset_code == self.reset and not answer.ended
        said = answer.fields.get(b":status"), answer.fields.get(b"grpc-status")
        return said == (self.http or b"200", self.grpc)


OK, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED = b"0", b"3", b"8", b"12"
PROTOCOL_ERROR, FRAME_SIZE_ERROR = 1, 6
PART: Final = 16 * 1024
"""Bytes of the largest frame."""
LONG: Final = block([*request_fields(), *[(b"padding", b"x" * 2000)] * 10])
"""A header list of 20 KiB, where 16 are announced."""


def extended(*fields: tuple[bytes, bytes]) -> bytes:
    """A call with more headers."""
    return headers(BAD, [*request_fields(), *fields]) + data(BAD, EMPTY_MESSAGE)


ROWS: Final[dict[str, Row]] = {
    "GET": Row(sent=headers(BAD, [(b":method", b"GET"), *request_fields()[1:]], ends=True), http=b"405"),
    "path without a slash": Row(sent=call(BAD, path=b"abuse.Service.Echo"), grpc=UNIMPLEMENTED),
    "path of three parts": Row(sent=call(BAD, path=b"/abuse/Service/Echo"), grpc=UNIMPLEMENTED),
    "junk for a timeout": Row(sent=call(BAD, grpc_timeout=b"soon"), grpc=INVALID_ARGUMENT),
    "timeout of nine digits": Row(sent=call(BAD, grpc_timeout=b"999999999S"), grpc=INVALID_ARGUMENT),
    "te twice": Row(sent=extended((b"te", b"trailers")), grpc=OK),
    "bad base64 in binary metadata": Row(sent=extended((b"token-bin", b"!!!")), grpc=OK),
    "value that is not UTF-8": Row(sent=extended((b"name", b"\xff\xfe")), grpc=OK),
    "empty header name": Row(sent=extended((b"", b"value")), reset=PROTOCOL_ERROR),
    "no content-type": Row(sent=call(BAD, content_type=None), http=b"415"),
    "another content-type": Row(sent=call(BAD, content_type=b"text/html"), http=b"415"),
    "no message": Row(sent=headers(BAD, request_fields(), ends=True), grpc=UNIMPLEMENTED),
    "trailers": Row(
        sent=headers(BAD, request_fields())
        + data(BAD, EMPTY_MESSAGE, ends=False)
        + headers(BAD, [(b"grpc-status", b"16")], ends=True),
        grpc=OK,
    ),
    "length of 4 GiB": Row(
        sent=headers(BAD, request_fields()) + data(BAD, b"\x00\xff\xff\xff\xff", ends=False), grpc=RESOURCE_EXHAUSTED
    ),
    "compressed message": Row(sent=headers(BAD, request_fields()) + data(BAD, b"\x01" + bytes(4)), grpc=UNIMPLEMENTED),
    "gzip": Row(sent=call(BAD, grpc_encoding=b"gzip"), grpc=UNIMPLEMENTED),
    "window update of nothing": Row(sent=headers(BAD, request_fields()) + window_update(BAD, 0), reset=PROTOCOL_ERROR),
    "headers that are too long": Row(
        sent=frame(HEADERS, LONG[:PART], stream_id=BAD)
        + frame(CONTINUATION, LONG[PART:], flags=END_HEADERS, stream_id=BAD)
        + data(BAD, EMPTY_MESSAGE),
        grpc=RESOURCE_EXHAUSTED,
    ),
    "unknown method": Row(sent=call(BAD, "Nope"), grpc=UNIMPLEMENTED),
}
GARBAGE: Final = b"this is not HTTP/2 at all, not even for a moment"


@pytest.fixture(scope="module")
def server(certificates: Path) -> Iterator[Shared]:
    """One for all requests: none of them may do it any harm."""
    with shared(certificates) as running:
        yield running


@pytest.mark.parametrize("name", ROWS)
async def test_bad_request(server: Shared, name: str) -> None:
    """A bad request is answered for itself, in words that give nothing away, and the connection serves the next one."""
    row = ROWS[name]
    async with server.attacked() as program, attacking(program) as attacker:
        await attacker.send(row.sent + call(NEXT))
        following = await attacker.answer(NEXT)
        assert following is not None, f"the connection was closed: {attacker.goaway}"
        assert following.fields[b"grpc-status"] == OK
        answer = await attacker.answer(BAD)
        assert answer is not None
        assert row.is_answered_by(answer), answer
        assert gives_nothing_away(answer.fields.get(b"grpc-message", b""))
        assert (await program.report()).bugs == 0


def gives_nothing_away(text: bytes) -> bool:
    """Whether a status's text is short and holds nothing of the program or of the request."""
    return len(text) < 100 and not any(word in text for word in (b"Error", b"object", b"0x", b"abuse", b"Nope"))


async def test_garbage(server: Shared) -> None:
    """What is not HTTP/2 is the one thing that ends the connection, with a code that says so."""
    async with server.attacked() as program, attacking(program) as attacker:
        await attacker.send(GARBAGE + call(NEXT))
        await attacker.until_closed()
        assert attacker.goaway is not None
        assert attacker.goaway[0] in {PROTOCOL_ERROR, FRAME_SIZE_ERROR}
        assert NEXT not in attacker.answers
