"""What one server of a launcher leaves to the next: locks and listening sockets, which the launcher keeps meanwhile.

Nobody takes the port or the folders between two servers: their locks belong to open files, and the launcher has those
open, too. A server takes what its predecessor had where that is still what its options name, else makes its own.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

from jobmaster.audit.spool import is_spool, new_spool
from jobmaster.errors import ConfigurationError
from jobmaster.host.cgroup.interface import GONE, CgroupFileError
from jobmaster.host.cgroup.lock import is_lock_of, take_lock
from jobmaster.host.cgroup.tree import CgroupTree
from jobmaster.run.launcher import JOBS_LOCK, Launcher, attached_launcher, inherited_launcher, use_launcher
from jobmaster.server.listener import open_listeners
from jobmaster.threads import run_in_thread, thread_needed

logger = logging.getLogger(__name__)

LOCK_SECONDS: Final = 5.0
"""How long a new server waits for an old one's launcher to end its jobs."""
STATE_LOCK: Final = "state"
"""Names the lock of the folder of journal and output."""
AUDIT_SPOOL: Final = "audit"
"""Names the memory of what is in no file of the audit yet; the launcher keeps it as it keeps locks."""
_WORDS: Final = {JOBS_LOCK: ("cgroup", "--cgroup-root"), STATE_LOCK: ("folder", "--output-dir")}
_LOCKERS: Final = trio.CapacityLimiter(1)
"""Threads that open what is to be locked: a disk may not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldLauncher:
    """A launcher that holds this server's folders for it.

    Attributes:
        outlives_server: jobs go on without this server: the launcher has started it, and will start the next.
    """

    launcher: Launcher
    outlives_server: bool

    def can_hand_over(self) -> bool:
        """Whether another server will go on with the jobs."""
        return self.outlives_server and not self.launcher.lost.is_set()


@asynccontextmanager
async def own_launcher() -> AsyncIterator[HeldLauncher]:
    """The launcher that started this process, or one that this starts.

    Raises:
        HostError: it does not answer.
    """
    async with AsyncExitStack() as stack:
        inherited = inherited_launcher()
        sock = await stack.enter_async_context(attached_launcher()) if inherited is None else inherited
        launcher = await stack.enter_async_context(use_launcher(sock))
        yield HeldLauncher(launcher=launcher, outlives_server=inherited is not None)


def require_same_folder(launcher: Launcher, state_folder: Path) -> None:
    """To be called before the folder is made where it is missing.

    Raises:
        ConfigurationError: the server before had another folder under this name: the journal of its jobs is in that one.
    """
    lock = launcher.inherited.locks.get(STATE_LOCK)
    try:
        is_same = lock is None or is_lock_of(state_folder, lock)
    except OSError as error:
        raise ConfigurationError(f"{state_folder} cannot be looked at: {error.strerror}: see to its disk") from None
    if not is_same:
        raise ConfigurationError(
            f"{state_folder} is not the folder that the server before had, or is not there: put that one back, "
            "with the journal and the output of its jobs"
        )


async def hold_state(launcher: Launcher, folder: Path, closing: ExitStack) -> int:
    """Locks the folder of journal and output, before anything else is made; returns the lock.

    Raises:
        ConfigurationError: another server has it.
    """
    return await _lock(launcher, STATE_LOCK, folder, partial(take_lock, folder), closing)


def hold_spool(launcher: Launcher, closing: ExitStack) -> int:
    """The memory of the audit that an earlier server has left, or a new one."""
    spool = launcher.inherited.locks.pop(AUDIT_SPOOL, None)
    if spool is not None and not is_spool(spool):
        os.close(spool)
        spool = None
    if spool is None:
        spool = new_spool()
    closing.callback(os.close, spool)
    return spool


async def hold_jobs(
    launcher: Launcher, tree: CgroupTree, state: int, closing: ExitStack, *, spool: int | None = None
) -> None:
    """Locks the cgroup of the jobs; the launcher then holds both locks, too, the spool, and the file that kills all jobs.

    Raises:
        ConfigurationError: another server has it.
    """
    lock = await _lock(launcher, JOBS_LOCK, tree.jobs, partial(_try_to_lock_jobs, tree), closing)
    tree.prepare()
    kill = os.open(tree.kill_all_path, os.O_WRONLY | os.O_CLOEXEC)
    closing.callback(os.close, kill)
    others = {} if spool is None else {AUDIT_SPOOL: spool}
    launcher.keep(kill_fd=kill, locks={JOBS_LOCK: lock, STATE_LOCK: state, **others})


async def _lock(launcher: Launcher, name: str, folder: Path, take: Callable[[], int | None], closing: ExitStack) -> int:
    lock = launcher.inherited.locks.pop(name, None)
    if lock is not None and not is_lock_of(folder, lock):
        os.close(lock)
        lock = None
    with trio.move_on_after(LOCK_SECONDS):
        while lock is None:
            lock = await run_in_thread(_LOCKERS, take, abandon=True)
            if lock is None:
                await trio.sleep(0.05)  # flock(2) tells by no event
    if lock is None:
        kind, option = _WORDS[name]
        raise ConfigurationError(f"another jobmaster server has the {kind} {folder}; give this one its own {option}")
    closing.callback(os.close, lock)
    return lock


def _try_to_lock_jobs(tree: CgroupTree) -> int | None:
    try:
        tree.prepare()  # where an old server has just removed the folder
    except CgroupFileError as error:
        if error.errno not in GONE:
            raise
        return None
    return take_lock(tree.jobs)


class AddressInUse(ConfigurationError):
    """Another program listens there."""


async def listen(launcher: Launcher, host: str, port: int, closing: ExitStack) -> list[trio.SocketListener]:
    """The listening sockets of an earlier server, where they are those of this address, or new ones.

    Raises:
        AddressInUse: another program has the address.
        ConfigurationError: the address cannot be listened on.
    """
    listeners = _inherited_listeners(launcher, _name(host, port))
    if not listeners:
        listeners = await _new_listeners(host, port)
    for each in listeners:
        closing.callback(each.socket.close)  # where nothing comes to serve them
    return listeners


def _inherited_listeners(launcher: Launcher, name: str) -> list[trio.SocketListener]:
    inherited, launcher.inherited.listeners = launcher.inherited.listeners, []
    if all(each == name for each, _ in inherited):
        return [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for _, sock in inherited]
    for _, sock in inherited:
        sock.close()
    return []


async def _new_listeners(host: str, port: int) -> list[trio.SocketListener]:
    try:
        with thread_needed():  # to look the host up
            return await open_listeners(host, port)
    except OSError as error:
        failure = f"cannot listen on {host}:{port}: {error.strerror or error}"
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(f"{failure}; another program has the port; name another with --listen") from None
        raise ConfigurationError(f"{failure}; name an address of this host with --listen") from None


def listeners_to_keep(
    listeners: list[trio.SocketListener], host: str, port: int
) -> list[tuple[str, trio.socket.SocketType]]:
    """The listening sockets as the launcher is given them.

    A server that was asked for any free port has one that the next server is to have, too.
    """
    return [(_name(host, port), each.socket) for each in listeners]


def _name(host: str, port: int) -> str:
    return f"{host}:{port}"
