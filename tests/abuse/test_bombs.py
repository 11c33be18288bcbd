"""Few bytes that mean much work or much memory: HPACK's integers and tables, compressed messages, giant lengths."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.abuse.attack import MEMORY_KIB, WORST_STALL_MS, Outcome, best_of
from tests.abuse.attacker import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    attacking,
    block,
    call,
    data,
    frame,
    headers,
    request_fields,
)
from tests.abuse.program import attacked

pytestmark = pytest.mark.abuse

FRAME_SIZE_ERROR, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 6, 9, 11
MIB: Final = 1024 * 1024
PART: Final = 16 * 1024
"""Bytes of the largest frame."""
CALLS: Final = 100
UNFINISHED: Final = 40
"""Calls with 4 MiB each: more than twice of what may be held."""
HELD_KIB: Final = 64 * 1024
"""What one connection's unfinished messages may hold."""
HOLDING_SECONDS: Final = 8.0
"""Less than the server grants a caller for its message."""


def in_parts(bomb: bytes) -> bytes:
    """A header block as HEADERS and as many CONTINUATIONs as it takes."""
    first, *others = [bomb[start : start + PART] for start in range(0, len(bomb), PART)]
    flags = 0 if others else END_HEADERS
    frames = [frame(HEADERS, first, flags=flags, stream_id=1)]
    frames += [frame(CONTINUATION, part, stream_id=1) for part in others[:-1]]
    frames += [frame(CONTINUATION, part, flags=END_HEADERS, stream_id=1) for part in others[-1:]]
    return b"".join(frames)


def integer(octets: int) -> bytes:
    """A header field whose index has that many octets."""
    return b"\xff" + b"\x80" * octets + b"\x01"


def table(entry: int, references: int) -> bytes:
    """A header block that puts a field of `entry` bytes into the table and then names it again and again."""
    length = entry - 127
    field = b"\x40\x01x\x7f" + bytes((length % 128 + 128, length // 128)) + b"y" * entry
    return block(request_fields("Hang")) + field + b"\xbe" * references


BOMBS: Final[dict[str, tuple[bytes, int]]] = {
    "integer of 1 MiB": (in_parts(integer(MIB)), ENHANCE_YOUR_CALM),
    "integer of 1 MiB in one frame": (frame(HEADERS, integer(MIB), flags=END_HEADERS, stream_id=1), FRAME_SIZE_ERROR),
    "integer of 16 KiB": (in_parts(integer(PART - 2)), COMPRESSION_ERROR),
    "table size updates": (in_parts(b"\x20" * PART), COMPRESSION_ERROR),
    "table size updates of 4 MiB": (in_parts(b"\x20" * (4 * MIB)), ENHANCE_YOUR_CALM),
}
"""The bytes, and the error code of the GOAWAY."""

DEAR_LISTS: Final[dict[str, bytes]] = {
    "table of giants": in_parts(table(4000, 12_000)),
    "table of giants, few": in_parts(table(4000, 100)),
    "ten thousand fields": in_parts(block(request_fields("Hang")) + b"\x82" * 10_000),
    "Huffman code": in_parts(block(request_fields("Hang")) + b"\x00\x01x\xff\x81\x7c" + b"\x00" * 16_000),
    "two frames of Huffman code": in_parts(
        block(request_fields("Hang")) + (b"\x00\x01x\xff\x81\x6d" + b"\x00" * 14_080) * 2
    ),
}
"""Header blocks of a list that is too long."""


@pytest.mark.parametrize("name", BOMBS)
async def test_header_bomb(certificates: Path, name: str) -> None:
    """A header block that is dear to decode ends its connection before it is paid for."""
    sent, code = BOMBS[name]
    async with attacked(certificates) as program:
        outcome = await best_of(program, sent)
    print(f"{name}: {outcome}")
    assert outcome.goaway is not None
    assert outcome.goaway[0] == code
    assert_cheap(outcome)


@pytest.mark.parametrize("name", DEAR_LISTS)
async def test_dear_list(certificates: Path, name: str) -> None:
    """A list that is too long is refused for its call alone, however little room it takes on the wire."""
    async with attacked(certificates) as program:
        async with attacking(program) as attacker:
            await attacker.send(DEAR_LISTS[name] + data(1, bytes(5)) + call(3))
            for stream_id, status in ((1, b"8"), (3, b"0")):
                answer = await attacker.answer(stream_id)
                assert answer is not None, attacker.goaway
                assert answer.fields[b"grpc-status"] == status
        outcome = await best_of(program, DEAR_LISTS[name], is_closed=False)
    print(f"{name}: {outcome}")
    assert_cheap(outcome)


def assert_cheap(outcome: Outcome) -> None:
    """Neither the event loop nor the memory paid for it."""
    assert outcome.worst.worst_busy_ms < WORST_STALL_MS
    assert outcome.growth_kib < MEMORY_KIB


def zipped_zeros(size: int) -> bytes:
    """So many zero bytes, compressed as gzip does."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    return squeeze.compress(bytes(size)) + squeeze.flush()


def message_frames(stream_id: int, message: bytes) -> bytes:
    """Bytes of a message in DATA frames, the last of which ends the stream."""
    parts = [message[start : start + PART] for start in range(0, len(message), PART)]
    frames = [frame(DATA, part, stream_id=stream_id) for part in parts[:-1]]
    return b"".join([*frames, frame(DATA, parts[-1], flags=END_STREAM, stream_id=stream_id)])


ZIPPED: Final = zipped_zeros(32 * MIB)
COMPRESSED: Final = b"\x01" + len(ZIPPED).to_bytes(4, "big") + ZIPPED
GIANT: Final = b"\x00\xff\xff\xff\xff"


@pytest.mark.parametrize(
    ("encoding", "message", "status"),
    [
        (b"gzip", COMPRESSED, b"12"),
        (b"identity", COMPRESSED, b"12"),
        (None, GIANT, b"8"),
        (None, GIANT + bytes(PART), b"8"),
    ],
    ids=["gzip that says so", "gzip in disguise", "length of 4 GiB", "length of 4 GiB and its beginning"],
)
async def test_message_bomb(certificates: Path, encoding: bytes | None, message: bytes, status: bytes) -> None:
    """A message that is compressed or too long is refused for its call alone, without memory for it."""
    async with attacked(certificates) as program, attacking(program) as attacker:
        await attacker.send(call(1))
        assert await attacker.answer(1) is not None
        before = await program.mark()
        for stream_id in range(3, 3 + 2 * CALLS, 2):
            fields = request_fields(grpc_encoding=encoding)
            await attacker.send(headers(stream_id, fields) + message_frames(stream_id, message))
            answer = await attacker.answer(stream_id)
            assert answer is not None, attacker.goaway
            assert answer.fields[b"grpc-status"] == status
        after = await program.until(lambda now: (now.running_handlers, now.streams) == (0, 0))
    print(f"100 messages: memory +{after.peak_rss_kib - before.rss_kib} KiB, stall {after.worst_stall_ms} ms")
    assert after.peak_rss_kib - before.rss_kib < MEMORY_KIB
    assert after.bugs == 0


async def test_unfinished_messages(certificates: Path) -> None:
    """Many calls, each with all of the largest message but its end, do not hold all of that in memory."""
    unfinished = (b"\x00" + (4 * MIB).to_bytes(4, "big") + bytes(4 * MIB - 1))[: 4 * MIB]
    async with attacked(certificates) as program, attacking(program) as attacker:
        before = await program.mark()
        with trio.move_on_after(HOLDING_SECONDS):  # a server that takes no more of it has passed
            for stream_id in range(1, 1 + 2 * UNFINISHED, 2):
                parts = [data(stream_id, unfinished[at : at + PART], ends=False) for at in range(0, 4 * MIB, PART)]
                await attacker.send(headers(stream_id, request_fields()) + b"".join(parts))
        after = await program.report()
    print(f"unfinished messages: memory +{after.peak_rss_kib - before.rss_kib} KiB, stall {after.worst_stall_ms} ms")
    assert after.peak_rss_kib - before.rss_kib < HELD_KIB
