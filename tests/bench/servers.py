"""Starts what is measured, in processes, folders and a cgroup of its own, and leaves nothing of it behind.

Each process gets a session of its own: an interrupt at the terminal reaches the benchmark alone, which then ends
everything in order.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jobmaster.certs import authority
from jobmaster.host.cgroup.mounts import find_cgroup2, read_mounts
from tests.bench.load import Client, Load, Outcome
from tests.processes import servers_of

REPOSITORY: Final = Path(__file__).resolve().parents[2]
READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 30.0
LOAD_SECONDS: Final = 600.0
"""How long one load may take, on the slowest of machines."""
REMOVAL_SECONDS: Final = 5.0
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends the benchmark early."""


class Unable(Exception):
    """The benchmark cannot run here, or what it measures failed; the text says what and the remedy."""


class Clients:
    """Client programs, one for each client whose loads are done, started when the first comes."""

    def __init__(self, name: str) -> None:
        """Starts nothing yet; `name` is what their command lines are found by."""
        self._name = name
        self._running = ExitStack()
        self._programs: dict[Client, subprocess.Popen[str]] = {}

    def run(self, *loads: Load) -> list[Outcome]:
        """Does loads of one client, one after another, in a process that has done nothing before.

        Raises:
            Unable: one failed, or they took longer than `LOAD_SECONDS`.
        """
        program = self._program(loads[0].client)
        assert program.stdin is not None
        assert program.stdout is not None
        deadline = threading.Timer(LOAD_SECONDS, program.terminate)
        deadline.start()
        outcomes: list[Outcome] = []
        try:
            program.stdin.write(json.dumps([load.to_json() for load in loads]) + "\n")
            program.stdin.flush()
            for line in program.stdout:
                if line == "ended 0\n":
                    return outcomes
                if line.startswith("ended "):
                    break
                outcomes.append(Outcome.from_json(line))
        finally:
            deadline.cancel()
        raise Unable(f"{loads} failed, or did not end within {LOAD_SECONDS:.0f} s; the words are above")

    def _program(self, client: Client) -> subprocess.Popen[str]:
        if client not in self._programs:
            command = ["-m", "tests.bench.client", client, self._name]
            self._programs[client] = self._running.enter_context(_running(command, stdin=subprocess.PIPE))
        return self._programs[client]

    def close(self) -> None:
        """Ends the programs, with what they are doing."""
        self._running.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a benchmark keeps what it makes: a folder and a cgroup root, both its own.

    Attributes:
        certificates: those of all servers and all clients.
        clients: what does the loads.
    """

    folder: Path
    cgroup_root: Path
    certificates: Path
    clients: Clients

    @property
    def output(self) -> Path:
        """The jobmaster server's output folder."""
        return self.folder / "output"


@dataclass(frozen=True, slots=True)
class Server:
    """A server process that is ready.

    Attributes:
        launcher: its parent, where that starts the next one.
    """

    pid: int
    port: int
    launcher: int = 0


@contextmanager
def place(parent: Path, needed: int) -> Iterator[Place]:
    """A place with room for `needed` bytes of output, gone after the block.

    Raises:
        Unable: this host has no such place.
    """
    mount = _require_host(parent, needed)
    folder = None
    try:
        with _undisturbed():
            folder = Path(tempfile.mkdtemp(prefix=f"jobmaster-bench-{os.getpid()}-", dir=parent.resolve()))
        own = Place(
            folder=folder,
            cgroup_root=mount / folder.name,
            certificates=folder / "certificates",
            clients=Clients(folder.name),
        )
        authority.initialise(own.certificates)
        with closing(own.clients):
            yield own
    finally:
        if folder is not None:
            with _undisturbed(), ExitStack() as clearing:
                clearing.callback(_remove_cgroups, mount / folder.name)
                clearing.callback(shutil.rmtree, folder)


@contextmanager
def beside(own: Place, name: str) -> Iterator[Place]:
    """A place of this name for another server beside `own`, gone after the block."""
    other = Place(
        folder=own.folder / name,
        cgroup_root=own.cgroup_root.with_name(f"{own.cgroup_root.name}-{name}"),
        certificates=own.certificates,
        clients=own.clients,
    )
    other.folder.mkdir()
    try:
        yield other
    finally:
        with _undisturbed(), ExitStack() as clearing:
            clearing.callback(shutil.rmtree, other.folder)
            clearing.callback(_remove_cgroups, other.cgroup_root)


