"""Frames made by hand, read back by hyperframe."""

from __future__ import annotations

import pytest
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.http2 import frames


def read_back(data: bytes) -> list[Frame]:
    """The frames in a byte string that is nothing but whole frames."""
    found = []
    view = memoryview(data)
    while view:
        frame, length = Frame.parse_frame_header(view[:9])
        frame.parse_body(view[9 : 9 + length])
        found.append(frame)
        view = view[9 + length :]
    return found


@given(
    parts=st.lists(st.binary(max_size=300), min_size=1, max_size=4),
    largest=st.integers(1, 100),
    cut=st.tuples(st.integers(0, 1200), st.integers(0, 1200)),
)
def test_data_frames(parts: list[bytes], largest: int, cut: tuple[int, int]) -> None:
    """The frames carry exactly the bytes asked for, in order, none larger than allowed and none empty."""
    whole = b"".join(parts)
    offset = min(cut[0], len(whole))
    length = min(cut[1], len(whole) - offset)
    found = read_back(frames.data_frames(5, parts, offset, length, largest))
    assert b"".join(frame.data for frame in found) == whole[offset : offset + length]
    assert all(isinstance(frame, DataFrame) and frame.stream_id == 5 and not frame.flags for frame in found)
    assert all(0 < len(frame.data) <= largest for frame in found)


@given(length=st.integers(0, 1000), largest=st.integers(1, 300))
def test_data_frames_to_be_filled(length: int, largest: int) -> None:
    """What is written into the payloads is in the frames in its order; none is larger than allowed and none empty."""
    made, payloads = frames.empty_data_frames(5, length, largest)
    for number, payload in enumerate(payloads):
        payload[:] = bytes([number % 251 + 1]) * len(payload)
    found = read_back(bytes(made))
    assert [frame.data for frame in found] == [bytes(payload) for payload in payloads]
    assert all(isinstance(frame, DataFrame) and frame.stream_id == 5 and not frame.flags for frame in found)
    assert all(0 < len(frame.data) <= largest for frame in found)
    assert sum(len(frame.data) for frame in found) == length


@pytest.mark.parametrize(
    ("length", "sizes"), [(16_384, [16_384]), (16_385, [16_384, 1]), (32_769, [16_384, 16_384, 1])]
)
@pytest.mark.parametrize("ends", [True, False])
def test_header_frames(length: int, sizes: list[int], ends: bool) -> None:
    """A block is in frames of 16 KiB at most; END_STREAM is in the first of them, END_HEADERS in the last."""
    block = bytes(number % 251 for number in range(length))
    found = read_back(frames.header_frames(3, block, end_stream=ends))
    assert b"".join(frame.data for frame in found) == block
    assert [len(frame.data) for frame in found] == sizes
    assert ["END_STREAM" in frame.flags for frame in found] == [ends] + [False] * (len(found) - 1)
    assert ["END_HEADERS" in frame.flags for frame in found] == [False] * (len(found) - 1) + [True]
    assert {frame.stream_id for frame in found} == {3}


def test_error_codes() -> None:
    """Their numbers are those of RFC 9113, section 7."""
    names = "NO_ERROR PROTOCOL_ERROR INTERNAL_ERROR FLOW_CONTROL_ERROR SETTINGS_TIMEOUT STREAM_CLOSED FRAME_SIZE_ERROR "
    names += "REFUSED_STREAM CANCEL COMPRESSION_ERROR CONNECT_ERROR ENHANCE_YOUR_CALM INADEQUATE_SECURITY "
    names += "HTTP_1_1_REQUIRED"
    assert {code.name: code.value for code in frames.ErrorCode} == {name: at for at, name in enumerate(names.split())}


def test_setting_numbers() -> None:
    """The settings have the numbers that hyperframe knows them by."""
    for setting in frames.Setting:
        assert getattr(SettingsFrame, setting.name) == setting.value
    assert len(frames.Setting) == 6


def test_other_frames() -> None:
    """HEADERS, WINDOW_UPDATE, PING, RST_STREAM, SETTINGS and GOAWAY read back as what they were made of."""
    made = (
        frames.header_frames(3, b"block", end_stream=True)
        + frames.window_update(7, 1234)
        + frames.ping(b"12345678")
        + frames.rst_stream(11, frames.ErrorCode.CANCEL)
        + frames.settings([(frames.Setting.ENABLE_PUSH, 0), (frames.Setting.MAX_FRAME_SIZE, 20_000)])
        + frames.goaway(9, frames.ErrorCode.ENHANCE_YOUR_CALM, "why")
    )
    headers, update, ping, reset, settings, goaway = read_back(made)
    assert isinstance(headers, HeadersFrame)
    assert (headers.stream_id, headers.data, set(headers.flags)) == (3, b"block", {"END_STREAM", "END_HEADERS"})
    assert isinstance(update, WindowUpdateFrame)
    assert (update.stream_id, update.window_increment) == (7, 1234)
    assert isinstance(ping, PingFrame)
    assert ping.opaque_data == b"12345678"
    assert isinstance(reset, RstStreamFrame)
    assert (reset.stream_id, reset.error_code) == (11, 8)
    assert isinstance(settings, SettingsFrame)
    assert (settings.stream_id, set(settings.flags), settings.settings) == (0, set(), {2: 0, 5: 20_000})
    assert isinstance(goaway, GoAwayFrame)
    assert (goaway.last_stream_id, goaway.error_code, goaway.additional_data) == (9, 11, b"why")
