"""What a peer's SETTINGS frame changes, and which values end the connection."""

from __future__ import annotations

import struct

import pytest

from jobmaster.http2.errors import ProtocolViolation
from jobmaster.http2.frames import ErrorCode
from jobmaster.http2.settings import PeerSettings

TABLE_SIZE, PUSH, STREAMS, WINDOW, FRAME_SIZE, LIST_SIZE = range(1, 7)
UNKNOWN = 0x99


def payload(*entries: tuple[int, int]) -> bytes:
    """The payload of a SETTINGS frame with those entries in their order."""
    return b"".join(struct.pack(">HI", *entry) for entry in entries)


def applied(*entries: tuple[int, int], is_client: bool = False) -> tuple[int, int, bytes]:
    """The largest frame, the number of streams and the block prefix after a frame with those entries."""
    settings = PeerSettings(is_client=is_client)
    settings.apply(payload(*entries))
    return settings.max_frame_size, settings.max_streams, settings.block_prefix


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], (16_384, 100, b"")),
        ([(STREAMS, 0)], (16_384, 0, b"")),
        ([(STREAMS, 2**32 - 1)], (16_384, 2**32 - 1, b"")),
        ([(STREAMS, 7), (STREAMS, 8)], (16_384, 8, b"")),
        ([(TABLE_SIZE, 4096)], (16_384, 100, b"\x20")),
        ([(TABLE_SIZE, 0)], (16_384, 100, b"\x20")),
        ([(FRAME_SIZE, 16_384)], (16_384, 100, b"")),
        ([(FRAME_SIZE, 65_535)], (65_535, 100, b"")),
        ([(FRAME_SIZE, 65_537)], (65_536, 100, b"")),
        ([(FRAME_SIZE, 2**24 - 1)], (65_536, 100, b"")),
        ([(WINDOW, 9), (LIST_SIZE, 1), (UNKNOWN, 5)], (16_384, 100, b"")),
    ],
)
def test_what_a_setting_changes(entries: list[tuple[int, int]], expected: tuple[int, int, bytes]) -> None:
    """A setting changes its own attribute, the last of equal ones counts, frames stay within 64 KiB, others do nothing."""
    assert applied(*entries) == expected


@pytest.mark.parametrize(
    ("entries", "window"),
    [
        ([], None),
        ([(STREAMS, 5)], None),
        ([(WINDOW, 0)], 0),
        ([(WINDOW, 2**31 - 1)], 2**31 - 1),
        ([(WINDOW, 1), (STREAMS, 5), (WINDOW, 2)], 2),
    ],
)
def test_the_initial_window(entries: list[tuple[int, int]], window: int | None) -> None:
    """The initial window is returned where the frame sets one, the last of several."""
    assert PeerSettings(is_client=True).apply(payload(*entries)) == window


@pytest.mark.parametrize(("value", "is_client"), [(0, False), (1, False), (0, True)])
def test_push_that_changes_nothing(value: int, is_client: bool) -> None:
    """A client may enable pushes, which a server need not use; either side may disable them."""
    assert applied((PUSH, value), is_client=is_client) == (16_384, 100, b"")


@pytest.mark.parametrize(
    ("entry", "is_client", "code"),
    [
        ((PUSH, 2), False, ErrorCode.PROTOCOL_ERROR),
        ((PUSH, 1), True, ErrorCode.PROTOCOL_ERROR),
        ((PUSH, 2), True, ErrorCode.PROTOCOL_ERROR),
        ((WINDOW, 2**31), False, ErrorCode.FLOW_CONTROL_ERROR),
        ((FRAME_SIZE, 16_383), False, ErrorCode.PROTOCOL_ERROR),
        ((FRAME_SIZE, 2**24), False, ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_values_out_of_range(entry: tuple[int, int], is_client: bool, code: ErrorCode) -> None:
    """The first value beyond each range ends the connection with the code of RFC 9113, 6.5.2."""
    with pytest.raises(ProtocolViolation) as caught:
        applied(entry, is_client=is_client)
    assert caught.value.code is code


@pytest.mark.parametrize("length", [1, 5, 7, 11])
def test_half_an_entry(length: int) -> None:
    """A payload that is no whole number of entries is a FRAME_SIZE_ERROR, and none of its entries is applied."""
    settings = PeerSettings(is_client=False)
    with pytest.raises(ProtocolViolation) as caught:
        settings.apply(payload((STREAMS, 7), (STREAMS, 7))[:length])
    assert caught.value.code is ErrorCode.FRAME_SIZE_ERROR
    assert settings.max_streams == 100


def test_how_many_entries() -> None:
    """A frame has 32 entries at most; one more costs the connection."""
    assert applied(*[(STREAMS, 7)] * 32) == (16_384, 7, b"")
    with pytest.raises(ProtocolViolation) as caught:
        applied(*[(STREAMS, 7)] * 33)
    assert caught.value.code is ErrorCode.ENHANCE_YOUR_CALM


def test_the_block_prefix_is_due_once() -> None:
    """The prefix is taken once for each frame that changes the table's size."""
    settings = PeerSettings(is_client=False)
    for _ in range(2):
        settings.apply(payload((TABLE_SIZE, 0)))
        assert [settings.take_block_prefix() for _ in range(2)] == [b"\x20", b""]
