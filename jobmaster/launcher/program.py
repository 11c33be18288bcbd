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
process ends when the last one is reaped. As a subreaper it inherits every orphan of a job, so "no child is left" means
that nothing of theirs is left. The lock of the jobs' folder is held until then. The other way round, the kernel kills
each job's main process when this process dies (PDEATHSIG), and the server sees its socket end.

Signals reach the server through this process, which ends with the last server's own exit status.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Final, assert_never

from jobmaster.launcher import kernel, server
from jobmaster.launcher.child import HANDLED_SIGNALS
from jobmaster.launcher.children import Children
from jobmaster.launcher.connection import Connection
from jobmaster.launcher.kept import Kept
from jobmaster.launcher.notification import VARIABLE as NOTIFY_SOCKET
from jobmaster.launcher.notification import Notifier
from jobmaster.launcher.origin import Origin
from jobmaster.launcher.packets import Received, close_all
from jobmaster.launcher.poller import Poller
from jobmaster.launcher.protocol import (
    Ack,
    Executed,
    Exited,
    Farewell,
    Forgotten,
    HandOver,
    Hello,
    Keep,
    Message,
    Order,
    ProtocolError,
    Ready,
    Refused,
    Start,
    Started,
    Stopping,
    Table,
    TableEnd,
)
from jobmaster.launcher.reaping import reap_all
from jobmaster.launcher.server import Server
from jobmaster.launcher.streams import occupy_standard_streams, say
from jobmaster.launcher.succession import GiveUp, Next, Succession

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence

USAGE: Final = "usage: launcher -- PROGRAM [ARGUMENT ...] | launcher --attached DESCRIPTOR"
END_SECONDS: Final = 10.0
"""How long killed processes may take until this process ends without them, and a server that has said it ends."""
_PASSED_ON: Final = {
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGINT: signal.SIGINT,
    signal.SIGQUIT: signal.SIGQUIT,
    signal.SIGHUP: signal.SIGTERM,  # there is no configuration yet that it could reload
    signal.SIGUSR2: signal.SIGUSR2,
}
_END_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def main(arguments: Sequence[str]) -> int:
    """Runs the launcher; returns its exit status."""
    occupy_standard_streams()
    match arguments:
        case ["--", program, *others]:
            return _run_with_server((program, *others))
        case ["--attached", number] if number.isdecimal():
            return _run_attached(int(number))
        case _:
            say(USAGE)
            return 2


def _run_with_server(command: tuple[str, ...]) -> int:
    try:
        launcher = Launcher(command)
        launcher.start_server()
    except OSError as error:
        say(f"jobmaster: cannot start the server: {error.strerror}; does the host have open files, processes, memory?")
        return 1
    return launcher.run()


def _run_attached(fd: int) -> int:
    try:
        pidfd, sock = server.attach(fd)
    except OSError as error:
        say(f"launcher: --attached {fd}: {error.strerror}; name the descriptor of one end of a socket pair")
        return 2
    launcher = Launcher(None)
    launcher.use_server(None, pidfd, sock)
    return launcher.run()


