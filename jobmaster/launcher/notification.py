"""What the service manager is told: sd_notify(3), by hand.

The launcher tells it for every server: it is the process that systemd has started, so that `NotifyAccess=main` is
enough, and neither servers nor jobs have the address.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Final

from jobmaster.launcher.streams import say

VARIABLE: Final = "NOTIFY_SOCKET"


class Notifier:
    """Tells the service manager, if there is one; each state once until another one is told.

    Args:
        address: of its socket, as in NOTIFY_SOCKET; "@" begins a name of the abstract kind.
        told: what it was told last.
    """

    def __init__(self, address: str | None, told: str = "") -> None:
        self._address = f"\0{address[1:]}" if address and address[0] == "@" else address
        self.told = told

    def ready(self) -> None:
        """A server is ready."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """A server has handed over to the next one."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={microseconds}")

    def recovering(self) -> None:
        """There is no server for now. For systemd the service is as ready as before."""
        self._tell("STATUS=the server has died; another one is being started")

    def stopping(self) -> None:
        """The jobs are being ended."""
        self._tell("STOPPING=1")

    def alive(self) -> None:
        """This process goes on; to be told before the service manager's watchdog ends it."""
        self._send("WATCHDOG=1")

    def _tell(self, state: str, *more: str) -> None:
        if not self._address or state == self.told:
            return
        self.told = state
        status = () if state.startswith("STATUS=") else ("STATUS=",)
        self._send(state, *more, *status)

    def _send(self, state: str, *more: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                message = "\n".join((state, *more)).encode()
                sock.sendto(message, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, os.fsencode(self._address))
        except OSError as error:
            say(f"launcher: the service manager cannot be told {state}: {error.strerror}")
