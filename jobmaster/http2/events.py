"""What a peer has said, once it has been found to be HTTP/2: a sum type, an event at most for each frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, NamedTuple

from jobmaster.http2.frames import ErrorCode
from jobmaster.http2.header_blocks import Field, Meaning


@dataclass(frozen=True, slots=True)
class HeaderList(Generic[Meaning]):
    """The fields of a header block, looked at.

    Attributes:
        fields: all of them; the first ones only, where the list is `too_large`.
        problem: why they cannot open a message; None where they can.
        content_length: bytes of the body that are announced.
        meaning: what the owner of the connection reads in them.
    """

    fields: tuple[Field, ...]
    too_large: bool
    problem: str | None
    content_length: int | None
    meaning: Meaning


class HeadersReceived(NamedTuple):
    """Headers that open a message, or trailers: those come last, on a stream that has had headers."""

    stream_id: int
    headers: HeaderList[Any]
    ended: bool


class DataReceived(NamedTuple):
    """A part of a body; `length` bytes of window are handed back when it has been taken."""

    stream_id: int
    data: bytes | memoryview
    length: int
    ended: bool


class StreamReset(NamedTuple):
    """A stream is over: the peer reset it, or broke it, so that it was reset here."""

    stream_id: int
    code: ErrorCode | int


class WindowOpened(NamedTuple):
    """More may be sent on a stream; on any for stream 0."""

    stream_id: int


class SettingsReceived(NamedTuple):
    """The peer's settings are in force."""


class GoingAway(NamedTuple):
    """The peer takes no stream after the last one that it names."""

    last_stream_id: int


Event = HeadersReceived | DataReceived | StreamReset | WindowOpened | SettingsReceived | GoingAway
