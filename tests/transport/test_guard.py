"""The frame guard, rule by rule: what is handed to h2, what is dropped, what ends the connection, and its neighbours."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterable
from typing import Any, Final, SupportsIndex

import h2.config
import h2.connection
import h2.exceptions
import pytest
from h2.errors import ErrorCodes
from hpack import Encoder
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

from jobmaster.transport.allowance import Allowance
from jobmaster.transport.guard import (
    MAX_FIELDS,
    MAX_FRAME_LENGTH,
    MAX_HEADER_BLOCK,
    PREFACE,
    FrameGuard,
    GuardViolation,
    check_header_block,
)

CALM: Final = ErrorCodes.ENHANCE_YOUR_CALM
COMPRESSION: Final = ErrorCodes.COMPRESSION_ERROR
FRAME_SIZE: Final = ErrorCodes.FRAME_SIZE_ERROR
PROTOCOL: Final = ErrorCodes.PROTOCOL_ERROR

OPENING: Final = PREFACE + SettingsFrame(0).serialize()
LIVE: Final = 5
FINISHED: Final = 3
HIGHEST: Final = 5
IDLE: Final = 7
REQUEST: Final[bytes] = Encoder().encode(
    [(":method", "POST"), (":scheme", "https"), (":path", "/a.B/C"), (":authority", "x"), ("te", "trailers")]
)


def new_guard() -> FrameGuard:
    """A guard of a connection on which streams 1 and 3 have finished and 5 is live."""
    return FrameGuard(is_live=lambda stream_id: stream_id == LIVE, highest_stream_id=lambda: HIGHEST)


def opened_guard() -> FrameGuard:
    """The same after the client's preface and SETTINGS."""
    guard = new_guard()
    assert received(guard, OPENING) == OPENING
    return guard


def received(guard: FrameGuard, data: bytes, now: float = 0.0) -> bytes:
    """What the guard hands on."""
    return b"".join(guard.receive(data, now))


def wire(frames: Iterable[Any]) -> bytes:
    """Frames as they are sent."""
    return b"".join(frame.serialize() for frame in frames)


def raw(kind: int, payload: bytes = b"", *, flags: int = 0, stream_id: int = 0, length: int | None = None) -> bytes:
    """A frame that hyperframe would not write."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream_id) + payload


def headers(block: bytes, *, end: bool = True, stream_id: int = IDLE) -> bytes:
    """A HEADERS frame with that block, or the block's beginning."""
    frame: bytes = HeadersFrame(stream_id, block, flags=["END_HEADERS"] if end else []).serialize()
    return frame


def continuation(block: bytes = b"", *, end: bool = False, stream_id: int = IDLE) -> bytes:
    """A CONTINUATION frame with more of a block."""
    frame: bytes = ContinuationFrame(stream_id, block, flags=["END_HEADERS"] if end else []).serialize()
    return frame


def literal(name: bytes, value: bytes) -> bytes:
    """A literal field without indexing, strings shorter than 127 bytes."""
    return bytes([0, len(name)]) + name + bytes([len(value)]) + value


def long_literal(value_length: int) -> bytes:
    """A literal field of one name byte and a value of at least 127 bytes whose length takes two octets or three."""
    rest, octets = value_length - 127, []
    while rest >= 128:
        octets.append(rest & 127 | 128)
        rest >>= 7
    return b"\x00\x01a" + bytes([127, *octets, rest]) + bytes(value_length)


def settings(count: int, identifier: int = 3) -> bytes:
    """A SETTINGS frame with `count` entries of one kind."""
    return raw(4, struct.pack(">HI", identifier, 100) * count)


BIGGEST_BLOCK: Final = long_literal(MAX_HEADER_BLOCK - 6)

