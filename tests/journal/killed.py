"""A journal that records until it is killed, and prints the number of each event that is acknowledged."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import trio

from jobmaster.journal.journal import Journal, open_journal
from jobmaster.journal.stored import Retention
from tests.journal.jobs import NEVER_EXECUTED, RETURNED, STOPPED, launched

LIVES: Final = (RETURNED, STOPPED, (NEVER_EXECUTED,), RETURNED[:1])
KEPT: Final = Retention(ended=100, ended_of_client=100)


async def record_lives(journal: Journal, start: int) -> None:
    """Records one job after the other."""
    for number in range(start, 1 << 40):
        first = launched()
        for event in (first, *LIVES[number % len(LIVES)]):
            seq = await journal.record(first.id, event)
            os.write(1, f"{seq} {first.id} {type(event).__name__}\n".encode())


async def prune(journal: Journal) -> None:
    """Removes what is too much."""
    while True:
        await journal.remove([job_id for job_id, _ in await journal.expired(KEPT)])
        await trio.sleep(0.01)


async def main(path: Path) -> None:
    """Records and prunes until killed."""
    async with open_journal(path) as journal, trio.open_nursery() as nursery:
        for start in range(6):
            nursery.start_soon(record_lives, journal, start)
        nursery.start_soon(prune, journal)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