def _require_host(parent: Path, needed: int) -> Path:
    if os.geteuid() != 0:
        raise Unable("the benchmark starts a server that gives each job a cgroup: run it as root")
    mount = find_cgroup2(read_mounts())
    if mount is None or not os.access(mount.mount_point, os.W_OK):
        raise Unable("no writable cgroup v2 mount: mount -t cgroup2 none /sys/fs/cgroup, or leave the container")
    if not parent.is_dir():
        raise Unable(f"{parent} is no folder: name one with --folder")
    free = min(shutil.disk_usage(parent).free, _available_memory())
    if free < needed:
        raise Unable(
            f"{parent} and memory have room for {free // 2**20} MiB of the {needed // 2**20} MiB that the output needs: "
            "free some, name a roomier one with --folder, or measure less with --quick"
        )
    return mount.mount_point


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _remove_cgroups(root: Path) -> None:
    """Removes what a server that was killed may have left; a cgroup is busy for a moment after its last process."""
    give_up = time.monotonic() + REMOVAL_SECONDS
    with suppress(FileNotFoundError):
        (root / "jobs" / "cgroup.kill").write_text("1")
    while root.exists():
        for folder in sorted(root.glob("**/"), key=lambda path: -len(path.parts)):
            with suppress(OSError):
                folder.rmdir()
        if time.monotonic() > give_up:
            raise Unable(f"the cgroup {root} is still in use; remove it by hand with rmdir")
        time.sleep(0.02)


@contextmanager
def jobmaster(own: Place, *, profile: Path | None = None, options: Sequence[str] = ()) -> Iterator[Server]:
    """The jobmaster server, for the block; with `profile`, its main thread runs under cProfile into that file."""
    profiler = ("-m", "cProfile", "-o", str(profile)) if profile is not None else ()
    module = "jobmaster.server" if profiler else "jobmaster.serve"
    with _serving(
        "the jobmaster server",
        [
            *(*profiler, "-m", module, "--listen", "localhost:0", "--output-dir", str(own.output)),
            *("--certs-dir", str(own.certificates), "--cgroup-root", str(own.cgroup_root), *options),
        ],
    ) as launcher:
        yield launcher if profiler else Server(_server_of(launcher.pid), launcher.port, launcher.pid)


def _server_of(launcher: int) -> int:
    """The server's own pid: what was started is the launcher, and the server is its child."""
    for pid in servers_of(launcher):
        return pid
    raise Unable(f"process {launcher} has not started a server")


@contextmanager
def peer(own: Place) -> Iterator[Server]:
    """The peer, for the block."""
    arguments = ["--certs-dir", str(own.certificates), "--output-dir", str(own.output)]
    with _serving("the peer", ["-m", "tests.bench.peer", *arguments]) as server:
        yield server


@contextmanager
def _serving(name: str, arguments: Sequence[str]) -> Iterator[Server]:
    with _running(arguments) as process:
        yield Server(process.pid, _port_when_ready(name, process))
        if process.poll() is not None:
            raise Unable(f"{name} ended before it was told to, with exit code {process.returncode}")


@contextmanager
def _running(arguments: Sequence[str], stdin: int | None = None) -> Iterator[subprocess.Popen[str]]:
    process = None
    try:
        with _undisturbed():
            process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=stdin,
                stdout=subprocess.PIPE,
                text=True,
                cwd=REPOSITORY,
                start_new_session=True,
            )
        yield process
    finally:
        if process is not None:
            with _undisturbed():
                _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keeps signals back until the block is done: a process that was just started, or is being ended, is not lost."""
    came: list[int] = []
    handlers = [(each, signal.signal(each, lambda number, _: came.append(number))) for each in SIGNALS]
    try:
        yield
    finally:
        for each, handler in handlers:
            signal.signal(each, handler)
        for number in came:
            signal.raise_signal(number)


def _port_when_ready(name: str, process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None  # for the type checker: PIPE was asked for
    deadline = threading.Timer(READY_SECONDS, process.kill)
    deadline.start()
    try:
        for line in process.stdout:
            if line.startswith("ready on "):
                return int(line.rpartition(":")[2])
    finally:
        deadline.cancel()
    raise Unable(f"{name} never got ready; its words are above")