HANDED_ON: Final = {
    "data": wire([DataFrame(LIVE, b"x")]),
    "the longest frame": wire([DataFrame(LIVE, bytes(MAX_FRAME_LENGTH))]),
    "padded data": wire([DataFrame(LIVE, b"x", pad_length=200, flags=["PADDED"])]),
    "data with too much padding: h2 answers": raw(0, b"\x09abc", flags=0x8, stream_id=LIVE),
    "padded data without a length: h2 answers": raw(0, b"", flags=0x9, stream_id=LIVE),
    "ten empty data": wire([DataFrame(LIVE)] * 10),
    "empty data at the end, often": wire([DataFrame(LIVE, flags=["END_STREAM"])] * 50),
    "request": headers(REQUEST),
    "request with padding and priority": wire(
        [HeadersFrame(IDLE, REQUEST, pad_length=9, depends_on=1, flags=["END_HEADERS", "PADDED", "PRIORITY"])]
    ),
    "headers with too much padding: h2 answers": raw(1, b"\x09abc", flags=0xC, stream_id=IDLE),
    "headers on stream 0: h2 answers": raw(1, REQUEST, flags=0x4),
    "request in five frames": headers(REQUEST[:1], end=False)
    + b"".join(continuation(REQUEST[at : at + 1]) for at in (1, 2, 3))
    + continuation(REQUEST[4:], end=True)
    + wire([DataFrame(IDLE, b"after")]),
    "the biggest block": headers(BIGGEST_BLOCK),
    "the biggest block in two frames": headers(BIGGEST_BLOCK[:100], end=False)
    + continuation(BIGGEST_BLOCK[100:], end=True),
    "the most fields": headers(b"\x82" * MAX_FIELDS),
    "two size updates": headers(b"\x20\x3f\xe1\x1f" + REQUEST),
    "an integer of five octets": headers(b"\xff\x80\x80\x80\x80\x00"),
    "literals with indexed names": headers(REQUEST + b"\x4f\x01v\x7e\x01v\x7f\x00\x01v\x1e\x01v\x1f\x00\x01v"),
    "window for a live stream": wire([WindowUpdateFrame(LIVE, 1)]),
    "window for the connection": wire([WindowUpdateFrame(0, 1)]),
    "window for an idle stream: h2 answers": wire([WindowUpdateFrame(IDLE, 1)]),
    "window for a stream of the server: h2 answers": wire([WindowUpdateFrame(2, 1)]),
    "no window for a finished stream: h2 answers": wire([WindowUpdateFrame(FINISHED, 0)]),
    "no window, reserved bit set: h2 answers": raw(8, b"\x80\0\0\0", stream_id=FINISHED),
    "short window for a finished stream: h2 answers": raw(8, b"\0\0\1", stream_id=FINISHED),
    "1000 windows": wire([WindowUpdateFrame(0, 1)] * 1000),
    "60 pings": wire([PingFrame(0, b"12345678")] * 60),
    "ping acknowledgement": wire([PingFrame(0, b"12345678", flags=["ACK"])]),
    "short ping: h2 answers": raw(6, b"1234567"),
    "100 resets": wire([RstStreamFrame(LIVE, 8)] * 100),
    "reset of an idle stream: h2 answers": wire([RstStreamFrame(IDLE, 8)]),
    "31 more settings": settings(0) * 31,
    "32 entries": settings(32),
    "settings of no whole entry: h2 answers": raw(4, bytes(5)),
    "settings on a stream: h2 answers": raw(4, bytes(6), stream_id=1),
    "bad values: h2 answers": wire([SettingsFrame(0, {2: 2})]),
    "settings acknowledgements": wire([SettingsFrame(0, flags=["ACK"])] * 10),
    "all settings that h2 knows": wire([SettingsFrame(0, {1: 4096, 2: 0, 3: 1, 4: 9, 5: 16384, 6: 9, 8: 0})]),
    "short priority: h2 answers": raw(2, bytes(4), stream_id=LIVE),
    "priority on stream 0: h2 answers": raw(2, b"\0\0\0\1\0"),
    "priority on itself: h2 answers": wire([PriorityFrame(LIVE, depends_on=LIVE)]),
    "priority on itself, exclusive: h2 answers": wire([PriorityFrame(LIVE, depends_on=LIVE, exclusive=True)]),
    "goaway on a stream: h2 answers": raw(7, bytes(8), stream_id=1),
    "short goaway: h2 answers": raw(7, bytes(7)),
}

