"""Who sees that somebody hangs: the service manager the launcher, and the launcher its server.

The manager's watchdog (WatchdogSec= of the unit, sd_watchdog_enabled(3)) is told that the launcher goes on, and nothing of the
server: it would end the jobs with the launcher. A server that hangs is the launcher's to kill, which has another one go on
with the jobs. So a server is told in its environment how often to say `alive`, and one that has said so and falls silent
for as long as the manager would wait is killed. Silence is counted in looks at the server, each a second in which this process
ran: a host that was suspended kills nobody.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jobmaster.launcher.poller import Poller

MICROSECONDS: Final = "WATCHDOG_USEC"
PID: Final = "WATCHDOG_PID"
ALIVE_VARIABLE: Final = "JOBMASTER_ALIVE_SECONDS"
"""Names, in the server's environment, how often it is to say that it is alive; where it is not there, never."""
_PINGS: Final = 3
"""How often the manager is told in the time that it waits."""
_ALIVES: Final = 6
"""How often a server says it in that time."""


def watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """How long the service manager waits for a sign of life of this process; None where it does not."""
    text, pid = environment.get(MICROSECONDS, ""), environment.get(PID, "")
    if not (text.isascii() and text.isdecimal()) or int(text) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(text) / 1_000_000


def for_server(environment: Mapping[str, str], seconds: float | None) -> dict[str, str]:
    """The environment of a server, of the launcher's and how long the manager waits for that: its watchdog is the launcher."""
    without = {name: value for name, value in environment.items() if name not in {MICROSECONDS, PID, ALIVE_VARIABLE}}
    return without if seconds is None else without | {ALIVE_VARIABLE: f"{seconds / _ALIVES:g}"}


def tell_again_and_again(poller: Poller, seconds: float | None, tell: Callable[[], None]) -> None:
    """Tells the manager now and from now on, well before `seconds` are over; never where that is None."""
    if seconds is None:
        return

    def go_on() -> None:
        tell()
        poller.call_later(seconds / _PINGS, go_on)

    go_on()
