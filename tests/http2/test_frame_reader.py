"""Bytes in, frames out: how header blocks are joined, what is held, and what is refused from a frame's header alone."""

from __future__ import annotations

import struct
import sys
from typing import Final

import pytest

from jobmaster.http2.errors import ProtocolViolation
from jobmaster.http2.frame_reader import DATA_HEADER, DATA_PAYLOAD, Frame, FrameReader
from jobmaster.http2.frames import PREFACE, ErrorCode

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
UNKNOWN: Final = 0xFF
ACK = END_STREAM = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20
MAX_FRAME_SIZE: Final = 16_384

CALM = ErrorCode.ENHANCE_YOUR_CALM
PROTOCOL = ErrorCode.PROTOCOL_ERROR
SIZE = ErrorCode.FRAME_SIZE_ERROR


def raw(kind: int, payload: bytes = b"", *, flags: int = 0, stream_id: int = 0, length: int | None = None) -> bytes:
    """A frame, or one whose header tells of another length."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream_id) + payload


def drained(reader: FrameReader) -> list[Frame]:
    """The frames up to where more bytes are needed."""
    found = []
    while (frame := reader.next_frame()) is not None:
        found.append(frame)
    return found


def fed(reader: FrameReader, data: bytes | memoryview) -> list[Frame]:
    """The frames that some more bytes complete."""
    reader.feed(data)
    return drained(reader)


def opened(*, is_client: bool = True) -> FrameReader:
    """A reader that has had the preface and the first SETTINGS."""
    reader = FrameReader(max_frame_size=MAX_FRAME_SIZE, is_client=is_client)
    assert fed(reader, (b"" if is_client else PREFACE) + raw(SETTINGS)) == [(SETTINGS, 0, 0, b"")]
    return reader


def code_of(data: bytes, reader: FrameReader | None = None) -> ErrorCode:
    """The error that these bytes end the connection with."""
    with pytest.raises(ProtocolViolation) as caught:
        fed(reader or opened(), data)
    return caught.value.code


# --- frames -----------------------------------------------------------------------------------------------------------

STREAM: Final = (
    raw(PING, b"12345678", flags=ACK)
    + raw(HEADERS, b"first", flags=END_STREAM, stream_id=1)
    + raw(CONTINUATION, b"second", stream_id=1)
    + raw(CONTINUATION, b"third", flags=END_HEADERS, stream_id=1)
    + raw(HEADERS, b"next", flags=END_HEADERS, stream_id=3)
    + raw(DATA, b"\x02body\0\0", flags=PADDED, stream_id=3)
    + raw(UNKNOWN, b"?", flags=0xFF, stream_id=5)
)
FRAMES: Final[list[Frame]] = [
    (PING, ACK, 0, b"12345678"),
    (HEADERS, END_STREAM, 1, b"firstsecondthird"),
    (HEADERS, END_HEADERS, 3, b"next"),
    (DATA, PADDED, 3, b"\x02body\0\0"),
    (UNKNOWN, 0xFF, 5, b"?"),
]


def test_frames_at_once() -> None:
    """Frames come out in their order; a header block in pieces is one HEADERS frame with the first piece's flags."""
    assert fed(opened(), STREAM) == FRAMES


@pytest.mark.parametrize("step", [1, 2, 8, 9, 10, 13])
def test_frames_in_pieces(step: int) -> None:
    """However the bytes are cut, the frames are the same, and none is late."""
    reader, found = opened(), []
    for start in range(0, len(STREAM), step):
        found += fed(reader, STREAM[start : start + step])
    assert found == FRAMES
    assert reader.held == 0


@pytest.mark.parametrize("is_client", [True, False])
@pytest.mark.parametrize("size", [1, 7, 10, 13, 1000])
def test_bytes_of_a_buffer_that_is_used_again(size: int, is_client: bool) -> None:
    """What is returned or held stays when the buffer that was fed is filled anew."""
    reader = FrameReader(max_frame_size=MAX_FRAME_SIZE, is_client=is_client)
    data = (b"" if is_client else PREFACE) + raw(SETTINGS) + STREAM + raw(DATA, b"x" * 100, stream_id=3)
    buffer = bytearray(size)
    frames: list[Frame] = []
    for start in range(0, len(data), size):
        piece = data[start : start + size]
        buffer[: len(piece)] = piece
        frames += fed(reader, memoryview(buffer)[: len(piece)])
        buffer[:] = b"!" * size
    assert frames[1 : 1 + len(FRAMES)] == FRAMES
    assert b"".join(payload for kind, _, _, payload in frames if kind == DATA_PAYLOAD) == b"x" * 100


@pytest.mark.parametrize(
    ("kind", "most"),
    [(HEADERS, 32 * 1024), (CONTINUATION, 16 * 1024), (SETTINGS, 16 * 1024), (PING, 16 * 1024), (UNKNOWN, 16 * 1024)],
)
def test_long_frames_are_for_data(kind: int, most: int) -> None:
    """Where long frames are accepted, one that would be held until it is whole is refused at its header, but for DATA."""
    reader = FrameReader(max_frame_size=4 * MAX_FRAME_SIZE, is_client=False)
    fed(reader, PREFACE + raw(SETTINGS))
    assert code_of(raw(kind, stream_id=1, length=most + 1)[:9], reader) == CALM