DROPPED: Final = {
    "priority": wire([PriorityFrame(LIVE, depends_on=1, stream_weight=3)]),
    "priority of an idle stream": wire([PriorityFrame(IDLE, depends_on=LIVE)]),
    "100 priorities": wire([PriorityFrame(LIVE)] * 100),
    "an extension": raw(0x20, b"grease", flags=0xFF, stream_id=99),
    "100 extensions": raw(0xFF) * 100,
    "altsvc": wire([AltSvcFrame(0, b"x", b"y")]),
    "goaway": wire([GoAwayFrame(0, 0, 0, b"bye")]),
    "window for a finished stream": wire([WindowUpdateFrame(FINISHED, 1)]),
    "window for a finished stream, reserved bits set": raw(8, b"\x80\0\0\1", stream_id=1 << 31 | FINISHED),
}

REFUSED: Final = {
    "frame too long": (raw(0, length=MAX_FRAME_LENGTH + 1, stream_id=LIVE), FRAME_SIZE),
    "extension too long": (raw(0x20, length=MAX_FRAME_LENGTH + 1), FRAME_SIZE),
    "11 empty data": (wire([DataFrame(LIVE)] * 11), CALM),
    "11 data of padding": (wire([DataFrame(LIVE, pad_length=9, flags=["PADDED"])] * 11), CALM),
    "five continuations": (headers(REQUEST, end=False) + continuation() * 5, CALM),
    "block too long": (headers(BIGGEST_BLOCK[:-1], end=False) + continuation(b"ab"), CALM),
    "block too long, known by the head alone": (
        headers(BIGGEST_BLOCK[:-1], end=False) + raw(9, stream_id=IDLE, length=2),
        CALM,
    ),
    "data inside a block": (headers(b"", end=False) + wire([DataFrame(IDLE, b"x")]), PROTOCOL),
    "extension inside a block": (headers(b"", end=False) + raw(0x20), PROTOCOL),
    "priority inside a block": (headers(b"", end=False) + wire([PriorityFrame(IDLE)]), PROTOCOL),
    "headers inside a block": (headers(b"", end=False) + headers(REQUEST), PROTOCOL),
    "continuation of another stream": (headers(b"", end=False) + continuation(stream_id=LIVE), PROTOCOL),
    "continuation without a block": (continuation(end=True), PROTOCOL),
    "continuation after a block": (headers(REQUEST) + continuation(end=True), PROTOCOL),
    "push promise": (wire([PushPromiseFrame(LIVE, 2, REQUEST, flags=["END_HEADERS"])]), PROTOCOL),
    "129 fields": (headers(b"\x82" * (MAX_FIELDS + 1)), CALM),
    "129 fields in two frames": (headers(b"\x82" * MAX_FIELDS, end=False) + continuation(b"\x82", end=True), CALM),
    "three size updates": (headers(b"\x20\x20\x20" + REQUEST), COMPRESSION),
    "size update after a field": (headers(b"\x82\x20"), COMPRESSION),
    "an integer of six octets": (headers(b"\xff\x80\x80\x80\x80\x80\x00"), COMPRESSION),
    "an unending integer": (headers(b"\xff" * MAX_HEADER_BLOCK), COMPRESSION),
    "a truncated integer": (headers(b"\x7f\x80"), COMPRESSION),
    "a truncated name": (headers(b"\x00\x05abcd"), COMPRESSION),
    "a missing value": (headers(b"\x00\x01a"), COMPRESSION),
    "a truncated value": (headers(b"\x00\x01a\x02b"), COMPRESSION),
    "an empty name": (headers(REQUEST + literal(b"", b"v")), PROTOCOL),
    "an empty name in Huffman code": (headers(REQUEST + b"\x40\x80\x01v"), PROTOCOL),
    "61 pings": (wire([PingFrame(0, b"12345678")] * 61), CALM),
    "101 ping acknowledgements": (wire([PingFrame(0, b"12345678", flags=["ACK"])] * 101), CALM),
    "101 resets": (wire([RstStreamFrame(LIVE, 8)] * 101), CALM),
    "101 priorities": (wire([PriorityFrame(LIVE)] * 101), CALM),
    "101 bad priorities": (raw(2, bytes(4), stream_id=LIVE) * 101, CALM),
    "101 extensions": (raw(0x20) * 101, CALM),
    "101 of all that is dropped": (wire([PriorityFrame(LIVE), GoAwayFrame(0)]) * 50 + raw(0x20), CALM),
    "1001 windows": (wire([WindowUpdateFrame(FINISHED, 1)] * 1001), CALM),
    "33 settings with the first": (settings(0) * 32, CALM),
    "33 entries": (settings(33), CALM),
    "33 unknown entries": (settings(33, identifier=0xFE03), CALM),
    "settings acknowledgement with a payload": (raw(4, bytes(6), flags=0x1), FRAME_SIZE),
    "11 settings acknowledgements": (wire([SettingsFrame(0, flags=["ACK"])] * 11), CALM),
}


