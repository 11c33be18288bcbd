"""What a long history costs: a server whose journal has very many jobs that have ended, beside one whose has few.

The journals are made by the journal's own code, from the events of jobs as they are; each job has its file of output. What
was just written is in the page cache, as after a server's restart and not as after the host's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

from jobmaster.job.record import Launched
from jobmaster.job.specification import CommandLine, JobSpecification
from jobmaster.journal.connection import Synchronous
from jobmaster.journal.database import Database
from jobmaster.run.job_files import output_path
from jobmaster.server.program import JOURNAL
from tests.bench.load import CLIENTS, PAGE, Client, Kind, Load, Outcome, kept_id, kept_owner
from tests.bench.processes import resident_bytes
from tests.bench.rounds import runs_of, tell
from tests.bench.servers import Place, Server, Unable, beside, jobmaster
from tests.bench.table import Better, Row, Runs
from tests.journal.jobs import RETURNED, entries, launched

FEW: Final = len(CLIENTS) * PAGE
"""Jobs of the history that is compared with: each client has a page of its own jobs in both."""
COMMAND: Final = CommandLine.of(JobSpecification(command="make", args=("-j8", "check")))
OUTPUT: Final = b"done\n"
"""Of each job: as many bytes as its record says."""
JOBS_OF_COMMIT: Final = 64
LINKS: Final = 10_000
"""Names of one file of output, which are made faster than files; file systems allow for a limited number of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """What one server showed with one history.

    Attributes:
        ready_seconds: from the start of the program until it was ready.
        check_seconds: for opening a journal that a server which was killed has left, all of it checked.
        records, pages: calls by one client, one after another.
        resident_bytes: of the server, after those.
    """

    ready_seconds: float
    check_seconds: float
    records: Outcome
    pages: Outcome
    resident_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """How many jobs there are, and how often each thing is asked in each of the rounds."""

    own: Place
    rounds: int
    jobs: int
    calls: int

    def rows(self) -> Iterator[Row]:
        """Makes both histories and measures; five rows."""
        with beside(self.own, "many") as many, beside(self.own, "few") as few:
            tell(f"journal: {self.jobs} jobs are written")
            _fill(many, self.jobs)
            _fill(few, FEW)
            ours: list[Visit] = []
            theirs: list[Visit] = []
            for number in range(self.rounds):
                tell(f"journal: round {number + 1} of {self.rounds}")
                ours.append(self._visit(many, self.jobs))
                theirs.append(self._visit(few, FEW))
        yield from self._rows(ours, theirs)

    def _rows(self, ours: Sequence[Visit], theirs: Sequence[Visit]) -> Iterator[Row]:
        figures: tuple[tuple[str, str, Callable[[Visit], float]], ...] = (
            ("server started to ready", "s", lambda visit: visit.ready_seconds),
            ("journal of a killed server opened and checked", "s", lambda visit: visit.check_seconds),
            ("memory of the server", "MB", lambda visit: visit.resident_bytes / 1e6),
        )
        calls: tuple[tuple[str, Callable[[Visit], Outcome]], ...] = (
            (f"Status, median of {self.calls}", lambda visit: visit.records),
            (f"List of a page of {PAGE}, median of {self.calls}", lambda visit: visit.pages),
        )
        for what, unit, figure in figures:
            yield self._row(what, unit, Runs(values=tuple(map(figure, ours))), Runs(values=tuple(map(figure, theirs))))
        for what, outcome in calls:
            yield self._row(what, "ms", self._latency(map(outcome, ours)), self._latency(map(outcome, theirs)))

    def _row(self, what: str, unit: str, ours: Runs, theirs: Runs) -> Row:
        name = f"{self.jobs} ended jobs beside {FEW}: {what}"
        return Row(name=name, unit=unit, better=Better.LOWER, jobmaster=ours, peer=theirs)

    def _latency(self, outcomes: Iterator[Outcome]) -> Runs:
        rounds = list(outcomes)
        return runs_of(rounds, [1000 * median(outcome.latencies) for outcome in rounds], self.calls)

    def _visit(self, other: Place, kept: int) -> Visit:
        check_seconds = _check(other)
        options = ("--keep-jobs", str(kept), "--keep-days", "0")
        begun = perf_counter()
        with jobmaster(other, options=options) as server:
            ready_seconds = perf_counter() - begun
            records, pages = self.own.clients.run(
                self._load(server, Kind.RECORDS, kept), self._load(server, Kind.PAGES)
            )
            return Visit(
                ready_seconds=ready_seconds,
                check_seconds=check_seconds,
                records=records,
                pages=pages,
                resident_bytes=resident_bytes(server.pid),
            )

    def _load(self, server: Server, kind: Kind, kept: int = 0) -> Load:
        return Load(
            kind=kind,
            client=Client.JOBMASTER,
            port=server.port,
            server=server.pid,
            certificates=self.own.certificates,
            count=self.calls,
            kept=kept,
        )


def _fill(other: Place, jobs: int) -> None:
    """Makes the output folder of a server that has run so many jobs, and beside it what one that was killed leaves."""
    other.output.mkdir(mode=0o700)
    database = Database.open(other.output / JOURNAL, synchronous=Synchronous.OFF)
    try:
        for begin in range(1, jobs + 1, JOBS_OF_COMMIT):
            numbers = range(begin, min(begin + JOBS_OF_COMMIT, jobs + 1))
            database.write([entry for number in numbers for entry in entries(_launched(number), *RETURNED)])
            database.checkpoint()
        shutil.copytree(other.output, _left(other))  # as it is while it is open; nothing is under way
    finally:
        database.close()
    for number in range(1, jobs + 1):
        _write_output(other.output, number)


def _launched(number: int) -> Launched:
    first = launched(kept_owner(number), of=kept_id(number))
    return replace(first, command=COMMAND)


def _write_output(folder: Path, number: int) -> None:
    path, first = (output_path(folder, kept_id(each)) for each in (number, number - (number - 1) % LINKS))
    if path == first:
        path.write_bytes(OUTPUT)
    else:
        os.link(first, path)


def _left(other: Place) -> Path:
    return other.folder / "left"


def _check(other: Place) -> float:
    """Seconds for opening what a server that was killed has left, or a copy of it: that is done once for each."""
    copy = other.folder / "checked"
    shutil.copytree(_left(other), copy)
    begun = perf_counter()
    database = Database.open(copy / JOURNAL)
    seconds = perf_counter() - begun
    was_checked = database.is_checked
    database.close()
    shutil.rmtree(copy)
    if not was_checked:
        raise Unable("a journal that nobody closed was opened without a check")
    return seconds
