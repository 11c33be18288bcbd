"""Received bytes, cut into frames; HEADERS and CONTINUATION frames are joined to one header block.

The nine bytes of a frame's header decide whether the rest is worth waiting for, and no frame is looked at twice. At
most one incomplete frame and one incomplete header block are held. The payload of unpadded DATA is returned as it
arrives, without waiting for the end of its frame. What is returned or held is a copy: the bytes fed may be a view of a
buffer that is used again.
"""

from __future__ import annotations

from typing import Any, Final

from jobmaster.http2 import frames
from jobmaster.http2.errors import connection_error
from jobmaster.http2.frames import ErrorCode
from jobmaster.http2.tolerance import MAX_CONTINUATIONS, MAX_HEADER_BLOCK

DATA_HEADER: Final = 0x100
"""The type of a DATA frame whose header alone has been read. Its "payload" is the length of what follows."""
DATA_PAYLOAD: Final = 0x101
"""The type of a part of such a frame's payload; END_STREAM is set in the last one alone."""

Frame = tuple[int, int, int, Any]
"""Type, flags, stream id and payload: bytes, but for `DATA_HEADER`."""

_SIZES: Final = {frames.PRIORITY: 5, frames.RST_STREAM: 4, frames.PING: 8, frames.WINDOW_UPDATE: 4}
"""Bytes of payload that the frames of a type have, all of them."""
_MOST_BYTES: Final = {frames.DATA: 2**24, frames.HEADERS: MAX_HEADER_BLOCK}
"""Bytes of payload that the frames of a type have at most, where all frames may be longer than `LEAST_MAX_FRAME_SIZE`: those of
the other types are held until they are whole, and nobody has a use for long ones."""
_OF_THE_CONNECTION: Final = frozenset({frames.SETTINGS, frames.PING, frames.GOAWAY})
"""The types that belong on stream 0."""
_HEADER_SIZE: Final = frames.HEADER.size
_PRIORITY_SIZE: Final = 5


