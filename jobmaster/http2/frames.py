"""HTTP/2 frames as bytes: their parts, and those that are sent (RFC 9113, sections 4.1, 6 and 7)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER: Final = struct.Struct(">IBI")
"""What opens each frame: 24 bits of length and 8 of type in one number, flags, a reserved bit and the stream's id."""
SETTING: Final = struct.Struct(">HI")
LEAST_MAX_FRAME_SIZE: Final = 16 * 1024
"""Bytes of payload that every peer takes in one frame."""
DEFAULT_WINDOW: Final = 65_535
LARGEST_WINDOW: Final = 2**31 - 1
LAST_STREAM_ID: Final = 2**31 - 1

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

_NUMBER: Final = struct.Struct(">I")
GOAWAY_HEAD: Final = struct.Struct(">II")


class ErrorCode(IntEnum):
    """Why a stream or a connection ends."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class Setting(IntEnum):
    """The settings that HTTP/2 defines."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return HEADER.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def data_frames(stream_id: int, parts: Sequence[bytes | memoryview], offset: int, length: int, largest: int) -> bytes:
    """`length` bytes from `offset` of the concatenation of `parts`, as DATA frames of at most `largest` bytes.

    The parts are copied once, into the result.
    """
    pieces: list[bytes | memoryview] = []
    left = 0
    for part in parts:
        if offset >= len(part):
            offset -= len(part)
            continue
        view = memoryview(part)[offset : offset + length]
        offset = 0
        while view:
            if left == 0:
                left = min(largest, length)
                pieces.append(HEADER.pack(left << 8 | DATA, 0, stream_id))
            piece = view[:left]
            pieces.append(piece)
            left -= len(piece)
            length -= len(piece)
            view = view[len(piece) :]
        if length == 0:
            break
    return b"".join(pieces)


def empty_data_frames(stream_id: int, length: int, largest: int) -> tuple[bytearray, list[memoryview]]:
    """DATA frames of at most `largest` bytes for `length` bytes of payload: the frames, and views of their payloads."""
    frames = bytearray(length + -(-length // largest) * HEADER.size)
    whole = memoryview(frames)
    payloads = []
    position = 0
    while length:
        size = min(largest, length)
        HEADER.pack_into(frames, position, size << 8 | DATA, 0, stream_id)
        position += HEADER.size
        payloads.append(whole[position : position + size])
        position += size
        length -= size
    return frames, payloads


def header_frames(stream_id: int, block: bytes, *, end_stream: bool) -> bytes:
    """A whole header block, in one HEADERS frame and as many CONTINUATIONs as it takes."""
    ends = END_STREAM if end_stream else 0
    if len(block) <= LEAST_MAX_FRAME_SIZE:
        return HEADER.pack(len(block) << 8 | HEADERS, END_HEADERS | ends, stream_id) + block
    pieces = [block[start : start + LEAST_MAX_FRAME_SIZE] for start in range(0, len(block), LEAST_MAX_FRAME_SIZE)]
    middle = [frame(CONTINUATION, 0, stream_id, piece) for piece in pieces[1:-1]]
    last = frame(CONTINUATION, END_HEADERS, stream_id, pieces[-1])
    return b"".join([frame(HEADERS, ends, stream_id, pieces[0]), *middle, last])


def settings(values: Sequence[tuple[Setting, int]]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(*value) for value in values))


def window_update(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream_id, _NUMBER.pack(increment))


def rst_stream(stream_id: int, code: ErrorCode) -> bytes:
    """A RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream_id, _NUMBER.pack(code))


def ping(payload: bytes) -> bytes:
    """A PING frame that asks for an answer; `payload` has eight bytes."""
    return frame(PING, 0, 0, payload)


def goaway(last_stream_id: int, code: ErrorCode, reason: str = "") -> bytes:
    """A GOAWAY frame."""
    return frame(GOAWAY, 0, 0, GOAWAY_HEAD.pack(last_stream_id, code) + reason.encode())
