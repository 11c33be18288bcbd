"""How often the memory limits above a job were met: those of its client and of all jobs.

All jobs of a client look at once when its counters of memory.events change, which they do without end while one of them is
held at its limit. So what is told is as old as `FRESH_SECONDS`, and a look of a thousand jobs costs two files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from jobmaster.host.cgroup.usage import read_ooms

if TYPE_CHECKING:
    from pathlib import Path

FRESH_SECONDS: Final = 0.05
MOST_CLIENTS: Final = 1000
"""Whose counts are kept; they are read anew where there are more."""


class CountsAbove:
    """The counts, by client."""

    def __init__(self, jobs: Path) -> None:
        """Of the clients' cgroups in this one."""
        self._jobs = jobs
        self._read: dict[str, tuple[float, tuple[int | None, int | None]]] = {}

    def of(self, client: str, *, at_once: bool = False) -> tuple[int | None, int | None]:
        """Of the client's own limit and of that of all jobs; None where the kernel does not tell.

        Args:
            client: whose.
            at_once: as of now, however new the last ones are.

        Raises:
            CgroupError: a file can't be read or makes no sense.
        """
        now = trio.current_time()
        last, counts = self._read.get(client, (None, (None, None)))
        if at_once or last is None or now - last > FRESH_SECONDS:
            if len(self._read) >= MOST_CLIENTS:
                self._read.clear()
            counts = (read_ooms(self._jobs / client), read_ooms(self._jobs))
            self._read[client] = (now, counts)
        return counts
