"""Which fields make a message: one good list, and one for each way of being none."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.http2.fields import content_length, request_problem, response_problem, trailers_problem
from jobmaster.http2.header_blocks import Field

REQUEST: Final[list[Field]] = [
    (b":method", b"POST"),
    (b":scheme", b"https"),
    (b":path", b"/a.B/C"),
    (b":authority", b"x"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
]

BAD: Final[dict[str, list[Field]]] = {
    "no method": REQUEST[1:],
    "no scheme": [REQUEST[0], *REQUEST[2:]],
    "no path": [*REQUEST[:2], *REQUEST[3:]],
    "empty path": [*REQUEST[:2], (b":path", b""), *REQUEST[3:]],
    "path twice": [*REQUEST[:3], (b":path", b"/"), *REQUEST[3:]],
    "unknown pseudo-header": [(b":foo", b"x"), *REQUEST],
    "pseudo-header of a response": [(b":status", b"200"), *REQUEST],
    "late pseudo-header": [*REQUEST[:3], *REQUEST[4:], REQUEST[3]],
    "upper case": [*REQUEST, (b"X-Trace", b"1")],
    "empty name": [*REQUEST, (b"", b"1")],
    "space in a name": [*REQUEST, (b"x trace", b"1")],
    "colon in a name": [*REQUEST, (b"x:", b"1")],
    "name that is not ASCII": [*REQUEST, ("é".encode(), b"1")],
    "line end in a name": [*REQUEST, (b"x\n", b"1")],
    "line end in a value": [*REQUEST, (b"x", b"1\r\nset-cookie: y")],
    "zero in a value": [*REQUEST, (b"x", b"a\0b")],
    "connection": [*REQUEST, (b"connection", b"close")],
    "keep-alive": [*REQUEST, (b"keep-alive", b"1")],
    "proxy-connection": [*REQUEST, (b"proxy-connection", b"close")],
    "transfer-encoding": [*REQUEST, (b"transfer-encoding", b"chunked")],
    "upgrade": [*REQUEST, (b"upgrade", b"h2c")],
    "other te": [*REQUEST[:4], (b"te", b"gzip")],
}


@pytest.mark.parametrize("fields", BAD.values(), ids=BAD.keys())
def test_not_a_request(fields: list[Field]) -> None:
    """Each of these opens no request, and why is said in words that repeat nothing of it."""
    problem = request_problem(fields)
    assert problem is not None
    assert problem.isascii()


@pytest.mark.parametrize(
    "fields",
    [
        REQUEST,
        [*REQUEST[:3], *REQUEST[4:]],
        [*REQUEST, (b"te", b"trailers")],
        [*REQUEST, (b"name", b"\xff\xfe")],
        [*REQUEST, (b"x", b"")],
        [(b":method", b"CONNECT"), (b":authority", b"x")],
    ],
    ids=["gRPC", "no authority", "te twice", "value that is not UTF-8", "empty value", "CONNECT"],
)
def test_a_request(fields: list[Field]) -> None:
    """These do, whatever else may be said of them later."""
    assert request_problem(fields) is None


def test_responses() -> None:
    """A response has a status and nothing of a request."""
    assert response_problem([(b":status", b"200"), (b"a", b"b")]) is None
    assert response_problem([(b"a", b"b")]) is not None
    assert response_problem([(b":status", b"200"), (b":path", b"/")]) is not None


def test_fields_are_read_once() -> None:
    """Fields that can be iterated over only once are judged like those of a list."""
    assert request_problem(iter(REQUEST)) is None
    assert request_problem(iter(BAD["no method"])) is not None
    assert response_problem(iter([(b":status", b"200"), (b"a", b"b")])) is None


def test_trailers() -> None:
    """Trailers have no pseudo-headers at all."""
    assert trailers_problem([(b"grpc-status", b"0")]) is None
    assert trailers_problem([(b":status", b"200")]) is not None


@pytest.mark.parametrize(
    ("values", "length"), [([], None), ([b"0"], 0), ([b"17"], 17), ([b"17", b"17"], 17), ([b"0017"], 17)]
)
def test_content_length(values: list[bytes], length: int | None) -> None:
    """One number, said any number of times."""
    assert content_length([(b"content-length", value) for value in values]) == length


@pytest.mark.parametrize("values", [[b""], [b"-1"], [b"1 "], [b"0x1"], [b"1", b"2"], [b"9" * 20], [b"\xd9\xa1"]])
def test_no_content_length(values: list[bytes]) -> None:
    """Everything else is none."""
    with pytest.raises(ValueError, match="content-length"):
        content_length([(b"content-length", value) for value in values])


@given(st.lists(st.tuples(st.binary(max_size=10), st.binary(max_size=10)), max_size=8))
def test_any_fields_are_judged(fields: list[Field]) -> None:
    """No list raises."""
    request_problem(fields)
    response_problem(fields)
    trailers_problem(fields)
