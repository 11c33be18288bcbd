"""Reads files of /proc in a process of its own, which may have to wait where the launcher must not.

Of a process that executes a program some of these files are read when that has come to its end (fs/proc: exec_update_lock),
and that may close files on a disk that does not answer. Who waits so can be killed.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from typing import TYPE_CHECKING, Final, NoReturn

from jobmaster.launcher import kernel
from jobmaster.launcher.child import HANDLED_SIGNALS

if TYPE_CHECKING:
    from collections.abc import Sequence

SECONDS: Final = 0.5
"""How long it may take; ordinarily some microseconds for each file, and as long as the host lets the reader wait for a processor."""
MOST_FILES: Final = 128
"""So many may be read at once."""
_LONGEST: Final = 256
"""Bytes of a file that are read, at most."""
_PACKET: Final = 64 * 1024


class HeldUp(Exception):
    """It takes longer."""


class Reader:
    """The process, started when it is needed. `close` it before children are reaped, with whom it is."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._pid = 0

    def read(self, paths: Sequence[str]) -> list[str]:
        """The texts of files; empty where one cannot be read.

        Raises:
            HeldUp: it takes too long.
        """
        try:
            sock = self._socket or self._start()
            sock.send("\0".join(paths).encode())
            poll = select.poll()
            poll.register(sock, select.POLLIN)
            if not poll.poll(SECONDS * 1000):
                raise HeldUp
            texts = sock.recv(_PACKET).decode("ascii", "replace").split("\0")
        except OSError:  # there is no process to be had
            self.close()
            texts = []
        except HeldUp:
            self.close()
            raise
        return texts if len(texts) == len(paths) else [""] * len(paths)

    def close(self) -> None:
        """Ends the process. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            os.kill(self._pid, signal.SIGKILL)  # our child and not reaped, so no other process

    def _start(self) -> socket.socket:
        own, others = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        launcher = os.getpid()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)
        try:
            with others:
                self._pid = os.fork()
                if self._pid == 0:
                    _serve(others, launcher)
        except OSError:
            own.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._socket = own
        return own


def _serve(sock: socket.socket, launcher: int) -> NoReturn:
    """Answers until the other end is closed. What signals the launcher handles stay blocked."""
    try:
        os.dup2(sock.fileno(), 0)
        os.closerange(1, 2**31 - 1)
        kernel.set_parent_death_signal(signal.SIGKILL)
        own = socket.socket(fileno=0)
        while os.getppid() == launcher and (paths := own.recv(_PACKET)):
            own.send(b"\0".join(map(_content, paths.split(b"\0"))))
    finally:
        os._exit(0)


def _content(path: bytes) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, _LONGEST)
    except OSError:
        return b""
    finally:
        os.close(fd)
