"""The settings of a peer (RFC 9113, 6.5.2), as far as they change what is sent to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from jobmaster.http2 import frames
from jobmaster.http2.errors import connection_error
from jobmaster.http2.frames import ErrorCode, Setting
from jobmaster.http2.header_blocks import NO_TABLE
from jobmaster.http2.tolerance import MAX_SETTINGS

MAX_CONCURRENT_STREAMS: Final = 100
"""Announced by a server, whose owner refuses streams beyond it; assumed by a client until it is told another number."""
MAX_SENT_FRAME: Final = 64 * 1024
"""Bytes of frames sent, where the peer takes larger ones than the 16 KiB that all take."""


class PeerSettings:
    """What the peer has asked for.

    Attributes:
        max_frame_size: bytes of the largest frame that is sent.
        max_streams: that it allows to be open at a time.
        block_prefix: what the next header block begins with, once: the peer has changed its table's size, and is told
            that none is used (RFC 7541, 4.2).
    """

    __slots__ = ("_is_client", "block_prefix", "max_frame_size", "max_streams")

    def __init__(self, *, is_client: bool) -> None:
        self._is_client = is_client
        self.max_frame_size = frames.LEAST_MAX_FRAME_SIZE
        self.max_streams = MAX_CONCURRENT_STREAMS
        self.block_prefix = b""

    def apply(self, payload: bytes) -> int | None:
        """Applies a SETTINGS frame; returns the initial window, where it sets one.

        Raises:
            ProtocolViolation: the frame is malformed, or a value out of range.
        """
        initial_window = None
        for identifier, value in _entries(payload):
            match identifier:
                case Setting.HEADER_TABLE_SIZE:
                    self.block_prefix = NO_TABLE
                case Setting.ENABLE_PUSH if value > 1 or (value and self._is_client):
                    connection_error(ErrorCode.PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH out of range")
                case Setting.MAX_CONCURRENT_STREAMS:
                    self.max_streams = value
                case Setting.INITIAL_WINDOW_SIZE:
                    if value > frames.LARGEST_WINDOW:
                        connection_error(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond its largest size")
                    initial_window = value
                case Setting.MAX_FRAME_SIZE:
                    if not frames.LEAST_MAX_FRAME_SIZE <= value < 1 << 24:
                        connection_error(ErrorCode.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE out of range")
                    self.max_frame_size = min(value, MAX_SENT_FRAME)
                case _:
                    pass
        return initial_window

    def take_block_prefix(self) -> bytes:
        """The prefix, which is then no longer due."""
        prefix, self.block_prefix = self.block_prefix, b""
        return prefix


def _entries(payload: bytes) -> Iterator[tuple[int, int]]:
    if len(payload) % frames.SETTING.size:
        connection_error(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS with half an entry")
    if len(payload) > MAX_SETTINGS * frames.SETTING.size:
        connection_error(ErrorCode.ENHANCE_YOUR_CALM, f"more than {MAX_SETTINGS} settings in one frame")
    return frames.SETTING.iter_unpack(payload)
