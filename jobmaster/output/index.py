"""What the index of an output says, as bytes and back. Pure.

The index lies beside the file of the output. It tells when the bytes of the output came and of which stream they are, and
which of them are missing. An entry says what the output is from its offset on, up to the offset of the next one: bytes of a
stream that came at its time, or a gap. Entries are in the order of their offsets; where several have the same, the last one
counts.

Every entry has a checksum of its bytes and its number, so that a damaged one is told from a true one, and zeros are none.
What must not be misread is written twice, each entry once more behind itself: the two entries of a gap, and those behind it,
which say by a flag that a gap ends there. So a single damaged entry costs a time, never a byte, and never lets a gap pass for
bytes.

The header has what cannot be found by a search: the range that was dropped, and the last gap, by which one that was being
closed when the server died is told from one that was. Of a gap that is open it has the beginning, and the size of the
output's file is where the gap ends by then. It is written twice as well, one after the other.
"""

from __future__ import annotations

import enum
import struct
import zlib
from dataclasses import dataclass
from typing import Final

ENTRY_SIZE: Final = 16
HEADER_SIZE: Final = 4096
"""Bytes before the first entry: a block of the file system, so that whole blocks of entries can be given back."""
SLOTS: Final = (0, HEADER_SIZE // 2)
"""Where in it the header is written, twice."""
TICK: Final = 10
"""Microseconds, the unit of an entry's time."""

_MAGIC: Final = b"jm-index"
_VERSION: Final = 1
_SLOT: Final = struct.Struct("<8sIIQ9Q")
_CHECKSUM: Final = struct.Struct("<I")
SLOT_SIZE: Final = _SLOT.size + _CHECKSUM.size
_ENTRY: Final = struct.Struct("<QQ")
_LIMIT: Final = 1 << 48
MAX_OFFSET: Final = _LIMIT - 1
"""The largest offset of an entry, that of a gap at the output's end included: from there on, 256 TiB, nothing is kept."""
_OPEN_REASON: Final = 0xFF
_PRESUMES_LOSS: Final = 0x100
"""Flags of a header: the reason of the gap that is open, by its number, and whether some are missing in no gap."""
_ENDS_GAP: Final = 0x40
_IS_GAP: Final = 0x80


class Stream(enum.Enum):
    """Where bytes come from; the numbers are written."""

    BOTH = 1
    """stdout and stderr, which share one pipe."""
    STDOUT = 2
    STDERR = 3


class GapReason(enum.Enum):
    """Why bytes are missing; the numbers are written."""

    DISK_FAILED = 1
    NO_SPACE = 2
    """The disk, or what the job may have of it, was full."""
    CAPPED = 3
    """The output was larger than it may be."""
    NOT_SYNCED = 4
    """The host went down before the disk had them, or somebody removed them."""
    PRUNED = 5
    """The job has ended, and its output was removed to make room; in no index, which goes with it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What an output is from an offset on.

    Attributes:
        time: microseconds since the Unix epoch, rounded down to a TICK.
        what: a stream's bytes, or a gap.
        ends_gap: the bytes before it are a gap's.
    """

    offset: int
    time: int
    what: Stream | GapReason
    ends_gap: bool = False

    @property
    def is_gap(self) -> bool:
        """Whether there are no bytes."""
        return isinstance(self.what, GapReason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What is known of an output beside its entries.

    Attributes:
        epoch: microseconds from the Unix epoch to that of the entries' times.
        sequence: rises with each header that is written.
        dropped_start, dropped_end: the range that was dropped; empty where none was.
        dropped: bytes of it, those aside that a gap in it had lost before.
        head_entries: entries before the dropped range; those from there to `first_entry` count no more.
        first_entry: the number of the first one that counts behind it.
        lost: bytes in all gaps that were closed, but the last.
        gap_start, gap_end: the last one, which is closed if the output's file goes on behind it. Where it is open, it ends
            where the file does, and not before `gap_end`.
        open_reason: of the last one, where it is open.
        presumes_loss: `lost` has bytes of which nobody knows where they are missing: an earlier index was unusable.
    """

    epoch: int
    sequence: int = 0
    dropped_start: int = 0
    dropped_end: int = 0
    dropped: int = 0
    head_entries: int = 0
    first_entry: int = 0
    lost: int = 0
    gap_start: int = 0
    gap_end: int = 0
    open_reason: GapReason | None = None
    presumes_loss: bool = False

    def __post_init__(self) -> None:
        ranges_are_in_order = self.dropped_start <= self.dropped_end and self.gap_start <= self.gap_end
        if not ranges_are_in_order or self.dropped > self.dropped_end - self.dropped_start:
            raise ValueError(f"no header says {self}")
        if self.head_entries > self.first_entry:
            raise ValueError(f"no header says {self}")

    @property
    def has_gaps(self) -> bool:
        """Whether bytes are missing before the output's end."""
        return self.dropped_end > self.dropped_start or self.lost > 0 or self.gap_end > self.gap_start


def encode_header(header: Header) -> bytes:
    """The bytes of one slot."""
    data = _SLOT.pack(
        _MAGIC,
        _VERSION,
        (header.open_reason.value if header.open_reason else 0) | _PRESUMES_LOSS * header.presumes_loss,
        header.sequence,
        header.epoch,
        header.dropped_start,
        header.dropped_end,
        header.dropped,
        header.head_entries,
        header.first_entry,
        header.lost,
        header.gap_start,
        header.gap_end,
    )
    return data + _CHECKSUM.pack(zlib.crc32(data))


def decode_header(block: bytes) -> Header | None:
    """The newest header of a block's slots; None where neither slot has one."""
    found = [header for start in SLOTS if (header := _decode_slot(block[start : start + SLOT_SIZE])) is not None]
    return max(found, key=lambda header: header.sequence, default=None)


def _decode_slot(data: bytes) -> Header | None:
    if len(data) < SLOT_SIZE or _CHECKSUM.unpack_from(data, _SLOT.size)[0] != zlib.crc32(data[: _SLOT.size]):
        return None
    magic, version, flags, sequence, epoch, *numbers = _SLOT.unpack_from(data)
    if magic != _MAGIC or version != _VERSION:
        return None
    names = ("dropped_start", "dropped_end", "dropped", "head_entries", "first_entry", "lost", "gap_start", "gap_end")
    try:
        return Header(
            epoch=epoch,
            sequence=sequence,
            **dict(zip(names, numbers, strict=True)),
            open_reason=GapReason(flags & _OPEN_REASON) if flags & _OPEN_REASON else None,
            presumes_loss=bool(flags & _PRESUMES_LOSS),
        )
    except ValueError:
        return None


def encode_entry(entry: Entry, number: int, epoch: int) -> bytes:
    """The bytes of entry `number`.

    Raises:
        ValueError: its offset or its time has no form.
    """
    ticks = max(0, (entry.time - epoch) // TICK)
    if not 0 <= entry.offset < _LIMIT or ticks >= _LIMIT:
        raise ValueError(f"no entry can say {entry}")
    kind = entry.what.value | (_IS_GAP if entry.is_gap else _ENDS_GAP if entry.ends_gap else 0)
    low, high = entry.offset | (ticks & 0xFFFF) << 48, ticks >> 16 | kind << 32
    return _ENTRY.pack(low, high | _entry_checksum(low, high, number) << 40)


def decode_entry(data: bytes | memoryview, number: int, epoch: int, start: int = 0) -> Entry | None:
    """Entry `number`, whose bytes begin at `start`; None where they are damaged or none."""
    low, high = _ENTRY.unpack_from(data, start)
    checksum, high = high >> 40, high & 0xFF_FFFF_FFFF
    kind = high >> 32
    if kind == 0 or checksum != _entry_checksum(low, high, number):
        return None
    try:
        what = GapReason(kind & 0x7F) if kind & _IS_GAP else Stream(kind & 0x3F)
    except ValueError:
        return None
    ticks = low >> 48 | (high & 0xFFFF_FFFF) << 16
    return Entry(low & (_LIMIT - 1), epoch + ticks * TICK, what, ends_gap=kind & (_IS_GAP | _ENDS_GAP) == _ENDS_GAP)


def _entry_checksum(low: int, high: int, number: int) -> int:
    """24 bits of an entry's other bytes and its number. All 32 bits of the CRC take part, so that no flipped bit escapes."""
    crc = zlib.crc32(_ENTRY.pack(low, high), number & 0xFFFF_FFFF)
    return (crc ^ crc >> 24) & 0xFF_FFFF


def closing_entries(start: int, end: int, reason: GapReason, gap_time: int, stream: Stream, time: int) -> list[Entry]:
    """The entries of a gap and of the bytes that come behind it, each twice."""
    gap, rest = Entry(start, gap_time, reason), Entry(end, time, stream, ends_gap=True)
    return [gap, gap, rest, rest]
