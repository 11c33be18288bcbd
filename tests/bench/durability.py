"""What it costs that a job is on the disk before it runs: Start with `--durability full` beside `off`.

Both servers keep their journals on the same disk and take turns, and so does what the disk takes for one write as large as
what the journal writes of a launch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Final

from tests.bench.load import Client, Kind, Load, Outcome
from tests.bench.rounds import latency_rows, tell
from tests.bench.servers import Place, Server, beside, jobmaster
from tests.bench.table import Better, Row, Runs

COMMIT_BYTES: Final = 7 * (4096 + 24)
"""Pages of the write-ahead log, with their headers, that a commit of one event has: from five to nine of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Durability:
    """How many jobs are started on each server in each of the rounds; one of them is there already.

    Attributes:
        full: the server with `--durability full`.
    """

    own: Place
    full: Server
    rounds: int
    starts: int

    def rows(self) -> Iterator[Row]:
        """Measures; three rows: Start twice, and what durability adds to it."""
        with (
            beside(self.own, "durability") as other,
            jobmaster(other, options=("--durability", "off")) as without_durability,
        ):
            full, off, syncs = self._measure(self._load(self.full), self._load(without_durability))
        yield from latency_rows("Start to running, durability full beside off", self.starts, full, off)
        added = [  # its median is shown: the best of differences is the luckiest pair of rounds
            1000 * (median(with_.latencies) - median(without.latencies))
            for with_, without in zip(full, off, strict=True)
        ]
        yield Row(
            name=f"what durability full adds to Start, beside one fdatasync of {COMMIT_BYTES // 1024} KiB, medians",
            unit="ms",
            better=Better.LOWER,
            jobmaster=Runs(values=(median(added),)),
            peer=Runs(values=(1000 * median(syncs),)),
        )

    def _load(self, server: Server) -> Load:
        return Load(
            kind=Kind.START,
            client=Client.JOBMASTER,
            port=server.port,
            server=server.pid,
            certificates=self.own.certificates,
            count=self.starts,
        )

    def _measure(self, full: Load, off: Load) -> tuple[list[Outcome], list[Outcome], list[float]]:
        outcomes: tuple[list[Outcome], list[Outcome], list[float]] = ([], [], [])
        for number in range(self.rounds):
            tell(f"durability: round {number + 1} of {self.rounds}")
            outcomes[0].append(self.own.clients.run(full)[0])
            outcomes[1].append(self.own.clients.run(off)[0])
            outcomes[2].append(self._sync_seconds())
        return outcomes

    def _sync_seconds(self) -> float:
        """What the disk takes for one write that is waited for, by median of as many as there are starts."""
        seconds = []
        with (self.own.folder / "synchronised").open("wb", buffering=0) as file:
            for _ in range(self.starts):
                begun = perf_counter()
                file.write(bytes(COMMIT_BYTES))
                os.fdatasync(file.fileno())
                seconds.append(perf_counter() - begun)
        return median(seconds)
