"""A child process as a pid and a pidfd, and nothing else.

A pidfd names one process for ever: signals through it cannot hit a reused pid, and it turns readable when the process
has died, also before it is reaped (pidfd_open(2)). The process stays a zombie until `reap`, so its pid, and what
/proc tells of it, stay true until then.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path
from typing import Final

import trio

from jobmaster.job.cause import Death, Exited, Signalled

_DEATHS: Final = {os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED}


class ChildProcess:
    """A child of this process. Close it when it has been reaped."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)

    def has_died(self) -> bool:
        """True once the process has died, reaped or not."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(0))

    async def wait_died(self) -> None:
        """Waits until the process has died. Does not reap it."""
        while not self.has_died():
            await trio.lowlevel.wait_readable(self._fd)

    def send_signal(self, number: int) -> None:
        """Sends a signal; a process that has died is left alone."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, number)

    def program_name(self) -> str:
        """The name of the program it executed last (comm of /proc/PID/stat: the first 15 bytes), "" if unknown.

        Readable until the process is reaped, also when it has died.
        """
        try:
            return Path(f"/proc/{self.pid}/comm").read_text(errors="replace").rstrip("\n")
        except OSError:
            return ""

    def reap(self) -> Death:
        """Collects the process, which has died, and says how."""
        result = os.waitid(os.P_PIDFD, self._fd, os.WEXITED)
        if result is None or result.si_code not in _DEATHS:
            raise AssertionError("waitid returned without a death")
        match result.si_code:
            case os.CLD_EXITED:
                return Exited(result.si_status)
            case os.CLD_KILLED:
                return Signalled(result.si_status)
            case _:
                return Signalled(result.si_status, core_dumped=True)

    def close(self) -> None:
        """Lets go of the pidfd."""
        os.close(self._fd)
