"""Frames made by hand, read back by hyperframe."""

from __future__ import annotations

from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, PingFrame, WindowUpdateFrame
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


def test_other_frames() -> None:
    """HEADERS, WINDOW_UPDATE, PING and GOAWAY read back as what they were made of."""
    made = (
        frames.header_frames(3, b"block", end_stream=True)
        + frames.window_update(7, 1234)
        + frames.ping(b"12345678")
        + frames.goaway(9, frames.ErrorCode.ENHANCE_YOUR_CALM, "why")
    )
    headers, update, ping, goaway = read_back(made)
    assert isinstance(headers, HeadersFrame)
    assert (headers.stream_id, headers.data, set(headers.flags)) == (3, b"block", {"END_STREAM", "END_HEADERS"})
    assert isinstance(update, WindowUpdateFrame)
    assert (update.stream_id, update.window_increment) == (7, 1234)
    assert isinstance(ping, PingFrame)
    assert ping.opaque_data == b"12345678"
    assert isinstance(goaway, GoAwayFrame)
    assert (goaway.last_stream_id, goaway.error_code, goaway.additional_data) == (9, 11, b"why")
