"""The children: started, watched, reaped, and kept until the server has recorded their end."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from jobmaster.launcher import fuse, kernel, pipe_locks
from jobmaster.launcher.child import Heritage, StartDescriptors, read_outcome, spawn
from jobmaster.launcher.packets import Received, close_all
from jobmaster.launcher.protocol import (
    UNKNOWN_STATUS,
    Close,
    Closed,
    Forgotten,
    Message,
    Order,
    Refused,
    Start,
    Started,
)
from jobmaster.launcher.table import Entry, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jobmaster.launcher.fuse import Breadth
    from jobmaster.launcher.poller import Poller

MAX_CHILDREN: Final = 20_000
"""At two descriptors for each that runs, and two more where it has a stdin, three where it has a terminal."""
WITHHELD_SECONDS: Final = 2.0
"""How long a tracer may keep a dead child from us before its status is read from /proc, where the kernel tells it there."""
_RECHECK_SECONDS: Final = 0.05
_HELD_A_LOCK: Final = (
    "it held the lock of a pipe for which a server that had died was waiting, so that no other could follow"
)
"""Why the launcher ends a job."""
_MAY_HOLD_A_LOCK: Final = "a server that had died was waiting for the lock of a pipe that a job of this client held, so that no other could follow"
"""The same where it is not known which of its client's jobs it is."""
MOST_LEFT_PIPES: Final = 2_000
"""Pipes of forgotten children that are remembered, the latest: a job can pass its pipe on to another one before it ends."""
_BATCH: Final = 128
"""Dead children reaped at a time: a job can make them faster than they are reaped (CLONE_PARENT, orphans)."""


class Collected(NamedTuple):
    """What was reaped: pid and wait status of those that are no child of the table; whether none is left to reap."""

    others: dict[int, int]
    is_all: bool


