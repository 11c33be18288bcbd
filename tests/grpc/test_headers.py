"""gRPC headers: what is read of a peer's, and what is sent to it."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from purerpc import Status, StatusCode

from jobmaster.grpc.headers import (
    RESPONSE_HEADERS,
    BadCall,
    NotGrpc,
    RequestHead,
    format_timeout,
    parse_request,
    parse_status,
    parse_timeout,
    refusal_of,
    request_headers,
    status_trailers,
)

SERVICE: Final = "jobmaster.jobs.v1.JobService"
GOOD: Final[dict[bytes, bytes]] = {
    b":method": b"POST",
    b":scheme": b"https",
    b":path": b"/jobmaster.jobs.v1.JobService/Start",
    b":authority": b"localhost",
    b"te": b"trailers",
    b"content-type": b"application/grpc",
}

header_lists = st.lists(
    st.tuples(
        st.sampled_from([*GOOD, b"grpc-timeout", b"grpc-encoding", b"grpc-status", b"grpc-message", b":status"])
        | st.binary(max_size=20),
        st.sampled_from([*GOOD.values(), b"200", b"0", b"1S", b"identity"]) | st.binary(max_size=40),
    ),
    max_size=15,
)


def outcome(**changes: bytes | None) -> RequestHead | int | StatusCode:
    """What becomes of a good request with some fields changed: its head, an HTTP status or a gRPC status."""
    names = {"method": b":method", "path": b":path"}
    fields = GOOD | {
        names.get(name, name.replace("_", "-").encode()): value for name, value in changes.items() if value is not None
    }
    for name, value in changes.items():
        if value is None:
            del fields[names.get(name, name.replace("_", "-").encode())]
    match parse_request(fields.items()):
        case NotGrpc(http_status):
            return http_status
        case BadCall(status):
            return status.status_code
        case head:
            return head


def head(method: str = "Start", timeout: float | None = None) -> RequestHead:
    """What is read of a good request."""
    return RequestHead(service=SERVICE, method=method, timeout=timeout)


def test_a_good_request() -> None:
    """A request without a timeout names its service and method, and waits without a bound of its own."""
    assert outcome() == head()


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"post", b"", b"POST ", None])
def test_other_http_methods(method: bytes | None) -> None:
    """Anything but POST is no gRPC: 405."""
    assert outcome(method=method) == 405


@pytest.mark.parametrize(
    ("content_type", "taken"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc;charset=utf-8", True),
        (b"application/grpc+proto; x", True),
        (b"application/grpc+json", False),
        (b"application/grpc-web", False),
        (b"application/grpcx", False),
        (b"application/json", False),
        (b"x application/grpc", False),
        (b"", False),
        (None, False),
    ],
)
def test_content_types(content_type: bytes | None, taken: bool) -> None:
    """Protobuf over gRPC is taken, any other content is 415."""
    assert outcome(content_type=content_type) == (head() if taken else 415)


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"/",
        b"//",
        b"/Start",
        b"/a/",
        b"//Start",
        b"a/Start",
        b"/a/b/c",
        b"/a/b?c",
        b"/a/b\n",
        b"/a b/c",
        b"/\xc3\xa9/b",
        b"/" + b"a" * 257 + b"/b",
        b"/a/" + b"b" * 129,
        b"/../b-",
        None,
    ],
)
def test_malformed_paths(path: bytes | None) -> None:
    """A path that is not /package.Service/Method of bounded length names no method: UNIMPLEMENTED."""
    assert outcome(path=path) == StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("encoding", "taken"), [(b"identity", True), (b"gzip", False), (b"deflate", False), (b"", False)]
)
def test_encodings(encoding: bytes, taken: bool) -> None:
    """Only identity is taken; a compressed request is UNIMPLEMENTED, as the specification has it."""
    assert outcome(grpc_encoding=encoding) == (head() if taken else StatusCode.UNIMPLEMENTED)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"3S", 3.0),
        (b"250m", 0.25),
        (b"5u", 5e-6),
        (b"7n", 7e-9),
        (b"0S", 0.0),
        (b"0n", 0.0),
        (b"00000001S", 1.0),
        (b"99999999H", 99_999_999 * 3600.0),
    ],
)
def test_timeouts(text: bytes, seconds: float) -> None:
    """One to eight digits and a unit are that many seconds."""
    assert parse_timeout(text) == pytest.approx(seconds)
    assert outcome(grpc_timeout=text) == head(timeout=parse_timeout(text))


@pytest.mark.parametrize(
    "text", [b"", b"S", b"1", b"1s", b"1h", b"-1S", b"+1S", b"1.5S", b" 1S", b"1S ", b"1S\n", b"1SS", b"123456789S"]
)
def test_malformed_timeouts(text: bytes) -> None:
    """Nine digits, signs, fractions, blanks and unknown units are refused, not guessed."""
    assert parse_timeout(text) is None
    assert outcome(grpc_timeout=text) == StatusCode.INVALID_ARGUMENT


def test_the_first_of_two_counts() -> None:
    """A header that is repeated cannot change what was read first."""
    headers = [*GOOD.items(), (b":path", b"/other.Service/Other"), (b":method", b"GET")]
    assert parse_request(headers) == head()


@given(header_lists)
def test_no_headers_at_all_raise(headers: list[tuple[bytes, bytes]]) -> None:
    """Whatever a peer sends, each reader has an answer."""
    assert isinstance(parse_request(headers), (RequestHead, NotGrpc, BadCall))
    assert isinstance(parse_status(headers), (Status, type(None)))
    assert isinstance(refusal_of(headers), (Status, type(None)))


@given(st.text(max_size=1024), st.sampled_from(StatusCode))
@example("é\n\r\t\0%41% 😀\x7f", StatusCode.INTERNAL)
def test_statuses_survive_the_wire(message: str, code: StatusCode) -> None:
    """A status comes back with its text, whatever characters are in it; on the wire it is printable ASCII."""
    trailers = status_trailers(Status(code, message))
    assert all(0x20 <= byte <= 0x7E for _, value in trailers for byte in value)
    received = parse_status(trailers)
    assert received is not None
    assert (received.status_code, received.status_message) == (code, message)


def test_the_encoding_of_a_status_message() -> None:
    """Percent, control characters and the bytes of UTF-8 are %XX; the rest is as it is."""
    trailers = dict(status_trailers(Status(StatusCode.NOT_FOUND, 'no "é" at 5%\n')))
    assert trailers == {b"grpc-status": b"5", b"grpc-message": b'no "%C3%A9" at 5%25%0A'}


def test_success_has_no_message() -> None:
    """OK is its number alone."""
    assert status_trailers(Status(StatusCode.OK)) == [(b"grpc-status", b"0")]


def test_a_long_message_is_cut() -> None:
    """Trailers have a bounded size, whatever the text."""
    received = parse_status(status_trailers(Status(StatusCode.INTERNAL, "x" * 100_000)))
    assert received is not None
    assert received.status_message == "x" * 1024


def test_a_message_with_half_a_character_can_be_sent() -> None:
    """Text that is no Unicode, as of a file name, is sent with a replacement and is no error."""
    assert dict(status_trailers(Status(StatusCode.INTERNAL, "a\udc80b")))[b"grpc-message"] == b"a?b"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([(b"grpc-status", b"0")], StatusCode.OK),
        ([(b"grpc-status", b"16")], StatusCode.UNAUTHENTICATED),
        ([(b"grpc-status", b"99")], StatusCode.UNKNOWN),
        ([(b"grpc-status", b"-1")], None),
        ([(b"grpc-status", b"")], None),
        ([(b"grpc-status", b"1000")], None),
        ([(b"grpc-status", b"9" * 5000)], None),
        ([(b"grpc-status", b"\xb2")], None),
        ([(b"grpc-message", b"x")], None),
        ([], None),
    ],
)
def test_status_numbers(headers: list[tuple[bytes, bytes]], code: StatusCode | None) -> None:
    """A number beyond the known ones is UNKNOWN; what is no number is no status."""
    status = parse_status(headers)
    assert (status.status_code if status is not None else None) == code


@pytest.mark.parametrize(
    ("text", "message"), [(b"%", "%"), (b"%4", "%4"), (b"%zz", "%zz"), (b"%FF", "�"), (b"a%20b", "a b")]
)
def test_badly_encoded_messages_are_read_leniently(text: bytes, message: str) -> None:
    """The specification wants a message that cannot be decoded shown rather than refused."""
    status = parse_status([(b"grpc-status", b"2"), (b"grpc-message", text)])
    assert status is not None
    assert status.status_message == message


@pytest.mark.parametrize(
    ("http", "code"),
    [
        (b"400", StatusCode.INTERNAL),
        (b"401", StatusCode.UNAUTHENTICATED),
        (b"403", StatusCode.PERMISSION_DENIED),
        (b"404", StatusCode.UNIMPLEMENTED),
        (b"405", StatusCode.UNKNOWN),
        (b"415", StatusCode.UNKNOWN),
        (b"429", StatusCode.UNAVAILABLE),
        (b"500", StatusCode.UNKNOWN),
        (b"502", StatusCode.UNAVAILABLE),
        (b"503", StatusCode.UNAVAILABLE),
        (b"504", StatusCode.UNAVAILABLE),
        (b"", StatusCode.UNKNOWN),
        (b"2000", StatusCode.UNKNOWN),
        (b"9" * 5000, StatusCode.UNKNOWN),
        (b"abc", StatusCode.UNKNOWN),
    ],
)
def test_answers_of_something_else(http: bytes, code: StatusCode) -> None:
    """An HTTP status that is not 200 becomes the gRPC status of the specification's table."""
    refusal = refusal_of([(b":status", http), (b"content-type", b"text/html")])
    assert refusal is not None
    assert refusal.status_code == code


