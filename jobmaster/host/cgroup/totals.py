"""What the jobs of one client may have together: limits of the client's cgroup.

Theory of operation. A client's cgroup comes with its first job and goes with its last, so its limits are written by every thread
that makes a job there, and again where they change while jobs run. Writers race, and none has a lock that another would wait
for while the kernel reclaims memory: each looks, after its writes, whether they are still what is wanted, and otherwise writes
again. So whoever writes last has written what is wanted.

A limit of memory that is lower than what processes hold has the kernel kill them. No change of the configuration may do that: it is
not written as long as more is held, and no further job of that client starts until it is.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from jobmaster.errors import CgroupError
from jobmaster.host.cgroup.interface import read_if_offered, write_and_read
from jobmaster.host.cgroup.limits import Controller, Limits, LimitWrite, OomPolicy, is_in_force, limit_writes
from jobmaster.sizes import UNLIMITED, size_text

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

_NONE: Final = Limits()
_TRIES: Final = 100
"""Changes of the configuration in the time of one write."""
_FILES: Final = {
    "memory.max": (Controller.MEMORY, UNLIMITED),
    "pids.max": (Controller.PIDS, UNLIMITED),
    "cpu.max": (Controller.CPU, f"{UNLIMITED} 100000"),
}
"""What is written where there is no limit: cgroup-v2.rst."""


class TotalHeld(CgroupError):
    """The jobs of a client hold more memory than they are to have together."""

    def __init__(self, folder: Path, limit: int, held: int) -> None:
        super().__init__(
            f"{folder}: memory.max {size_text(limit)} is not written, since its processes hold {held} bytes that the kernel would "
            "kill them for"
        )
        self.client = folder.name


class ClientTotals:
    """The limits of each client's jobs together.

    Attributes:
        controllers: those that enforce; of others nothing is written.
    """

    def __init__(self, controllers: Collection[Controller] = ()) -> None:
        self.controllers = frozenset(controllers)
        self._limits: Mapping[str, Limits] = {}
        self._known: frozenset[str] = frozenset()

    def take_up(self, limits: Mapping[str, Limits]) -> None:
        """Has other limits from now on, by the clients' names; those that are there are to be written by `write` then."""
        self._limits = dict(limits)
        self._known |= self._limits.keys()

    def write(self, folder: Path, *, is_new_here: bool = False) -> None:
        """Writes those of a client to its cgroup, and reads them back. May wait while the kernel reclaims memory.

        Args:
            folder: the client's cgroup.
            is_new_here: it may have limits that an earlier server has written.

        Raises:
            TotalHeld: the limit of memory would kill; all others are written.
            CgroupError: the kernel refuses, or has ignored one.
        """
        if not is_new_here and folder.name not in self._known:
            return
        for _ in range(_TRIES):
            wanted = self._limits.get(folder.name, _NONE)
            _write_all(folder, wanted, self.controllers)
            if self._limits.get(folder.name, _NONE) == wanted:
                return
        raise CgroupError(f"{folder}: its limits changed {_TRIES} times while they were written")


def _write_all(folder: Path, limits: Limits, controllers: Collection[Controller]) -> None:
    writes = limit_writes(limits, OomPolicy.PROCESS, available=controllers, io_device=None)
    texts = {write.file: write.text for write in writes}
    held: TotalHeld | None = None
    for file, (controller, unlimited) in _FILES.items():
        if controller not in controllers:
            continue
        write = LimitWrite(controller=controller, file=file, text=texts.get(file, unlimited))
        found = read_if_offered(folder / file)
        if found is None or found.strip() == write.text or (write.text != unlimited and is_in_force(write, found)):
            continue  # None: the cgroup is gone, and its jobs with it
        if file == "memory.max" and limits.memory_max is not None and (used := memory_held(folder)) > limits.memory_max:
            held = TotalHeld(folder, limits.memory_max, used)
            continue
        found = write_and_read(folder / file, write.text)
        if found.strip() != write.text and (write.text == unlimited or not is_in_force(write, found)):
            raise CgroupError(f"{folder}: {file} (writing {write.text!r}): reads {found.strip()!r}")
    if held is not None:
        raise held


def most_processes_reached(folder: Path) -> int | None:
    """How many processes a client's jobs may have together, where they have that many; None otherwise, or where it isn't known."""
    with suppress(CgroupError):
        most, there = (read_if_offered(folder / file) for file in ("pids.max", "pids.current"))
        if most is not None and there is not None and most.strip().isdecimal() and int(there) >= int(most):
            return int(most)
    return None


def memory_held(folder: Path) -> int:
    """Bytes that the kernel cannot get back from a cgroup but by swap or by killing (memory.stat of cgroup-v2.rst).

    Raises:
        CgroupError: the file can't be read.
    """
    lines = (read_if_offered(folder / "memory.stat") or "").splitlines()
    stat = {key: int(value) for key, _, value in (line.partition(" ") for line in lines)}
    kernel = stat.get("kernel", stat.get("slab", 0) + stat.get("kernel_stack", 0))  # before 5.18 there is no sum
    return stat.get("anon", 0) + stat.get("shmem", 0) + max(0, kernel - stat.get("slab_reclaimable", 0))