class Children:
    """Every child but the server, which only `collect` meets."""

    def __init__(
        self,
        poller: Poller,
        send: Callable[[Message, tuple[int, ...]], None],
        heritage: Heritage,
        table: Table | None = None,
    ) -> None:
        self._poller = poller
        self._send = send
        self._heritage = heritage
        self._table = Table() if table is None else table
        self._search: pipe_locks.Search | None = None
        self._left_pipes: dict[int, None] = {}
        """st_ino of those of children that were forgotten, which the server may still be about to close."""
        for entry in self._table:
            self._watch(entry)

    def __len__(self) -> int:
        return len(self._table)

    @property
    def table(self) -> Table:
        """What is known of them."""
        return self._table

    def start(self, start: Start, received: Received) -> None:
        """Starts a child, or refuses; the descriptors that came are closed or kept."""
        try:
            started, pidfd = self._start(start, received)
        except OSError as error:
            self._send(Refused(id=start.id, errno=error.errno or errno.EIO), ())
        else:
            self._send(started, (pidfd,))

    def _start(self, start: Start, received: Received) -> tuple[Started, int]:
        try:
            descriptors = self._accept(start, received)
            cgroup = os.readlink(f"/proc/self/fd/{descriptors.cgroup}")  # noqa: PTH115  # pathlib costs 5 ms
            child = spawn(start, descriptors, self._heritage)
        except BaseException:
            close_all(received.descriptors)
            raise
        kept = {descriptors.output_read, *descriptors.keeps.values()}
        close_all([fd for fd in received.descriptors if fd not in kept])
        entry = Entry(
            id=start.id,
            pid=child.pid,
            pidfd=child.pidfd,
            output=descriptors.output_read,
            errors=child.errors,
            keeps=descriptors.keeps,
            cgroup=cgroup,
        )
        self._table.add(entry)
        entry.start_time = kernel.read_stat(child.pid).start_time
        self._watch(entry)
        return Started(id=start.id, pid=child.pid, start_time=entry.start_time), child.pidfd

    def _watch(self, entry: Entry) -> None:
        if entry.errors is not None:
            self._poller.watch(entry.errors, partial(self._on_outcome, entry))
        if entry.wait_status is None:
            self._poller.watch(entry.pidfd, partial(self._on_death, entry))

    def _accept(self, start: Start, received: Received) -> StartDescriptors:
        if received.is_cut:
            raise _error(errno.EMFILE)
        if start.id in self._table:
            raise _error(errno.EEXIST)
        if len(self._table) >= MAX_CHILDREN:
            raise _error(errno.EAGAIN)
        has_memfd = not start.strings
        if len(received.descriptors) != 4 + has_memfd + len(start.streams) + len(start.keeps):
            raise _error(errno.EINVAL)
        descriptors = iter(received.descriptors)
        return StartDescriptors(
            output_write=next(descriptors),
            output_read=next(descriptors),
            go=next(descriptors),
            cgroup=next(descriptors),
            strings=next(descriptors) if has_memfd else None,
            streams={name: next(descriptors) for name in start.streams},
            keeps={name: next(descriptors) for name in start.keeps},
        )

    def acknowledge(self, entry_id: str) -> None:
        """Forgets a child that has died; one that lives is killed, and forgotten when it has died."""
        entry = self._table.release(entry_id)
        if entry is None:
            self._send(Forgotten(id=entry_id), ())
        elif entry.wait_status is None:
            _kill(entry)
        else:
            self._close(entry)

    def close_kept(self, close: Close) -> None:
        """Closes what is kept for a child; its stdin ends so, once the server has closed its own, and asks the same again."""
        closed = self._table.take_kept(close.id, close.keeps)
        entry = self._table.find(close.id)
        if entry is not None:
            entry.closed_pipes = tuple(pipe for fd in closed if (pipe := pipe_locks.pipe_of(fd)) is not None)
        close_all(closed)
        self._send(Closed(id=close.id, keeps=close.keeps), ())

    def order(self, order: Order) -> None:
        """Keeps an order with its child."""
        self._table.order(order)

    def rows(self, version: int) -> Iterator[tuple[Message, tuple[int, ...]]]:
        """What a new server of this version is told of its predecessors' children, one by one as it can take it."""
        return self._table.rows(version)

    def forget_server(self) -> None:
        """The server is gone: the next one is told nothing of a child before its row."""
        self._table.forget_server()
        self._left_pipes.clear()
        self._search = None

    @property
    def any_lives(self) -> bool:
        """Whether there is one that lives."""
        return next(self._table.living(), None) is not None

    def signal_all(self, number: int) -> None:
        """Sends a signal to every child that lives."""
        for entry in self._table.living():
            _signal(entry, number)

    def end_lock_holders(self, waiting: pipe_locks.Waiting, *, is_sure: bool) -> list[str]:
        """Kills the jobs that keep threads of a dead server waiting, where it sees them; returns their ids.

        Where jobs have too many threads for one look, the next call goes on with it.

        Args:
            waiting: of the server.
            is_sure: where nobody is seen to hold a lock, and all were looked at that can be, the jobs whose pipes they are have to
                do with it; and when those were ended, in vain, the others of their clients; then those that cannot be looked at.
        """
        entries = [entry for entry in self._table if not entry.is_blamed]
        wanted = set(waiting.pipes)
        if waiting.is_closing:
            wanted.update(pipe for entry in self._table for pipe in entry.closed_pipes)
        visible = wanted | self._left_pipes.keys() if waiting.is_closing else wanted
        if not visible:
            return []
        reason = _HELD_A_LOCK
        search = self._search or pipe_locks.Search(
            pipe_locks.Job(entry.id, entry.cgroup, _living_pid(entry)) for entry in entries
        )
        found = search.look(frozenset(visible))
        self._search = None if search.is_over else search
        holders = [entry for entry in entries if entry.id in found]
        if not holders and is_sure and search.is_over:
            reason = _MAY_HOLD_A_LOCK
            holders = (
                [entry for entry in entries if wanted & _pipes_of(entry)]
                or self._others_of_blamed(entries)
                or [entry for entry in entries if entry.id in search.unseen]
            )
        for entry in holders:
            self._end(entry, reason)
        return [entry.id for entry in holders]

    def blamed(self, breadth: Breadth) -> fuse.Request | None:
        """Asks for the FUSE connections of all jobs that `end_lock_holders` has ended."""
        return _request(breadth, [entry for entry in self._table if entry.is_blamed])

    def stuck(self, entry_id: str, breadth: Breadth) -> fuse.Request | None:
        """Asks for those of one job."""
        entry = self._table.find(entry_id)
        return None if entry is None else _request(breadth, [entry])

    def _others_of_blamed(self, entries: list[Entry]) -> list[Entry]:
        """A job that was ended lives on where it waits for the lock of another pipe: its client's jobs can share one."""
        clients = {_client_folder(entry) for entry in self._table if entry.is_blamed and entry.cgroup}
        return [entry for entry in entries if _client_folder(entry) in clients]

    def _end(self, entry: Entry, reason: str) -> None:
        """Kills all of a job: the order that says so comes first."""
        entry.is_blamed = True
        if entry.wait_status is None and not _is_readable(entry.pidfd):
            self._table.order_by_launcher(entry, _now(), reason)
            _kill(entry)
        with contextlib.suppress(OSError):  # the cgroup is gone, or a kernel before 5.14
            fd = os.open(f"{entry.cgroup}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"1")
            finally:
                os.close(fd)

    def collect(self) -> Collected:
        """Reaps what has died, `_BATCH` at most; what is no child of the table is the server, or an orphan of a job."""
        others: dict[int, int] = {}
        for _ in range(_BATCH):
            pid = _dead_child(os.P_ALL, 0)
            if pid is None:
                return Collected(others, is_all=True)
            entry = self._table.by_pid(pid)
            if entry is not None:
                self._reap(entry)
            else:
                others[pid] = os.waitpid(pid, os.WNOHANG)[1]
        return Collected(others, is_all=False)

    def _reap(self, entry: Entry) -> None:
        """Reaps a child that can be; its outcome is read first, while /proc still has it."""
        self._on_outcome(entry, is_dead=True)
        self._ended(entry, os.waitpid(entry.pid, os.WNOHANG)[1])

    def _on_outcome(self, entry: Entry, *, is_dead: bool = False) -> None:
        if entry.errors is None:
            return
        outcome = read_outcome(entry.errors, entry.pid, is_dead=is_dead)
        if outcome is None:
            if _is_readable(
                entry.errors
            ):  # at its end: the child is dying, and would be looked at all the time until then
                self._poller.forget(entry.errors)
                self._poller.call_later(_RECHECK_SECONDS, partial(self._on_outcome, entry))
            return
        self._poller.forget(entry.errors)
        os.close(entry.errors)
        entry.errors = None
        message = self._table.settle(entry, outcome)
        if message is not None:
            self._send(message, ())

    def _on_death(self, entry: Entry) -> None:
        """The pidfd is readable: the child has died, and can be reaped unless a tracer withholds it."""
        if entry.wait_status is not None or not _is_readable(entry.pidfd):
            return
        self._poller.forget(entry.pidfd)
        _note_death(entry)
        if _dead_child(os.P_PID, entry.pid) is not None:
            self._reap(entry)
        else:
            self._poller.call_later(WITHHELD_SECONDS, partial(self._on_withheld, entry))

    def _on_withheld(self, entry: Entry) -> None:
        if entry.wait_status is not None:
            return
        if _dead_child(os.P_PID, entry.pid) is not None:
            self._reap(entry)
            return
        found = kernel.read_stat(entry.pid)
        if not found.is_zombie:
            self._poller.call_later(_RECHECK_SECONDS, partial(self._on_withheld, entry))
            return
        self._on_outcome(entry, is_dead=True)
        status = found.exit_code if kernel.tells_exit_code(entry.pid) else UNKNOWN_STATUS
        self._ended(entry, status)  # the zombie is reaped as an unknown pid when its tracer leaves it

    def _ended(self, entry: Entry, wait_status: int) -> None:
        _note_death(entry)
        message = self._table.died(entry, wait_status)
        self._poller.forget(entry.pidfd)
        if message is not None:
            self._send(message, ())
        elif entry.is_released:
            self._close(entry)

    def _close(self, entry: Entry) -> None:
        for pipe in _pipes_of(entry):
            self._left_pipes.pop(pipe, None)  # to be the last one
            self._left_pipes[pipe] = None
        while len(self._left_pipes) > MOST_LEFT_PIPES:
            del self._left_pipes[next(iter(self._left_pipes))]
        for fd in entry.descriptors:
            self._poller.forget(fd)
        close_all(entry.descriptors)
        if entry.is_known:
            self._send(Forgotten(id=entry.id), ())


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _now() -> str:
    """The time, in ISO 8601."""
    now = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1e6):06}+00:00"


