"""HTTP/2 rule by rule, by bytes alone: what is an event, what resets a stream, what ends the connection."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterable
from typing import Any, Final

import pytest
from hyperframe.frame import (
    AltSvcFrame,
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from jobmaster.http2.errors import ProtocolViolation
from jobmaster.http2.events import (
    DataReceived,
    Event,
    GoawayReceived,
    HeadersReceived,
    SettingsReceived,
    StreamReset,
    WindowUpdated,
)
from jobmaster.http2.frames import PREFACE, ErrorCode
from jobmaster.http2.header_blocks import NO_TABLE, Field, encode_block
from jobmaster.http2.protocol import Configuration, Http2Protocol, TooManyStreams
from jobmaster.http2.tolerance import MAX_CONTINUATIONS, MAX_HEADER_BLOCK

FRAME_SIZE: Final = 16 * 1024
WINDOW: Final = 70_000
LIVE, HALF_CLOSED, ENDED, RESET_BY_PEER, RESET_BY_US, IDLE = 1, 3, 5, 7, 9, 11
"""Streams of `server`: their ids."""

FIELDS: Final[list[Field]] = [
    (b":method", b"POST"),
    (b":scheme", b"https"),
    (b":path", b"/a.B/C"),
    (b":authority", b"x"),
    (b"te", b"trailers"),
]
REQUEST: Final = encode_block(FIELDS)
OPENING: Final = PREFACE + SettingsFrame(0).serialize()

CALM = ErrorCode.ENHANCE_YOUR_CALM
CLOSED = ErrorCode.STREAM_CLOSED
COMPRESSION = ErrorCode.COMPRESSION_ERROR
FLOW = ErrorCode.FLOW_CONTROL_ERROR
PROTOCOL = ErrorCode.PROTOCOL_ERROR
SIZE = ErrorCode.FRAME_SIZE_ERROR


class Peer:
    """One side of a connection under test, and what it sends."""

    def __init__(self, *, is_client: bool = False, window: int = WINDOW) -> None:
        self.sent = bytearray()
        side: Configuration[tuple[Field, ...]] = Configuration(
            is_client=is_client,
            stream_window=window,
            connection_window=2 * WINDOW,
            max_frame_size=FRAME_SIZE,
            parse=tuple,
        )
        self.http2 = Http2Protocol(side, self.sent.extend)
        self.http2.start()

    def receive(self, data: bytes, now: float = 0.0) -> list[Event]:
        """All events of some bytes."""
        return list(self.http2.receive(data, now))

    def answers(self) -> list[Frame]:
        """The frames sent since the last time."""
        found = []
        while self.sent:
            frame, length = Frame.parse_frame_header(memoryview(self.sent)[:9])
            frame.parse_body(memoryview(bytes(self.sent[9 : 9 + length])))
            found.append(frame)
            del self.sent[: 9 + length]
        return found


def wire(*frames: Any) -> bytes:
    """Frames as they are sent."""
    return b"".join(frame.serialize() for frame in frames)


def raw(kind: int, payload: bytes = b"", *, flags: int = 0, stream_id: int = 0, length: int | None = None) -> bytes:
    """A frame that hyperframe would not write."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream_id) + payload


def headers(
    block: bytes | Iterable[Field] = REQUEST, *, whole: bool = True, ends: bool = False, stream_id: int = IDLE
) -> bytes:
    """A HEADERS frame with that block or those fields, or the block's beginning."""
    flags = [name for name, is_set in (("END_HEADERS", whole), ("END_STREAM", ends)) if is_set]
    encoded = block if isinstance(block, bytes) else encode_block(block)
    return wire(HeadersFrame(stream_id, encoded, flags=flags))


def continuation(block: bytes = b"", *, whole: bool = False, stream_id: int = IDLE) -> bytes:
    """A CONTINUATION frame with more of a block."""
    return wire(ContinuationFrame(stream_id, block, flags=["END_HEADERS"] if whole else []))


def settings(*entries: tuple[int, int]) -> bytes:
    """A SETTINGS frame with those entries in their order."""
    return raw(4, b"".join(struct.pack(">HI", *entry) for entry in entries))


def server() -> Peer:
    """A server with a stream in every state."""
    peer = Peer()
    peer.receive(OPENING)
    peer.receive(
        headers(stream_id=LIVE) + headers(stream_id=HALF_CLOSED, ends=True) + headers(stream_id=ENDED, ends=True)
    )
    peer.http2.send_headers(ENDED, encode_block([(b":status", b"200")]), end_stream=True)
    peer.receive(headers(stream_id=RESET_BY_PEER) + wire(RstStreamFrame(RESET_BY_PEER, 8)))
    peer.receive(headers(stream_id=RESET_BY_US))
    peer.http2.reset(RESET_BY_US, ErrorCode.REFUSED_STREAM)
    peer.answers()
    return peer


def client() -> Peer:
    """A client with one request sent."""
    peer = Peer(is_client=True)
    peer.receive(wire(SettingsFrame(0)))
    peer.http2.send_headers(peer.http2.open_stream(), REQUEST, end_stream=False)
    del peer.sent[: len(PREFACE)]
    peer.answers()
    return peer


