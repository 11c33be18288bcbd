"""A launcher with a real cgroup for its children, and what to ask of it in a line."""

from __future__ import annotations

import itertools
import os
import select
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from jobmaster.run.launcher import Child, ChildAccount, ChildStatus, ExecOutcome, Launch, Launcher, LaunchRefused
from tests.harness import cgroup_mount

DEADLINE: Final = 60.0
NOBODY: Final = ChildAccount(uid=65534, gid=65534, groups=(65534,), keeps_capabilities=False)
ROOT: Final = ChildAccount(uid=0, gid=0, groups=(0,), keeps_capabilities=True)
ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a command did."""

    outcome: ExecOutcome
    status: ChildStatus
    output: bytes

    @property
    def exit_code(self) -> int:
        """As of waitstatus_to_exitcode."""
        return os.waitstatus_to_exitcode(self.status.wait_status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A folder for jobs in the cgroup file system, with one job's folder in it, and the descriptors of both."""

    path: Path
    kill: int
    lock: int
    job: int

    def pids(self) -> list[int]:
        """The processes in the job's cgroup; a zombie is in none."""
        return [int(line) for line in (self.path / "job" / "cgroup.procs").read_text().split()]


@contextmanager
def jobs_folder() -> Iterator[Folder]:
    """Such a folder, killed and removed at the end."""
    path = cgroup_mount() / f"jobmaster-launcher-{os.getpid()}-{next(_numbers)}"
    (path / "job").mkdir(parents=True)
    folder = Folder(
        path=path,
        kill=os.open(path / "cgroup.kill", os.O_WRONLY | os.O_CLOEXEC),
        lock=os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC),
        job=os.open(path / "job", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC),
    )
    try:
        yield folder
    finally:
        (path / "cgroup.kill").write_text("1")
        _wait_until_empty(path)
        for fd in (folder.kill, folder.lock, folder.job):
            os.close(fd)
        (path / "job").rmdir()
        path.rmdir()


def _wait_until_empty(path: Path) -> None:
    events = os.open(path / "cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    poll = select.poll()
    poll.register(events, select.POLLPRI)
    while b"populated 1" in os.pread(events, 4096, 0):
        assert poll.poll(DEADLINE * 1000), f"{path} is still populated"
    os.close(events)


@dataclass(slots=True, kw_only=True)
class Host:
    """A launcher and the cgroup that its children are put into."""

    launcher: Launcher
    folder: Folder
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @asynccontextmanager
    async def child(
        self,
        *argv: str,
        account: ChildAccount | None = NOBODY,
        working_folder: str = "/",
        nice: int = 0,
        umask: int = 0o022,
    ) -> AsyncIterator[tuple[Child, int]]:
        """A held child and the read end of its output, for the block."""
        launch = Launch(
            id=f"child-{next(self.numbers)}",
            argv=argv,
            environment=ENVIRONMENT,
            working_folder=working_folder,
            account=account,
            open_files=256,
            nice=nice,
            umask=umask,
        )
        output, write = os.pipe2(os.O_CLOEXEC)
        try:
            child = await self.launcher.start(launch, cgroup=self.folder.job, output_read=output, output_write=write)
            os.close(write)
            write = -1
            try:
                yield child, output
            finally:
                child.release()
        finally:
            os.close(output)
            if write >= 0:
                os.close(write)

    async def run(
        self, *argv: str, account: ChildAccount | None = NOBODY, working_folder: str = "/", nice: int = 0
    ) -> Run:
        """Runs a command to its end."""
        started = self.child(*argv, account=account, working_folder=working_folder, nice=nice)
        async with started as (child, output):
            child.go()
            with trio.fail_after(DEADLINE):
                outcome = await child.wait_executed()
                written = await read_to_end(output)
                status = await child.wait_status()
            return Run(outcome=outcome, status=status, output=written)

    async def settle(self) -> None:
        """Returns when the launcher has done all that it was asked before: by a start that it refuses."""
        output, write = os.pipe2(os.O_CLOEXEC)
        launch = Launch(
            id=f"refused-{next(self.numbers)}",
            argv=("true",),
            environment={},
            working_folder="/",
            account=None,
            open_files=1,
        )
        with suppress(LaunchRefused):
            await self.launcher.start(launch, cgroup=output, output_read=output, output_write=write)
        os.close(output)
        os.close(write)


async def read_to_end(fd: int) -> bytes:
    """All that is written into a pipe until its last writer has left."""
    parts: list[bytes] = []
    while True:
        await trio.lowlevel.wait_readable(fd)
        part = os.read(fd, 65536)
        if not part:
            return b"".join(parts)
        parts.append(part)


async def read_line(fd: int) -> bytes:
    """The next line, without what ends it."""
    line = b""
    while not line.endswith(b"\n"):
        await trio.lowlevel.wait_readable(fd)
        byte = os.read(fd, 1)
        assert byte, f"the output ended after {line!r}"
        line += byte
    return line[:-1]


def parent_of(pid: int) -> int:
    """The pid of its parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def wait_gone(pid: int) -> None:
    """Returns when a process has died."""
    with suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            with trio.fail_after(DEADLINE):
                await trio.lowlevel.wait_readable(fd)
        finally:
            os.close(fd)
