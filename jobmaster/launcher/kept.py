"""Descriptors that the launcher holds for its servers: they outlive each of them."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from jobmaster.launcher.packets import close_all
from jobmaster.launcher.streams import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobmaster.launcher.protocol import TableEnd


class Kept:
    """cgroup.kill of the jobs' folder; locks, which nobody else gets meanwhile; listening sockets, likewise."""

    def __init__(self) -> None:
        self.kill: int | None = None
        self.locks: dict[str, int] = {}
        self.listeners: dict[str, int] = {}

    def keep(self, locks: Sequence[str], descriptors: Sequence[int]) -> None:
        """Takes cgroup.kill and locks in place of what was held; owns the descriptors from here on."""
        old = self._of_jobs()
        self.kill = descriptors[0] if descriptors else None
        self.locks = _named(locks, descriptors[1:])
        close_all(old)

    def listen(self, listeners: Sequence[str], descriptors: Sequence[int]) -> None:
        """Takes listening sockets in place of those that were held; owns the descriptors from here on."""
        self.stop_listening()
        self.listeners = _named(listeners, descriptors)

    def stop_listening(self) -> None:
        """Closes the listening sockets, so that nobody waits in them for a server that does not come."""
        close_all(tuple(self.listeners.values()))
        self.listeners = {}

    def kill_jobs(self) -> None:
        """Kills all that is in the jobs' cgroup."""
        if self.kill is not None:
            with contextlib.suppress(OSError):  # ENODEV: the folder is gone, and so is all that was in it
                os.write(self.kill, b"1")

    def complete(self, end: TableEnd) -> tuple[TableEnd, tuple[int, ...]]:
        """Adds to what a new server is told what is kept for it; and the descriptors that go with it."""
        message = end._replace(locks=tuple(self.locks), listeners=tuple(self.listeners))
        return message, (*self.locks.values(), *self.listeners.values())

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All that is held."""
        return (*self._of_jobs(), *self.listeners.values())

    def _of_jobs(self) -> tuple[int, ...]:
        return (*(() if self.kill is None else (self.kill,)), *self.locks.values())


def _named(names: Sequence[str], descriptors: Sequence[int]) -> dict[str, int]:
    """The descriptors by name; one without a name is closed, as is one whose name is there already."""
    if len(names) != len(descriptors):
        say(f"launcher: {len(descriptors)} descriptors came for {', '.join(names) or 'no name'}")
    named: dict[str, int] = {}
    for index, fd in enumerate(descriptors):
        if index < len(names) and names[index] not in named:
            named[names[index]] = fd
        else:
            close_all([fd])
    return named
