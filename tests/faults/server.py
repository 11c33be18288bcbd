"""The server's program with crash points, and a root nursery that raises at RAISE_SIGNAL; a launcher starts it.

At TELL_SIGNAL it writes to stderr where each of its tasks is. It is `jobmaster.server` in everything else.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Final, NoReturn

import trio

from jobmaster.host.cgroup.opened import OpenedCgroup
from jobmaster.host.cgroup.tree import CgroupTree
from jobmaster.job.record import Launched
from jobmaster.job.state import Finished
from jobmaster.journal.database import Database
from jobmaster.journal.journal import Journal
from jobmaster.output.log import OutputLog
from jobmaster.output.pump import Pump
from jobmaster.output.transfer import Transfer
from jobmaster.run.child import Child
from jobmaster.run.launcher import Launcher
from jobmaster.run.local import LocalExecution, LocalHost
from jobmaster.run.registry import Registry
from jobmaster.run.supervisor import Supervisor
from jobmaster.server import program
from jobmaster.server.options import CommandLine, ServerOptions
from jobmaster.server.signals import SignalsReceived, receive_signals
from tests.faults.points import VARIABLE, Armed, Passing

RAISE_SIGNAL: Final = signal.SIGRTMIN
TELL_SIGNAL: Final = signal.SIGRTMIN + 1
FIRST_WORD: Final = "this is the server "
"""What a server says on stdout, with its pid."""


class InjectedError(Exception):
    """What the root nursery raises."""


class RootNursery:
    """Runs the server in a nursery that can be made to raise."""

    def __init__(self) -> None:
        self._token: trio.lowlevel.TrioToken | None = None
        self._is_to_raise = trio.Event()

    def raise_error(self) -> None:
        """Has the nursery raise; in any thread."""
        if self._token is not None:
            self._token.run_sync_soon(self._is_to_raise.set)

    async def run(self, options: CommandLine | ServerOptions, early: SignalsReceived = ()) -> None:
        """In place of `program.run`."""
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._raise)
            await _run(options, early)
            nursery.cancel_scope.cancel()

    async def _raise(self) -> None:
        await self._is_to_raise.wait()
        raise InjectedError("as a test wanted it")


_run = program.run


def tell_tasks() -> None:
    """Writes the stack of each task of this thread's event loop to stderr."""
    tasks = [task] if (task := trio.lowlevel.current_root_task()) is not None else []
    for task in tasks:
        tasks += [child for nursery in task.child_nurseries for child in nursery.child_tasks]  # grows while it is read
        print(f"--- {task.name}", file=sys.stderr)
        for frame, line in task.iter_await_frames():
            name = frame.f_code.co_filename.rpartition("/")[2]
            print(f"{name}:{line} {frame.f_code.co_name}", file=sys.stderr, flush=True)


def install(passing: Passing) -> None:
    """Puts every point where it belongs."""
    passing.wrap("cgroup", CgroupTree, "create")
    passing.wrap("log", OutputLog, "__init__")
    passing.wrap("held", Launcher, "_deliver")
    passing.wrap("launched", Journal, "record", only=lambda _self, _job, event: isinstance(event, Launched))
    passing.wrap("commit", Database, "write")
    passing.wrap("go", Child, "go")
    passing.wrap("executed", Child, "wait_executed")
    passing.wrap("answer", Registry, "start")
    passing.wrap("output", Transfer, "_transfer")
    passing.wrap("order", LocalExecution, "note_order")
    passing.wrap("signal", LocalExecution, "signal_main")
    passing.wrap("kill", LocalExecution, "kill")
    passing.wrap("drained", Pump, "finish")
    passing.wrap("ended", Journal, "record", only=lambda _self, _job, event: isinstance(event, Finished))
    passing.wrap("removal", OpenedCgroup, "remove")
    passing.wrap("acknowledged", Child, "release")
    passing.wrap("handed-over-job", Supervisor, "_hand_over")
    passing.wrap("handed-over", Launcher, "hand_over")
    passing.wrap("adopted-job", LocalHost, "adopt")
    passing.wrap("recovered", Registry, "recover")
    passing.wrap("ready", Launcher, "say_ready")


def main() -> NoReturn:
    """As `jobmaster.server.__main__`."""
    early = receive_signals()
    print(f"{FIRST_WORD}{os.getpid()}", flush=True)
    root = RootNursery()
    signal.signal(RAISE_SIGNAL, lambda *_: root.raise_error())
    signal.signal(TELL_SIGNAL, lambda *_: tell_tasks())
    install(Passing(Armed(Path(os.environ[VARIABLE])), root.raise_error))
    program.run = root.run
    program.main(early)


if __name__ == "__main__":
    main()
