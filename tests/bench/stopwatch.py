"""What a load costs: time on the client's clock, and the server's CPU time meanwhile."""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter
from typing import Final, Self

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


class Stopwatch:
    """Runs while its block does.

    Attributes:
        seconds: time that passed.
        server_seconds: CPU time that process `server` used, its jobs left out; in steps of 10 ms.
    """

    def __init__(self, server: int) -> None:
        self._server = server
        self.seconds = 0.0
        self.server_seconds = 0.0

    def __enter__(self) -> Self:
        self._server_begun = self._cpu_seconds()
        self._begun = perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = perf_counter() - self._begun
        self.server_seconds = self._cpu_seconds() - self._server_begun

    def _cpu_seconds(self) -> float:
        """Utime and stime, all threads together (proc_pid_stat(5))."""
        fields = Path(f"/proc/{self._server}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