def test_a_long_data_frame() -> None:
    """The payload of a DATA frame as long as is accepted is returned as it arrives."""
    reader = FrameReader(max_frame_size=4 * MAX_FRAME_SIZE, is_client=False)
    fed(reader, PREFACE + raw(SETTINGS))
    header = raw(DATA, stream_id=1, length=4 * MAX_FRAME_SIZE)
    assert fed(reader, header + b"some") == [
        (DATA_HEADER, 0, 1, 4 * MAX_FRAME_SIZE),
        (DATA_PAYLOAD, 0, 1, b"some"),
    ]
    assert reader.held == 0


def test_the_reserved_bit_is_ignored() -> None:
    """The bit before a stream's id says nothing."""
    assert fed(opened(), raw(RST_STREAM, b"code", stream_id=1 << 31 | 5)) == [(RST_STREAM, 0, 5, b"code")]


@pytest.mark.parametrize(
    ("flags", "payload", "block"),
    [
        (0, b"block", b"block"),
        (PADDED, b"\x03block\0\0\0", b"block"),
        (PADDED, b"\x00block", b"block"),
        (PADDED, b"\x02\0\0", b""),
        (HAS_PRIORITY, b"\0\0\0\x01\x10block", b"block"),
        (HAS_PRIORITY, b"\0\0\0\x01\x10", b""),
        (PADDED | HAS_PRIORITY, b"\x01\x80\0\0\x01\x10block\0", b"block"),
    ],
)
def test_what_is_around_a_header_block(flags: int, payload: bytes, block: bytes) -> None:
    """Padding and priority are taken off a HEADERS frame."""
    flags |= END_HEADERS
    assert fed(opened(), raw(HEADERS, payload, flags=flags, stream_id=3)) == [(HEADERS, flags, 3, block)]


# --- DATA -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_client", [True, False])
def test_data_as_it_arrives(is_client: bool) -> None:
    """The header of DATA tells the length, then each read its part; END_STREAM comes with the last part."""
    reader = opened(is_client=is_client)
    frame = raw(DATA, b"abcdef", flags=END_STREAM, stream_id=7)
    assert fed(reader, frame[:9]) == [(DATA_HEADER, END_STREAM, 7, 6)]
    assert fed(reader, frame[9:11]) == [(DATA_PAYLOAD, 0, 7, b"ab")]
    assert fed(reader, frame[11:] + raw(SETTINGS)) == [(DATA_PAYLOAD, END_STREAM, 7, b"cdef"), (SETTINGS, 0, 0, b"")]


def test_data_without_a_payload() -> None:
    """Of DATA with no payload only the header is returned."""
    empty = raw(DATA, flags=END_STREAM, stream_id=7)
    assert fed(opened(), empty + raw(SETTINGS)) == [(DATA_HEADER, END_STREAM, 7, 0), (SETTINGS, 0, 0, b"")]


# --- what is held -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        raw(PING)[:8],
        raw(PING, b"1234", length=8),
        raw(DATA, stream_id=1, length=5),
        raw(DATA, b"abc", stream_id=1, length=5),
        raw(HEADERS, b"block", stream_id=1),
    ],
)
def test_bytes_that_were_read_are_freed(rest: bytes) -> None:
    """Once no frame is left, the reader keeps no reference to the bytes fed, whichever part of a frame they end in."""
    data = raw(UNKNOWN, bytes(5000)) + rest
    reader = opened()
    references = sys.getrefcount(data)
    reader.feed(data)
    assert sys.getrefcount(data) > references
    drained(reader)
    assert sys.getrefcount(data) == references


@pytest.mark.parametrize(
    ("data", "held"),
    [
        (b"", 0),
        (raw(SETTINGS), 0),
        (raw(PING)[:8], 8),
        (raw(SETTINGS) + raw(PING, b"1234", length=8), 13),
        (raw(DATA, b"abc", stream_id=1, length=5), 0),
        (raw(HEADERS, b"block", stream_id=1), 5),
        (raw(HEADERS, b"block", stream_id=1) + raw(CONTINUATION, b"more", stream_id=1), 9),
        (raw(HEADERS, b"block", stream_id=1) + raw(CONTINUATION, b"mo", stream_id=1, length=4), 16),
        (raw(HEADERS, b"block", stream_id=1) + raw(CONTINUATION, b"more", flags=END_HEADERS, stream_id=1), 0),
    ],
)
def test_held(data: bytes, held: int) -> None:
    """Counted are the bytes of an incomplete frame, its header among them, and of an incomplete header block."""
    reader = opened()
    fed(reader, data)
    assert reader.held == held


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 5, 24, 33])
def test_the_preface(step: int) -> None:
    """A server's reader takes the preface however it is cut, then frames."""
    reader, found = FrameReader(max_frame_size=MAX_FRAME_SIZE, is_client=False), []
    data = PREFACE + raw(SETTINGS)
    for start in range(0, len(data), step):
        found += fed(reader, data[start : start + step])
    assert found == [(SETTINGS, 0, 0, b"")]


