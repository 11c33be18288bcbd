"""Messages whose content is read into the frames that carry it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.grpc.framing import MessageDecoder
from jobmaster.grpc.lazy_messages import StoredMessages
from jobmaster.http2.frames import HEADER, empty_data_frames

HEAD = b"<%d>"
POISON = 0xAA


@dataclass
class Memory:
    """A content; what begins at a byte of `far` has to be waited for."""

    data: bytes
    far: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.length = len(self.data)

    def read_at_once(self, places: Sequence[memoryview], start: int) -> bool:
        """Fills the places, or some of them."""
        for place in places:
            if start in self.far:
                return False
            place[:] = self.data[start : start + len(place)]
            start += len(place)
        return True

    async def read(self, start: int, count: int) -> bytes:
        """What a disk would give."""
        return self.data[start : start + count]


def head_for(length: int) -> bytes:
    """A head that depends on what comes after it."""
    return HEAD % length


def filled(messages: StoredMessages, offset: int, count: int, largest: int) -> bytes | None:
    """The payloads of frames with `count` bytes, in buffers that held something else before."""
    whole, payloads = empty_data_frames(1, count, largest)
    for payload in payloads:
        payload[:] = bytes([POISON]) * len(payload)
    if not messages.fill(offset, payloads):
        return None
    assert len(whole) == count + HEADER.size * len(payloads)
    return b"".join(payloads)


def whole_of(messages: StoredMessages) -> bytes:
    """All bytes of the run, in one frame."""
    data = filled(messages, 0, messages.length, messages.length)
    assert data is not None
    return data


@given(data=st.binary(min_size=1, max_size=300), share=st.integers(1, 400))
def test_they_are_grpc_messages(data: bytes, share: int) -> None:
    """Each message has its prefix, its head and its share of the content; there are no more than it takes."""
    messages = MessageDecoder(1000).feed(whole_of(StoredMessages(Memory(data), share, head_for)))
    shares = [data[start : start + share] for start in range(0, len(data), share)]
    assert messages == [head_for(len(each)) + each for each in shares]


@given(
    data=st.binary(min_size=1, max_size=300),
    share=st.integers(1, 400),
    turns=st.lists(st.integers(1, 90), min_size=1),
    largest=st.integers(1, 60),
)
def test_any_turns_give_the_same_bytes(data: bytes, share: int, turns: list[int], largest: int) -> None:
    """Wherever the turns and the frames are cut, in heads too, all places are filled, with what belongs there."""
    messages = StoredMessages(Memory(data), share, head_for)
    whole, sent = whole_of(messages), b""
    while len(sent) < messages.length:
        count = min(turns[len(sent) % len(turns)], messages.length - len(sent))
        turn = filled(messages, len(sent), count, largest)
        assert turn is not None
        sent += turn
    assert sent == whole


@given(offset=st.integers(0, 60), count=st.integers(1, 80))
async def test_what_has_to_be_waited_for_is_loaded(offset: int, count: int) -> None:
    """What has to be waited for is not filled in; once it is loaded it is, and nothing of it is kept afterwards."""
    content = Memory(bytes(range(50)))
    messages = StoredMessages(content, 20, head_for)
    count = min(count, messages.length - offset)
    expected = whole_of(messages)[offset : offset + count]
    content.far = set(range(50))
    at_once = filled(messages, offset, count, 7)
    assert at_once in {None, expected}  # heads alone need no content
    await messages.load(offset, count)
    assert filled(messages, offset, count, 7) == expected
    assert filled(messages, offset, count, 7) == at_once


@pytest.mark.parametrize(("offset", "size"), [(9, 1), (0, 10)])
def test_beyond_the_last_message(offset: int, size: int) -> None:
    """Asking for what is not there is a mistake of ours, and an error."""
    messages = StoredMessages(Memory(b"x"), 1, head_for)
    assert messages.length == 9
    with pytest.raises(IndexError):
        messages.fill(offset, [memoryview(bytearray(size))])
