"""What an earlier server has left in its spool, as lines to be written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from jobmaster.audit.entry import Gap, entry_of
from jobmaster.audit.file import Line
from jobmaster.audit.scan import document_of
from jobmaster.audit.spool import Spool, Spooled

_ENDED: Final = "the server ended before these could be written, or as they were"


def unwritten(records: Sequence[Spooled], spool: Spool, sequence: int) -> list[Line]:
    """The entries that are in no file, in the order in which they came; the others are given up in the spool.

    Args:
        records: of the earlier server.
        spool: where they are.
        sequence: of the last entry that is in the files: one with a smaller number was written, whoever was told, and one with a
            greater number was not.
    """
    lines: dict[int, Line] = {}
    written: dict[int, int] = {}
    for record in records:
        document = document_of(record.line)
        entry = None if document is None else entry_of(document)
        if 0 < record.number <= sequence:
            written[record.place] = record.number
        elif entry is not None and not record.is_done:
            lines[record.place] = Line(entry, _begun(record, lines, written, sequence), place=record.place)
            continue
        if not record.is_done:  # else other records may have its room by now
            spool.done(record.place)
    return list(lines.values())


def gap_of_missing(spool: Spool) -> list[Line]:
    """The entries that an earlier server had neither in a file nor in its spool, as one that counts them; none where there are none.

    One that was killed as it wrote them may have written some.
    """
    count, since = spool.missing
    if not count:
        return []
    gap = Gap(at=datetime.now(UTC), since=datetime.fromtimestamp(since, UTC), count=count, why=_ENDED)
    return [Line(gap, missing=count)]


def _begun(record: Spooled, lines: Mapping[int, Line], written: Mapping[int, int], sequence: int) -> Line | int | None:
    """The beginning of a call's end; None where it has none, or that is in no file and never will be."""
    if record.begun_at is not None:
        return lines.get(record.begun_at) or written.get(record.begun_at)
    return record.begun if record.begun is not None and record.begun <= sequence else None
