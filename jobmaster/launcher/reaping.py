"""The end of the launcher: nothing of a job or a server is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Final

from jobmaster.launcher.streams import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobmaster.launcher.poller import Poller

FREE_SECONDS: Final = 1.0
"""How long killed processes may take before somebody looks for what holds them."""
_PAUSE: Final = 0.05
_SHOWN: Final = 5
"""Processes that are named."""


def reap_all(
    poller: Poller, *, kill: Callable[[], None], collect: Callable[[], bool], free: Callable[[], None], seconds: float
) -> None:
    """Kills and reaps until no child is left, for so many seconds at most.

    Args:
        poller: what else is watched goes on.
        kill: sends SIGKILL to the jobs' main processes.
        collect: reaps a bounded number; returns whether that was all that can be reaped.
        free: called once where some do not die.
        seconds: then what is left is left, and said.
    """
    begun, is_freed = time.monotonic(), False
    deadline = begun + seconds
    while True:
        kill()
        _kill_own_children()
        while not collect() and time.monotonic() < deadline:
            pass
        if not _has_children():
            return
        if time.monotonic() > deadline:
            say(f"launcher: processes are left {seconds:g} s after SIGKILL: {_names_of_children()}")
            return
        if not is_freed and time.monotonic() > begun + FREE_SECONDS:
            is_freed = True
            free()
        poller.call_later(_PAUSE, lambda: None)
        poller.run_once()


def _kill_own_children() -> None:
    """SIGKILL to each child, also those inherited from jobs; a kernel without this file leaves those to cgroup.kill."""
    for pid in _children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _children() -> list[int]:
    with contextlib.suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:  # noqa: PTH123
        return [int(pid) for pid in file.read().split()]
    return []


def _names_of_children() -> str:
    """Of the first ones; for people."""
    pids = _children()
    names = [f"{pid} ({_name(pid)})" for pid in pids[:_SHOWN]]
    return ", ".join([*names, "…"] if len(pids) > _SHOWN else names) or "unknown"


def _name(pid: int) -> str:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
        return ascii(file.read().strip())[1:-1]
    return "gone"


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