# --- what is well -----------------------------------------------------------------------------------------------------


def test_the_opening_of_a_server() -> None:
    """SETTINGS that say what is taken, and the connection's window."""
    first, second = Peer().answers()
    assert first.settings == {3: 100, 4: WINDOW, 5: FRAME_SIZE, 6: 16 * 1024}
    assert (second.stream_id, second.window_increment) == (0, 2 * WINDOW - 65_535)


def test_the_opening_of_a_client() -> None:
    """The preface before them; and pushes are not wanted."""
    peer = Peer(is_client=True)
    assert peer.sent.startswith(PREFACE)
    del peer.sent[: len(PREFACE)]
    assert peer.answers()[0].settings[2] == 0


def test_a_request() -> None:
    """Headers, a body in pieces and its end, each as an event; SETTINGS are acknowledged."""
    peer = Peer()
    peer.answers()
    events = peer.receive(
        OPENING + headers(stream_id=1) + wire(DataFrame(1, b"one"), DataFrame(1, b"two", flags=["END_STREAM"]))
    )
    assert events[0] == SettingsReceived()
    opening = events[1]
    assert isinstance(opening, HeadersReceived)
    assert (opening.stream_id, opening.headers.fields, opening.ended) == (1, tuple(FIELDS), False)
    assert events[2:] == [DataReceived(1, b"one", 3, False), DataReceived(1, b"two", 3, True)]
    (answer,) = peer.answers()
    assert isinstance(answer, SettingsFrame)
    assert answer.flags == {"ACK"}


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_a_body_is_handed_on_as_it_comes(cut: int) -> None:
    """DATA is not waited for to the end of its frame, and its end comes with its last byte."""
    peer = server()
    frame = wire(DataFrame(LIVE, bytes(range(50)), flags=["END_STREAM"]))
    events = peer.receive(frame[:cut]) + peer.receive(frame[cut:])
    pieces = [event for event in events if isinstance(event, DataReceived)]
    assert pieces == events
    assert b"".join(piece.data for piece in pieces) == bytes(range(50))
    assert {type(piece.data) for piece in pieces} == {bytes}  # a server keeps nothing in memory by a part of it
    assert sum(piece.length for piece in pieces) == 50
    assert [piece.ended for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_padding_costs_window_and_is_not_data() -> None:
    """A padded frame's whole payload is handed back for its bytes."""
    frame = wire(DataFrame(LIVE, b"body", pad_length=9, flags=["PADDED"]))
    assert server().receive(frame) == [DataReceived(LIVE, b"body", 14, False)]


def test_a_request_in_many_frames() -> None:
    """A header block in pieces, with priority and padding, is one block."""
    first = wire(
        HeadersFrame(IDLE, REQUEST[:5], pad_length=3, depends_on=1, flags=["PADDED", "PRIORITY", "END_STREAM"])
    )
    rest = [continuation(REQUEST[at : at + 1]) for at in range(5, 5 + MAX_CONTINUATIONS - 1)]
    (event,) = server().receive(first + b"".join(rest) + continuation(REQUEST[8:], whole=True))
    assert isinstance(event, HeadersReceived)
    assert event.headers.fields == tuple(FIELDS)
    assert event.ended


def test_trailers_of_a_request() -> None:
    """A second header block ends the request."""
    (event,) = server().receive(headers([(b"grpc-status", b"0")], stream_id=LIVE, ends=True))
    assert isinstance(event, HeadersReceived)
    assert (event.stream_id, event.ended) == (LIVE, True)


def test_a_header_list_that_is_too_large_is_an_event() -> None:
    """20 KiB of fields are the owner's to refuse, for that request alone."""
    block = encode_block([*FIELDS, *[(b"x", bytes(2000).replace(b"\0", b"y"))] * 10])
    parts = headers(block[:FRAME_SIZE], whole=False) + continuation(block[FRAME_SIZE:], whole=True)
    peer = server()
    (event,) = peer.receive(parts)
    assert isinstance(event, HeadersReceived)
    assert event.headers.too_large
    assert len(peer.receive(headers(stream_id=IDLE + 2))) == 1


@pytest.mark.parametrize(("excess", "too_large"), [(0, False), (1, True)])
def test_the_largest_header_list(excess: int, too_large: bool) -> None:
    """A list of 16 KiB is taken, as HPACK counts them; one byte more is too large."""
    size = sum(len(name) + len(value) + 32 for name, value in FIELDS)
    block = encode_block([*FIELDS, (b"x", b"y" * (16 * 1024 - size - 33 + excess))])
    (event,) = server().receive(headers(block[:1000], whole=False) + continuation(block[1000:], whole=True))
    assert isinstance(event, HeadersReceived)
    assert event.headers.too_large is too_large


def test_what_the_owner_reads_is_read_once_for_repeated_headers() -> None:
    """The same bytes again are the same object again."""
    peer = server()
    first, second = peer.receive(headers(stream_id=IDLE) + headers(stream_id=IDLE + 2))
    assert isinstance(first, HeadersReceived)
    assert isinstance(second, HeadersReceived)
    assert first.headers is second.headers


def test_a_response() -> None:
    """A client passes over informational headers, and takes the final ones, the body and the trailers."""
    peer = client()
    events = peer.receive(
        headers([(b":status", b"103")], stream_id=1)
        + headers([(b":status", b"200")], stream_id=1)
        + wire(DataFrame(1, b"body"))
        + headers([(b"grpc-status", b"0")], stream_id=1, ends=True)
    )
    assert [type(event) for event in events] == [HeadersReceived, DataReceived, HeadersReceived]
    assert [event.ended for event in events if isinstance(event, HeadersReceived)] == [False, True]


def test_pings_are_answered() -> None:
    """With the same eight bytes; an answer to ours says nothing more."""
    peer = server()
    assert peer.receive(wire(PingFrame(0, b"12345678"), PingFrame(0, b"87654321", flags=["ACK"]))) == []
    (answer,) = peer.answers()
    assert (answer.opaque_data, answer.flags) == (b"12345678", {"ACK"})


SAYS_NOTHING: Final = {
    "priority": wire(PriorityFrame(LIVE, depends_on=3, stream_weight=3)),
    "priority of an idle stream": wire(PriorityFrame(IDLE, depends_on=LIVE)),
    "an extension": raw(0x20, b"grease", flags=0xFF, stream_id=99),
    "altsvc": wire(AltSvcFrame(0, b"x", b"y")),
    "settings acknowledgement": wire(SettingsFrame(0, flags=["ACK"])),
    "window for an ended stream": wire(WindowUpdateFrame(ENDED, 1)),
    "window for a stream that we reset": wire(WindowUpdateFrame(RESET_BY_US, 1)),
    "reset of an ended stream": wire(RstStreamFrame(ENDED, 8)),
    "data for a stream that we reset": wire(DataFrame(RESET_BY_US, b"late", flags=["END_STREAM"])),
    "padded data for a stream that we reset": wire(DataFrame(RESET_BY_US, b"late", pad_length=7, flags=["PADDED"])),
    "trailers of a stream that we reset": headers([(b"a", b"b")], stream_id=RESET_BY_US, ends=True),
    "unknown flags": raw(8, b"\0\0\0\1", flags=0xFF, stream_id=ENDED),
    "reserved bits": raw(8, b"\x80\0\0\1", stream_id=1 << 31 | ENDED),
    "an empty data frame": wire(DataFrame(LIVE)),
}


@pytest.mark.parametrize("frames", SAYS_NOTHING.values(), ids=SAYS_NOTHING.keys())
def test_says_nothing(frames: bytes) -> None:
    """What is legal and changes nothing here is taken without an event or an answer, and what follows it is read."""
    peer = server()
    assert peer.receive(frames + wire(DataFrame(LIVE, b"after"))) == [DataReceived(LIVE, b"after", 5, False)]
    assert peer.answers() == []


def test_window_of_what_nobody_takes_comes_back() -> None:
    """DATA for a stream that was reset costs the connection nothing in the end."""
    peer = server()
    for _ in range(100):
        peer.receive(wire(DataFrame(RESET_BY_US, bytes(FRAME_SIZE))))
    assert sum(frame.window_increment for frame in peer.answers()) > 99 * FRAME_SIZE - WINDOW


def test_window_of_padding_comes_back() -> None:
    """Frames of padding alone cost their stream and the connection nothing in the end (RFC 9113, 6.1)."""
    peer = server()
    frame = wire(DataFrame(LIVE, pad_length=250, flags=["PADDED"]))
    for seconds in range(1000):
        assert peer.receive(frame, 7.0 * seconds) == []
    returned = {0: 0, LIVE: 0}
    for answer in peer.answers():
        returned[answer.stream_id] += answer.window_increment
    assert returned[0] > 250_000 - WINDOW
    assert returned[LIVE] > 250_000 - WINDOW


# --- what is counted as a flood ---------------------------------------------------------------------------------------

OPENED_AT: Final = 100.0
MANY: Final = 1000


def opened_and_reset(answer: Iterable[Field] | None, after: float) -> Peer:
    """A server whose client opened and reset many streams, one after another; `answer` was sent meanwhile."""
    peer = server()
    now = OPENED_AT
    for stream_id in range(IDLE, IDLE + 2 * MANY, 2):
        peer.receive(headers(stream_id=stream_id), now)
        if answer is not None:
            peer.http2.send_headers(stream_id, encode_block(answer), end_stream=False)
        peer.receive(wire(RstStreamFrame(stream_id, 8)), now + after)
    return peer


@pytest.mark.parametrize(("answer", "after"), [([(b":status", b"200")], 0.0), (None, 0.02)])
def test_calls_that_are_left_are_no_flood(answer: list[Field] | None, after: float) -> None:
    """A client may leave any number of calls that it was sent something on, or has waited for."""
    assert opened_and_reset(answer, after).http2.open_streams == 2


def test_resets_of_streams_just_opened_are_a_flood() -> None:
    """Rapid reset: a hundred at once are taken, and no more."""
    with pytest.raises(ProtocolViolation) as caught:
        opened_and_reset(None, 0.0)
    assert caught.value.code is CALM


def test_resets_that_cross_the_answer_are_no_flood() -> None:
    """One reset of each stream that ended in good order is taken, however many there are, and a second one counts."""
    peer = server()
    for stream_id in range(IDLE, IDLE + 2 * MANY, 2):
        peer.receive(headers(stream_id=stream_id, ends=True))
        peer.http2.send_headers(stream_id, encode_block([(b":status", b"200")]), end_stream=True)
        peer.receive(wire(RstStreamFrame(stream_id, 8)))
    with pytest.raises(ProtocolViolation):
        peer.receive(wire(*[RstStreamFrame(IDLE + 2 * MANY - 2, 8)] * 101))


def test_calls_answered_with_errors_credit_window_updates() -> None:
    """Answers without DATA do too: grpcio sends window updates for each call."""
    peer = server()
    for stream_id in range(IDLE, IDLE + 10 * MANY, 2):
        peer.receive(headers(stream_id=stream_id, ends=True))
        peer.http2.send_headers(stream_id, encode_block([(b":status", b"200")]), end_stream=True)
        peer.receive(wire(*[WindowUpdateFrame(0, 1)] * 2))
    assert peer.http2.last_stream_id == IDLE + 10 * MANY - 2


# --- what ends a stream -----------------------------------------------------------------------------------------------

BREAKS: Final = {
    "data after the end": (wire(DataFrame(HALF_CLOSED, b"x")), HALF_CLOSED, CLOSED),
    "headers after the end": (headers(stream_id=HALF_CLOSED), HALF_CLOSED, CLOSED),
    "a second header block without an end": (headers([(b"a", b"b")], stream_id=LIVE), LIVE, PROTOCOL),
    "trailers with a pseudo-header": (headers([(b":path", b"/")], stream_id=LIVE, ends=True), LIVE, PROTOCOL),
    "window of nothing": (wire(WindowUpdateFrame(LIVE, 0)), LIVE, PROTOCOL),
    "window too large": (wire(WindowUpdateFrame(LIVE, 2**31 - 1)), LIVE, FLOW),
}


@pytest.mark.parametrize(("frames", "stream_id", "code"), BREAKS.values(), ids=BREAKS.keys())
def test_a_broken_stream(frames: bytes, stream_id: int, code: ErrorCode) -> None:
    """It is reset with the right code, its owner is told, and the connection serves on."""
    peer = server()
    assert peer.receive(frames) == [StreamReset(stream_id, code)]
    (answer,) = peer.answers()
    assert (answer.stream_id, answer.error_code) == (stream_id, code)
    assert len(peer.receive(headers(stream_id=IDLE))) == 1


ANSWERED: Final = {
    "data after the peer's reset": (wire(DataFrame(RESET_BY_PEER, b"x")), RESET_BY_PEER, CLOSED),
    "headers after the peer's reset": (headers(stream_id=RESET_BY_PEER), RESET_BY_PEER, CLOSED),
    "data after both resets": (
        wire(RstStreamFrame(RESET_BY_US, 8), DataFrame(RESET_BY_US, b"x")),
        RESET_BY_US,
        CLOSED,
    ),
    "window of nothing for an ended stream": (wire(WindowUpdateFrame(ENDED, 0)), ENDED, PROTOCOL),
    "malformed request": (headers([*FIELDS, (b"", b"x")]), IDLE, PROTOCOL),
    "content-length that is no number": (headers([*FIELDS, (b"content-length", b"x")]), IDLE, PROTOCOL),
    "content-length without a body": (headers([*FIELDS, (b"content-length", b"1")], ends=True), IDLE, PROTOCOL),
}


@pytest.mark.parametrize(("frames", "stream_id", "code"), ANSWERED.values(), ids=ANSWERED.keys())
def test_a_stream_that_nobody_has(frames: bytes, stream_id: int, code: ErrorCode) -> None:
    """A stream that was over, or never begun well, is reset without a word to the owner."""
    peer = server()
    assert peer.receive(frames) == []
    (answer,) = peer.answers()
    assert (answer.stream_id, answer.error_code) == (stream_id, code)
    assert len(peer.receive(headers(stream_id=IDLE + 2))) == 1


@pytest.mark.parametrize(
    ("body", "is_broken"), [([b"12345"], False), ([b"123", b"45"], False), ([b"123"], True), ([b"123", b"456"], True)]
)
def test_a_body_of_the_announced_length(body: list[bytes], is_broken: bool) -> None:
    """A body that is shorter or longer than its content-length breaks its stream."""
    peer = server()
    peer.receive(headers([*FIELDS, (b"content-length", b"5")]))
    frames = [DataFrame(IDLE, part) for part in body]
    frames[-1].flags.add("END_STREAM")
    events = peer.receive(wire(*frames))
    assert (StreamReset(IDLE, PROTOCOL) in events) is is_broken


def test_window_of_bodies_that_break_their_streams_comes_back() -> None:
    """The connection's window is returned for bodies longer than their content-length, which no owner consumes."""
    peer = server()
    for stream_id in range(IDLE, IDLE + 10, 2):
        peer.receive(headers([*FIELDS, (b"content-length", b"5")], stream_id=stream_id))
        peer.receive(wire(DataFrame(stream_id, bytes(FRAME_SIZE))))
    updates = [frame for frame in peer.answers() if isinstance(frame, WindowUpdateFrame)]
    assert [(update.stream_id, update.window_increment) for update in updates] == [(0, 5 * FRAME_SIZE)]


def test_trailers_end_the_body() -> None:
    """DATA after trailers resets the stream."""
    peer = server()
    peer.receive(headers([(b"a", b"b")], ends=True, stream_id=LIVE))
    assert peer.receive(wire(DataFrame(LIVE, b"x"))) == [StreamReset(LIVE, CLOSED)]


def test_trailers_before_the_announced_length() -> None:
    """The same where trailers end the body."""
    peer = server()
    peer.receive(headers([*FIELDS, (b"content-length", b"5")]))
    assert peer.receive(headers([(b"a", b"b")], ends=True)) == [StreamReset(IDLE, PROTOCOL)]


def test_more_data_than_a_streams_window() -> None:
    """A stream that overruns its window is reset; the pieces of its frame are swallowed."""
    peer = Peer(window=65_535)
    peer.receive(OPENING + headers(stream_id=1) + headers(stream_id=3))
    peer.answers()
    frames = wire(*[DataFrame(1, bytes(FRAME_SIZE))] * 4)
    events = peer.receive(frames + wire(DataFrame(3, b"other")))
    assert events[-2:] == [StreamReset(1, FLOW), DataReceived(3, b"other", 5, False)]


def test_as_much_data_as_a_streams_window() -> None:
    """A peer may use up all of a stream's window; one byte more resets the stream."""
    peer = Peer(window=FRAME_SIZE)
    peer.receive(OPENING + headers(stream_id=1))
    assert peer.receive(wire(DataFrame(1, bytes(FRAME_SIZE)))) == [
        DataReceived(1, bytes(FRAME_SIZE), FRAME_SIZE, False)
    ]
    assert peer.receive(wire(DataFrame(1, b"x"))) == [StreamReset(1, FLOW)]


def test_the_peer_resets_a_stream() -> None:
    """The owner hears the code."""
    peer = server()
    assert peer.receive(wire(RstStreamFrame(LIVE, 8))) == [StreamReset(LIVE, 8)]
    assert peer.answers() == []


def test_a_body_before_its_headers() -> None:
    """A server that begins with the body breaks the stream."""
    assert client().receive(wire(DataFrame(1, b"x"))) == [StreamReset(1, PROTOCOL)]


def test_a_response_without_a_status() -> None:
    """So does one whose headers are none."""
    assert client().receive(headers([(b"a", b"b")], stream_id=1)) == [StreamReset(1, PROTOCOL)]


# --- what ends the connection -----------------------------------------------------------------------------------------

FILLER: Final = b"\x00\x01x\x7f\x81\x7f" + b"y" * (MAX_HEADER_BLOCK // 2)

VIOLATIONS: Final = {
    "frame too long": (raw(0, length=FRAME_SIZE + 1, stream_id=LIVE), SIZE),
    "extension too long": (raw(0x20, length=FRAME_SIZE + 1), SIZE),
    "data on no stream": (raw(0, b"x"), PROTOCOL),
    "data on an idle stream": (wire(DataFrame(IDLE, b"x")), PROTOCOL),
    "data on an ended stream": (wire(DataFrame(ENDED, b"x")), CLOSED),
    "data of padding alone, too much": (raw(0, b"\x04abc", flags=0x8, stream_id=LIVE), PROTOCOL),
    "padded data without a length": (raw(0, flags=0x8, stream_id=LIVE), SIZE),
    "11 empty data": (wire(*[DataFrame(LIVE)] * 11), CALM),
    "11 data of padding": (wire(*[DataFrame(LIVE, pad_length=9, flags=["PADDED"])] * 11), CALM),
    "headers on no stream": (raw(1, REQUEST, flags=0x4), PROTOCOL),
    "headers on a server's stream": (headers(stream_id=2), PROTOCOL),
    "headers on a server's stream to come": (headers(stream_id=12), PROTOCOL),
    "headers on an ended stream": (headers(stream_id=ENDED), CLOSED),
    "headers with too much padding": (raw(1, b"\x09abc", flags=0xC, stream_id=IDLE), PROTOCOL),
    "headers too short for a priority": (raw(1, b"\0\0\0\0", flags=0x24, stream_id=IDLE), SIZE),
    "headers of a stream that depends on itself": (
        wire(HeadersFrame(IDLE, REQUEST, depends_on=IDLE, flags=["PRIORITY", "END_HEADERS"])),
        PROTOCOL,
    ),
    "no HPACK": (headers(b"\x80"), COMPRESSION),
    "too many continuations": (headers(b"", whole=False) + continuation() * (MAX_CONTINUATIONS + 1), CALM),
    "block too long, known by the head alone": (
        headers(FILLER[:FRAME_SIZE], whole=False)
        + continuation(bytes(FRAME_SIZE))
        + raw(9, stream_id=IDLE, length=1)[:9],
        CALM,
    ),
    "data inside a block": (headers(b"", whole=False) + wire(DataFrame(IDLE, b"x")), PROTOCOL),
    "extension inside a block": (headers(b"", whole=False) + raw(0x20), PROTOCOL),
    "headers inside a block": (headers(b"", whole=False) + headers(), PROTOCOL),
    "continuation of another stream": (headers(b"", whole=False) + continuation(stream_id=LIVE), PROTOCOL),
    "continuation without a block": (continuation(whole=True), PROTOCOL),
    "continuation after a block": (headers() + continuation(whole=True), PROTOCOL),
    "push promise": (wire(PushPromiseFrame(LIVE, 2, REQUEST, flags=["END_HEADERS"])), PROTOCOL),
    "priority on no stream": (raw(2, b"\0\0\0\1\0"), PROTOCOL),
    "short priority": (raw(2, bytes(4), stream_id=LIVE), SIZE),
    "priority on itself": (wire(PriorityFrame(LIVE, depends_on=LIVE)), PROTOCOL),
    "reset of no stream": (raw(3, bytes(4)), PROTOCOL),
    "reset of an idle stream": (wire(RstStreamFrame(IDLE, 8)), PROTOCOL),
    "short reset": (raw(3, bytes(3), stream_id=LIVE), SIZE),
    "settings on a stream": (raw(4, bytes(6), stream_id=1), PROTOCOL),
    "settings with half an entry": (raw(4, bytes(5)), SIZE),
    "settings acknowledgement with a payload": (raw(4, bytes(6), flags=0x1), SIZE),
    "33 entries": (settings(*[(0xFE03, 1)] * 33), CALM),
    "push neither on nor off": (settings((2, 2)), PROTOCOL),
    "windows too large to begin with": (settings((4, 2**31)), FLOW),
    "windows that become too large": (wire(WindowUpdateFrame(LIVE, 2**31 - 70_000)) + settings((4, 2**31 - 1)), FLOW),
    "frames too small": (settings((5, 16_383)), PROTOCOL),
    "frames too large": (settings((5, 2**24)), PROTOCOL),
    "ping on a stream": (raw(6, bytes(8), stream_id=LIVE), PROTOCOL),
    "short ping": (raw(6, bytes(7)), SIZE),
    "goaway on a stream": (raw(7, bytes(8), stream_id=1), PROTOCOL),
    "short goaway": (raw(7, bytes(7)), SIZE),
    "window of nothing": (wire(WindowUpdateFrame(0, 0)), PROTOCOL),
    "window too large": (wire(WindowUpdateFrame(0, 2**31 - 1)), FLOW),
    "window for an idle stream": (wire(WindowUpdateFrame(IDLE, 1)), PROTOCOL),
    "window for a server's stream": (wire(WindowUpdateFrame(2, 1)), PROTOCOL),
    "short window": (raw(8, bytes(3), stream_id=LIVE), SIZE),
    "62 pings, of which the ended stream credits one": (wire(*[PingFrame(0, b"12345678")] * 62), CALM),
    "101 ping acknowledgements": (wire(*[PingFrame(0, b"12345678", flags=["ACK"])] * 101), CALM),
    "too many resets": (wire(*[RstStreamFrame(ENDED, 8)] * 110), CALM),
    "101 malformed requests": (
        b"".join(headers([(b"", b"")], stream_id=stream_id) for stream_id in range(IDLE, IDLE + 202, 2)),
        CALM,
    ),
    "101 frames that say nothing": (wire(PriorityFrame(LIVE), GoAwayFrame(0)) * 50 + raw(0x20), CALM),
    "1025 windows, of which streams credit 24": (wire(*[WindowUpdateFrame(ENDED, 1)] * 1025), CALM),
    "33 settings": (settings() * 32, CALM),
    "11 settings acknowledgements": (wire(*[SettingsFrame(0, flags=["ACK"])] * 11), CALM),
}


@pytest.mark.parametrize(("frames", "code"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_a_violation(frames: bytes, code: ErrorCode) -> None:
    """It has the code that HTTP/2 has for it, and a reason for a GOAWAY; nothing is taken afterwards."""
    peer = server()
    with pytest.raises(ProtocolViolation) as caught:
        peer.receive(frames)
    assert caught.value.code == code
    assert caught.value.reason.isascii()
    assert caught.value.reason.isprintable()
    assert 0 < len(caught.value.reason) < 100
    for more in (wire(DataFrame(LIVE, b"x")), b""):
        with pytest.raises(ProtocolViolation) as again:
            peer.receive(more)
        assert again.value.reason == caught.value.reason


def test_more_data_than_the_connections_window() -> None:
    """Two streams within their windows can overrun that of the connection only by breaking the rules."""
    peer = server()
    peer.receive(headers(stream_id=IDLE) + headers(stream_id=IDLE + 2))
    frames = [DataFrame(stream_id, bytes(FRAME_SIZE)) for stream_id in (LIVE, IDLE, IDLE + 2) for _ in range(4)]
    with pytest.raises(ProtocolViolation) as caught:
        peer.receive(wire(*frames))
    assert caught.value.code is FLOW


def test_an_old_stream_that_was_never_opened() -> None:
    """Streams are opened in their order."""
    peer = server()
    peer.receive(headers(stream_id=101))
    with pytest.raises(ProtocolViolation) as caught:
        peer.receive(headers(stream_id=51))
    assert caught.value.code is PROTOCOL


@pytest.mark.parametrize("data", [b"G", b"GET / HTTP/1.1\r\n", b"PRI * HTTP/1", PREFACE[:-1] + b"x", b"\x16\x03\x01"])
def test_a_wrong_preface_is_refused_at_once(data: bytes) -> None:
    """The first wrong byte is enough, 24 of them are not waited for."""
    with pytest.raises(ProtocolViolation) as caught:
        Peer().receive(data)
    assert caught.value.code == PROTOCOL


@pytest.mark.parametrize("is_client", [True, False])
@pytest.mark.parametrize("frame", [headers(), raw(0x20), wire(PingFrame(0)), wire(SettingsFrame(0, flags=["ACK"]))])
def test_the_first_frame_is_settings(frame: bytes, is_client: bool) -> None:
    """Anything else is refused, an acknowledgement too, by its first nine bytes."""
    preface = b"" if is_client else PREFACE
    with pytest.raises(ProtocolViolation) as caught:
        Peer(is_client=is_client).receive(preface + frame[:9])
    assert caught.value.code == PROTOCOL


def test_a_server_that_turns_pushes_on() -> None:
    """Only a client could allow them."""
    with pytest.raises(ProtocolViolation):
        client().receive(settings((2, 1)))


@pytest.mark.parametrize("frames", [headers([(b":status", b"200")], stream_id=3), headers(stream_id=2)])
def test_a_server_opens_no_stream(frames: bytes) -> None:
    """Headers for a call that the client has not made end the connection."""
    with pytest.raises(ProtocolViolation) as caught:
        client().receive(frames)
    assert caught.value.code is PROTOCOL


def test_what_came_before_a_violation_stands() -> None:
    """Events come one by one, each settled before the next is looked for."""
    peer = server()
    events = peer.http2.receive(headers() + wire(DataFrame(LIVE, b"x")) + continuation(), 0.0)
    assert isinstance(next(events), HeadersReceived)
    assert next(events) == DataReceived(LIVE, b"x", 1, False)
    with pytest.raises(ProtocolViolation, match="outside a header block"):
        next(events)


def test_the_owner_may_end_a_stream_between_events() -> None:
    """DATA of a stream that was reset while the same bytes were read is swallowed."""
    peer = server()
    events = peer.http2.receive(headers() + wire(DataFrame(IDLE, b"x"), DataFrame(LIVE, b"y")), 0.0)
    next(events)
    peer.http2.reset(IDLE, ErrorCode.REFUSED_STREAM)
    assert next(events) == DataReceived(LIVE, b"y", 1, False)


def test_what_is_held_is_bounded() -> None:
    """After any number of frames, and in the middle of the largest block, one frame and the block are held."""
    peer = server()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(50):
            frame = wire(DataFrame(RESET_BY_US, bytes(FRAME_SIZE)))
            peer.receive(frame[:-1])
            peer.receive(frame[-1:])
        peer.receive(headers(bytes(FRAME_SIZE), whole=False) + continuation(bytes(FRAME_SIZE - 100)))
        peer.receive(raw(9, stream_id=IDLE, length=100) + bytes(99))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held - before < MAX_HEADER_BLOCK + 2 * FRAME_SIZE


# --- sending ----------------------------------------------------------------------------------------------------------


def test_data_goes_as_far_as_the_windows() -> None:
    """What is sent is taken from both windows, and an update is told."""
    peer = server()
    peer.http2.send_headers(LIVE, encode_block([(b":status", b"200")]), end_stream=False)
    peer.answers()
    peer.http2.send_data(LIVE, [bytes(65_535)], 0, 65_535)
    assert [len(frame.data) for frame in peer.answers()] == [FRAME_SIZE] * 3 + [FRAME_SIZE - 1]
    assert peer.http2.send_window(LIVE) == 0
    assert peer.receive(wire(WindowUpdateFrame(LIVE, 10), WindowUpdateFrame(0, 20))) == [
        WindowUpdated(LIVE),
        WindowUpdated(0),
    ]
    assert peer.http2.send_window(LIVE) == 10


def test_data_written_into_its_frames() -> None:
    """The owner fills the payloads of the frames, which are then sent and taken from the windows."""
    peer = server()
    peer.answers()

    def fill(payloads: list[memoryview]) -> bool:
        for payload in payloads:
            payload[:] = b"x" * len(payload)
        return True

    assert peer.http2.send_data_from(LIVE, FRAME_SIZE + 10, fill)
    assert [(frame.stream_id, frame.data) for frame in peer.answers()] == [
        (LIVE, b"x" * FRAME_SIZE),
        (LIVE, b"x" * 10),
    ]
    assert peer.http2.send_window(LIVE) == 65_535 - FRAME_SIZE - 10


def test_data_that_could_not_be_written_is_not_sent() -> None:
    """Where the owner cannot fill the payloads, nothing is sent and the windows are as before."""
    peer = server()
    peer.answers()
    assert not peer.http2.send_data_from(LIVE, 10, lambda _payloads: False)
    assert peer.answers() == []
    assert peer.http2.send_window(LIVE) == 65_535


def test_streams_that_can_be_sent_on() -> None:
    """A stream can be sent on while it is open and until its end has been sent, whether the peer has ended it or not."""
    peer = server()
    states = (LIVE, HALF_CLOSED, ENDED, RESET_BY_PEER, RESET_BY_US, IDLE)
    assert [stream_id for stream_id in states if peer.http2.is_sendable(stream_id)] == [LIVE, HALF_CLOSED]
    peer.http2.end_stream(LIVE)
    assert not peer.http2.is_sendable(LIVE)


def test_the_end_of_a_stream() -> None:
    """The end is one empty DATA frame with END_STREAM; a stream that the peer has ended too is then closed."""
    peer = server()
    for stream_id, still_open in ((LIVE, 2), (HALF_CLOSED, 1)):
        for _ in range(2):
            peer.http2.end_stream(stream_id)
        (frame,) = peer.answers()
        assert isinstance(frame, DataFrame)
        assert (frame.stream_id, frame.data, set(frame.flags)) == (stream_id, b"", {"END_STREAM"})
        assert peer.http2.open_streams == still_open


def test_frames_are_as_large_as_the_peer_takes() -> None:
    """Larger ones where it takes them, up to 64 KiB."""
    peer = server()
    peer.receive(settings((5, 2**20)))
    peer.answers()
    peer.http2.send_data(LIVE, [bytes(65_535)], 0, 65_535)
    assert [len(frame.data) for frame in peer.answers()] == [65_535]


def test_no_table_is_announced_where_the_peer_changed_it() -> None:
    """The first block after the peer's word on its table begins with the end of ours (RFC 7541, 4.2)."""
    peer = server()
    peer.receive(settings((1, 100)))
    peer.answers()
    for stream_id, opening in ((LIVE, NO_TABLE), (HALF_CLOSED, b"")):
        peer.http2.send_headers(stream_id, b"\x88", end_stream=False)
        assert peer.answers()[0].data == opening + b"\x88"


def test_a_block_longer_than_a_frame() -> None:
    """It goes on in CONTINUATIONs, and hyperframe puts it together again."""
    peer = server()
    block = encode_block([(b"a", b"b" * 40_000)])
    peer.http2.send_headers(LIVE, block, end_stream=True)
    first, *others = peer.answers()
    assert isinstance(first, HeadersFrame)
    assert first.flags == {"END_STREAM"}
    assert all(isinstance(frame, ContinuationFrame) for frame in others)
    assert [set(frame.flags) for frame in others] == [set()] * (len(others) - 1) + [{"END_HEADERS"}]
    assert first.data + b"".join(frame.data for frame in others) == block


def test_nothing_is_sent_on_a_stream_that_is_over() -> None:
    """Whatever the owner does with it."""
    peer = server()
    for stream_id in (ENDED, RESET_BY_US, RESET_BY_PEER):
        peer.http2.send_headers(stream_id, b"\x88", end_stream=True)
        peer.http2.end_stream(stream_id)
        peer.http2.reset(stream_id, ErrorCode.CANCEL)
        assert peer.http2.send_window(stream_id) == 0
    assert peer.answers() == []


def test_a_client_opens_as_many_streams_as_the_server_allows() -> None:
    """One more is refused here, and taken when another has ended."""
    peer = client()
    peer.receive(settings((3, 2)))
    peer.http2.send_headers(peer.http2.open_stream(), REQUEST, end_stream=True)
    with pytest.raises(TooManyStreams):
        peer.http2.open_stream()
    peer.receive(wire(RstStreamFrame(1, 7)))
    assert peer.http2.open_stream() == 5


def test_goaway_is_an_event() -> None:
    """Streams that are open go on."""
    peer = client()
    assert peer.receive(wire(GoAwayFrame(0, 1, 0, b"bye"))) == [GoawayReceived(1, 0, b"bye")]
    assert len(peer.receive(headers([(b":status", b"200")], stream_id=1))) == 1
