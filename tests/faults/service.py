"""A launcher with its servers as programs of their own, which a test kills, and starts anew on the same folders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import trio

import jobmaster.launcher
from jobmaster.client import Jobs, connect
from tests.faults.points import VARIABLE, Armed
from tests.faults.server import FIRST_WORD, TELL_SIGNAL
from tests.harness import REPOSITORY, command_line_for, own_cgroup_root

LAUNCHER: Final = str(Path(jobmaster.launcher.__file__).parent)
MANY_CRASHES: Final = "1000"
DEADLINE_SECONDS: Final = 45.0
"""More than anything takes that is waited for, on a busy machine."""
LOOK_SECONDS: Final = 0.005


class Service:
    """A launcher and its servers, one after the other. Made by `running`.

    Attributes:
        folder: of everything that they write.
        cgroup_root: of the jobs.
        port: of every server; 0 before the first.
        launcher: the process that was started last.
        armed: crash points.
    """

    def __init__(self, folder: Path, certificates: Path, cgroup_root: Path, arguments: tuple[str, ...]) -> None:
        self.folder = folder
        self.cgroup_root = cgroup_root
        self.port = 0
        self.launcher: subprocess.Popen[bytes]
        self._certificates = certificates
        self._arguments = arguments
        points = folder / "points"
        points.mkdir()
        self.armed = Armed(points)
        self._said = folder / "stdout"
        self._complained = folder / "stderr"

    async def start(self) -> None:
        """Starts a launcher, and returns when its server is ready; the second one takes the port of the first."""
        server = [sys.executable, "-m", "tests.faults.server", *self._server_arguments()]
        before = self.server if self._said.exists() else None
        with self._said.open("ab") as said, self._complained.open("ab") as complained:
            self.launcher = subprocess.Popen(
                [sys.executable, "-I", "-S", LAUNCHER, "--", *server],
                stdout=said,
                stderr=complained,
                cwd=REPOSITORY,
                env={**os.environ, VARIABLE: str(self.folder / "points")},
            )
        await self.wait_ready(after=before)
        if not self.port:
            ready = next(line for line in self._said.read_text().splitlines() if line.startswith("ready on "))
            self.port = int(ready.rpartition(":")[2])

    def _server_arguments(self) -> list[str]:
        arguments = command_line_for(self.folder, self._certificates, self.cgroup_root, *self._arguments)
        arguments[1] = f"localhost:{self.port}"
        return [*arguments, "--max-crashes", MANY_CRASHES]

    def connect(self, name: str, *, patience: float = 2 * DEADLINE_SECONDS) -> AbstractAsyncContextManager[Jobs]:
        """A connection as one of the clients, which waits that long for a server."""
        return connect("localhost", self.port, folder=self._certificates, name=name, patience=patience)

    # --- servers ------------------------------------------------------------------------------------------------------

    @property
    def server(self) -> int | None:
        """The pid of the server that was started last, in whatever state it is; None before it has said its first word."""
        return self._servers()[0]

    @property
    def ready(self) -> int | None:
        """The pid of the server that was started last, where it has been ready."""
        pid, is_ready = self._servers()
        return pid if is_ready else None

    def _servers(self) -> tuple[int | None, bool]:
        said = self._said.read_text()
        _, _, last = said.rpartition(FIRST_WORD)
        pid, _, since = last.partition("\n")
        return (int(pid), "ready on " in since) if since else (None, False)

    async def wait_ready(self, *, after: int | None = None) -> int:
        """Returns the pid of a server that is ready, when there is one; `after` is the pid of one that is not meant."""
        await self.wait(lambda: self.ready not in {None, after}, "no server has come to be ready")
        pid = self.ready
        assert pid is not None
        return pid

    async def wait(self, condition: Callable[[], bool], otherwise: str) -> None:
        """Returns when a condition holds that nothing tells of.

        Raises:
            AssertionError: `otherwise`; also where the launcher has ended.
        """
        with trio.move_on_after(DEADLINE_SECONDS):
            while not condition():
                if self.launcher.poll() is not None:
                    raise AssertionError(f"the launcher has ended with {self.launcher.returncode}: {self.complaints()}")
                await trio.sleep(LOOK_SECONDS)
            return
        if self.server is not None:
            send(self.server, TELL_SIGNAL)
            await trio.sleep(1)  # for what it says
        raise AssertionError(f"{otherwise}: {self.complaints()}")

    async def replace(self, number: int = signal.SIGKILL) -> int:
        """Has a server that is ready end by a signal, and waits until the next one is ready; returns its pid."""
        pid = await self.wait_ready()
        send(pid, number)
        return await self.wait_ready(after=pid)

    # --- the end ------------------------------------------------------------------------------------------------------

    async def stop(self) -> int:
        """Tells it to end; its exit status."""
        self.launcher.send_signal(signal.SIGTERM)
        return await self.wait_ended()

    async def wait_ended(self) -> int:
        """Waits until the launcher has ended; its exit status."""
        with trio.fail_after(DEADLINE_SECONDS):
            while (status := self.launcher.poll()) is None:
                await trio.sleep(LOOK_SECONDS)
        return status

    def complaints(self) -> str:
        """The last of what launchers and servers have written to stderr."""
        return self._complained.read_text(errors="replace")[-4000:]

    def said(self) -> str:
        """All that they have written to stderr."""
        return self._complained.read_text(errors="replace")

    def descriptors(self, pid: int) -> Counter[str]:
        """What the open descriptors of a process of this service are, without the numbers that tell two of a kind apart."""
        kinds: Counter[str] = Counter()
        with suppress(FileNotFoundError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with suppress(FileNotFoundError):
                    kinds[os.readlink(f"/proc/{pid}/fd/{fd}").partition(":[")[0]] += 1
        return kinds

    def processes(self) -> list[int]:
        """The processes in the jobs' cgroups."""
        found = []
        for folder, _, _ in os.walk(self.cgroup_root):  # which, unlike glob, passes over one that is removed meanwhile
            with suppress(OSError):
                found += [int(pid) for pid in Path(folder, "cgroup.procs").read_text().split()]
        return found


def send(pid: int, number: int) -> None:
    """Sends a signal to a process that may have died."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@asynccontextmanager
async def running(folder: Path, certificates: Path, *arguments: str) -> AsyncIterator[Service]:
    """A service with a server that is ready, for the block; whatever is left at the end is killed."""
    folder.chmod(0o755)
    with own_cgroup_root(may_be_left=True) as root:
        service = Service(folder, certificates, root, arguments)
        try:
            await service.start()
            yield service
        finally:
            service.launcher.kill()
            service.launcher.wait()
