"""What running jobs cost that do nothing: the server's CPU time and memory, and the launcher's memory.

They run on a server of their own, which is told to take as many as the limit on open files allows.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from jobmaster.client import connect
from jobmaster.run.local import DESCRIPTORS_OF_JOB
from jobmaster.server.descriptors import FEWEST_CONNECTIONS, plan_descriptors
from tests.bench.load import CLIENTS
from tests.bench.processes import cpu_nanoseconds, resident_bytes
from tests.bench.rounds import tell
from tests.bench.servers import Place, Server, beside, jobmaster
from tests.bench.table import Better, Row, Runs

AT_ONCE: Final = 4
_WANTED: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleJobs:
    """How many jobs, one count after the other, and for how long they are watched after the last has settled."""

    own: Place
    counts: tuple[int, ...]
    seconds: float
    settle: float

    def rows(self) -> Iterator[Row]:
        """Starts ever more jobs and measures; three rows for each count."""
        with beside(self.own, "idle") as other, jobmaster(other, options=("--max-jobs", str(_WANTED))) as server:
            running = 0
            for count in self.counts:
                tell(f"idle jobs: {count}")
                trio.run(_start, server, self.own.certificates, (count - running) // len(CLIENTS))
                running = count
                yield from self._measure(server, count)

    def _measure(self, server: Server, count: int) -> Iterator[Row]:
        time.sleep(self.settle)
        before = cpu_nanoseconds(server.pid)
        time.sleep(self.seconds)
        share = (cpu_nanoseconds(server.pid) - before) / 1e9 / self.seconds
        values = {
            "CPU time of the server": ("% of a core", 100 * share),
            "memory of the server": ("MB", resident_bytes(server.pid) / 1e6),
            "memory of the launcher": ("MB", resident_bytes(server.launcher) / 1e6),
        }
        for what, (unit, value) in values.items():
            name = f"{count} idle jobs: {what}"
            yield Row(name=name, unit=unit, better=Better.LOWER, jobmaster=Runs(values=(value,)))


def most_jobs() -> int:
    """As many jobs as the limit on open files allows here, a multiple of the number of clients."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    plan = plan_descriptors(hard, jobs=_WANTED, of_job=DESCRIPTORS_OF_JOB, connections=FEWEST_CONNECTIONS)
    return plan.jobs // len(CLIENTS) * len(CLIENTS)


async def _start(server: Server, certificates: Path, of_each: int) -> None:
    async with trio.open_nursery() as nursery:
        for name in CLIENTS:
            nursery.start_soon(_start_as, server, certificates, name, of_each)


async def _start_as(server: Server, certificates: Path, name: str, count: int) -> None:
    async with connect("localhost", server.port, folder=certificates, name=name) as jobs:
        limiter = trio.CapacityLimiter(AT_ONCE)

        async def start() -> None:
            async with limiter:
                await jobs.start("sleep", "100000")

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(start)