class FrameReader:
    """Feed it bytes, then take frames until there is none."""

    def __init__(self, *, max_frame_size: int, is_client: bool) -> None:
        """A client expects no preface."""
        self._max_frame_size = max_frame_size
        self._data: bytes | memoryview = b""
        self._position = 0
        self._preface_left = b"" if is_client else frames.PREFACE
        self._expects_settings = True
        self._data_left = 0
        self._data_flags = 0
        self._data_stream_id = 0
        self._block: bytearray | None = None
        self._block_flags = 0
        self._block_stream_id = 0
        self._continuations = 0

    @property
    def held(self) -> int:
        """Bytes of an incomplete frame and an incomplete header block."""
        return len(self._data) - self._position + len(self._block or b"")

    def feed(self, data: bytes | memoryview) -> None:
        """Takes received bytes, which are used until `next_frame` returns None; only when it has.

        Raises:
            ProtocolViolation: they are not those of an HTTP/2 client.
        """
        self._data = b"".join((self._data[self._position :], data)) if self._position < len(self._data) else data
        self._position = 0
        if self._preface_left:
            begin = bytes(self._data[: len(self._preface_left)])
            if not self._preface_left.startswith(begin):
                connection_error(ErrorCode.PROTOCOL_ERROR, "not the HTTP/2 preface")
            self._preface_left = self._preface_left[len(begin) :]
            self._position = len(begin)

    def next_frame(self) -> Frame | None:
        """The next frame, None where more bytes are needed.

        Raises:
            ProtocolViolation: the frame is malformed, or none that may come here.
        """
        while True:
            if self._data_left:
                return self._data_payload()
            data, start = self._data, self._position + _HEADER_SIZE
            if len(data) < start:
                self._keep_rest()
                return None
            word, flags, stream_id = frames.HEADER.unpack_from(data, self._position)
            length, kind, stream_id = word >> 8, word & 0xFF, stream_id & 0x7FFF_FFFF
            self._check_header(length, kind, flags, stream_id)
            if kind == frames.DATA and not flags & frames.PADDED:
                self._position = start
                self._data_left, self._data_flags, self._data_stream_id = length, flags, stream_id
                return DATA_HEADER, flags, stream_id, length
            if len(data) < start + length:
                self._keep_rest()
                return None
            self._position = start + length
            payload = bytes(data[start : start + length])
            if kind == frames.HEADERS:
                payload = _header_block(flags, stream_id, payload)
                if flags & frames.END_HEADERS:
                    return kind, flags, stream_id, payload
                self._block = bytearray(payload)
                self._block_flags, self._block_stream_id, self._continuations = flags, stream_id, 0
            elif kind == frames.CONTINUATION:
                if (block := self._continued(flags, payload)) is not None:
                    return frames.HEADERS, self._block_flags, stream_id, block
            else:
                return kind, flags, stream_id, payload

    def _keep_rest(self) -> None:
        """Frees all bytes but those of an incomplete frame."""
        self._data, self._position = bytes(self._data[self._position :]), 0

    def _check_header(self, length: int, kind: int, flags: int, stream_id: int) -> None:
        """Called again when more of the frame has arrived."""
        if length > self._max_frame_size:
            connection_error(ErrorCode.FRAME_SIZE_ERROR, "frame longer than was announced")
        if length > (most := _MOST_BYTES.get(kind, frames.LEAST_MAX_FRAME_SIZE)):
            connection_error(ErrorCode.ENHANCE_YOUR_CALM, f"a frame of type {kind} longer than {most} bytes")
        if self._block is not None:
            if kind != frames.CONTINUATION or stream_id != self._block_stream_id:
                connection_error(ErrorCode.PROTOCOL_ERROR, "another frame inside a header block")
            if self._continuations == MAX_CONTINUATIONS:
                connection_error(ErrorCode.ENHANCE_YOUR_CALM, f"more than {MAX_CONTINUATIONS} CONTINUATION frames")
            if len(self._block) + length > MAX_HEADER_BLOCK:
                connection_error(ErrorCode.ENHANCE_YOUR_CALM, f"header block longer than {MAX_HEADER_BLOCK} bytes")
            return
        if stream_id and kind in _OF_THE_CONNECTION:
            connection_error(ErrorCode.PROTOCOL_ERROR, "a frame of the connection on a stream")
        if (size := _SIZES.get(kind, length)) != length:
            connection_error(ErrorCode.FRAME_SIZE_ERROR, f"a frame of type {kind} without exactly {size} bytes")
        if self._expects_settings:
            if kind != frames.SETTINGS or flags & frames.ACK:
                connection_error(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self._expects_settings = False

    def _data_payload(self) -> Frame | None:
        start, end = self._position, min(self._position + self._data_left, len(self._data))
        if start == end:
            self._keep_rest()
            return None
        payload = bytes(self._data[start:end])
        self._position = end
        self._data_left -= end - start
        flags = self._data_flags if self._data_left == 0 else self._data_flags & ~frames.END_STREAM
        return DATA_PAYLOAD, flags, self._data_stream_id, payload

    def _continued(self, flags: int, payload: bytes) -> bytes | None:
        """The whole header block, once it is."""
        if self._block is None:
            connection_error(ErrorCode.PROTOCOL_ERROR, "CONTINUATION outside a header block")
        self._block += payload
        self._continuations += 1
        if not flags & frames.END_HEADERS:
            return None
        block, self._block = bytes(self._block), None
        return block


def _header_block(flags: int, stream_id: int, payload: bytes) -> bytes:
    """What a HEADERS frame has of its header block (RFC 9113, 6.2)."""
    payload = without_padding(flags, payload)
    if flags & frames.HAS_PRIORITY:
        if len(payload) < _PRIORITY_SIZE:
            connection_error(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
        if int.from_bytes(payload[:4], "big") & 0x7FFF_FFFF == stream_id:
            connection_error(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")
        payload = payload[_PRIORITY_SIZE:]
    if stream_id == 0:
        connection_error(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
    return payload


def without_padding(flags: int, payload: bytes) -> bytes:
    """What a DATA or HEADERS frame carries (RFC 9113, 6.1).

    Raises:
        ProtocolViolation: the padding is longer than the frame.
    """
    if not flags & frames.PADDED:
        return payload
    if not payload:
        connection_error(ErrorCode.FRAME_SIZE_ERROR, "a padded frame without the length of its padding")
    if payload[0] >= len(payload):
        connection_error(ErrorCode.PROTOCOL_ERROR, "padding longer than its frame")
    return payload[1 : len(payload) - payload[0]]
