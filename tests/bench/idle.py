"""What running jobs cost that do nothing: the server's CPU time and memory, and the launcher's memory.

They run on a server of their own, which is told to take as many as the limit on open files allows.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from jobmaster.client import connect
from jobmaster.run.local import DESCRIPTORS_OF_JOB
from jobmaster.server.descriptors import plan_descriptors
from tests.bench.servers import Place, Server, jobmaster, second_place
from tests.bench.table import Better, Row, Runs

CLIENTS: Final = ("client1", "client2", "client3", "superuser")
"""Each may have a quarter of the jobs."""
AT_ONCE: Final = 4
SETTLE_SECONDS: Final = 2.0
_WANTED: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleJobs:
    """How many jobs, one count after the other, and for how long they are watched."""

    own: Place
    counts: tuple[int, ...]
    seconds: float

    def rows(self) -> Iterator[Row]:
        """Starts ever more jobs and measures; three rows for each count."""
        options = ("--max-jobs", str(_WANTED), "--certs-dir", str(self.own.certificates))
        with second_place(self.own) as second, jobmaster(second, options=options) as server:
            running = 0
            for count in self.counts:
                _tell(f"idle jobs: {count}")
                trio.run(_start, server, self.own.certificates, (count - running) // len(CLIENTS))
                running = count
                yield from self._measure(server, count)

    def _measure(self, server: Server, count: int) -> Iterator[Row]:
        launcher = _parent_of(server.pid)
        time.sleep(SETTLE_SECONDS)
        before = _nanoseconds(server.pid)
        time.sleep(self.seconds)
        share = (_nanoseconds(server.pid) - before) / 1e9 / self.seconds
        values = {
            "CPU time of the server": ("% of a core", 100 * share),
            "memory of the server": ("MB", _resident_bytes(server.pid) / 1e6),
            "memory of the launcher": ("MB", _resident_bytes(launcher) / 1e6),
        }
        for what, (unit, value) in values.items():
            name = f"{count} idle jobs: {what}"
            yield Row(name=name, unit=unit, better=Better.LOWER, jobmaster=Runs(values=(value,)))


def most_jobs() -> int:
    """As many jobs as the limit on open files allows here, a multiple of the number of clients."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    plan = plan_descriptors(hard, jobs=_WANTED, of_job=DESCRIPTORS_OF_JOB, connections=len(CLIENTS))
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


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from number 3 on (proc_pid_stat(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _nanoseconds(pid: int) -> int:
    """CPU time of a process, threads that have ended included, by its clock (clock_getcpuclockid(3))."""
    clock = ~pid << 3 | 2  # kernel/time/posix-cpu-timers.c: CPUCLOCK_SCHED of that process
    return time.clock_gettime_ns(clock)


def _parent_of(pid: int) -> int:
    return int(_stat(pid)[1])


def _resident_bytes(pid: int) -> int:
    return int(_stat(pid)[21]) * resource.getpagesize()


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
