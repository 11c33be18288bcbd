"""The launcher's program: the parent of the server and of all jobs.

Theory of operation
-------------------
One thread waits in one epoll. The server asks for children over a socket pair and is told what becomes of them; each
is a fork of this process, so no job ever shares memory or a descriptor with the server. Children are kept, with status
and the read end of their output, until the server has recorded their end.

The server is this process's child, or (`--attached`) whoever holds the other end. Its death is the end of the jobs:
all that is in their cgroup and every child is killed, and this process ends when the last one is reaped. As a
subreaper it inherits every orphan of a job, so "no child is left" means that nothing of theirs is left. The lock of
the jobs' folder is held until then. The other way round, the kernel kills each job's main process when this process
dies (PDEATHSIG), and the server sees its socket end.

Signals reach the server through this process, which ends with the server's own exit status.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Final, NoReturn, assert_never

from jobmaster.launcher import kernel
from jobmaster.launcher.child import HANDLED_SIGNALS, Heritage
from jobmaster.launcher.children import Children
from jobmaster.launcher.connection import Connection
from jobmaster.launcher.packets import Received, close_all
from jobmaster.launcher.poller import Poller
from jobmaster.launcher.protocol import (
    ENVIRONMENT_VARIABLE,
    Ack,
    Executed,
    Exited,
    Farewell,
    Forgotten,
    Hello,
    ProtocolError,
    Refused,
    Start,
    Started,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

USAGE: Final = "usage: launcher -- PROGRAM [ARGUMENT ...] | launcher --attached DESCRIPTOR"
END_SECONDS: Final = 10.0
"""How long killed processes may take until this process ends without them."""
_PASSED_ON: Final = {
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGINT: signal.SIGINT,
    signal.SIGQUIT: signal.SIGQUIT,
    signal.SIGHUP: signal.SIGTERM,  # there is no configuration yet that it could reload
}
_FOR_SERVER: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Blocked in the server until it can receive them; it unblocks them itself."""
_OOM_SCORE: Final = b"-999"


def main(arguments: Sequence[str]) -> int:
    """Runs the launcher; returns its exit status."""
    _occupy_standard_streams()
    match arguments:
        case ["--", program, *others]:
            return _run_with_server((program, *others))
        case ["--attached", number] if number.isdecimal():
            return _run_attached(int(number))
        case _:
            say(USAGE)
            return 2


def say(line: str) -> None:
    """Writes a line to stderr if that does not block."""
    with contextlib.suppress(OSError):
        if select.select([], [2], [], 0)[1]:  # a pipe is writable when it takes PIPE_BUF bytes
            os.write(2, f"{line}\n".encode()[: select.PIPE_BUF])


def _occupy_standard_streams() -> None:
    """Opens 0, 1 and 2 where they are closed: the descriptors of children have to be others."""
    while (fd := os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def _run_with_server(command: tuple[str, ...]) -> int:
    try:
        own, servers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        launcher = Launcher(own)
        launcher.start_server(command, servers)
    except OSError as error:
        say(f"jobmaster: cannot start the server: {error.strerror}; does the host have open files, processes, memory?")
        return 1
    return launcher.run()


def _run_attached(fd: int) -> int:
    try:
        sock = socket.socket(fileno=fd)
        sock.set_inheritable(False)
        pid = int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], sys.byteorder)
        launcher = Launcher(sock)
        launcher.server = os.pidfd_open(pid)
    except OSError as error:
        say(f"launcher: --attached {fd}: {error.strerror}; name the descriptor of one end of a socket pair")
        return 2
    return launcher.run()


