"""Finding in an index what an output is at an offset or a time. It asks for bytes of entries and does nothing else.

Damaged entries are passed over: the range of one of them gets what is said of the bytes before it. Where the entries of a
gap are damaged and those behind it are not, which say that a gap ends there, all that the gap may be is told as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from jobmaster.output.index import ENTRY_SIZE, Entry, GapReason, Header, Stream, decode_entry

ReadEntries = Callable[[int, int], bytes]
"""The bytes of so many entries from a number on; fewer where there are no more."""
AT_A_TIME: Final = 256
"""Entries that are read at a time: one block of the file."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a range of an output is.

    Attributes:
        end: None where it goes on as far as the output does.
        time: microseconds since the Unix epoch when its first bytes came; None where that is not known.
    """

    start: int
    end: int | None
    time: int | None
    what: Stream | GapReason


@dataclass(frozen=True, slots=True)
class IndexView:
    """The entries of an index at one moment: `count` of them, those of the header's dropped range aside."""

    header: Header
    count: int
    read: ReadEntries

    def runs(self, offset: int) -> Iterator[Run]:
        """What the output is from the run on that has `offset`, without an end.

        Bytes before the first entry are of no known time. The range that was dropped is a gap.
        """
        header = self.header
        has_dropped = header.dropped_end > header.dropped_start
        if not has_dropped:
            yield from self._runs_of(0, self.count, offset, 0)
            return
        if offset < header.dropped_start:
            for run in self._runs_of(0, header.head_entries, offset, 0):
                if run.start >= header.dropped_start:
                    break
                yield _cut(run, header.dropped_start)
        if offset < header.dropped_end:
            yield Run(header.dropped_start, header.dropped_end, None, GapReason.CAPPED)
        for run in self._runs_of(header.first_entry, self.count, max(offset, header.dropped_end), header.dropped_end):
            if run.end is None or run.end > header.dropped_end:
                yield Run(max(run.start, header.dropped_end), run.end, run.time, run.what)

    def tells_last_gap(self, end: int) -> bool:
        """Whether the header's last gap, where it was closed before the output's `end`, is in the entries.

        Then all that come before them are there as well.
        """
        header = self.header
        is_closed = header.open_reason is None and header.gap_start < min(header.gap_end, end)
        if not is_closed or header.dropped_start <= header.gap_start < header.dropped_end:
            return True
        run = next(self.runs(header.gap_start))
        return isinstance(run.what, GapReason) and run.end == header.gap_end

    def bytes_behind(self, end: int) -> Iterator[tuple[int, int]] | None:
        """The ranges that are bytes by an entry behind which there is no other, up to `end` and to a gap that is open.

        None where the last entry is one of a gap that was closed: others came behind it.
        """
        header = self.header
        if header.open_reason is not None or header.gap_end > end:
            end = min(end, header.gap_start)
        parts = [(self.backwards(), header.dropped_end, end)]
        if header.dropped_end > header.dropped_start:
            parts.append((self.head_backwards(), 0, header.dropped_start))
        ranges = []
        for entries, start, stop in parts:
            _, last = next(entries, (0, None))
            begin = start if last is None else max(start, last.offset)
            if last is not None and last.is_gap and last.offset < stop:
                return None
            ranges.append((begin, stop))
        return ((begin, stop) for begin, stop in ranges if begin < stop)

    def bytes_in_gaps(self, start: int, end: int) -> int:
        """How many bytes of a range are missing, by the entries."""
        count = 0
        for run in self.runs(start):
            if run.start >= end:
                break
            if isinstance(run.what, GapReason):
                count += max(0, min(end, end if run.end is None else run.end) - max(start, run.start))
        return count

    def tells_all(self, end: int) -> bool:
        """Whether as many bytes are missing by the entries as by the header, the range that was dropped aside."""
        header = self.header
        is_closed = header.open_reason is None and header.gap_end <= end
        lost = header.lost + (header.gap_end - header.gap_start if is_closed else 0)
        lost -= header.dropped_end - header.dropped_start - header.dropped
        told = self.bytes_in_gaps(header.dropped_end, end if is_closed else min(end, header.gap_start))
        if header.dropped_end > header.dropped_start:
            told += self.bytes_in_gaps(0, header.dropped_start)
        return told >= lost

    def offset_at(self, time: int) -> int | None:
        """The offset of the first bytes that came at a time (microseconds since the Unix epoch) or later, by the index.

        The bytes of an entry count as come at its time. None where none came so late.
        """
        low, high = self._searched()
        before = self._last(low, high, lambda entry: entry.time < time)
        if before is not None:
            after = self._first_valid(before[0] + 1, high)
            return None if after is None else max(after[1].offset, self.header.dropped_end)
        if self.header.dropped_end == self.header.dropped_start:
            return 0
        return self._head_offset_at(time)

    def backwards(self) -> Iterator[tuple[int, Entry]]:
        """The entries behind the dropped range that are not damaged, with their numbers, from the last one on."""
        return self._backwards(*self._searched())

    def head_backwards(self) -> Iterator[tuple[int, Entry]]:
        """Likewise, those before the dropped range."""
        return self._backwards(0, min(self.header.head_entries, self.count))

    def entry_number_at(self, offset: int) -> int:
        """The number of the last entry behind the dropped range whose offset is not greater, or that of the first one."""
        low, high = self._searched()
        found = self._last(low, high, lambda entry: entry.offset <= offset)
        return low if found is None else found[0]

    def entries_before(self, offset: int) -> int:
        """How many entries of the beginning have a smaller offset."""
        found = self._last(0, self.count, lambda entry: entry.offset < offset)
        return 0 if found is None else found[0] + 1

    def _backwards(self, low: int, high: int) -> Iterator[tuple[int, Entry]]:
        while high > low:
            first = max(low, high - AT_A_TIME)
            yield from reversed(self._valid(first, high))
            high = first

    def _searched(self) -> tuple[int, int]:
        return min(self.header.first_entry, self.count), self.count

    def _head_offset_at(self, time: int) -> int:
        before = self._last(0, self.header.head_entries, lambda entry: entry.time < time)
        if before is None:
            return 0
        after = self._first_valid(before[0] + 1, self.header.head_entries)
        return self.header.dropped_start if after is None else after[1].offset

    def _runs_of(self, low: int, high: int, offset: int, start: int) -> Iterator[Run]:
        """The runs of entries `low` to `high`, of which the first begin at `start` at the latest."""
        found = self._last(low, high, lambda entry: entry.offset <= offset)
        number, last = (low, None) if found is None else (found[0] + 1, found[1])
        for entry in self._following(number, high):
            begin = start if last is None else last.offset
            if entry.offset > begin:
                yield _run(last, begin, entry)
            last = entry
        yield Run(start, None, None, Stream.BOTH) if last is None else Run(last.offset, None, last.time, last.what)

    def _last(self, low: int, high: int, holds: Callable[[Entry], bool]) -> tuple[int, Entry] | None:
        """The last entry for which a condition holds that holds for all before it."""
        best = None
        while low < high:
            middle = (low + high) // 2
            found = self._first_valid(middle, high)
            if found is None or not holds(found[1]):
                high = middle
            else:
                best = found
                low = found[0] + 1
        return best

    def _first_valid(self, low: int, high: int) -> tuple[int, Entry] | None:
        count = 1
        while low < high:
            last = min(low + count, high)
            if valid := self._valid(low, last):
                return valid[0]
            low, count = last, AT_A_TIME
        return None

    def _following(self, low: int, high: int) -> Iterator[Entry]:
        for first in range(low, high, AT_A_TIME):
            for _, entry in self._valid(first, min(first + AT_A_TIME, high)):
                yield entry

    def _valid(self, low: int, high: int) -> list[tuple[int, Entry]]:
        data = self.read(low, high - low)
        epoch = self.header.epoch
        return [
            (number, entry)
            for number, start in enumerate(range(0, len(data) - ENTRY_SIZE + 1, ENTRY_SIZE), low)
            if (entry := decode_entry(data, number, epoch, start)) is not None
        ]


def _run(last: Entry | None, begin: int, following: Entry) -> Run:
    """What is from `last` on up to the entry that follows."""
    if following.ends_gap and not (last is not None and last.is_gap):
        return Run(begin, following.offset, None, GapReason.DISK_FAILED)  # the gap's own entries are damaged
    if last is None:
        return Run(begin, following.offset, None, Stream.BOTH)
    return Run(last.offset, following.offset, last.time, last.what)


def _cut(run: Run, end: int) -> Run:
    return run if run.end is not None and run.end <= end else Run(run.start, end, run.time, run.what)
