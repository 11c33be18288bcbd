"""Reads files of /proc in a process of its own, which may have to wait where the launcher must not.

Of a process that executes a program some of these files are read when that has come to its end (fs/proc: exec_update_lock),
and that may close files on a disk that does not answer. Who waits so can be killed.
"""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING, Final

from jobmaster.launcher import aside

if TYPE_CHECKING:
    import socket
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
        self._pid, self._socket = aside.start(_serve)
        return self._socket


def _serve(sock: socket.socket) -> None:
    """Answers until the other end is closed."""
    while paths := sock.recv(_PACKET):
        sock.send(b"\0".join(map(_content, paths.split(b"\0"))))


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
