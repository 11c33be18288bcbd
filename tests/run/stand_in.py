"""A small server that adopts: `python -m tests.run.stand_in FOLDER`, started by a launcher.

It stands for a real one between the launcher and the disk. In FOLDER, the journal of each job is a file for each fact:

    ID.wanted      its command, as JSON; written by the test
    ID.launched    its pid; from here on it may run
    ID.out         its output, whose size is the offset
    ID.order       the order that an inherited child came with
    ID.ended       wait status, and whether it was executed

and of the server itself: `server` (its pid, once it is ready), `servers` (a line for each), and `plan`, which is read
at the start: "fail" and "hang" are before it is ready, "ignore SIGTERM" is about one of them. SIGUSR1 makes it raise, SIGUSR2 hand over, SIGTERM end its jobs.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import trio

from jobmaster.run.launcher import Child, Launch, Launcher, Order, inherited_launcher, use_launcher

PIPE_BYTES: Final = 1 << 20
LISTENER: Final = "localhost"
LOOK_SECONDS: Final = 0.005
ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin"}


class HandedOver(Exception):
    """The server was told to leave its jobs to the next one."""


class Broken(Exception):
    """The server was told to have a bug."""


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is there with all of its content, or not at all."""
    new = path.with_suffix(f"{path.suffix}.new")
    new.write_text(text)
    new.rename(path)


def read(path: Path) -> str:
    """What is in a file; nothing where there is none."""
    return path.read_text() if path.exists() else ""


