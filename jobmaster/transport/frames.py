"""HTTP/2 frames by hand, where h2's object for each frame would be most of the work (RFC 9113, section 4.1)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

HEADER: Final = struct.Struct(">HBBBL")
"""Length in two parts (16 and 8 bits), type, flags, stream id."""
DATA: Final = 0x0
HEADERS: Final = 0x1
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
LAST_STREAM_ID: Final = 2**31 - 1
_INCREMENT: Final = struct.Struct(">L")
_GOAWAY: Final = struct.Struct(">LL")


def frame_header(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """The nine bytes before a frame's payload."""
    return HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream_id)


def data_frames(stream_id: int, parts: Sequence[bytes | memoryview], offset: int, length: int, largest: int) -> bytes:
    """`length` bytes from `offset` of the concatenation of `parts`, as DATA frames of at most `largest` bytes.

    The parts are copied once, into the result.
    """
    pieces: list[bytes | memoryview] = []
    room = 0
    for part in parts:
        if offset >= len(part):
            offset -= len(part)
            continue
        view = memoryview(part)[offset : offset + length]
        offset = 0
        while view:
            if room == 0:
                room = min(largest, length)
                pieces.append(frame_header(room, DATA, 0, stream_id))
            piece = view[:room]
            pieces.append(piece)
            room -= len(piece)
            length -= len(piece)
            view = view[len(piece) :]
        if length == 0:
            break
    return b"".join(pieces)


def window_update(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame_header(_INCREMENT.size, WINDOW_UPDATE, 0, stream_id) + _INCREMENT.pack(increment)


def header_frame(stream_id: int, block: bytes, *, end_stream: bool) -> bytes:
    """A whole header block as one HEADERS frame."""
    flags = END_HEADERS | (END_STREAM if end_stream else 0)
    return frame_header(len(block), HEADERS, flags, stream_id) + block


def ping(payload: bytes) -> bytes:
    """A PING frame that asks for an answer; `payload` has eight bytes."""
    return frame_header(len(payload), PING, 0, 0) + payload


def goaway(last_stream_id: int, error_code: int, reason: str = "") -> bytes:
    """A GOAWAY frame."""
    payload = _GOAWAY.pack(last_stream_id, error_code) + reason.encode()
    return frame_header(len(payload), GOAWAY, 0, 0) + payload
