"""As much of HTTP/2 as a client needs that keeps a connection and makes no call. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS: Final = 4
PING: Final = 6
GOAWAY: Final = 7
ACK: Final = 0x1
_HEAD: Final = struct.Struct(">BHBBI")
"""Length in two parts, type, flags, stream (RFC 9113, 4.1)."""


class Frame(NamedTuple):
    """One that was received."""

    type: int
    flags: int
    payload: bytes


def connection_frame(kind: int, flags: int = 0, payload: bytes = b"") -> bytes:
    """A frame of stream 0."""
    return _HEAD.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, 0) + payload


def take_frames(held: bytearray) -> Iterator[Frame]:
    """The whole frames that `held` begins with; they are taken from it."""
    while len(held) >= _HEAD.size:
        high, low, kind, flags, _stream = _HEAD.unpack_from(held)
        end = _HEAD.size + (high << 16 | low)
        if len(held) < end:
            return
        frame = Frame(kind, flags, bytes(held[_HEAD.size : end]))
        del held[:end]
        yield frame


OPENING: Final = PREFACE + connection_frame(SETTINGS)
"""What a client says first."""


def answer_to(frame: Frame) -> bytes:
    """What has to be said to a frame so that the connection lives on; often nothing."""
    match frame:
        case Frame(type=4, flags=0):
            return connection_frame(SETTINGS, ACK)
        case Frame(type=6, flags=0):
            return connection_frame(PING, ACK, frame.payload)
        case _:
            return b""
