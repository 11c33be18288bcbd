"""Where a server gets its launcher from: it was started by one, or starts one of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from jobmaster.errors import HostError
from jobmaster.launcher import protocol
from jobmaster.launcher.protocol import ENVIRONMENT_VARIABLE
from jobmaster.threads import thread_needed

ATTACHED_END_SECONDS: Final = 15.0
"""More than the launcher's own bound on ending its children."""
_PROGRAM: Final = Path(protocol.__file__).parent


def inherited_launcher() -> socket.socket | None:
    """The socket to the launcher that started this process; None for a process that has none. Ask once.

    Raises:
        HostError: the environment names a descriptor that is no such socket.
    """
    number = os.environ.pop(ENVIRONMENT_VARIABLE, None)
    if number is None:
        return None
    try:
        sock = socket.socket(fileno=int(number))
        sock.set_inheritable(False)
    except (OSError, ValueError) as error:
        raise HostError(f"{ENVIRONMENT_VARIABLE}={number} names no socket; unset it") from error
    return sock


@asynccontextmanager
async def attached_launcher() -> AsyncIterator[socket.socket]:
    """A launcher of this process's own, for the block: the socket for `use_launcher`.

    At the end it has killed and reaped its children.
    """
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with own:
        with other:
            command = [sys.executable, "-I", "-S", str(_PROGRAM), "--attached", str(other.fileno())]
            with thread_needed():  # Trio starts processes in one
                process = await trio.lowlevel.open_process(
                    command, stdin=subprocess.DEVNULL, pass_fds=(other.fileno(),), start_new_session=True
                )
        try:
            yield own
        finally:
            own.close()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + ATTACHED_END_SECONDS):
                await process.wait()
            if process.returncode is None:
                process.kill()
