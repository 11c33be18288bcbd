"""A server as the launcher sees it: a process, and the other end of a socket pair."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

from jobmaster.launcher import kernel
from jobmaster.launcher.child import HANDLED_SIGNALS

if TYPE_CHECKING:
    from jobmaster.launcher.connection import Connection
    from jobmaster.launcher.origin import Origin


class Server:
    """One server, from its start to its end.

    Attributes:
        pid: None for one that is no child of this process, or was reaped.
        is_ready: it has said so.
        hands_over: it has said that it ends on purpose, and leaves its jobs to the next one.
        is_stopping: it has said that it ends the jobs.
        is_to_stop: it was started to end the jobs.
        looks_dead: how many times in a row it was seen to be dead, and could not be reaped.
        is_ending: its end is waited for, for a bounded time.
        is_reaped: it was, and has no descriptor any more.
        silent_looks: how many looks ago it last said that it is alive; None for one that has never said so.
        given_up: why it was killed by this process, for people.
    """

    def __init__(self, pid: int | None, pidfd: int, connection: Connection, *, is_to_stop: bool) -> None:
        self.pid = pid
        self.connection = connection
        self.is_to_stop = is_to_stop
        self.is_ready = False
        self.hands_over = False
        self.is_stopping = False
        self.looks_dead = 0
        self.silent_looks: int | None = None
        self.is_ending = False
        self.is_reaped = False
        self.given_up = ""
        self._pidfd = pidfd
        if is_to_stop:
            self.signal(signal.SIGTERM)

    @property
    def is_up(self) -> bool:
        """Whether it has done all that comes before it serves, or ends the jobs."""
        return self.is_ready or self.is_stopping

    @property
    def is_expected_to_speak(self) -> bool:
        """Whether it serves, and has not said that it ends."""
        return self.is_ready and not (self.is_stopping or self.hands_over or self.is_ending or self.given_up)

    def look(self) -> None:
        """Looks whether it has died, where nothing may tell: a thread in the kernel keeps its descriptors open."""
        if self.silent_looks is not None:
            self.silent_looks += 1
        self.looks_dead = 0 if self.pid is None or self.lives() else self.looks_dead + 1

    def lives(self) -> bool:
        """Whether it is neither dead nor about to be; one that is no child of this process is taken to live until it is reaped."""
        if self.pid is None or self.is_reaped:
            return not self.is_reaped
        with contextlib.suppress(OSError):  # there is no descriptor to look with
            return not kernel.read_stat(self.pid).is_dying
        return True

    def left_status(self) -> int | None:
        """The wait status of one that has died, and cannot be reaped since a thread of it is left in the kernel."""
        if self.pid is None:
            return None
        with contextlib.suppress(OSError):
            found = kernel.read_stat(self.pid)
            if found.is_zombie and kernel.tells_exit_code(self.pid):
                return found.exit_code
        return None

    def signal(self, number: int) -> None:
        """Sends it a signal; one that has died is left alone."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def on_reaped(self) -> None:
        """It has died: what it has sent is read to the end, and its descriptors are closed."""
        self.is_reaped = True
        self.connection.read_to_end()
        self.pid = None  # another process may have it by now
        os.close(self._pidfd)
        self._pidfd = -1


def start(command: tuple[str, ...], origin: Origin) -> tuple[int, int, socket.socket]:
    """Starts a server: its pid, its pidfd, and this end of the socket pair.

    Raises:
        OSError: there is none.
    """
    own, servers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)
    try:
        with servers:
            pid = os.fork()
            if pid == 0:
                origin.execute(command, servers)
        try:
            return pid, os.pidfd_open(pid), own
        except OSError:
            os.kill(pid, signal.SIGKILL)  # our child and not reaped, so no other process
            raise
    except OSError:
        own.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def attach(fd: int) -> tuple[int, socket.socket]:
    """The pidfd of who holds the other end of the socket pair of which this descriptor is one end; and that end.

    Raises:
        OSError: it is no such end.
    """
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    pid = int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], sys.byteorder)
    return os.pidfd_open(pid), sock
