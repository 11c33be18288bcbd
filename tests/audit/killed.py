"""A server's audit that goes on until it is killed, and prints the number of each beginning that is written."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import trio

from jobmaster.audit.audit import Audit, open_audit
from jobmaster.audit.file import FileBounds
from jobmaster.journal.connection import Synchronous
from jobmaster.journal.journal import Journal, open_journal
from tests.audit.entries import begun, call
from tests.audit.opened import folder_for
from tests.journal.jobs import RETURNED, launched

BOUNDS: Final = FileBounds(size=100_000, kept=0)


async def start_jobs(journal: Journal, audit: Audit) -> None:
    """Starts one job after the other, each with its two entries, and records its life."""
    while True:
        first = launched()
        line = audit.trail.admit(begun(first.id))
        await audit.trail.wait_written(line)
        os.write(1, f"{line.sequence}\n".encode())
        for event in (first, *RETURNED):
            await journal.record(first.id, event)
        audit.trail.put(call(), begun=line)


async def main(folder: Path) -> None:
    """Goes on until killed."""
    async with (
        open_journal(folder / "journal.db", synchronous=Synchronous.OFF) as journal,
        open_audit(folder_for(folder / "audit", BOUNDS), journal, "1") as audit,
        trio.open_nursery() as nursery,
    ):
        for _ in range(4):
            nursery.start_soon(start_jobs, journal, audit)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
