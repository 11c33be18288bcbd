"""gRPC message framing."""

from __future__ import annotations

import struct
import tracemalloc
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.grpc.framing import MessageCompressed, MessageDecoder, MessageTooLarge, prefix_for

MAX = 1000
messages = st.lists(st.binary(max_size=MAX), max_size=8)


def framed(payloads: list[bytes]) -> bytes:
    """Messages as they are on the wire."""
    return b"".join(prefix_for(len(payload)) + payload for payload in payloads)


def fed(decoder: MessageDecoder, pieces: list[bytes]) -> list[bytes]:
    """All messages that come of pieces of the stream."""
    return [message for piece in pieces for message in decoder.feed(piece)]


@pytest.mark.parametrize(("length", "prefix"), [(0, "0000000000"), (1, "0000000001"), (2**32 - 1, "00ffffffff")])
def test_the_prefix_is_that_of_grpc(length: int, prefix: str) -> None:
    """A flag byte of 0 and a big-endian length of four bytes."""
    assert prefix_for(length) == bytes.fromhex(prefix)


@given(messages, st.data())
def test_any_cutting_gives_the_same_messages(payloads: list[bytes], data: st.DataObject) -> None:
    """However the byte stream is cut, also into nothings, the messages are the same, and nothing is left over."""
    stream = framed(payloads)
    cuts = sorted(data.draw(st.lists(st.integers(min_value=0, max_value=len(stream)), max_size=20)))
    decoder = MessageDecoder(MAX)
    pieces = [stream[start:end] for start, end in pairwise([0, *cuts, len(stream)])]
    assert fed(decoder, pieces) == payloads
    assert decoder.is_between_messages


@given(messages)
def test_byte_by_byte(payloads: list[bytes]) -> None:
    """The finest cutting gives the same messages too."""
    assert fed(MessageDecoder(MAX), [bytes([byte]) for byte in framed(payloads)]) == payloads


@given(messages, st.data())
def test_a_message_is_given_as_soon_as_it_is_complete(payloads: list[bytes], data: st.DataObject) -> None:
    """Of a beginning of the stream, exactly the complete messages come out; a started one is known to be started."""
    stream = framed(payloads)
    end = data.draw(st.integers(min_value=0, max_value=len(stream)))
    decoder = MessageDecoder(MAX)
    ends = [len(framed(payloads[: count + 1])) for count in range(len(payloads))]
    complete = sum(position <= end for position in ends)
    assert decoder.feed(stream[:end]) == payloads[:complete]
    assert decoder.is_between_messages == (end in {0, *ends})


@pytest.mark.parametrize("length", [MAX + 1, 2**31, 2**32 - 1])
def test_too_large_is_refused_at_its_prefix(length: int) -> None:
    """A prefix that announces too much is refused before a byte of the message has come."""
    with pytest.raises(MessageTooLarge, match=f"{length} bytes; at most {MAX}"):
        MessageDecoder(MAX).feed(struct.pack(">BI", 0, length))


def test_the_largest_is_taken() -> None:
    """The bound itself is allowed."""
    assert MessageDecoder(MAX).feed(framed([bytes(MAX)])) == [bytes(MAX)]


@pytest.mark.parametrize("flags", [1, 2, 255])
def test_compressed_is_refused(flags: int) -> None:
    """Any flag is refused: only identity was offered, and no other flag is known."""
    with pytest.raises(MessageCompressed):
        MessageDecoder(MAX).feed(struct.pack(">BI", flags, 3) + b"abc")


@given(st.lists(st.binary(max_size=3 * MAX), max_size=10))
def test_garbage_is_messages_or_a_refusal(pieces: list[bytes]) -> None:
    """Any bytes at all are either cut into messages of at most the bound or refused."""
    decoder = MessageDecoder(MAX)
    with suppress(MessageTooLarge, MessageCompressed):
        assert all(len(message) <= MAX for message in fed(decoder, pieces))


def test_what_is_held_is_bounded() -> None:
    """After any number of messages the decoder holds no more than the one that is unfinished."""
    bound = 2**20
    stream = framed([bytes(1000)] * 1000)
    decoder = MessageDecoder(bound)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(20):
            decoder.feed(stream[:-1])
            decoder.feed(stream[-1:])
        decoder.feed(prefix_for(bound))
        for _ in range(15):
            decoder.feed(bytes(2**16))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held - before < bound + 2**16
