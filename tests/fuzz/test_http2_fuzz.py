"""The server's side of HTTP/2 before any bytes at all: nothing but its own error comes out, and little is held."""

from __future__ import annotations

from itertools import pairwise

import h2.config
import h2.connection
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobmaster.http2.errors import ProtocolViolation
from jobmaster.http2.events import DataReceived, Event, HeadersReceived
from jobmaster.http2.frames import ErrorCode
from jobmaster.http2.streams import REMEMBERED_CLOSED
from jobmaster.http2.tolerance import MAX_HEADER_BLOCK
from tests.fuzz.answering_server import Answer, AnsweringServer
from tests.fuzz.hostile_bytes import MAX_FRAME, OPENING, REQUEST, frame, frames, streams

Outcome = tuple[list[Event], bytes, tuple[ErrorCode, str] | None]

answers = st.sampled_from(Answer)


def outcome(pieces: list[bytes]) -> Outcome:
    """The events of pieces, what was sent, and why the connection ended."""
    server = AnsweringServer()
    events: list[Event] = []
    try:
        for piece in pieces:
            for event in server.receive(piece):
                events = joined(events, event)
    except ProtocolViolation as violation:
        return events, bytes(server.sent), (violation.code, violation.reason)
    return events, bytes(server.sent), None


def joined(events: list[Event], event: Event) -> list[Event]:
    """The events with one more; DATA goes into the DATA before it, for it is handed on as it comes."""
    match events, event:
        case [*others, DataReceived(stream_id, data, length, ended=False)], DataReceived() if (
            event.stream_id == stream_id
        ):
            return [*others, DataReceived(stream_id, bytes(data) + event.data, length + event.length, event.ended)]
        case _:
            return [*events, event]


@given(streams, st.data())
def test_any_cutting_gives_the_same_outcome(stream: bytes, data: st.DataObject) -> None:
    """However the bytes are cut into reads, the same is read in them, and the same violation ends them."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    whole = outcome([stream])
    cut = outcome([stream[start:end] for start, end in pairwise([0, *cuts, len(stream)])])
    assert cut[1:] == whole[1:]
    if whole[2] is None:  # what `receive` raises takes the events of its own bytes with it
        assert cut[0] == whole[0]


@given(streams.map(lambda stream: stream[:1000]))
def test_byte_by_byte(stream: bytes) -> None:
    """The finest cutting gives the same outcome too."""
    assert outcome([bytes([byte]) for byte in stream])[1:] == outcome([stream])[1:]


@given(streams, answers)
@example(OPENING + frame(9, 4, 1, b""), Answer.NOTHING)
@example(OPENING + frame(1, 4, 1, REQUEST + b"\x00\x00\x01v"), Answer.NOTHING)
@example(OPENING + frame(1, 4, 1, b"\xff" * 9000 + b"\0"), Answer.NOTHING)
def test_nothing_else_is_raised(stream: bytes, answer: Answer) -> None:
    """Any bytes end in events or in a ProtocolViolation."""
    AnsweringServer().receive_and_answer(stream, answer)


@given(st.lists(st.tuples(st.lists(frames, max_size=3).map(b"".join), answers), max_size=12))
def test_nothing_else_is_raised_between_answers(turns: list[tuple[bytes, Answer]]) -> None:
    """The same for a client that goes on after each answer: on streams that are answered, reset or half closed."""
    server = AnsweringServer()
    server.receive(OPENING)
    for received, answer in turns:
        if not server.receive_and_answer(received, answer):
            break
        server.answer(1, answer)
        assert_little_is_held(server)


def assert_little_is_held(server: AnsweringServer) -> None:
    """Streams are those that were opened, and no more than one frame and one block wait for their rest."""
    http2 = server.http2
    assert http2.open_streams <= len(server.requests)
    assert len(http2._table._closed) <= REMEMBERED_CLOSED
    assert http2._frames.held < 9 + MAX_FRAME + MAX_HEADER_BLOCK


@given(st.lists(frames, max_size=12).map(b"".join))
def test_what_is_sent_is_http2(stream: bytes) -> None:
    """h2, as the client, takes whatever the server says to anything."""
    server = AnsweringServer()
    server.receive_and_answer(OPENING + stream, Answer.TRAILERS_AND_RESET)
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, validate_inbound_headers=False))
    client.initiate_connection()
    for stream_id in (1, 3, 5):
        client.send_headers(stream_id, [(":method", "POST"), (":scheme", "https"), (":path", "/"), (":authority", "x")])
    if server.http2.last_stream_id <= 5:
        client.receive_data(bytes(server.sent))


@given(st.lists(st.sampled_from([1, 3, 5, 7]), max_size=8, unique=True))
def test_requests_are_taken_in_their_order_alone(stream_ids: list[int]) -> None:
    """A request on an older stream than the last ends the connection; those before it have been taken."""
    server = AnsweringServer()
    server.receive(OPENING)
    taken: list[int] = []
    for stream_id in stream_ids:
        if taken and stream_id < taken[-1]:
            with pytest.raises(ProtocolViolation):
                server.receive(frame(1, 5, stream_id, REQUEST))
            break
        events = server.receive(frame(1, 5, stream_id, REQUEST))
        taken += [event.stream_id for event in events if isinstance(event, HeadersReceived)]
    assert server.requests == taken
