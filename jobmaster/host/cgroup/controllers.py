"""Which limits this host can enforce: enabling controllers from the mount point down to jobmaster's folder.

A controller works in a folder only if every folder above it names the controller in its
``cgroup.subtree_control``. They are enabled one by one, since one refused name makes the kernel refuse the whole
write. What can't be enabled is not an error here but an answer, with its reason: the caller refuses a request that
needs it, or tells the operator.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, assert_never

from jobmaster.host.cgroup.interface import CgroupFileError, read_interface, write_interface
from jobmaster.host.cgroup.limits import Controller
from jobmaster.host.cgroup.mounts import PROC

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The v1 name of a controller where it differs from the v2 name.
_V1_NAMES: Final = {Controller.IO: "blkio"}
# A controller can be there without the file that limits: both files need a kernel option of their own.
_LIMIT_FILES: Final = {
    Controller.CPU: ("cpu.max", "CONFIG_CFS_BANDWIDTH"),
    Controller.IO: ("io.max", "CONFIG_BLK_DEV_THROTTLING"),
    Controller.MEMORY: ("memory.max", "CONFIG_MEMCG"),
    Controller.PIDS: ("pids.max", "CONFIG_CGROUP_PIDS"),
}
_PROC_CGROUPS_FIELDS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Enforced:
    """The kernel enforces this kind of limit for jobs."""

    controller: Controller


@dataclass(frozen=True, slots=True, kw_only=True)
class NotEnforced:
    """This kind of limit can't be enforced on this host."""

    controller: Controller
    reason: str
    """One clause for an operator or a client: "this host binds the memory controller to cgroup v1"."""


ControllerState = Enforced | NotEnforced


@dataclass(frozen=True, slots=True, kw_only=True)
class Enforcement:
    """For each kind of limit, whether it is enforced; ``io`` stands for all four io limits."""

    cpu: ControllerState
    io: ControllerState
    memory: ControllerState
    pids: ControllerState

    @property
    def states(self) -> tuple[ControllerState, ...]:
        """The state of each controller, in a fixed order."""
        return (self.cpu, self.io, self.memory, self.pids)

    @property
    def controllers(self) -> frozenset[Controller]:
        """The controllers that enforce."""
        return frozenset(state.controller for state in self.states if isinstance(state, Enforced))

    def without(self, reason: str) -> Enforcement:
        """The same where no cgroup can be had, for this reason; a controller that was not enforced keeps its own."""
        return Enforcement(
            cpu=_unless_absent(self.cpu, reason),
            io=_unless_absent(self.io, reason),
            memory=_unless_absent(self.memory, reason),
            pids=_unless_absent(self.pids, reason),
        )

    def why_not(self, controller: Controller) -> str | None:
        """The reason why ``controller`` does not enforce; None if it does."""
        state = next(state for state in self.states if state.controller is controller)
        match state:
            case Enforced():
                return None
            case NotEnforced(reason=reason):
                return reason
            case _:
                assert_never(state)


EVERY_CONTROLLER: Final = Enforcement(
    cpu=Enforced(controller=Controller.CPU),
    io=Enforced(controller=Controller.IO),
    memory=Enforced(controller=Controller.MEMORY),
    pids=Enforced(controller=Controller.PIDS),
)


