"""A real launcher whose servers are stand-ins that adopt (`tests.run.stand_in`), and what to ask of it in a line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Final

import jobmaster.launcher
from tests.run.launching import DEADLINE, Folder

PROGRAM: Final = Path(jobmaster.launcher.__file__).parent
PAUSE: Final = 0.002


@dataclass(slots=True, kw_only=True)
class Served:
    """A launcher with its stand-ins, and their folder."""

    process: subprocess.Popen[str]
    path: Path
    jobs: Folder
    said: list[str] = field(default_factory=list)

    def want(self, name: str, *command: str) -> None:
        """Wants a job."""
        new = self.path / f"{name}.new"
        new.write_text(json.dumps(command))
        new.rename(self.path / f"{name}.wanted")

    def wait(self, condition: Callable[[], object]) -> None:
        """Waits until this holds; the stand-in tells through files, of which no event comes."""
        deadline = monotonic() + DEADLINE
        while not condition():
            assert monotonic() < deadline, sorted(path.name for path in self.path.iterdir())
            assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
            sleep(PAUSE)

    def wait_for(self, *names: str) -> None:
        """Waits until these files are there."""
        self.wait(lambda: all((self.path / name).exists() for name in names))

    def server(self) -> int:
        """The pid of the server, once it is ready."""
        self.wait_for("server")
        return int((self.path / "server").read_text())

    def end_server(self, number: int = signal.SIGKILL) -> int:
        """Sends the server that is ready a signal that ends it; returns the pid of the next one, once that is ready."""
        old = self.server()
        os.kill(old, number)
        self.wait(lambda: self.server() != old)
        return self.server()

    def status(self, name: str) -> tuple[int, bool]:
        """Wait status, and whether it was executed, once it has ended."""
        self.wait_for(f"{name}.ended")
        status, executed = (self.path / f"{name}.ended").read_text().split()
        return int(status), executed == "1"

    def output(self, name: str) -> bytes:
        """What is kept of its output."""
        return (self.path / f"{name}.out").read_bytes()

    def stop(self) -> tuple[int, str]:
        """Ends all; returns the exit status, and what was said on stderr."""
        self.process.terminate()
        said = self.process.communicate(timeout=DEADLINE)[1]
        return self.process.returncode, said


@contextmanager
def serving(
    path: Path,
    jobs: Folder,
    *,
    environment: Mapping[str, str] | None = None,
    program: Path = PROGRAM,
    **bounds: int,
) -> Iterator[Served]:
    """A launcher with a stand-in that is ready."""
    (path / "bounds").write_text(json.dumps({"max_crashes": 100_000, **bounds}))
    command = [
        sys.executable,
        "-I",
        "-S",
        str(program),
        "--",
        sys.executable,
        "-m",
        "tests.run.stand_in",
        str(path),
        str(jobs.path),
    ]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **(environment or {})},
    ) as process:
        served = Served(process=process, path=path, jobs=jobs)
        try:
            served.server()
            yield served
        finally:
            process.kill()
