"""jobmaster as a service of systemd: the unit that `jobmaster install-unit` writes, and what systemd says of it."""

from __future__ import annotations

import sys
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from jobmaster.address import DEFAULT_PORT
from jobmaster.client import Jobs, connect
from tests.harness import REPOSITORY
from tests.processes import servers_of

RUNNING_SYSTEMD: Final = Path("/run/systemd/system")
NAME: Final = "jobmaster.service"
CGROUP: Final = Path("/sys/fs/cgroup/system.slice") / NAME
SECONDS: Final = 60.0
"""In which whatever is waited for happens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The unit.

    Attributes:
        installed: the folder of the program's package.
        output: the server's folder of output.
        certificates: its certificate folder.
        options: more of the server's.
    """

    installed: Path
    output: Path
    certificates: Path
    options: tuple[str, ...] = ()

    @property
    def places(self) -> tuple[str, ...]:
        """The options that the server has in every test."""
        return ("--output-dir", str(self.output), "--certs-dir", str(self.certificates), "--require-limits")

    async def install(self) -> None:
        """Has `jobmaster install-unit` write it, with the paths of this test, and systemd know it."""
        RUNNING_SYSTEMD.mkdir(exist_ok=True)
        words = ["install-unit", "--force", "--directory", str(RUNNING_SYSTEMD), "--", *self.places, *self.options]
        await trio.run_process([sys.executable, "-m", "jobmaster", *words], cwd=REPOSITORY, capture_stdout=True)
        dropins = RUNNING_SYSTEMD / f"{NAME}.d"
        dropins.mkdir(exist_ok=True)
        for file in dropins.iterdir():  # of a test before
            file.unlink()
        (dropins / "test.conf").write_text(f"[Service]\nEnvironment=PYTHONPATH={self.installed}\n")
        await trio.run_process(["systemctl", "daemon-reload"])

    async def shorten_watchdog(self, seconds: int) -> None:
        """Has systemd wait so long alone for a sign of life."""
        await self.add(f"WatchdogSec={seconds}")

    async def add(self, line: str) -> None:
        """Has the unit say this, too."""
        (RUNNING_SYSTEMD / f"{NAME}.d" / "added.conf").write_text(f"[Service]\n{line}\n")
        await trio.run_process(["systemctl", "daemon-reload"])

    async def systemctl(self, verb: str, *options: str) -> None:
        """Runs systemctl on the unit."""
        done = await trio.run_process(["systemctl", verb, *options, NAME], check=False, capture_stderr=True)
        assert done.returncode == 0, f"{done.stderr.decode()}\n{await self.log()}"

    async def log(self) -> str:
        """What it has written."""
        command = ["journalctl", "-u", NAME, "--no-pager", "-n", "100"]
        return (await trio.run_process(command, capture_stdout=True)).stdout.decode()

    async def property(self, name: str) -> str:
        """What systemd says of it."""
        command = ["systemctl", "show", "--value", "-p", name, NAME]
        return (await trio.run_process(command, capture_stdout=True)).stdout.decode().strip()

    async def main_pid(self) -> int:
        """The launcher."""
        return int(await self.property("MainPID"))

    async def successor(self, old: int) -> int:
        """The pid of a server that is another than `old` and that clients reach; systemd takes the unit for active."""
        launcher = await self.main_pid()
        with trio.fail_after(SECONDS):
            while servers_of(launcher) in ([], [old]) or await self.property("ActiveState") != "active":
                await trio.sleep(0.05)
            (server,) = servers_of(launcher)
        return server

    def connect(self, name: str = "client1", *, patience: float = SECONDS) -> AbstractAsyncContextManager[Jobs]:
        """A client of its server."""
        return connect("localhost", DEFAULT_PORT, folder=self.certificates, name=name, patience=patience)

    def cgroup_of(self, job_id: str) -> Path:
        """The cgroup of one of client1's jobs."""
        return CGROUP / "jobs" / "client1" / job_id


def replace_launcher(installed: Path) -> None:
    """Installs another program of the launcher, of the same words: a new file, as an installer makes it."""
    file = installed / "jobmaster" / "launcher" / "program.py"
    text = file.read_text()
    file.unlink()
    file.write_text(text)


def processes_in(cgroup: Path) -> list[int]:
    """The processes in a cgroup and below."""
    files = cgroup.glob("**/cgroup.procs")
    return [int(pid) for file in files for pid in file.read_text().split()]