def _unless_absent(state: ControllerState, reason: str) -> NotEnforced:
    return state if isinstance(state, NotEnforced) else NotEnforced(controller=state.controller, reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelController:
    """One line of ``/proc/cgroups``, which lists controllers by their v1 names."""

    hierarchy: int
    """0 for the v2 hierarchy, or for none."""
    enabled: bool
    """False if switched off at boot (``cgroup_disable=``)."""


def parse_proc_cgroups(text: str) -> dict[str, KernelController]:
    """The controllers of a ``/proc/cgroups`` (cgroups(7)); a line of another shape is left out."""
    rows = (line.split() for line in text.split("\n") if not line.startswith("#"))
    return {
        row[0]: KernelController(hierarchy=int(row[1]), enabled=row[3] == "1")
        for row in rows
        if len(row) == _PROC_CGROUPS_FIELDS and row[1].isascii() and row[1].isdigit()
    }


def why_absent(controller: Controller, kernel: dict[str, KernelController]) -> str:
    """Why a controller is not offered at the top of the v2 hierarchy that is mounted here."""
    row = kernel.get(_V1_NAMES.get(controller, controller.value))
    if row is not None and row.hierarchy != 0:
        return (
            f"this host binds the {controller} controller to cgroup v1 "
            "(boot with systemd.unified_cgroup_hierarchy=1 or cgroup_no_v1=all to free it)"
        )
    if row is not None and not row.enabled:
        return f"the {controller} controller is switched off at boot (cgroup_disable)"
    if row is not None:
        return f"the {controller} controller is not delegated to this cgroup namespace"
    return f"this kernel does not offer the {controller} controller"


def enable_controllers(mount_point: Path, folder: Path, *, proc: Path = PROC) -> Enforcement:
    """Enable every controller for the folders under ``folder``, and say how far that went.

    Args:
        mount_point: where the v2 hierarchy is mounted.
        folder: the folder whose subfolders shall have limits; it is in the mount.
        proc: where procfs is mounted.

    Raises:
        CgroupError: ``/proc/cgroups`` or the top of the hierarchy can't be read.
        ValueError: ``folder`` is not under ``mount_point``.
    """
    kernel = parse_proc_cgroups(_read_or_empty(proc / "cgroups"))
    offered = read_interface(mount_point / "cgroup.controllers").split()
    chain = tuple(_chain(mount_point, folder))

    def state_of(controller: Controller) -> ControllerState:
        if controller.value not in offered:
            reason: str | None = why_absent(controller, kernel)
        else:
            reason = _enable_along(chain, controller)
        return _state(controller, reason)

    return Enforcement(
        cpu=state_of(Controller.CPU),
        io=state_of(Controller.IO),
        memory=state_of(Controller.MEMORY),
        pids=state_of(Controller.PIDS),
    )


def foresee_controllers(mount_point: Path, folder: Path, *, is_vacated: bool = False, proc: Path = PROC) -> Enforcement:
    """What :func:`enable_controllers` would answer, told without a change: of folders that are not there yet, by those above.

    Args:
        mount_point: where the v2 hierarchy is mounted.
        folder: the folder that the jobs' folder is in, or is to be made in.
        is_vacated: the server is in that folder itself, and will move out of it.
        proc: where procfs is mounted.

    Raises:
        CgroupError: the top of the hierarchy, or a folder's file, can't be read.
        ValueError: ``folder`` is not under ``mount_point``.
    """
    kernel = parse_proc_cgroups(_read_or_empty(proc / "cgroups"))
    offered = read_interface(mount_point / "cgroup.controllers").split()
    there = tuple(each for each in _chain(mount_point, folder) if each.is_dir())
    vacated = folder if is_vacated else None

    def state_of(controller: Controller) -> ControllerState:
        absent = None if controller.value in offered else why_absent(controller, kernel)
        return _state(
            controller, absent or next(filter(None, (_obstacle(each, controller, vacated) for each in there)), None)
        )

    return Enforcement(
        cpu=state_of(Controller.CPU),
        io=state_of(Controller.IO),
        memory=state_of(Controller.MEMORY),
        pids=state_of(Controller.PIDS),
    )


def _obstacle(folder: Path, controller: Controller, vacated: Path | None) -> str | None:
    """Why a controller that is offered can't be enabled for the folders under this one."""
    if _is_enabled(folder, controller):
        return None
    if folder != vacated and _has_internal_processes(folder):
        return _why_inhabited(folder, controller)
    if not os.access(folder / "cgroup.subtree_control", os.W_OK):
        return f"the {controller} controller is not delegated to {folder}: this user may not enable it there"
    return None


def _why_inhabited(folder: Path, controller: Controller) -> str:
    return f"the {controller} controller can't be enabled in {folder}: processes live in that cgroup itself"


def enable_controller(folder: Path, controller: Controller) -> None:
    """Enable one controller for the subfolders of ``folder``; it may be enabled already.

    Raises:
        CgroupFileError: the kernel refuses.
    """
    if not _is_enabled(folder, controller):
        write_interface(folder / "cgroup.subtree_control", f"+{controller}")


def why_no_io_weights(mount_point: Path, folder: Path) -> str | None:
    """Why no disk heeds the ``io.weight`` of the folders under ``folder``; None where one does.

    The file alone does nothing: iocost has to be switched on for a disk, in the top folder's io.cost.qos. (BFQ has a file
    and weights of its own.)
    """
    if not (folder / "io.weight").exists():
        return "this kernel has the io controller without io.weight (built without CONFIG_BLK_CGROUP_IOCOST)"
    if "enable=1" not in _read_or_empty(mount_point / "io.cost.qos").split():
        return "iocost is switched on for no disk (write MAJ:MIN enable=1 to io.cost.qos, and restart the server)"
    return None


def _state(controller: Controller, reason: str | None) -> ControllerState:
    if reason is None:
        return Enforced(controller=controller)
    return NotEnforced(controller=controller, reason=reason)


def _chain(mount_point: Path, folder: Path) -> Iterator[Path]:
    current = mount_point
    yield current
    for part in folder.relative_to(mount_point).parts:
        current = current / part
        yield current


def _enable_along(chain: tuple[Path, ...], controller: Controller) -> str | None:
    for folder in chain:
        try:
            if not _is_enabled(folder, controller) and _has_internal_processes(folder):
                return _why_inhabited(folder, controller)
            enable_controller(folder, controller)
        except CgroupFileError as error:
            return f"the {controller} controller is not delegated to {folder}: {error}"
    return _why_no_limit_file(chain, controller)


def _is_enabled(folder: Path, controller: Controller) -> bool:
    return controller.value in read_interface(folder / "cgroup.subtree_control").split()


def _has_internal_processes(folder: Path) -> bool:
    # Kernel: of a cgroup with processes, memory and io are refused (EBUSY), but cpu and pids are taken, which makes it
    # the root of a threaded subtree: then its subfolders can't be joined any more (EOPNOTSUPP). So it is asked first.
    # The top of the whole hierarchy, the one cgroup without a cgroup.type, may have processes and controllers.
    return (folder / "cgroup.type").exists() and read_interface(folder / "cgroup.procs") != ""


def _why_no_limit_file(chain: tuple[Path, ...], controller: Controller) -> str | None:
    # The top has no limit files even where they work, so a folder under it is looked at.
    file, option = _LIMIT_FILES[controller]
    if len(chain) == 1 or (chain[-1] / file).exists():
        return None
    return f"this kernel has the {controller} controller without {file} (built without {option})"


def _read_or_empty(path: Path) -> str:
    # A procfs mounted with subset=pid hides /proc/cgroups: then there is merely less to say.
    try:
        return read_interface(path)
    except CgroupFileError:
        return ""