class Launcher:
    """The process as a whole; its constructor changes signals, limits and OOM score of the process.

    Args:
        command: starts a server; None where there is one that this process does not start.
    """

    def __init__(self, command: tuple[str, ...] | None) -> None:
        self._command = command
        self._server: Server | None = None
        self._servers = 0
        self._status: int | None = None
        """The wait status of the last server."""
        self._has_ended = False
        self._gave_up = False
        self._said_farewell = False
        self._arrived: set[int] = set()
        self._origin = Origin()
        self._wake, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poller = Poller()
        self._children = Children(self._poller, self._send, self._origin.heritage)
        self._kept = Kept()
        self._succession = Succession()
        self._notifier = Notifier(None if command is None else os.environ.get(NOTIFY_SOCKET))
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
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # a stop of this process alone is of no use
        if signal.SIGHUP in self._origin.heritage.ignored:  # nohup
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED_SIGNALS)  # jobmaster.serve, or a parent, has blocked them

    def run(self) -> int:
        """Serves until the last server has ended; returns the exit status."""
        while not self._has_ended:
            self._poller.run_once()
        self._kept.stop_listening()
        self._notifier.stopping()
        if not self._said_farewell:
            self._kill_jobs()
        reap_all(self._poller, kill=self._children.kill_all, collect=self._collect_some, seconds=END_SECONDS)
        for number in HANDLED_SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # an ending interpreter sets back to default what it handles
        return self._exit_status()

    # What a server says.

    def _send(self, message: Message, descriptors: tuple[int, ...]) -> None:
        if self._server is not None:
            self._server.connection.send(message, descriptors)

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
            case Hello():
                self._answer_hello()
            case Ack(id=entry_id):
                self._children.acknowledge(entry_id)
            case Order():
                self._children.order(received.message)
            case HandOver() | Stopping() | Farewell():
                self._on_end_announced(received.message)
            case Table() | TableEnd() | Started() | Refused() | Executed() | Exited() | Forgotten():
                say("launcher: ignored a message that is for servers")
            case unreachable:
                assert_never(unreachable)
        close_all(received.descriptors)

    def _answer_hello(self) -> None:
        self._send(Hello(), ())
        if self._server is not None:
            self._server.connection.send_all(self._table())

    def _table(self) -> Iterator[tuple[Message, tuple[int, ...]]]:
        yield from self._children.rows()
        end = TableEnd(predecessors=self._servers - 1, is_followed=self._command is not None)
        yield self._kept.complete(end)

    def _on_ready(self, ready: Ready, descriptors: tuple[int, ...]) -> None:
        if self._server is None or self._command is None:  # whoever has an attached launcher ends with its jobs
            close_all(descriptors)
            return
        self._server.is_ready = True
        self._kept.listen(ready.listeners, descriptors)
        self._succession.on_ready(time.monotonic(), max_gap=ready.max_gap, max_crashes=ready.max_crashes)
        self._notifier.ready()

    def _on_end_announced(self, message: HandOver | Stopping | Farewell) -> None:
        match message:
            case Stopping():
                self._succession.is_stopping = True
                self._kept.stop_listening()
                self._notifier.stopping()
            case Farewell():
                self._said_farewell = True
                self._notifier.stopping()
            case HandOver() if self._server is not None and self._succession.has_begun:
                self._server.hands_over = True
                self._notifier.reloading()
                self._poller.call_later(END_SECONDS, partial(self._end_server, self._server))

    # Servers that end, and those that follow.

    def start_server(self) -> None:
        """Starts a server, unless there is one."""
        if self._has_ended or self._server is not None or self._command is None:
            return
        try:
            pid, pidfd, sock = server.start(self._command, self._origin)
        except OSError as error:
            say(f"jobmaster: cannot start a server: {error.strerror}")
            self._status = None
            self._follow(None)
            return
        self.use_server(pid, pidfd, sock)

    def use_server(self, pid: int | None, pidfd: int, sock: socket.socket) -> None:
        """Serves the server at the other end of this socket."""
        connection = Connection(
            sock, self._poller, on_message=self._on_message, on_error=_on_error, on_end=self._on_socket_end
        )
        self._servers += 1
        self._server = Server(pid, pidfd, connection, is_to_stop=self._succession.is_stopping)

    def _on_socket_end(self) -> None:
        """The server's end of the socket is closed: it is dying, or about to end after its farewell."""
        if self._outlives_server():
            self._begin_gap()
        elif not self._said_farewell:
            self._kill_jobs()
        if self._server is None or self._server.pid is None:
            self._has_ended = True
        else:
            self._poller.call_later(END_SECONDS, partial(self._end_server, self._server))

    def _outlives_server(self) -> bool:
        """Whether an end of the server that there is now is not the end of the jobs."""
        return self._succession.has_begun and not self._said_farewell and not self._has_ended

    def _end_server(self, ending: Server) -> None:
        """A server that was to end lives on: a thread in uninterruptible sleep keeps it, even when killed."""
        if self._server is not ending or self._has_ended:
            return
        say(f"jobmaster: the server has not died within {END_SECONDS:g} s of its end; does its output disk answer?")
        if self._outlives_server():
            ending.signal(signal.SIGKILL)  # the next one is started when this one is reaped
        else:
            self._has_ended = True

    def _on_server_reaped(self, ended: Server, status: int) -> None:
        ended.on_reaped()
        self._status = status
        if not self._outlives_server():
            self._has_ended = True
            return
        self._server = None
        self._children.forget_server()
        self._follow(ended)

    def _follow(self, ended: Server | None) -> None:
        """There is no server, or none could be started: starts another one, now or later, or ends the jobs."""
        if not self._succession.has_begun:
            self._has_ended = True
            return
        was_ready, handed_over = (ended.is_ready, ended.hands_over) if ended is not None else (False, False)
        said = "has handed its jobs over" if handed_over else _how(self._status)
        said += "" if was_ready else " before it was ready"
        was_to_stop = ended.is_to_stop if ended is not None else self._succession.is_stopping
        decision = self._succession.on_end(
            time.monotonic(), was_ready=was_ready, handed_over=handed_over, was_to_stop=was_to_stop
        )
        match decision:
            case GiveUp(why=why):
                say(f"jobmaster: the server {said}")
                self._give_up(why)
            case Next(pause=pause):
                say(f"jobmaster: the server {said}; its jobs go on, and another one is started in {pause:g} s")
                if not handed_over:
                    self._notifier.recovering()
                self._begin_gap()
                self._poller.call_later(pause, partial(self._start_next, self._servers))

    def _start_next(self, servers: int) -> None:
        if servers == self._servers:
            self.start_server()

    def _begin_gap(self) -> None:
        end = self._succession.on_silence(time.monotonic())
        self._poller.call_later(max(0.0, end - time.monotonic()), self._on_gap)

    def _on_gap(self) -> None:
        if not self._has_ended and self._succession.is_gap_too_long(time.monotonic()):
            self._give_up(self._succession.gap_text())

    def _give_up(self, why: str) -> None:
        say(f"jobmaster: {why}; its jobs are ended")
        self._gave_up = True
        self._has_ended = True
        if self._server is not None:
            self._server.signal(signal.SIGKILL)

    # Signals, and children that have died.

    def _on_signal(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 65536)
        arrived, self._arrived = self._arrived, set()
        for number in arrived & _PASSED_ON.keys():
            self._pass_on(_PASSED_ON[signal.Signals(number)])
        if signal.SIGCHLD in arrived:
            self._collect()

    def _pass_on(self, number: int) -> None:
        """Passes a signal on; where there is no server, the next one is started to receive it."""
        if number in _END_SIGNALS:
            self._succession.is_stopping = True
        if self._server is not None:
            self._server.signal(number)
        elif number in _END_SIGNALS:
            self.start_server()

    def _collect(self) -> None:
        """Reaps what has died; where that is a lot, other descriptors are looked at in between."""
        if not self._collect_some():
            self._arrived.add(signal.SIGCHLD)
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_write, b"\0")

    def _collect_some(self) -> bool:
        """Reaps a bounded number; whether that was all. The server may be among them."""
        collected = self._children.collect()
        if self._server is not None and self._server.pid in collected.others:
            self._on_server_reaped(self._server, collected.others[self._server.pid])
        return collected.is_all

    # The end.

    def _kill_jobs(self) -> None:
        self._kept.kill_jobs()
        self._children.kill_all()

    def _exit_status(self) -> int:
        if self._gave_up:
            return 1
        if self._status is None:
            return 0 if self._command is None else 1
        code = os.waitstatus_to_exitcode(self._status)
        if code >= 0:
            return code
        say(f"jobmaster: the server {_how(self._status)}; its jobs were ended")
        return 128 - code


def _how(wait_status: int | None) -> str:
    """How a server ended, for people."""
    if wait_status is None:
        return "was not started"
    code = os.waitstatus_to_exitcode(wait_status)
    if code >= 0:
        return f"ended with status {code}"
    return f"was killed by signal {-code} ({signal.strsignal(-code)})"


def _on_error(error: ProtocolError) -> None:
    say(f"launcher: {error}")
