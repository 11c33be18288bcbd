"""What the command line costs beside what any program on Trio pays before it does anything: `python -c 'import trio'`.

Both are processes that start, do their work and end, in turns; what is compared is their user and system time, which other
load on the machine disturbs less than it does the clock. Bytecode is cached, as that of an installed package is.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from tests.bench.servers import Place, Server, Unable
from tests.bench.table import Better, Row, Runs

PROGRAM: Final = Path(sys.executable).with_name("jobmaster")
PEER: Final = (sys.executable, "-c", "import trio")
SECONDS: Final = 60.0
"""How long one run may take, on the slowest of machines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """The program, and a server for it.

    Attributes:
        rounds: how many values each row has.
        runs: how many of each program the median of which is a value.
    """

    own: Place
    server: Server
    rounds: int
    runs: int

    def rows(self) -> Iterator[Row]:
        """Measures help, version and a call; a row each.

        Raises:
            Unable: the program is not installed, or failed.
        """
        if not PROGRAM.is_file():
            raise Unable(f"{PROGRAM} is missing: install the package into this environment")
        job = self._run(*self._target(), "start", "true").strip()
        programs = {"--help": ("--help",), "--version": ("--version",), "status": (*self._target(), "status", job)}
        for arguments in programs.values():
            self._run(*arguments)  # so that its bytecode is cached
        costs = self._interleaved([(str(PROGRAM), *arguments) for arguments in programs.values()])
        for name, (ours, theirs) in zip(programs, costs, strict=True):
            yield Row(
                name=f"jobmaster {name}, beside `import trio`",
                unit="ms CPU",
                better=Better.LOWER,
                jobmaster=Runs(values=tuple(ours)),
                peer=Runs(values=tuple(theirs)),
            )

    def _target(self) -> tuple[str, ...]:
        return ("-n", "client1", "--server", f"localhost:{self.server.port}", "--certs-dir", str(self.own.certificates))

    def _interleaved(self, programs: Sequence[Sequence[str]]) -> list[tuple[list[float], list[float]]]:
        """For each program its rounds and those of the peer, which runs after each of them."""
        costs: list[tuple[list[float], list[float]]] = [([], []) for _ in programs]
        for number in range(self.rounds):
            print(f"command line: round {number + 1} of {self.rounds}", file=sys.stderr, flush=True)
            for program, (ours, theirs) in zip(programs, costs, strict=True):
                pairs = [(self._cost(program), self._cost(PEER)) for _ in range(self.runs)]
                ours.append(median(mine for mine, _ in pairs))
                theirs.append(median(its for _, its in pairs))
        return costs

    def _cost(self, command: Sequence[str]) -> float:
        """User and system time of a process, in milliseconds."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._output(command)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    def _run(self, *arguments: str) -> str:
        return self._output((str(PROGRAM), *arguments))

    def _output(self, command: Sequence[str]) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=SECONDS, cwd=self.own.folder, env=environment
        )
        if done.returncode != 0:
            raise Unable(f"{' '.join(command)} failed with exit code {done.returncode}: {done.stderr.strip()}")
        return done.stdout
