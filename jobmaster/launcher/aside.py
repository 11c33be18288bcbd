"""A process of the launcher's own, which may have to wait where the launcher must not."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING, NoReturn

from jobmaster.launcher import kernel
from jobmaster.launcher.child import HANDLED_SIGNALS

if TYPE_CHECKING:
    from collections.abc import Callable


def start(work: Callable[[socket.socket], None]) -> tuple[int, socket.socket]:
    """Forks a process that does this work with the other end of a socket, and ends: its pid, and this end.

    It has no other descriptor, and what signals the launcher handles stay blocked in it.

    Raises:
        OSError: there is none.
    """
    own, others = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    launcher = os.getpid()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)
    try:
        with others:
            pid = os.fork()
            if pid == 0:
                _run(work, others, launcher)
    except OSError:
        own.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid, own


def _run(work: Callable[[socket.socket], None], sock: socket.socket, launcher: int) -> NoReturn:
    try:
        os.dup2(sock.fileno(), 0)
        os.closerange(1, 2**31 - 1)
        kernel.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() == launcher:
            work(socket.socket(fileno=0))
    finally:
        os._exit(0)