@pytest.mark.parametrize("good", [0, 1, 23])
def test_not_the_preface(good: int) -> None:
    """The first wrong byte of a preface is refused, in the same read as the right ones or later."""
    for cut in {0, good}:
        reader = FrameReader(max_frame_size=MAX_FRAME_SIZE, is_client=False)
        assert fed(reader, PREFACE[:cut]) == []
        assert code_of(PREFACE[cut:good] + b"\0", reader) is PROTOCOL


@pytest.mark.parametrize("frame", [raw(SETTINGS, flags=ACK), raw(PING, bytes(8)), raw(DATA, stream_id=1)])
def test_the_first_frame(frame: bytes) -> None:
    """The first frame is SETTINGS that acknowledge nothing."""
    reader = FrameReader(max_frame_size=MAX_FRAME_SIZE, is_client=True)
    assert code_of(frame, reader) is PROTOCOL


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (raw(DATA, stream_id=1, length=MAX_FRAME_SIZE + 1), SIZE),
        (raw(PRIORITY, stream_id=1, length=4), SIZE),
        (raw(PRIORITY, stream_id=1, length=6), SIZE),
        (raw(RST_STREAM, stream_id=1, length=3), SIZE),
        (raw(RST_STREAM, stream_id=1, length=5), SIZE),
        (raw(PING, length=7), SIZE),
        (raw(PING, length=9), SIZE),
        (raw(WINDOW_UPDATE, length=3), SIZE),
        (raw(WINDOW_UPDATE, length=5), SIZE),
        (raw(SETTINGS, stream_id=1, length=6), PROTOCOL),
        (raw(PING, stream_id=1, length=8), PROTOCOL),
        (raw(GOAWAY, stream_id=1, length=8), PROTOCOL),
        (raw(HEADERS, stream_id=1) + raw(CONTINUATION, stream_id=3, length=1), PROTOCOL),
        (raw(HEADERS, stream_id=1) + raw(HEADERS, stream_id=1, length=1), PROTOCOL),
        (raw(HEADERS, stream_id=1) + raw(UNKNOWN, stream_id=1, length=1), PROTOCOL),
    ],
)
def test_refused_by_the_header_alone(data: bytes, code: ErrorCode) -> None:
    """A frame that cannot be valid is refused before its payload has come."""
    assert code_of(data) is code


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (raw(HEADERS, b"", flags=PADDED, stream_id=1), SIZE),
        (raw(HEADERS, b"\x01", flags=PADDED, stream_id=1), PROTOCOL),
        (raw(HEADERS, b"\x04abc", flags=PADDED, stream_id=1), PROTOCOL),
        (raw(HEADERS, b"\0\0\0\0", flags=HAS_PRIORITY, stream_id=1), SIZE),
        (raw(HEADERS, b"\0\0\0\x01\0", flags=HAS_PRIORITY, stream_id=1), PROTOCOL),
        (raw(HEADERS, b"\x80\0\0\x01\0", flags=HAS_PRIORITY, stream_id=1), PROTOCOL),
        (raw(HEADERS, b"", flags=END_HEADERS), PROTOCOL),
        (raw(CONTINUATION, b"", flags=END_HEADERS, stream_id=1), PROTOCOL),
    ],
)
def test_malformed_header_blocks(data: bytes, code: ErrorCode) -> None:
    """Padding and priority fit their frame, a stream does not depend on itself, and a block begins with HEADERS."""
    assert code_of(data) is code


def test_the_largest_frame() -> None:
    """A frame of exactly the announced size is taken."""
    payload = bytes(MAX_FRAME_SIZE)
    assert fed(opened(), raw(UNKNOWN, payload)) == [(UNKNOWN, 0, 0, payload)]


def test_how_many_continuations() -> None:
    """Each header block has four CONTINUATION frames at most, the fifth is refused by its header."""
    more = [raw(CONTINUATION, b"c", flags=flags, stream_id=1) for flags in (0, 0, 0, END_HEADERS)]
    block = raw(HEADERS, b"h", stream_id=1) + b"".join(more)
    reader = opened()
    assert fed(reader, block + block) == 2 * [(HEADERS, 0, 1, b"hcccc")]
    assert fed(reader, raw(HEADERS, b"h", stream_id=1) + 4 * more[0]) == []
    assert code_of(raw(CONTINUATION, stream_id=1, length=1), reader) is CALM


@pytest.mark.parametrize("excess", [0, 1])
def test_how_long_a_block_is(excess: int) -> None:
    """A header block has 32 KiB at most; a frame that would make it longer is refused by its header."""
    half = bytes(MAX_FRAME_SIZE)
    reader = opened()
    begin = raw(HEADERS, half, stream_id=1) + raw(CONTINUATION, half, stream_id=1)
    assert fed(reader, begin) == []
    last = raw(CONTINUATION, bytes(excess), flags=END_HEADERS, stream_id=1)
    if excess:
        assert code_of(last[:9], reader) is CALM
    else:
        assert fed(reader, last) == [(HEADERS, 0, 1, half + half)]
