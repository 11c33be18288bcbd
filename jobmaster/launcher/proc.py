"""What /proc and a cgroup's folder tell of processes; what cannot be read counts as nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def read(path: str, most: int = -1) -> str:
    """The text of a file, or of so many bytes at its beginning."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # pathlib costs 5 ms
            return file.read(most).decode("ascii", "replace")
    except OSError:
        return ""


def tasks(pid: int) -> list[str]:
    """The folders of a process's threads."""
    folder = f"/proc/{pid}/task"
    try:
        return [f"{folder}/{name}" for name in os.listdir(folder)]  # noqa: PTH208  # as above
    except OSError:
        return []


def processes(cgroup: str) -> Iterator[int]:
    """The processes in a cgroup and below it; a thread that is alone in another cgroup is found with its process."""
    return _listed(cgroup, "cgroup.procs")


def threads(cgroup: str) -> Iterator[int]:
    """The threads in a cgroup and below it, the last ones too of a process that is not listed any more, as all of them exit.

    That is so where its first thread has died, and another one waits while it closes a file (kernel/cgroup/cgroup.c:
    css_task_iter_advance).
    """
    return _listed(cgroup, "cgroup.threads")


def _listed(cgroup: str, name: str) -> Iterator[int]:
    if not cgroup:
        return
    yield from map(int, read(f"{cgroup}/{name}").split())
    try:
        with os.scandir(cgroup) as entries:
            folders = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for folder in folders:
        yield from _listed(folder, name)
