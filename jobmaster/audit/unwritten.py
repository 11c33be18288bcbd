"""What an earlier server has left in its spool, as lines to be written."""

from __future__ import annotations

from collections.abc import Sequence

from jobmaster.audit.entry import entry_of
from jobmaster.audit.file import Line
from jobmaster.audit.scan import document_of
from jobmaster.audit.spool import Spool, Spooled


def unwritten(records: Sequence[Spooled], spool: Spool, sequence: int) -> list[Line]:
    """The entries that are in no file, in the order in which they came; the others are given up in the spool.

    Args:
        records: of the earlier server.
        spool: where they are.
        sequence: of the last entry that is in the files: one with a smaller number was written, whoever was told.
    """
    lines: dict[int, Line] = {}
    numbers: dict[int, int] = {}
    for record in records:
        document = document_of(record.line)
        entry = None if document is None else entry_of(document)
        is_written = record.is_done or 0 < record.number <= sequence
        if is_written or entry is None:
            numbers[record.place] = record.number
            spool.done(record.place)
            continue
        begun: Line | int | None = record.begun
        if record.begun_at is not None:
            begun = lines.get(record.begun_at) or numbers.get(record.begun_at) or None
        lines[record.place] = Line(entry, begun, place=record.place)
    return list(lines.values())
