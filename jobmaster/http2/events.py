"""What a peer's frames mean, once they are found to be valid HTTP/2: a sum type, at most one event for a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, NamedTuple

from jobmaster.http2.frames import ErrorCode
from jobmaster.http2.header_blocks import Field, Parsed


@dataclass(frozen=True, slots=True)
class HeaderList(Generic[Parsed]):
    """The fields of a decoded header block.

    Attributes:
        fields: all of them; the first ones only, where the list is `too_large`.
        problem: why they cannot open a message; None where they can.
        content_length: bytes of the body that are announced.
        parsed: what `Configuration.parse` made of them.
    """

    fields: tuple[Field, ...]
    too_large: bool
    problem: str | None
    content_length: int | None
    parsed: Parsed


class HeadersReceived(NamedTuple):
    """Headers that open a message, or trailers: those come last, on a stream that has had headers."""

    stream_id: int
    headers: HeaderList[Any]
    ended: bool


class DataReceived(NamedTuple):
    """A part of a body. `length` bytes of window, padding included, are to be acknowledged once it is consumed."""

    stream_id: int
    data: bytes
    length: int
    ended: bool


class StreamReset(NamedTuple):
    """A stream was closed by the peer's RST_STREAM, or by ours because of a stream error of the peer's."""

    stream_id: int
    code: ErrorCode | int


class WindowUpdated(NamedTuple):
    """More may be sent on a stream; on any for stream 0."""

    stream_id: int


class SettingsReceived(NamedTuple):
    """The peer's settings are in force; windows and the number of streams may have grown."""


class GoawayReceived(NamedTuple):
    """The peer takes no stream above `last_stream_id`; `reason` is its debug data."""

    last_stream_id: int
    code: int
    reason: bytes


Event = HeadersReceived | DataReceived | StreamReset | WindowUpdated | SettingsReceived | GoawayReceived
