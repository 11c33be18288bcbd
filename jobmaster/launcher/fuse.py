"""Jobs that outlive SIGKILL since they wait for a FUSE file system of their own: its connection is aborted.

Theory of operation
-------------------
Whoever has a user namespace can mount a FUSE file system in it, and be its daemon as well. A process that has asked the daemon for
something waits for the answer in the kernel, beyond SIGKILL, until the daemon answers or nobody has its descriptor any
more (fs/fuse/dev.c: request_wait_answer). Where the daemon is a thread of the same process that is for ever; and also where it is
in another job. Until then the process keeps its cgroup, and the lock of a pipe that it writes to from a mapped file.

The file system `fusectl` has a folder for each connection on this host, whose name is the number of the device that its mount
has, and whose owner is the user who mounted it, as this namespace knows that user (fs/fuse/control.c). Who writes to the file `abort` in
it ends all that waits. Whose a connection is, `abort` finds out in three breadths, the next one where one was in vain:

- OWN: the mount namespaces of what is left of the job's threads show it; or one of them that waits for an answer is in a system
  call with a file of it, or has mapped one. Where none does, that holds for each that no signal reaches.
- HIDDEN: no other process shows it, that is: it was unmounted lazily, or never attached to a folder.
- ALL: processes of other jobs alone show it; none that is no job's does.

It belongs to the user who runs these threads in any case: from one whom the user namespace of the mount does not know the kernel
takes no page's request (fs/fuse/dev.c: fuse_get_req). None is root's, and none that the launcher's own mount namespace shows:
such a file system the host has made. The last two breadths may meet the innocent among the jobs of that user, who is the client's
own unless all jobs share one: they are for a job that waits for an answer, and has closed and unmapped what it waits for. Who waits
for a page on a disk of the host looks the same.

All this is done by a process that may wait (`aside`): others can hold the lock under which the kernel keeps its connections. Jobs
can have any number of mounts, in the namespaces and below the roots of many processes. So what processes of jobs show is looked at
for `LOOK_SECONDS` at most; what was not seen by then counts as not shown, at the cost of that user's jobs alone. What others show
is looked at to the end, or nothing that they may show is aborted.
"""

from __future__ import annotations

import math
import os
import signal
import time
from contextlib import suppress
from enum import IntEnum
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from jobmaster.launcher import aside, kernel
from jobmaster.launcher.proc import processes, read
from jobmaster.launcher.proc import threads as threads_in
from jobmaster.launcher.streams import say

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Iterator

    from jobmaster.launcher.poller import Poller

SECONDS: Final = 2.0
"""How long one request may take; ordinarily some milliseconds."""
LOOK_SECONDS: Final = 0.3
"""How long the mounts that jobs show are looked at; another namespace, of 100,000 mounts, takes 0.2 s more."""
MOST_REQUESTS: Final = 256
"""That wait for their turn; who asks in vain asks again."""
MOST_THREADS: Final = 1_000
"""Of jobs that do not die, whose mounts are looked at."""
MOST_STATES: Final = 5_000
"""Of those threads, which are asked for their users, and whether they wait for an answer; of any more, some are taken to."""
MOST_WAITING: Final = 100
"""Of those that wait for an answer, whose files are."""
_MOST_MAPPED: Final = 1 << 20
"""Bytes of /proc/PID/maps that are read."""
_MOST_DESCRIPTORS: Final = 1 << 31
_PROC: Final = "/proc"
_MOUNTED: Final = "/sys/fs/fuse/connections"
"""Where the host may have it, for those who must not mount it."""
_ANSWER: Final = ("request_wait_answer", "fuse_", "folio_", "inode_wait_for_writeback")
"""Parts of the names of the kernel's functions in which a thread waits for an answer, to a request of its own or to one that
writes or reads a page of the file; a compiler may have put the first into others of fs/fuse."""
_PACKET: Final = 4096


class Breadth(IntEnum):
    """Which connections are aborted: see the module."""

    OWN = 1
    HIDDEN = 2
    ALL = 3


