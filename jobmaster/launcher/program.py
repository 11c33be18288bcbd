"""The launcher's program: the parent of the server and of all jobs.

Theory of operation
-------------------
One thread waits in one epoll. The server asks for children over a socket pair and is told what becomes of them; each
is a fork of this process, so no job ever shares memory or a descriptor with the server. Children are kept, with status
and the read end of their output, until the server has recorded their end.

The server is this process's child, or (`--attached`) whoever holds the other end. One that has said that it is ready
and dies without farewell is followed by another, which is told of the children and gets their descriptors, the locks
and the listening sockets; meanwhile all of these are kept here (`succession` says when, and for how long). The next
server is started when the old one was reaped, so that no thread of it is left in the kernel, and when all that it had
sent was read: never do two servers move the output of one job.

Any other end of the server is the end of the jobs: all that is in their cgroup and every child is killed, and this
process ends when the last one is reaped. Where somebody has asked for that and no server does it, their main processes
have SIGTERM and the grace period before. As a subreaper it inherits every orphan of a job, so "no child is left" means that
nothing of theirs is left. The lock of the jobs' folder is held until then. The other way round, the kernel kills
each job's main process when this process dies (PDEATHSIG), and the server sees its socket end.

Signals reach the server through this process, which ends with the last server's own exit status.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
from typing import TYPE_CHECKING, Final, assert_never

from jobmaster.launcher import kernel, renewal, server, snapshot
from jobmaster.launcher.child import HANDLED_SIGNALS
from jobmaster.launcher.children import Children
from jobmaster.launcher.kept import Kept
from jobmaster.launcher.notification import VARIABLE as NOTIFY_SOCKET
from jobmaster.launcher.notification import Notifier
from jobmaster.launcher.origin import Origin
from jobmaster.launcher.packets import Received, close_all
from jobmaster.launcher.poller import Poller
from jobmaster.launcher.protocol import (
    Ack,
    Alive,
    Close,
    Closed,
    Executed,
    Exited,
    Farewell,
    Forgotten,
    HandOver,
    Hello,
    Keep,
    Message,
    Order,
    Ready,
    Refused,
    Start,
    Started,
    Stopping,
    Table,
    TableEnd,
)
from jobmaster.launcher.reaping import reap_all
from jobmaster.launcher.servers import Hooks, Servers
from jobmaster.launcher.snapshot import Snapshot
from jobmaster.launcher.streams import occupy_standard_streams, say
from jobmaster.launcher.succession import Succession
from jobmaster.launcher.table import Table as ChildTable
from jobmaster.launcher.watchdog import tell_again_and_again, watchdog_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

USAGE: Final = "usage: launcher -- PROGRAM [ARGUMENT ...] | launcher --attached DESCRIPTOR"
END_SECONDS: Final = 10.0
"""How long killed processes may take until this process ends without them."""
_PASSED_ON: Final = {
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGINT: signal.SIGINT,
    signal.SIGQUIT: signal.SIGQUIT,
    signal.SIGHUP: signal.SIGTERM,  # there is no configuration yet that it could reload
    signal.SIGUSR2: signal.SIGUSR2,
}


def main(arguments: Sequence[str]) -> int:
    """Runs the launcher; returns its exit status."""
    occupy_standard_streams()
    match arguments:
        case ["--", program, *others]:
            return _run_with_server((program, *others))
        case ["--attached", number] if number.isdecimal():
            return _run_attached(int(number))
        case ["--table", number, "--", program, *others] if number.isdecimal():
            return _run_on((program, *others), int(number))
        case ["--try-table", number] if number.isdecimal():
            snapshot.read(int(number))
            os.write(1, renewal.OK)
            return 0
        case _:
            say(USAGE)
            return 2


def _run_with_server(command: tuple[str, ...]) -> int:
    try:
        launcher = Launcher(command)
        launcher.servers.start()
    except OSError as error:
        say(f"jobmaster: cannot start the server: {error.strerror}; does the host have open files, processes, memory?")
        return 1
    return launcher.run()


def _run_on(command: tuple[str, ...], fd: int) -> int:
    """Goes on as a launcher whose program was replaced by this one."""
    known = snapshot.read(fd)
    known.find_cgroups()
    for each in known.descriptors():
        os.set_inheritable(each, False)
    os.close(fd)
    launcher = Launcher(command, known)
    launcher.collect()
    launcher.servers.go_on()
    return launcher.run()


def _run_attached(fd: int) -> int:
    try:
        pidfd, sock = server.attach(fd)
    except OSError as error:
        say(f"launcher: --attached {fd}: {error.strerror}; name the descriptor of one end of a socket pair")
        return 2
    launcher = Launcher(None)
    launcher.servers.use(None, pidfd, sock)
    return launcher.run()


class Launcher:
    """The process as a whole; its constructor changes signals, limits and OOM score of the process.

    Args:
        command: starts a server; None where there is one that this process does not start.
        known: what a launcher knew whose program was replaced by this one.
    """

    def __init__(self, command: tuple[str, ...] | None, known: Snapshot | None = None) -> None:
        if known is None:
            known = Snapshot(Origin.read(), ChildTable(), Kept(), Succession(), servers=0, told="")
        self._command = command
        self._program = renewal.on_disk()
        self._arrived: set[int] = set()
        self._is_hurried = False
        self._origin = known.origin
        self._wake, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poller = Poller()
        self._children = Children(self._poller, self._send, self._origin.heritage, known.table)
        self._kept = known.kept
        self._notifier = Notifier(None if command is None else os.environ.get(NOTIFY_SOCKET), known.told)
        self.servers = Servers(
            self._poller,
            known,
            command,
            self._notifier,
            Hooks(
                on_message=self._on_message,
                on_gone=self._on_gone,
                kill_jobs=self._kill_jobs,
                renew=self._renew,
                end_holders=lambda waiting, is_sure: self._children.end_lock_holders(waiting, is_sure=is_sure),
            ),
        )
        tell_again_and_again(
            self._poller, None if command is None else watchdog_seconds(os.environ), self._notifier.alive
        )
        self._poller.watch(self._wake, self._on_signal)
        self._handle_signals()
        kernel.become_subreaper()
        self._origin.improve_own()
        gc.collect()
        gc.freeze()  # what is here stays; children need not copy its pages to look at it

    def _handle_signals(self) -> None:
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in HANDLED_SIGNALS:
            signal.signal(number, lambda arrived, _frame: self._arrived.add(arrived))
        for number in (signal.SIGTSTP, signal.SIGTTOU, signal.SIGTTIN):  # of a terminal
            signal.signal(number, signal.SIG_IGN)  # a stop of this process alone is of no use
        if signal.SIGHUP in self._origin.heritage.ignored:  # nohup
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED_SIGNALS)  # jobmaster.serve, or a parent, has blocked them

    def run(self) -> int:
        """Serves until the last server has ended; returns the exit status."""
        while not self.servers.has_ended:
            self._poller.run_once()
        self._kept.stop_listening()
        self._notifier.stopping()
        if not self.servers.said_farewell:
            self._let_jobs_end(self.servers.grace())
            self._kill_jobs()
        reap_all(self._poller, kill=self._kill_children, collect=self._collect_some, seconds=END_SECONDS)
        for number in HANDLED_SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # an ending interpreter sets back to default what it handles
        return self.servers.exit_status()

    # What a server says.

    def _send(self, message: Message, descriptors: tuple[int, ...]) -> None:
        if self.servers.current is not None:
            self.servers.current.connection.send(message, descriptors)

    def _on_message(self, received: Received) -> None:
        match received.message:
            case Start():
                self._children.start(received.message, received)
                return
            case Keep(locks=locks):
                self._kept.keep(locks, received.descriptors)
                return
            case Ready():
                self._on_ready(received.message, received.descriptors)
                return
            case Hello(version=version):
                self._answer_hello(version)
            case Ack() | Close() if not self.servers.lives():
                pass  # our descriptors would be the last ones, whose close may have to wait; the next server says it again
            case Ack(id=entry_id):
                self._children.acknowledge(entry_id)
            case Close():
                self._children.close_kept(received.message)
            case Order():
                self._children.order(received.message)
            case HandOver():
                self.servers.on_hand_over()
            case Alive():
                self.servers.on_alive()
            case Stopping():
                self._kept.stop_listening()
                self.servers.on_stopping()
            case Farewell():
                self.servers.on_farewell()
            case Table() | TableEnd() | Started() | Refused() | Executed() | Exited() | Closed() | Forgotten():
                say("launcher: ignored a message that is for servers")
            case unreachable:
                assert_never(unreachable)
        close_all(received.descriptors)

    def _answer_hello(self, version: int) -> None:
        self._send(Hello(), ())
        if self.servers.current is not None:
            self.servers.current.connection.send_all(self._table(version))

    def _table(self, version: int) -> Iterator[tuple[Message, tuple[int, ...]]]:
        yield from self._children.rows(version)
        end = TableEnd(predecessors=self.servers.started - 1, is_followed=self._command is not None)
        yield self._kept.complete(end)

    def _on_ready(self, ready: Ready, descriptors: tuple[int, ...]) -> None:
        if self._command is None:  # whoever has an attached launcher ends with its jobs
            close_all(descriptors)
            return
        self._kept.listen(ready.listeners, descriptors)
        self.servers.on_ready(ready)

    def _on_gone(self) -> None:
        """There is no server: the next one is told of every child anew."""
        self._children.forget_server()

    def _renew(self) -> None:
        """Replaces this program, where another one has its place on disk; returns where it does not."""
        if self._command is None or renewal.on_disk() == self._program:
            return
        say("jobmaster: the launcher's program has changed on disk")
        known = Snapshot(
            origin=self._origin,
            table=self._children.table,
            kept=self._kept,
            succession=self.servers.succession,
            servers=self.servers.started,
            told=self._notifier.told,
        )
        renewal.replace(known, self._command, may_go=lambda: self._arrived <= {signal.SIGCHLD})

    # Signals, and children that have died.

    def _on_signal(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 65536)
        arrived, self._arrived = self._arrived, set()
        for number in arrived & _PASSED_ON.keys():
            self._is_hurried |= number != signal.SIGUSR2
            self.servers.pass_on(_PASSED_ON[signal.Signals(number)])
        if signal.SIGCHLD in arrived:
            self.collect()

    def collect(self) -> None:
        """Reaps what has died; where that is a lot, other descriptors are looked at in between."""
        if not self._collect_some():
            self._arrived.add(signal.SIGCHLD)
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_write, b"\0")

    def _collect_some(self) -> bool:
        """Reaps a bounded number; whether that was all. The server may be among them."""
        collected = self._children.collect()
        self.servers.on_reaped(collected.others)
        return collected.is_all

    # The end.

    def _let_jobs_end(self, seconds: float) -> None:
        """Tells the jobs' main processes to end, and waits for that; a second signal to this process ends the wait."""
        if not seconds:
            return
        deadline = time.monotonic() + seconds
        self._children.signal_all(signal.SIGTERM)
        self._is_hurried = False
        self._poller.call_later(seconds, lambda: None)
        while self._children.any_lives and not self._is_hurried and time.monotonic() < deadline:
            self._poller.run_once()

    def _kill_jobs(self) -> None:
        self._kept.kill_jobs()
        self._kill_children()

    def _kill_children(self) -> None:
        self._children.signal_all(signal.SIGKILL)