def _note_death(entry: Entry) -> None:
    """Notes when a child has died, the first time that this is seen: a tracer may keep its status from us for longer."""
    if entry.died_at is None:
        entry.died_at = time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _living_pid(entry: Entry) -> int | None:
    return entry.pid if entry.wait_status is None else None


def _client_folder(entry: Entry) -> str:
    """The cgroup of all jobs of a job's client."""
    return entry.cgroup.rpartition("/")[0]


def _request(breadth: Breadth, entries: list[Entry]) -> fuse.Request | None:
    known = [entry for entry in entries if entry.cgroup]
    if not known:
        return None
    jobs = _client_folder(known[0]).rpartition("/")[0]
    names = ", ".join(entry.id for entry in known)
    return fuse.Request(breadth, tuple(entry.cgroup for entry in known), jobs, names)


def _pipes_of(entry: Entry) -> set[int]:
    found = (pipe_locks.pipe_of(fd) for fd in (entry.output, *entry.keeps.values()))
    return {pipe for pipe in found if pipe is not None} | set(entry.closed_pipes)


def _kill(entry: Entry) -> None:
    _signal(entry, signal.SIGKILL)


def _signal(entry: Entry, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(entry.pidfd, number)


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _dead_child(kind: int, pid: int) -> int | None:
    """The pid of a child that can be reaped, without reaping it."""
    try:
        found = os.waitid(kind, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid
