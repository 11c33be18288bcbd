"""The index's bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobmaster.output.index import (
    ENTRY_SIZE,
    HEADER_SIZE,
    SLOT_SIZE,
    SLOTS,
    TICK,
    Entry,
    GapReason,
    Header,
    Stream,
    closing_entries,
    decode_entry,
    decode_header,
    encode_entry,
    encode_header,
)

EPOCH = 1_790_000_000_000_000
OFFSETS = st.integers(0, 2**48 - 1)
TIMES = st.integers(0, 2**48 - 1).map(lambda ticks: EPOCH + ticks * TICK)
DATA = st.builds(Entry, OFFSETS, TIMES, st.sampled_from(Stream), ends_gap=st.booleans())
GAPS = st.builds(Entry, OFFSETS, TIMES, st.sampled_from(GapReason))
ENTRIES = DATA | GAPS
NUMBERS = st.integers(0, 2**40)
HEADER = Header(
    epoch=EPOCH,
    sequence=7,
    dropped_start=4096,
    dropped_end=12288,
    dropped=5000,
    lost=3,
    open_reason=GapReason.NO_SPACE,
    presumes_loss=True,
)


def flipped(data: bytes, bit: int) -> bytes:
    """The same bytes with one bit changed."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def block(*slots: bytes) -> bytes:
    """A header's block with these slots."""
    made = bytearray(HEADER_SIZE)
    for start, slot in zip(SLOTS, slots, strict=False):
        made[start : start + len(slot)] = slot
    return bytes(made)


@given(ENTRIES, NUMBERS)
def test_an_entry_is_what_was_written(entry: Entry, number: int) -> None:
    """Every entry that has a form is read as it was written, under its number."""
    data = encode_entry(entry, number, EPOCH)
    assert len(data) == ENTRY_SIZE
    assert decode_entry(data, number, EPOCH) == entry


@given(ENTRIES, NUMBERS)
@settings(deadline=None, max_examples=30)
def test_no_flipped_bit_passes(entry: Entry, number: int) -> None:
    """An entry of which any one bit is another is none."""
    data = encode_entry(entry, number, EPOCH)
    assert [bit for bit in range(8 * ENTRY_SIZE) if decode_entry(flipped(data, bit), number, EPOCH) is not None] == []


@given(ENTRIES, NUMBERS)
def test_an_entry_of_another_number_is_none(entry: Entry, number: int) -> None:
    """An entry that stands in the place of the next one is damaged."""
    assert decode_entry(encode_entry(entry, number, EPOCH), number + 1, EPOCH) is None


@given(NUMBERS)
def test_zeros_are_no_entry(number: int) -> None:
    """Room that was allocated ahead, or a hole, has no entry."""
    assert decode_entry(bytes(ENTRY_SIZE), number, EPOCH) is None


@pytest.mark.parametrize(
    "entry",
    [Entry(2**48, EPOCH, Stream.BOTH), Entry(-1, EPOCH, Stream.BOTH), Entry(0, EPOCH + (2**48) * TICK, Stream.BOTH)],
)
def test_what_has_no_form(entry: Entry) -> None:
    """An offset or a time that does not fit is an error, not another number."""
    with pytest.raises(ValueError, match="no entry can say"):
        encode_entry(entry, 0, EPOCH)


def test_a_time_before_the_epoch_is_the_epoch() -> None:
    """A clock that was set back gives no time from before the beginning."""
    entry = decode_entry(encode_entry(Entry(5, EPOCH - 10**6, Stream.STDERR), 0, EPOCH), 0, EPOCH)
    assert entry == Entry(5, EPOCH, Stream.STDERR)


def test_a_gap_is_said_twice() -> None:
    """Of a gap and of what comes behind it there are two entries each, and the latter say that a gap ends there."""
    entries = closing_entries(10, 20, GapReason.NO_SPACE, EPOCH, Stream.BOTH, EPOCH + 50)
    gap, rest = Entry(10, EPOCH, GapReason.NO_SPACE), Entry(20, EPOCH + 50, Stream.BOTH, ends_gap=True)
    assert entries == [gap, gap, rest, rest]


def test_a_header_is_what_was_written() -> None:
    """Whether its two slots have it, or only one."""
    slot = encode_header(HEADER)
    assert len(slot) == SLOT_SIZE
    for slots in ((slot, slot), (slot, b""), (b"", slot)):
        assert decode_header(block(*slots)) == HEADER


def test_the_newer_header_counts() -> None:
    """Where the second slot was not yet written, the first one counts, and the second where the first was torn."""
    newer = encode_header(replace(HEADER, sequence=8, dropped_end=16384))
    older = encode_header(HEADER)
    assert decode_header(block(newer, older)) == replace(HEADER, sequence=8, dropped_end=16384)
    assert decode_header(block(newer[:-1], older)) == HEADER


def test_no_flipped_bit_passes_in_a_header() -> None:
    """A slot of which any one bit is another does not count; the other one does."""
    slot = encode_header(HEADER)
    for bit in range(8 * SLOT_SIZE):
        assert decode_header(block(flipped(slot, bit))) is None
        assert decode_header(block(flipped(slot, bit), slot)) == HEADER


@pytest.mark.parametrize("data", [b"", bytes(HEADER_SIZE), b"x" * HEADER_SIZE, encode_header(HEADER)[:-1]])
def test_what_is_no_header(data: bytes) -> None:
    """Zeros, something else, or too little of it."""
    assert decode_header(data) is None


@pytest.mark.parametrize("change", [{"dropped_start": 12289}, {"dropped": 8193}, {"head_entries": 1}, {"gap_start": 1}])
def test_a_header_is_valid(change: dict[str, Any]) -> None:
    """One whose numbers cannot be true does not exist."""
    with pytest.raises(ValueError, match="no header says"):
        replace(HEADER, **change)