class Launcher:
    """The process as a whole; its constructor changes signals, limits and OOM score of the process."""

    def __init__(self, sock: socket.socket) -> None:
        self.server: int | None = None
        """pidfd of the server."""
        self._server_pid: int | None = None
        self._server_status: int | None = None
        self._has_ended = False
        self._said_farewell = False
        self._held: tuple[int, ...] = ()
        """cgroup.kill of the jobs' folder and the folder's lock."""
        self._arrived: set[int] = set()
        self._original = _Original()
        self._wake, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poller = Poller()
        self._connection = Connection(
            sock, self._poller, on_message=self._on_message, on_error=_on_error, on_end=self._on_end
        )
        self._children = Children(self._poller, self._connection.send, self._original.heritage)
        self._poller.watch(self._wake, self._on_signal)
        self._handle_signals()
        kernel.become_subreaper()
        self._original.improve_own()
        gc.collect()
        gc.freeze()  # what is here stays; children need not copy its pages to look at it

    def _handle_signals(self) -> None:
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in HANDLED_SIGNALS:
            signal.signal(number, lambda arrived, _frame: self._arrived.add(arrived))
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # a stop of this process alone is of no use
        if signal.SIGHUP in self._original.heritage.ignored:  # nohup
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED_SIGNALS)  # jobmaster.serve, or a parent, has blocked them

    def start_server(self, command: tuple[str, ...], sock: socket.socket) -> None:
        """Starts the server in a session of its own with its end of the socket pair."""
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)
        self._server_pid = os.fork()
        if self._server_pid == 0:
            self._original.execute(command, sock)
        sock.close()
        self.server = os.pidfd_open(self._server_pid)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def run(self) -> int:
        """Serves until the server has died; returns the exit status."""
        while not self._has_ended:
            self._poller.run_once()
        if not self._said_farewell:
            self._kill_jobs()
        self._reap_all()
        for number in HANDLED_SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # an ending interpreter sets back to default what it handles
        return self._exit_status()

    def _on_message(self, received: Received) -> None:
        match received.message:
            case Start():
                self._children.start(received.message, received)
                return
            case Ack(id=entry_id):
                self._children.acknowledge(entry_id)
            case Farewell():
                self._said_farewell = True
            case Hello():
                close_all(self._held)
                self._held = received.descriptors
                self._connection.send(Hello())
                return
            case Started() | Refused() | Executed() | Exited() | Forgotten():
                say("launcher: ignored a message that is for servers")
            case unreachable:
                assert_never(unreachable)
        close_all(received.descriptors)

    def _on_end(self) -> None:
        """The server's end of the socket is closed: it is dying, or about to end after its farewell."""
        if not self._said_farewell:
            self._kill_jobs()
        if self._server_pid is None:
            self._has_ended = True
        else:
            self._poller.call_later(END_SECONDS, self._give_server_up)

    def _give_server_up(self) -> None:
        """The server has closed its socket and lives on: a thread in uninterruptible sleep keeps it, even when killed."""
        if not self._has_ended:
            say(f"jobmaster: the server has not died within {END_SECONDS:g} s of its end; does its output disk answer?")
            self._has_ended = True

    def _on_signal(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 65536)
        arrived, self._arrived = self._arrived, set()
        for number in arrived & _PASSED_ON.keys():
            self._pass_on(_PASSED_ON[signal.Signals(number)])
        if signal.SIGCHLD in arrived:
            self._collect()

    def _pass_on(self, number: int) -> None:
        if self.server is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.server, number)

    def _collect(self) -> None:
        """Reaps what has died; where that is a lot, other descriptors are looked at in between."""
        if not self._collect_some():
            self._arrived.add(signal.SIGCHLD)
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_write, b"\0")

    def _collect_some(self) -> bool:
        """Reaps a bounded number; whether that was all. The server may be among them."""
        collected = self._children.collect()
        status = collected.others.get(self._server_pid or 0)
        if status is not None:
            self._server_status = status
            self._server_pid = None  # another process may get it from here on
            self._connection.read_to_end()
            self._has_ended = True
        return collected.is_all

    def _kill_jobs(self) -> None:
        for fd in self._held[:1]:
            with contextlib.suppress(OSError):  # ENODEV: the folder is gone, and so is all that was in it
                os.write(fd, b"1")
        self._children.kill_all()

    def _reap_all(self) -> None:
        """Kills and reaps until no child is left, for `END_SECONDS` at most."""
        deadline = time.monotonic() + END_SECONDS
        while True:
            self._children.kill_all()
            _kill_own_children()
            while not self._collect_some() and time.monotonic() < deadline:
                pass
            if not _has_children():
                return
            if time.monotonic() > deadline:
                say(f"launcher: processes are left {END_SECONDS:g} s after SIGKILL")
                return
            self._poller.call_later(0.05, lambda: None)
            self._poller.run_once()

    def _exit_status(self) -> int:
        if self._server_status is None:
            return 0 if self._server_pid is None else 1
        code = os.waitstatus_to_exitcode(self._server_status)
        if code >= 0:
            return code
        say(f"jobmaster: the server was killed by signal {-code} ({signal.strsignal(-code)}); its jobs were ended")
        return 128 - code


class _Original:
    """What this process was started with, for its server; and what it changes for itself."""

    def __init__(self) -> None:
        ignored = tuple(n for n in sorted(signal.valid_signals()) if signal.getsignal(n) is signal.SIG_IGN)
        self.heritage = Heritage(ignored=ignored, last_capability=_read_number("/proc/sys/kernel/cap_last_cap", 63))
        self._oom_score = _read_number("/proc/self/oom_score_adj", 0)
        self._open_files = resource.getrlimit(resource.RLIMIT_NOFILE)

    def improve_own(self) -> None:
        """As many descriptors as allowed, and the last to be killed for memory where that is allowed."""
        hard = self._open_files[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        _write_oom_score(_OOM_SCORE)

    def execute(self, command: tuple[str, ...], sock: socket.socket) -> NoReturn:
        """In the server's process: gives back what was changed, and executes the server."""
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            for number in (*self.heritage.ignored, *HANDLED_SIGNALS):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, _FOR_SERVER)
            resource.setrlimit(resource.RLIMIT_NOFILE, self._open_files)
            _write_oom_score(b"%d" % self._oom_score)
            sock.set_inheritable(True)
            environment = {**os.environ, ENVIRONMENT_VARIABLE: str(sock.fileno())}
            os.execvpe(command[0], command, environment)  # noqa: S606  # the operator's own command line
        except OSError as error:
            say(f"jobmaster: cannot run {command[0]}: {error.strerror}")
        finally:
            os._exit(127)


def _on_error(error: ProtocolError) -> None:
    say(f"launcher: {error}")


def _read_number(path: str, default: int) -> int:
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # pathlib would double the launcher's start
            return int(file.read())
    except (OSError, ValueError):
        return default


def _write_oom_score(score: bytes) -> None:
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb", buffering=0) as file:  # noqa: PTH123
        file.write(score)


def _kill_own_children() -> None:
    """SIGKILL to each child, also those inherited from jobs; a kernel without this file leaves those to cgroup.kill."""
    with contextlib.suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:  # noqa: PTH123
        for pid in file.read().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
