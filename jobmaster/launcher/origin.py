"""What the launcher was started with, for its servers, and what it changes of that for itself."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from typing import TYPE_CHECKING, Final, NoReturn

from jobmaster.launcher.child import HANDLED_SIGNALS, Heritage
from jobmaster.launcher.notification import VARIABLE as NOTIFY_SOCKET
from jobmaster.launcher.protocol import ENVIRONMENT_VARIABLE
from jobmaster.launcher.streams import say
from jobmaster.launcher.watchdog import for_server, watchdog_seconds

if TYPE_CHECKING:
    import socket

_FOR_SERVER: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
"""Blocked in a server until it can receive them; it unblocks them itself."""
_OOM_SCORE: Final = b"-999"


class Origin:
    """What this process was started with.

    Attributes:
        heritage: what its children get of that.
        oom_score: its oom_score_adj.
        open_files: its RLIMIT_NOFILE.
    """

    def __init__(self, ignored: tuple[int, ...], *, oom_score: int, open_files: tuple[int, int]) -> None:
        self.heritage = Heritage(ignored=ignored, last_capability=_read_number("/proc/sys/kernel/cap_last_cap", 63))
        self.oom_score = oom_score
        self._watchdog = watchdog_seconds(os.environ)  # here, for it is meant for this process and not for a server's
        self.open_files = open_files

    @staticmethod
    def read() -> Origin:
        """Of this process, before anything is changed."""
        return Origin(
            tuple(n for n in sorted(signal.valid_signals()) if signal.getsignal(n) is signal.SIG_IGN),
            oom_score=_read_number("/proc/self/oom_score_adj", 0),
            open_files=resource.getrlimit(resource.RLIMIT_NOFILE),
        )

    def improve_own(self) -> None:
        """As many descriptors as allowed, and the last to be killed for memory where that is allowed."""
        hard = self.open_files[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        _write_oom_score(_OOM_SCORE)

    def execute(self, command: tuple[str, ...], sock: socket.socket) -> NoReturn:
        """In a server's process: gives back what was changed, and executes the server in a session of its own."""
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            for number in (*self.heritage.ignored, *HANDLED_SIGNALS):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, _FOR_SERVER)
            resource.setrlimit(resource.RLIMIT_NOFILE, self.open_files)
            _write_oom_score(b"%d" % self.oom_score)
            sock.set_inheritable(True)
            environment = {**for_server(os.environ, self._watchdog), ENVIRONMENT_VARIABLE: str(sock.fileno())}
            environment.pop(NOTIFY_SOCKET, None)
            os.execvpe(command[0], command, environment)  # noqa: S606  # the operator's own command line
        except OSError as error:
            say(f"jobmaster: cannot run {command[0]}: {error.strerror}")
        finally:
            os._exit(127)


def _read_number(path: str, default: int) -> int:
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # pathlib would double the launcher's start
            return int(file.read())
    except (OSError, ValueError):
        return default


def _write_oom_score(score: bytes) -> None:
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb", buffering=0) as file:  # noqa: PTH123
        file.write(score)