class Request(NamedTuple):
    """What is to be done.

    Attributes:
        cgroups: paths of the folders of the jobs that were killed.
        jobs: that of all jobs.
        name: the jobs that were killed, for people.
    """

    breadth: Breadth
    cgroups: tuple[str, ...]
    jobs: str
    name: str


class Aborter:
    """Aborts connections, one request after the other, and says what it did. Never waits."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._requests: dict[Request, None] = {}
        self._running: socket.socket | None = None

    @property
    def is_busy(self) -> bool:
        """Whether there are requests that were not carried out; each is given up after `SECONDS`."""
        return self._running is not None

    def ask(self, request: Request) -> None:
        """Has a request carried out in its turn."""
        if len(self._requests) < MOST_REQUESTS:
            self._requests[request] = None
        self._next()

    def _next(self) -> None:
        if self._running is not None or not self._requests:
            return
        request = next(iter(self._requests))
        del self._requests[request]
        try:
            pid, sock = aside.start(partial(_serve, request))
        except OSError:
            return  # no process is to be had
        self._running = sock
        self._poller.watch(sock.fileno(), partial(self._on_answer, sock, request))
        self._poller.call_later(SECONDS, partial(self._on_late, sock, request, pid))

    def _on_answer(self, sock: socket.socket, request: Request) -> None:
        with suppress(OSError):
            text = sock.recv(_PACKET).decode(errors="replace")
            if text:
                say(f"jobmaster: {text} ({request.name})")
        self._end(sock)

    def _on_late(self, sock: socket.socket, request: Request, pid: int) -> None:
        if self._running is not sock:
            return
        say(f"jobmaster: FUSE connections could not be aborted within {SECONDS:g} s ({request.name})")
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # it has not closed its end, so it is our child and not reaped
        self._end(sock)

    def _end(self, sock: socket.socket) -> None:
        self._poller.forget(sock.fileno())
        sock.close()
        self._running = None
        self._next()


def _serve(request: Request, sock: socket.socket) -> None:
    """Carries a request out and tells, for people, what has come of it; nothing where there was nothing to do."""
    try:
        aborted = abort(request)
        text = f"jobs that did not die had FUSE file systems; connections aborted: {aborted}" if aborted else ""
    except OSError as error:
        text = (
            f"jobs do not die and may wait for FUSE file systems, whose connections cannot be aborted: {error.strerror}"
        )
    if text:
        sock.send(text.encode()[:_PACKET])


def abort(request: Request) -> str:
    """Aborts the connections of jobs that were killed; which, for people.

    Raises:
        OSError: there may be some, and they cannot be aborted.
    """
    left = {pid for cgroup in request.cgroups for pid in processes(cgroup)}
    tids = (tid for cgroup in request.cgroups for tid in threads_in(cgroup))
    all_threads = [f"{_PROC}/{tid}" for tid in islice(tids, MOST_STATES + 1)]
    threads = all_threads[:MOST_THREADS]
    # The one that waits may be the last, while all others wait for its lock of their file.
    waiting = list(islice(filter(_waits_for_answer, all_threads), MOST_WAITING))
    may_wait = bool(waiting) or len(all_threads) > MOST_STATES
    try:
        control = _control()
    except OSError:
        if may_wait:
            raise
        return ""
    if control is None:
        return ""
    users = set(map(_user, all_threads)) - {0, None}
    connections = {number for number, user in _owners(control) if user in users} - shown_by([f"{_PROC}/self"])
    found = connections & shown_by(threads, LOOK_SECONDS)
    _abort(control, found)  # first of all: what follows may have to wait for one
    more: set[int] = set()
    if request.breadth is Breadth.OWN:
        # Who waits for an answer may be in another job, and have the lock of the file.
        users_of_files = waiting or islice(filter(_is_beyond_signals, all_threads), MOST_WAITING)
        more = connections & set().union(*map(used_by, users_of_files))
    elif may_wait:
        others, jobs = _processes(request)
        more = connections - shown_by(others)
        if request.breadth is Breadth.HIDDEN:
            of_others = (f"{_PROC}/{pid}" for pid in jobs - left)
            more -= shown_by((process for process in of_others if _user(process) in users), LOOK_SECONDS)
    _abort(control, more - found)
    return ", ".join(map(str, sorted(found | more)))


def _processes(request: Request) -> tuple[list[str], set[int]]:
    """The folders of all processes that are no job's, and the jobs' processes."""
    # Before the jobs' own are listed: what these fork meanwhile is not taken for another's.
    pids = {int(name) for name in os.listdir(_PROC) if name.isdecimal()}  # noqa: PTH208  # pathlib costs 5 ms
    jobs = set(processes(request.jobs))
    return [f"{_PROC}/{pid}" for pid in pids - jobs], jobs


def _control() -> str | None:
    """A path of the folder of connections; None where there are no FUSE file systems on this host.

    Raises:
        OSError: it cannot be reached.
    """
    if "\tfusectl\n" not in read(f"{_PROC}/filesystems"):
        return None
    try:
        return f"/proc/self/fd/{kernel.mount_detached('fusectl')}"
    except OSError as error:
        with suppress(OSError):
            if os.listdir(_MOUNTED):  # noqa: PTH208
                return _MOUNTED
        raise error from None


def _owners(control: str) -> Iterator[tuple[int, int]]:
    """The number of each connection, and who has mounted it."""
    for name in os.listdir(control):  # noqa: PTH208
        with suppress(FileNotFoundError):  # it is gone
            yield int(name), os.stat(f"{control}/{name}").st_uid  # noqa: PTH116


def _abort(control: str, connections: set[int]) -> None:
    for number in connections:
        with suppress(FileNotFoundError):  # it is gone
            fd = os.open(f"{control}/{number}/abort", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"1")
            finally:
                os.close(fd)


def shown_by(processes_or_threads: Iterable[str], seconds: float = math.inf) -> set[int]:
    """The numbers of the devices of the mounts that these folders of /proc show, each namespace being looked at once.

    No other one is looked at after so many seconds.
    """
    seen: set[tuple[str, str]] = set()
    found: set[int] = set()
    deadline = time.monotonic() + seconds
    for folder in processes_or_threads:
        if time.monotonic() > deadline:
            break
        with suppress(OSError):  # it is gone
            place = (os.readlink(f"{folder}/ns/mnt"), os.readlink(f"{folder}/root"))  # noqa: PTH115
            if place not in seen:
                seen.add(place)
                found |= devices(read(f"{folder}/mountinfo"))
    return found


def devices(mountinfo: str) -> set[int]:
    """The numbers of the devices in a text as of /proc/PID/mountinfo (proc_pid_mountinfo(5)), as fusectl has them."""
    lines = mountinfo.split("\n")[:-1]  # names can have any other separator of lines
    pairs = (line.split(" ", 3)[2].partition(":") for line in lines)
    return {kernel.device_number(int(major), int(minor)) for major, _, minor in pairs}


def used_by(task: str) -> set[int]:
    """Those of the files that a thread has mapped, or that its system call has among its arguments."""
    lines = read(f"{task}/maps", _MOST_MAPPED).split("\n")[:-1]  # the last one may be cut
    pairs = (line.split(None, 4)[3].partition(":") for line in lines)
    found = {kernel.device_number(int(major, 16), int(minor, 16)) for major, _, minor in pairs}
    for argument in read(f"{task}/syscall").split()[1:7]:
        if (number := int(argument, 16)) < _MOST_DESCRIPTORS:
            with suppress(OSError):  # it is no descriptor
                found.add(kernel.device_of(f"{task}/fd/{number}"))
    return found


def _waits_for_answer(task: str) -> bool:
    function = read(f"{task}/wchan")
    return any(part in function for part in _ANSWER)


def _is_beyond_signals(task: str) -> bool:
    """Whether a thread is in an uninterruptible wait."""
    return "\nState:\tD" in read(f"{task}/status")


def _user(task: str) -> int | None:
    """The real user of a thread."""
    _, _, ids = read(f"{task}/status").partition("\nUid:\t")
    return int(ids.split()[0]) if ids else None