class StandIn:
    """One life of the server."""

    def __init__(self, folder: Path, cgroup: int, launcher: Launcher, nursery: trio.Nursery) -> None:
        self.folder = folder
        self.cgroup = cgroup
        self.launcher = launcher
        self.nursery = nursery
        self.running: dict[str, Child] = {}
        self.is_stopping = False

    def adopt(self) -> None:
        """Takes what earlier servers have left."""
        inherited = self.launcher.inherited
        while inherited.children:
            name, found = inherited.children.popitem()
            if found.order is not None:
                write_whole(self.folder / f"{name}.order", f"{found.order.by} {found.order.reason}")
            if (self.folder / f"{name}.ended").exists():
                found.child.release()
                os.close(found.output_read)
            else:
                self.running[name] = found.child
                self.nursery.start_soon(self.supervise, found.child, found.output_read)

    async def look(self) -> None:
        """Starts what is wanted."""
        while True:
            for wanted in sorted(self.folder.glob("*.wanted")):
                known = wanted.stem in self.running or wanted.with_suffix(".launched").exists()
                if not known and not wanted.with_suffix(".ended").exists():
                    await self.start(wanted)
            await trio.sleep(LOOK_SECONDS)

    async def start(self, wanted: Path) -> None:
        """Starts one, and lets it run when that is written down."""
        output, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(write, True)
        launch = Launch(
            id=wanted.stem,
            argv=tuple(json.loads(wanted.read_text())),
            environment=ENVIRONMENT,
            working_folder=str(self.folder),
            account=None,
            open_files=64,
        )
        child = await self.launcher.start(launch, cgroup=self.cgroup, output_read=output, output_write=write)
        os.close(write)
        self.running[launch.id] = child
        write_whole(wanted.with_suffix(".launched"), str(child.pid))
        child.go()
        self.nursery.start_soon(self.supervise, child, output)

    async def supervise(self, child: Child, output: int) -> None:
        """From the start, or in the middle, to the end."""
        try:
            fd = os.open(self.folder / f"{child.id}.out", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                while await move(output, fd):
                    pass
            finally:
                os.close(fd)
            status = await child.wait_status()
            write_whole(self.folder / f"{child.id}.ended", f"{status.wait_status} {status.executed:d}")
            child.release()
        finally:
            child.leave()
            os.close(output)

    def stop(self, name: str) -> None:
        """Leaves an order with the launcher, then sends the signal."""
        order = Order(kind="stop", at=datetime.now(UTC), by="client1", reason="tested")
        self.launcher.order(name, order)
        self.running[name].send_signal(signal.SIGTERM)


async def move(pipe: int, fd: int) -> bool:
    """Moves what is in the pipe to the end of the file; False when there will be no more."""
    await trio.lowlevel.wait_readable(pipe)
    try:
        return bool(os.splice(pipe, fd, PIPE_BYTES, offset_dst=os.fstat(fd).st_size))
    except BlockingIOError:
        return True


def listening(launcher: Launcher) -> socket.socket:
    """The listening socket of an earlier server, or a new one."""
    for name, found in launcher.inherited.listeners:
        assert name == LISTENER
        launcher.inherited.listeners.clear()
        return found
    made = socket.create_server(("127.0.0.1", 0))
    made.setblocking(False)
    return made


async def greet(listener: socket.socket, lives: int) -> None:
    """Tells each client which server it has met."""
    sock = trio.socket.from_stdlib_socket(listener)
    while True:
        client, _ = await sock.accept()
        with client, contextlib.suppress(OSError):
            await client.send(f"{lives}\n".encode())


async def main(folder: Path, jobs: Path) -> None:
    """Serves until it is told to end, or to break, or to hand over."""
    signals = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    with trio.open_signal_receiver(*signals) as arrived:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        sock = inherited_launcher()
        assert sock is not None
        with contextlib.suppress(HandedOver):
            async with use_launcher(sock) as launcher:
                try:
                    await serve(launcher, folder, jobs, arrived)
                except* HandedOver:
                    await launcher.hand_over()


async def serve(launcher: Launcher, folder: Path, jobs: Path, arrived: AsyncIterator[int]) -> None:
    """Within a launcher."""
    lock = launcher.inherited.locks.get("jobs")
    assert (lock is None) == (launcher.inherited.predecessors == 0)
    if lock is None:
        kill = os.open(jobs / "cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
        launcher.keep(kill_fd=kill, locks={"jobs": os.open(jobs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)})
    write_whole(folder / "servers", f"{read(folder / 'servers')}{os.getpid()}\n")
    plan = read(folder / "plan")
    if plan == "fail":
        raise Broken
    if plan == "hang":
        await trio.sleep_forever()
    cgroup = os.open(jobs / "job", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    async with trio.open_nursery() as nursery:
        stand_in = StandIn(folder, cgroup, launcher, nursery)
        stand_in.adopt()
        listener = listening(launcher)
        nursery.start_soon(greet, listener, launcher.inherited.predecessors)
        options = json.loads((folder / "bounds").read_text())
        launcher.say_ready([(LISTENER, listener)], **options)
        write_whole(folder / "port", str(listener.getsockname()[1]))
        write_whole(folder / "server", str(os.getpid()))
        nursery.start_soon(end_with, launcher)
        nursery.start_soon(stand_in.look)
        nursery.start_soon(stop_wanted, stand_in)
        if plan == "ignore SIGTERM":
            await anext(arrived)
            (folder / "ignored").touch()
        _act(await anext(arrived), stand_in)
        nursery.cancel_scope.cancel()


def _act(number: int, stand_in: StandIn) -> None:
    match number:
        case signal.SIGUSR1:
            raise Broken
        case signal.SIGUSR2:
            raise HandedOver
        case _:
            stand_in.launcher.say_stopping()


async def end_with(launcher: Launcher) -> None:
    """Fails when the launcher is gone: a test that ends leaves no server behind."""
    await launcher.lost.wait()
    raise Broken


async def stop_wanted(stand_in: StandIn) -> None:
    """Stops the jobs that have a file ID.stop, once."""
    while True:
        for wanted in stand_in.folder.glob("*.stop"):
            if wanted.stem in stand_in.running:
                stand_in.stop(wanted.stem)
                wanted.rename(wanted.with_suffix(".stopped"))
        await trio.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), Path(sys.argv[2]))
