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
        self.listeners: list[tuple[str, int]] = []

    def keep(self, locks: Sequence[str], descriptors: Sequence[int]) -> None:
        """Takes cgroup.kill and locks in place of what was held; owns the descriptors from here on."""
        old = self._of_jobs()
        self.kill = descriptors[0] if descriptors else None
        self.locks = dict(_named(locks, descriptors[1:]))
        close_all(old)

    def listen(self, listeners: Sequence[str], descriptors: Sequence[int]) -> None:
        """Takes listening sockets in place of those that were held; owns the descriptors from here on."""
        self.stop_listening()
        self.listeners = _named(listeners, descriptors)

    def stop_listening(self) -> None:
        """Closes the listening sockets, so that nobody waits in them for a server that does not come."""
        close_all(self._of_listeners())
        self.listeners = []

    def jobs_folder(self) -> str:
        """The path of the jobs' cgroup; empty where there is none."""
        if self.kill is None:
            return ""
        return os.readlink(f"/proc/self/fd/{self.kill}").rpartition("/")[0]  # noqa: PTH115  # pathlib costs 5 ms

    def kill_jobs(self) -> None:
        """Kills all that is in the jobs' cgroup."""
        if self.kill is not None:
            with contextlib.suppress(OSError):  # ENODEV: the folder is gone, and so is all that was in it
                os.write(self.kill, b"1")

    def find_cgroups(self) -> dict[str, str]:
        """The paths of all jobs' cgroups by their ids: each is a folder in that of its client, in the jobs' folder."""
        if self.kill is None:
            return {}
        with contextlib.suppress(OSError):  # the folder is gone, and so is all that was in it
            folders = _folders(self.jobs_folder())
            return {job.rpartition("/")[2]: job for client in folders for job in _folders(client)}
        return {}

    def complete(self, end: TableEnd) -> tuple[TableEnd, tuple[int, ...]]:
        """Adds to what a new server is told what is kept for it; and the descriptors that go with it."""
        message = end._replace(locks=tuple(self.locks), listeners=tuple(name for name, _ in self.listeners))
        return message, (*self.locks.values(), *self._of_listeners())

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All that is held."""
        return (*self._of_jobs(), *self._of_listeners())

    def _of_jobs(self) -> tuple[int, ...]:
        return (*(() if self.kill is None else (self.kill,)), *self.locks.values())

    def _of_listeners(self) -> tuple[int, ...]:
        return tuple(fd for _, fd in self.listeners)


def _folders(path: str) -> list[str]:
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    return []


def _named(names: Sequence[str], descriptors: Sequence[int]) -> list[tuple[str, int]]:
    """The descriptors with their names; those without one are closed."""
    if len(names) != len(descriptors):
        say(f"launcher: {len(descriptors)} descriptors came for {', '.join(names) or 'no name'}")
    close_all(descriptors[len(names) :])
    return list(zip(names, descriptors, strict=False))