@pytest.mark.parametrize("frames", HANDED_ON.values(), ids=HANDED_ON.keys())
def test_handed_on_unchanged(frames: bytes) -> None:
    """What is legal, up to each limit, and what h2 has an answer to, reaches h2 byte for byte."""
    assert received(opened_guard(), frames) == frames


@pytest.mark.parametrize("frames", DROPPED.values(), ids=DROPPED.keys())
def test_dropped(frames: bytes) -> None:
    """What changes nothing never reaches h2, and what follows it does."""
    after = wire([DataFrame(LIVE, b"after")])
    assert received(opened_guard(), frames + after) == after


@pytest.mark.parametrize(("frames", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(frames: bytes, code: ErrorCodes) -> None:
    """One step over each limit is a violation with the code that HTTP/2 has for it and a reason for a GOAWAY."""
    with pytest.raises(GuardViolation) as caught:
        received(opened_guard(), frames)
    assert caught.value.error_code == code
    assert caught.value.reason.isascii()
    assert caught.value.reason.isprintable()
    assert 0 < len(caught.value.reason) < 100


def test_too_many_pings_is_said_in_grpcs_words() -> None:
    """The reason is the text that makes a gRPC client lengthen its keepalive."""
    with pytest.raises(GuardViolation, match=r"\Atoo_many_pings\Z"):
        received(opened_guard(), wire([PingFrame(0, b"12345678")] * 61))


@pytest.mark.parametrize("length", [1, 3, 23])
def test_a_beginning_of_the_preface_is_waited_for(length: int) -> None:
    """Nothing is handed on before the preface is whole; then it comes first."""
    guard = new_guard()
    assert received(guard, PREFACE[:length]) == b""
    assert list(guard.receive(OPENING[length:], 0.0)) == [PREFACE, OPENING[len(PREFACE) :]]


@pytest.mark.parametrize("data", [b"G", b"GET / HTTP/1.1\r\n", b"PRI * HTTP/1", PREFACE[:-1] + b"x", b"\x16\x03\x01"])
def test_a_wrong_preface_is_refused_at_once(data: bytes) -> None:
    """The first wrong byte is enough, 24 of them are not waited for."""
    with pytest.raises(GuardViolation) as caught:
        received(new_guard(), data)
    assert caught.value.error_code == PROTOCOL


@pytest.mark.parametrize(
    "frame", [headers(REQUEST), raw(0x20), wire([PingFrame(0)]), wire([SettingsFrame(0, flags=["ACK"])])]
)
def test_the_first_frame_is_settings(frame: bytes) -> None:
    """Anything else after the preface is refused, an acknowledgement too, by its first nine bytes."""
    with pytest.raises(GuardViolation) as caught:
        received(new_guard(), PREFACE + frame[:9])
    assert caught.value.error_code == PROTOCOL


def test_settings_lose_what_h2_does_not_know() -> None:
    """Unknown entries go, the rest stays in its order with its duplicates, and the frame's length is right."""
    entries = [(4, 100), (0xFE03, 1), (4, 200), (0, 7), (3, 5), (7, 1), (0x0A0A, 9)]
    frame = raw(4, b"".join(struct.pack(">HI", *entry) for entry in entries))
    kept = raw(4, b"".join(struct.pack(">HI", *entry) for entry in [(4, 100), (4, 200), (3, 5)]))
    assert received(opened_guard(), frame) == kept


def test_settings_of_unknown_entries_alone_are_still_acknowledged() -> None:
    """An empty SETTINGS frame is left of them, which h2 answers."""
    assert received(opened_guard(), settings(32, identifier=0xFE03)) == wire([SettingsFrame(0)])


@pytest.mark.parametrize(("asked", "kept"), [(0, 0), (4095, 4095), (4096, 4096), (4097, 4096), (2**32 - 1, 4096)])
def test_the_encoders_table_is_never_larger_than_the_default(asked: int, kept: int) -> None:
    """SETTINGS_HEADER_TABLE_SIZE is an upper bound, so a smaller table is right, and it is all that is used."""
    assert received(opened_guard(), wire([SettingsFrame(0, {1: asked})])) == wire([SettingsFrame(0, {1: kept})])


def test_goaway_is_reported() -> None:
    """The connection can see that the client is leaving; before, and after a bad GOAWAY, it is not."""
    guard = opened_guard()
    received(guard, HANDED_ON["short goaway: h2 answers"])
    assert not guard.client_is_leaving
    received(guard, wire([GoAwayFrame(0)]))
    assert guard.client_is_leaving


def test_what_came_before_a_violation_is_handed_on_first() -> None:
    """Every complete frame before the bad one is yielded, one by one, and none after it."""
    guard = opened_guard()
    frames = [wire([DataFrame(LIVE, b"one")]), headers(REQUEST)]
    taken = guard.receive(b"".join(frames) + continuation() + frames[0], 0.0)
    assert [next(taken), next(taken)] == frames
    with pytest.raises(GuardViolation, match="outside a header block"):
        next(taken)


@pytest.mark.parametrize("frames", [continuation(), headers(b"\x82\x20")], ids=["by its head", "by its content"])
def test_nothing_passes_after_a_violation(frames: bytes) -> None:
    """A guard that has refused refuses whatever comes, for the same reason."""
    guard = opened_guard()
    reasons = set()
    for data in (frames, wire([DataFrame(LIVE, b"x")]), b""):
        with pytest.raises(GuardViolation) as caught:
            received(guard, data)
        reasons.add((caught.value.error_code, caught.value.reason))
    assert len(reasons) == 1


def test_liveness_is_asked_when_the_frames_before_are_through() -> None:
    """Window for a stream that finishes inside the same read is dropped from there on, not before."""
    live = {LIVE}
    guard = FrameGuard(is_live=live.__contains__, highest_stream_id=lambda: HIGHEST)
    received(guard, OPENING)
    window = wire([WindowUpdateFrame(LIVE, 1)])
    handed_on = 0
    for _ in guard.receive(window * 3, 0.0):
        handed_on += 1
        live.discard(LIVE)
    assert handed_on == 1


# --- how often --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "at_once", "seconds_for_one"),
    [
        (wire([PingFrame(0, b"12345678")]), 60, 1),
        (wire([RstStreamFrame(LIVE)]), 100, 0.3),
        (wire([DataFrame(LIVE)]), 10, 6),
        (raw(0x20), 100, 0.01),
        (wire([SettingsFrame(0)]), 31, 6),
        (wire([WindowUpdateFrame(0, 1)]), 1000, 0.001),
    ],
    ids=["ping", "reset", "empty data", "extension", "settings", "window"],
)
def test_an_allowance_comes_back_with_time(frame: bytes, at_once: int, seconds_for_one: float) -> None:
    """After the burst, one more is taken each time its share of time has passed, and not a second one."""
    guard = opened_guard()
    now = 0.0
    received(guard, frame * at_once, now)
    for _ in range(3):
        now += seconds_for_one * 1.01
        received(guard, frame, now)
    with pytest.raises(GuardViolation):
        received(guard, frame, now)


@pytest.mark.parametrize(
    ("frame", "free", "for_each"),
    [(wire([PingFrame(0, b"12345678")]), 60, 1), (wire([WindowUpdateFrame(0, 1)]), 1000, 4)],
    ids=["ping", "window"],
)
def test_data_sent_earns_probes_and_windows(frame: bytes, free: int, for_each: int) -> None:
    """A client that answers each DATA frame with a probe and windows is honest at any speed; one more is not."""
    guard = opened_guard()
    for _ in range(5000):
        guard.data_sent()
        received(guard, frame * for_each)
    received(guard, frame * free)
    with pytest.raises(GuardViolation):
        received(guard, frame)


def test_what_is_earned_cannot_be_saved_up_for_a_flood() -> None:
    """However much was sent, at most a thousand pings are taken at once beyond the sixty."""
    guard = opened_guard()
    guard.data_sent(10**6)
    ping = wire([PingFrame(0, b"12345678")])
    received(guard, ping * 1060)
    with pytest.raises(GuardViolation):
        received(guard, ping)


def test_finished_calls_earn_resets() -> None:
    """A client may reset as many calls as were answered to their end, beyond a hundred that were not."""
    guard = opened_guard()
    reset = wire([RstStreamFrame(LIVE)])
    for _ in range(500):
        guard.stream_finished()
        received(guard, reset)
    received(guard, reset * 100)
    with pytest.raises(GuardViolation):
        received(guard, reset)


def test_an_allowance_is_never_more_than_its_burst() -> None:
    """A long silence does not add up, and a clock that stands still or goes back grants nothing."""
    allowance = Allowance(burst=3, per_second=1)
    assert [allowance.take(1000.0) for _ in range(4)] == [True, True, True, False]
    assert [allowance.take(1e9) for _ in range(4)] == [True, True, True, False]
    assert not allowance.take(0.0)


# --- bounds -----------------------------------------------------------------------------------------------------------


class CountedBytes(bytes):
    """Bytes that count how often they are looked into."""

    looks = 0

    def __getitem__(self, key: SupportsIndex | slice) -> Any:
        """One look, whatever is asked."""
        self.looks += 1
        return super().__getitem__(key)


@pytest.mark.parametrize(
    "pattern",
    [b"\x82", b"\x20", b"\xff", b"\x7f\x80\x80\x80\x80\x00", b"\x00\x01a\x00", b"\x0f\x00\x00", b"\x40\x81\xff\x80"],
)
def test_the_walk_of_a_block_is_bounded(pattern: bytes) -> None:
    """However 16 KiB are filled, few bytes are looked at: five for each field that is allowed would be plenty."""
    block = CountedBytes(pattern * (MAX_HEADER_BLOCK // len(pattern)))
    with pytest.raises(GuardViolation):
        check_header_block(block)
    assert 0 < block.looks <= 8 * (MAX_FIELDS + 1)


def test_what_is_held_is_bounded() -> None:
    """After any number of frames, and in the middle of the largest block, the guard holds one frame and the block."""
    guard = opened_guard()
    fragment = MAX_HEADER_BLOCK // 4
    long_frame = wire([DataFrame(LIVE, bytes(MAX_FRAME_LENGTH))])
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(50):
            received(guard, long_frame[:-1])
            received(guard, long_frame[-1:])
        received(guard, headers(bytes(fragment), end=False) + continuation(bytes(fragment)) * 3)
        received(guard, raw(9, stream_id=IDLE, length=0)[:-1])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held - before < 3 * MAX_FRAME_LENGTH


# --- the two neighbours: h2 and the frames' library -------------------------------------------------------------------


def server() -> Any:
    """h2 as the server's connection configures it."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    connection.initiate_connection()
    connection.receive_data(OPENING)
    return connection


@pytest.mark.parametrize(
    "frames",
    [
        headers(b"\xff" * (MAX_HEADER_BLOCK - 1) + b"\x00"),
        headers(REQUEST + literal(b"", b"v")),
    ],
    ids=["integer too long to be printed", "empty name"],
)
def test_what_h2_would_not_survive_is_refused(frames: bytes) -> None:
    """These end in an error that is none of h2's own, which is why the guard walks header blocks at all."""
    with pytest.raises((IndexError, ValueError)):
        server().receive_data(frames)
    with pytest.raises(GuardViolation):
        received(opened_guard(), frames)


def test_every_frame_named_as_h2s_to_answer_is_answered() -> None:
    """h2 ends the connection or the stream for each of them; none is silently taken by both."""
    for name in [name for name in HANDED_ON if name.endswith("h2 answers")]:
        connection = server()
        connection.receive_data(headers(REQUEST, stream_id=1))
        connection.data_to_send()
        frames = HANDED_ON[name]
        answered = b""
        try:
            connection.receive_data(frames)
        except h2.exceptions.ProtocolError:
            answered = connection.data_to_send()
            kind, _ = Frame.parse_frame_header(answered[:9])
            assert isinstance(kind, GoAwayFrame), name
        assert answered or name == "reset of an idle stream: h2 answers", name