def test_a_web_page_is_not_grpc() -> None:
    """200 with other content is refused, the answer of our own server is not."""
    refusal = refusal_of([(b":status", b"200"), (b"content-type", b"text/html")])
    assert refusal is not None
    assert refusal.status_code == StatusCode.UNKNOWN
    assert refusal_of(RESPONSE_HEADERS) is None


@given(st.floats(min_value=0.0, max_value=99_999_999 * 3600.0))
@example(0.0)
@example(0.1)
@example(99.999999)
@example(99.9999999)
@example(100.0)
def test_a_timeout_is_never_shortened(seconds: float) -> None:
    """The peer waits at least as long as was asked, and longer by at most one part of 10,000 or a microsecond."""
    text = format_timeout(seconds)
    parsed = parse_timeout(text)
    assert parsed is not None
    assert seconds <= parsed <= seconds * 1.0001 + 2e-6


@pytest.mark.parametrize(
    ("seconds", "unit"), [(0.5, b"u"), (99.0, b"u"), (101.0, b"m"), (1e5, b"S"), (1e8, b"M"), (1e10, b"H")]
)
def test_the_unit_of_a_timeout(seconds: float, unit: bytes) -> None:
    """A timeout is in the finest unit that eight digits can say."""
    text = format_timeout(seconds)
    assert text[-1:] == unit
    assert len(text) <= 9


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, b"1u"),
        (-5.0, b"1u"),
        (1e-9, b"1u"),
        (1e12, b"99999999H"),
    ],
)
def test_timeouts_as_sent(seconds: float, text: bytes) -> None:
    """The past is as good as now, and beyond the longest that can be said is the longest."""
    assert format_timeout(seconds) == text


@pytest.mark.parametrize("timeout", [None, 2.5])
def test_what_is_sent_can_be_read(timeout: float | None) -> None:
    """The headers of our client are a good request to our server."""
    headers = request_headers(authority="localhost:6443", service=SERVICE, method="Stop", timeout=timeout)
    assert parse_request(headers) == head("Stop", parse_timeout(format_timeout(timeout)) if timeout else None)
    assert [name for name, _ in headers[:4]] == [b":method", b":scheme", b":authority", b":path"]
    assert dict(headers)[b"te"] == b"trailers"
