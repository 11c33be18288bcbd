"""Fills the disk that a folder is on and records on it all the same; run in a mount namespace of its own.

Prints what has become of each step. The folder is an empty tmpfs of a few MiB.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import trio

from jobmaster.errors import JournalUnavailable
from jobmaster.job.record import Launched
from jobmaster.job.state import Executed
from jobmaster.journal import writer
from jobmaster.journal.journal import Journal, open_journal
from tests.journal.jobs import finished, launched

JOBS: Final = 40


async def fill_up(folder: Path) -> None:
    """Starts jobs, fills the disk, ends the jobs, and makes space again."""
    writer.LAST_RETRY_SECONDS = 0.05  # type: ignore[misc]
    filler = folder / "filler"
    async with open_journal(folder / "journal.db") as journal:
        jobs = [launched() for _ in range(JOBS)]
        for job in jobs:
            await journal.record(job.id, job)
            await journal.record(job.id, Executed())
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError as error:
                print("filled:", error.strerror)
        await fill_the_log(journal)
        for job in jobs[:-1]:
            await journal.record(job.id, finished())
        print("ends: written")
        filler.unlink()
        with trio.fail_after(60):
            while not journal.is_writable:
                await trio.sleep(0.01)
        print("a launch:", await outcome(journal, launched()))
        await journal.record(jobs[-1].id, finished())
    async with open_journal(folder / "journal.db") as journal:
        open_jobs = {job.launched.id for job in await journal.open_jobs()}
        print("open jobs:", len(open_jobs & {job.id for job in jobs}))


async def fill_the_log(journal: Journal) -> None:
    """Launches jobs until the disk takes no more."""
    while (said := await outcome(journal, launched())) == "written":
        pass
    print("a launch:", said)


async def outcome(journal: Journal, job: Launched) -> str:
    """What becomes of a launch."""
    try:
        await journal.record(job.id, job)
    except JournalUnavailable as error:
        return str(error)
    return "written"


if __name__ == "__main__":
    trio.run(fill_up, Path(sys.argv[1]))
