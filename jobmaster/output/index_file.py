"""The file of an index: written by the pump's thread alone, read by whoever follows the output.

Theory of operation: entries are appended, never changed. The writer says by `count` how many there are; what lies behind them
is no entry yet. Where something must not be half done (a gap that is closed, a range that is dropped), it is in the index,
and where a power cut could tear it apart from the output, on the disk, before the output's file is touched. Room for the
next entries is allocated ahead, so that a gap can be told on a disk that has become full.

What a crash leaves is put right by `reopen`, by the size of the output's file: entries of bytes that never came, and of a
gap that was not closed, are cut off.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from jobmaster.output.holes import BLOCK, NOT_OFFERED, allocate, punch
from jobmaster.output.index import (
    ENTRY_SIZE,
    HEADER_SIZE,
    SLOTS,
    Entry,
    GapReason,
    Header,
    Stream,
    closing_entries,
    decode_header,
    encode_entry,
    encode_header,
)
from jobmaster.output.index_reader import Reader, entry_position, view_of
from jobmaster.output.index_remains import intact, intact_of_cut, known_end, shortened
from jobmaster.output.index_search import IndexView

CLOSING: Final = 4
"""Entries that close a gap."""
RESERVED: Final = 16
"""Entries for which there is always room, as far as the disk had any: those of gaps."""
SOON: Final = 10_000
LATE: Final = 100_000
"""Microseconds between two entries of one stream: SOON where MANY bytes came, at the latest LATE."""
MANY: Final = 256
"""So many bytes pay for their entry, which is a 16th of them. Those that came LATE and are fewer have their own as long as
all of these together take less than a step (`step_size`); with each further step they are half as many: after twice,
four times, … as long. So an output of single bytes, of whatever length, has an index of a few steps."""
STEPS: Final = 16
"""In so many of them LATE becomes 1.8 hours."""
DEFAULT_STEP: Final = 4 * 1024 * 1024
"""Bytes of a step: of an output that is kept whole, or of one with the default cap."""

_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CONTINUE: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class IndexFile:
    """An index that is being written. One thread at a time may use it; all of it blocks as long as the disk does.

    Attributes:
        header: as it was written last.
        count: entries, the last of which is `last`.
        output_size: after `reopen`, what is to be the size of the output's file, which ends in a gap otherwise.
        unclosed: after `reopen`, bytes of a gap there that was not closed, or that somebody has cut off, as far as the index
            knows.
        open_reason: after `reopen`, the reason of that gap, where it was open: the output's file reaches over it.
        was_cut: after `reopen`, whether somebody has cut it off.
        was_unusable: there was one that nothing could be learnt from.
        step_size: bytes of entries that those of few bytes may take, before they become fewer.
    """

    step_size = DEFAULT_STEP
    _has_announced = False
    """Whether there are entries of a gap behind those that count."""

    def __init__(self, path: Path, epoch: int, output_size: int = 0) -> None:
        """Creates the file, 0600.

        Args:
            path: of the file.
            epoch: the time, in microseconds since the Unix epoch.
            output_size: the size of the output's file.

        Raises:
            OSError: there is one already, or the disk fails.
        """
        fd = os.open(path, _CREATE, 0o600)
        try:
            self._begin(fd, epoch, output_size)
        except BaseException:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise

    def _begin(self, fd: int, epoch: int, output_size: int) -> None:
        self.fd = fd
        self.count = 0
        self.last: Entry | None = None
        self.output_size = output_size
        self.unclosed = 0
        self.open_reason: GapReason | None = None
        self.was_unusable = False
        self.was_cut = False
        self._slots = SLOTS
        self._room = 0
        self._sequence = 0
        self._on_disk: Header | None = None
        self.header = self._announced = Header(epoch=epoch)
        self.put_header(self.header)

    @classmethod
    def reopen(cls, path: Path, output_size: int, epoch: int) -> IndexFile:
        """The index of an output that an earlier server kept, put right.

        One that is not there, or unusable, is begun anew: what is in the output by then has no times.

        Args:
            path: of the file.
            output_size: the size of the output's file.
            epoch: the time, in microseconds since the Unix epoch, for a new one.

        Raises:
            OSError: the file cannot be opened or written, or is none.
        """
        try:
            fd = os.open(path, _CONTINUE)
        except FileNotFoundError:
            return cls(path, epoch, output_size)
        index = cls.__new__(cls)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise FileExistsError(f"{path} is no regular file")
            index._continue(fd, status.st_size, output_size, epoch)
        except BaseException:
            os.close(fd)
            raise
        return index

    def _continue(self, fd: int, size: int, output_size: int, epoch: int) -> None:
        block = os.pread(fd, HEADER_SIZE, 0)
        header = decode_header(block)
        if header is None:
            os.ftruncate(fd, 0)
            self._begin(fd, epoch, output_size)
            self.was_unusable = True
            return
        self.fd = fd
        self._slots = SLOTS
        self._sequence = header.sequence
        self._on_disk = header
        self._mend_slots(block, header)
        self._room = 0
        view, is_open = view_of(fd, header, size), header.open_reason is not None
        known = known_end(view, output_size)
        has_end = not is_open and header.gap_end <= output_size
        was_cut = output_size < header.gap_start  # by somebody, maybe in an earlier gap
        find = intact_of_cut if was_cut else intact
        found = find(view, output_size if has_end or was_cut else header.gap_start)
        self.count, self.last, self.output_size = found.count, found.last, found.output_size
        os.ftruncate(fd, HEADER_SIZE + self.count * ENTRY_SIZE)
        self.unclosed = 0
        self.open_reason = None
        self.was_unusable = False
        self.header = self._announced = header
        if self.count < header.first_entry:  # entries that come now are to be found
            head_entries = min(header.head_entries, self.count)
            self.put_header(replace(header, head_entries=head_entries, first_entry=self.count))
            header = self.header
        if header.gap_start > self.output_size:  # somebody has cut it off
            self.put_header(replace(header, lost=self._gaps_there(), gap_start=0, gap_end=0, open_reason=None))
        elif is_open:
            self.unclosed = max(output_size, header.gap_end) - header.gap_start
            self.open_reason = header.open_reason
        elif header.gap_end > self.output_size:
            self.unclosed = header.gap_end - header.gap_start
            self.header = replace(header, gap_start=0, gap_end=0)
        if header.dropped_end > self.output_size:
            self.put_header(shortened(self.header, self.output_size))
        self.was_cut = known > self.output_size
        if self.was_cut:
            self.unclosed = known - self.output_size

    def _gaps_there(self) -> int:
        header, view = self.header, self.view
        head = view.bytes_in_gaps(0, header.dropped_start) if header.dropped_start else 0
        return head + view.bytes_in_gaps(header.dropped_end, self.output_size)

    @property
    def view(self) -> IndexView:
        """The entries of now."""
        return IndexView(self.header, self.count, Reader(self.fd))

    @property
    def size(self) -> int:
        """Bytes of the entries that count."""
        return (self.count - self.header.first_entry + self.header.head_entries) * ENTRY_SIZE

    @property
    def lost(self) -> int:
        """Bytes in all gaps that were closed."""
        header = self.header
        return header.lost + (0 if header.open_reason else header.gap_end - header.gap_start)

    def close(self) -> None:
        """Closes the file. Idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def is_due(self, offset: int, stream: Stream, time: int, count: int) -> bool:
        """Whether an entry is to be written before `count` bytes that come now."""
        last = self.last
        if last is None or last.what is not stream:
            return True
        passed = time - last.time
        if offset + count - last.offset >= MANY:
            return passed >= SOON
        if passed < LATE:
            return False
        kept = offset - self.header.dropped - self.lost
        steps = max(0, self.size - kept * ENTRY_SIZE // MANY) // self.step_size
        return passed >= LATE << min(steps, 2 * STEPS)

    def note(self, offset: int, stream: Stream, time: int, count: int) -> None:
        """Writes an entry for `count` bytes that are about to be written, if one is due; a time not into the room of gaps.

        Raises:
            OSError: the disk does not take it, and without it the bytes would be told as those of another stream.
        """
        if not self.is_due(offset, stream, time, count):
            return
        is_vital = self.last is not None and self.last.what not in {stream, Stream.BOTH}
        try:
            if self._has_room(1 + RESERVED) or (is_vital and self._has_room(1 + CLOSING)):
                self._append([Entry(offset, self._not_before_last(time), stream)])
            elif is_vital:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            if is_vital:
                raise

    def open_gap(self, start: int, end: int, reason: GapReason) -> None:
        """Has it on the disk that from `start` on, to `end` at least, there is a gap as far as the output's file will reach.

        Raises:
            OSError: the disk fails.
        """
        there = self._on_disk  # which is another one than `header` where a gap was announced, and not closed
        if there is None or there.open_reason is not reason or there.gap_start != start:
            self.put_header(replace(self.header, lost=self.lost, gap_start=start, gap_end=end, open_reason=reason))
            os.fdatasync(self.fd)  # else a power cut could leave a file that reaches over a gap of which nothing tells

    def announce_gap(self, gap: Gap, end: int, stream: Stream, time: int) -> None:
        """Has it on the disk that a gap is about to be closed at `end`; `confirm_gap` follows, or nothing has happened.

        Raises:
            OSError: the disk fails.
        """
        self._has_room(CLOSING)
        self._take_back_entries()
        self._announced = self._next(
            replace(self.header, lost=self.lost, gap_start=gap.start, gap_end=end, open_reason=None)
        )
        self._write_header(self._announced)
        gap_time = self._not_before_last(gap.time)
        self._has_announced = True
        self._write(closing_entries(gap.start, end, gap.reason, gap_time, stream, max(gap_time, time)))
        os.fdatasync(self.fd)

    def _take_back_entries(self) -> None:
        """Those by which the gap was to end sooner, and which the header that is written next is not to be read with."""
        if self._has_announced:
            _write_all(self.fd, bytes(CLOSING * ENTRY_SIZE), entry_position(self.count))
            self._has_announced = False

    def confirm_gap(self, end: int, stream: Stream, time: int) -> None:
        """The gap is closed: there are bytes behind it."""
        self.header = self._announced
        self._has_announced = False
        self.count += CLOSING
        self.last = Entry(end, self._not_before_last(time), stream, ends_gap=True)

    def end_with_gap(self, gap: Gap) -> None:
        """Notes a gap with which the output ends.

        Raises:
            OSError: the disk fails.
        """
        entry = Entry(gap.start, self._not_before_last(gap.time), gap.reason)
        self._has_room(2)
        self._append([entry, entry])

    def presume_lost(self, count: int, *, in_gaps: int) -> None:
        """Says that so many bytes of the output are missing somewhere.

        Args:
            count: all of them.
            in_gaps: those of which it is known where; `note_gap` follows.

        Raises:
            OSError: the disk fails.
        """
        self.put_header(replace(self.header, lost=count, presumes_loss=count > in_gaps))

    def note_gap(self, start: int, end: int, reason: GapReason) -> None:
        """Notes a gap that is counted already; nobody knows when it began.

        Raises:
            OSError: the disk fails.
        """
        time = self._not_before_last(self.header.epoch)
        self._append(closing_entries(start, end, reason, time, Stream.BOTH, time))

    def drop(self, start: int, end: int) -> None:
        """Notes that a range is dropped, which begins where the one does that was dropped before.

        The entries in it are given back.

        Raises:
            OSError: the disk fails; the range counts as dropped only where its header is written.
        """
        header, view = self.header, self.view
        is_first = header.dropped_end == header.dropped_start
        begin = start if is_first else header.dropped_end
        lost = view.bytes_in_gaps(begin, end) if self.lost else 0
        head_entries = view.entries_before(start) if is_first else header.head_entries
        changed = replace(
            header,
            dropped_start=start,
            dropped_end=end,
            dropped=header.dropped + end - begin - lost,
            head_entries=head_entries,
            first_entry=max(head_entries, view.entry_number_at(end)),
        )
        self.put_header(changed)
        first, last = entry_position(head_entries), entry_position(changed.first_entry)
        with suppress(OSError):  # it costs a few bytes
            punch(self.fd, -(-first // BLOCK) * BLOCK, last // BLOCK * BLOCK)

    def put_header(self, header: Header) -> None:
        """Writes the header.

        Raises:
            OSError: the disk fails.
        """
        header = self._next(header)
        self._write_header(header)
        self.header = header

    def _write_header(self, header: Header) -> None:
        """Writes it twice: whenever that is interrupted, one of the two is whole, this one or the one before.

        It begins with the slot that was not whole when it was interrupted last.
        """
        self._sequence, self._on_disk = header.sequence, None
        data = encode_header(header)
        first, second = self._slots
        _write_all(self.fd, data, first)
        self._slots = (second, first)
        _write_all(self.fd, data, second)
        self._on_disk = header

    def _mend_slots(self, block: bytes, header: Header) -> None:
        """Gives both slots the header that counts, where a server died between them."""
        data = encode_header(header)
        for slot in SLOTS:
            if block[slot : slot + len(data)] != data:
                _write_all(self.fd, data, slot)

    def _next(self, header: Header) -> Header:
        return replace(header, sequence=self._sequence + 1)

    def _not_before_last(self, time: int) -> int:
        """Times never go back, as clocks do."""
        return max(time, self.header.epoch if self.last is None else self.last.time)

    def _has_room(self, count: int) -> bool:
        """Whether there is room for so many entries; asks for some where there is not."""
        end = entry_position(self.count + count)
        if end > self._room:
            room = -(-end // BLOCK) * BLOCK
            try:
                allocate(
                    self.fd, entry_position(self.count) // BLOCK * BLOCK, room
                )  # no hole before it is filled again
            except OSError as error:
                if error.errno not in NOT_OFFERED:
                    return False
                room = sys.maxsize  # it will be seen
            self._room = room
        return end <= self._room

    def _append(self, entries: Sequence[Entry]) -> None:
        self._write(entries)
        self.count += len(entries)
        self.last = entries[-1]

    def _write(self, entries: Sequence[Entry]) -> None:
        epoch = self.header.epoch
        data = b"".join(encode_entry(entry, number, epoch) for number, entry in enumerate(entries, self.count))
        _write_all(self.fd, data, entry_position(self.count))


@dataclass(frozen=True, slots=True)
class Gap:
    """A gap that begins at an offset; `time` in microseconds since the Unix epoch."""

    start: int
    time: int
    reason: GapReason


def _write_all(fd: int, data: bytes, position: int) -> None:
    if os.pwrite(fd, data, position) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
