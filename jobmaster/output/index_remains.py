"""What is left of an index that a crash, or somebody, has damaged, beside an output of which so many bytes are there. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jobmaster.output.index import Entry, Header
from jobmaster.output.index_search import IndexView


@dataclass(frozen=True, slots=True)
class Intact:
    """Entries of which the last is no gap; where they end, the output ends at `output_size` at the latest."""

    count: int
    last: Entry | None
    output_size: int


def intact(view: IndexView, output_size: int) -> Intact:
    """What of an index is to be kept.

    None of the entries at its end that are damaged, that are of bytes that never came, or of a gap: behind one that was
    closed there were others.
    """
    for number, entry in view.backwards():
        if entry.offset <= output_size and not entry.is_gap:
            return Intact(number + 1, entry, output_size)
    return Intact(min(view.header.first_entry, view.count), None, output_size)


def intact_of_cut(view: IndexView, output_size: int) -> Intact:
    """The same of an output that somebody has cut off; where that was in a gap, it ends before that."""
    for number, entry in view.backwards():
        if entry.offset <= output_size:
            if not entry.is_gap:
                return Intact(number + 1, entry, output_size)
            output_size = entry.offset
    return Intact(min(view.header.first_entry, view.count), None, output_size)


def known_end(view: IndexView, output_size: int) -> int:
    """How far the output went at least, where somebody has cut it off; 0 where nobody has.

    The last entry is of bytes that were there before others came, or of what is behind a gap that was being closed.
    """
    header = view.header
    if header.open_reason is not None:
        return header.gap_end if header.gap_start > output_size else 0
    _, last = next(view.backwards(), (0, None))
    if last is None or last.offset <= output_size:
        return 0
    was_closing = header.gap_start <= output_size and last.offset == header.gap_end
    return 0 if was_closing else last.offset


def shortened(header: Header, output_size: int) -> Header:
    """The header of an output that somebody has cut off in the range that was dropped."""
    start = min(header.dropped_start, output_size)
    dropped = min(header.dropped, output_size - start)
    return replace(header, dropped_start=start, dropped_end=output_size, dropped=dropped)
