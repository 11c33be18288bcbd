"""What a hostile client sends: frames that are wrong in a few places, which reach further than noise does."""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

from jobmaster.http2.frames import HEADER, PREFACE
from jobmaster.http2.header_blocks import Field, encode_block

MAX_FRAME: Final = 16 * 1024
FIELDS: Final[list[Field]] = [
    (b":method", b"POST"),
    (b":scheme", b"https"),
    (b":path", b"/a.B/C"),
    (b":authority", b"x"),
    (b"te", b"trailers"),
]
REQUEST: Final = encode_block(FIELDS)
OPENING: Final = PREFACE + bytes.fromhex("000000040000000000")


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """A frame with any field whatever."""
    return HEADER.pack(len(payload) << 8 | kind, flags, stream_id) + payload


names = st.sampled_from([b":path", b":method", b"te", b"content-length", b"grpc-timeout", b"cookie", b" a", b"A", b""])
integers = st.one_of(
    st.integers(0, 126).map(lambda value: bytes([value])), st.binary(min_size=1, max_size=8).map(lambda v: b"\x7f" + v)
)
strings = st.one_of(
    st.binary(max_size=12).map(lambda value: bytes([len(value)]) + value),
    st.binary(max_size=12).map(lambda value: bytes([0x80 | len(value)]) + value),
    names.map(lambda value: bytes([len(value)]) + value),
    integers,
)
representations = st.one_of(
    st.integers(0x80, 0xFF).map(lambda first: bytes([first])),
    st.tuples(st.sampled_from([b"\x00", b"\x10", b"\x40"]), strings, strings).map(b"".join),
    st.tuples(st.integers(0x01, 0x1F).map(lambda first: bytes([first])), strings).map(b"".join),
    st.tuples(st.sampled_from([b"\x20", b"\x3f"]), integers).map(b"".join),
    st.just(REQUEST),
)
blocks = st.one_of(
    st.just(REQUEST),
    st.lists(representations, max_size=6).map(b"".join),
    st.lists(representations, max_size=4).map(lambda parts: REQUEST + b"".join(parts)),
    st.binary(max_size=64),
)
stream_ids = st.sampled_from([0, 1, 1, 1, 2, 3, 5, 2**31 - 1, 2**31 + 1])
payloads = st.one_of(
    blocks, st.binary(max_size=40), st.sampled_from([b"", bytes(4), bytes(5), bytes(6), bytes(8), b"\0\0\0\1"])
)
frames = st.one_of(
    st.builds(frame, st.integers(0, 12), st.integers(0, 255), stream_ids, payloads),
    st.builds(frame, st.just(1), st.sampled_from([0, 4, 5, 0x24, 0x0C]), st.sampled_from([1, 3, 5]), blocks),
    st.builds(frame, st.just(9), st.sampled_from([0, 4]), st.sampled_from([1, 3, 5]), blocks),
    st.builds(frame, st.just(0), st.sampled_from([0, 1, 8, 9]), st.sampled_from([1, 3, 5]), payloads),
    st.builds(frame, st.just(0x30), st.just(0), st.just(0), st.just(bytes(MAX_FRAME + 1))),
)
streams = st.one_of(
    st.binary(max_size=200),
    st.lists(frames, max_size=12).map(lambda parts: PREFACE + b"".join(parts)),
    st.lists(frames, max_size=12).map(lambda parts: OPENING + b"".join(parts)),
    st.tuples(st.lists(frames, max_size=12), st.binary(max_size=20)).map(
        lambda drawn: OPENING + b"".join(drawn[0]) + drawn[1]
    ),
)
