"""What a kept database has, and the program that makes one: `python -m tests.journal.keeping VERSION`.

A database of each version of the tables is kept compressed in `databases`, made by the last program of that version.
"""

from __future__ import annotations

import gzip
import sys
import tempfile
from pathlib import Path
from typing import Final

from jobmaster.job.cause import FailedToStart, OomKilled, ServerLost, ServerShutdown, Signalled
from jobmaster.job.record import JobEvent, Launched, OutputLost
from jobmaster.job.request import RequestError
from jobmaster.job.state import Executed
from jobmaster.journal.database import Database
from jobmaster.journal.stored import Entry
from tests.journal.jobs import NEVER_EXECUTED, RETURNED, STOPPED, database_in, finished, job_id, key, launched

DATABASES: Final = Path(__file__).with_name("databases")
ERROR: Final = RequestError(kind="command_not_runnable", text="command 'x' not found")

LIVES: Final[tuple[tuple[Launched, tuple[JobEvent, ...]], ...]] = (
    (launched(of=job_id(1), request=key("first")), RETURNED),
    (launched(of=job_id(2)), STOPPED),
    (launched("client2", of=job_id(3)), (Executed(), OutputLost(count=3), finished(Signalled(11, core_dumped=True)))),
    (launched("client2", of=job_id(4)), (Executed(), finished(OomKilled(memory_max=None, processes_killed=2)))),
    (launched("client3", of=job_id(5)), (Executed(), finished(ServerShutdown(signal=15)))),
    (launched("client3", of=job_id(6)), (Executed(), finished(ServerLost("it was gone")))),
    (launched("client3", of=job_id(7)), (Executed(), finished(FailedToStart("x")))),
    (launched("client3", of=job_id(8)), ()),
    (launched("client3", of=job_id(9)), (Executed(),)),
    (launched("client3", of=job_id(10)), STOPPED[:3]),
    (launched("client3", of=job_id(11)), STOPPED[:-1]),
)
FAILED: Final = launched("client1", of=job_id(12), request=key("failed"))
PRUNED: Final = launched("client1", of=job_id(13), request=key("pruned"))


def fill(database: Database) -> None:
    """Writes all of the above."""
    for first, events in (*LIVES, (FAILED, ()), (PRUNED, RETURNED)):
        database.write([Entry.of(first.id, event) for event in (first, *events)])
    database.write([Entry.of(FAILED.id, NEVER_EXECUTED, request_error=ERROR)])
    database.remove([PRUNED.id])


def keep(version: int) -> None:
    """Makes the database of this version."""
    with tempfile.TemporaryDirectory() as folder:
        database = database_in(Path(folder))
        fill(database)
        database.close()
        content = (Path(folder) / "journal.db").read_bytes()
    (DATABASES / f"v{version}.db.gz").write_bytes(gzip.compress(content, mtime=0))


if __name__ == "__main__":
    keep(int(sys.argv[1]))
