"""Who keeps the threads of a dead server in the kernel: jobs that hold the lock of a pipe.

Theory of operation
-------------------
Whoever splices between a pipe and a socket or a file holds the pipe's lock for as long as that takes, and every other
operation on the pipe waits for it, also where it is killed (fs/splice.c, fs/pipe.c). A job that splices to its output from
a socket on which nothing comes, or from its input to one that takes nothing, so holds up each thread of the server that
touches that pipe. While the server lives that is its thread's affair alone. But a process that is killed ends with its
last thread: until then its descriptors stay open, its pidfd tells nothing, and it cannot be reaped.

/proc/PID/task/TID tells of each thread that is left: `wchan` the kernel's function that waits, one of pipe.c or splice.c
where it is for a pipe's lock; `syscall` the system call and its arguments, some of which are descriptors; `fd` their
pipes. A descriptor that is being closed is no longer there: then it is one of a pipe that the launcher has closed as well, and
of which the server has not said that it has. The holder is in a system call with the same pipe, and waits for something else.

A holder that is not to be found so (it may be in a call of io_uring, or of 32 bits, or have put another file in its
descriptor's place) is in the job whose pipe it is; or that job waits itself, for another one of the same client's.

Jobs can have any number of threads, and while these are looked at the launcher does nothing else. So a look ends after
`MOST_STEPS`, of which each job has some in its turn; the next one goes on from there, and a `Search` is over after `MOST_LOOKS`,
with whatever was found until then.

Files are never touched, only links to them are read: a disk may not answer. What cannot be read is passed over. What has to
be waited for, as a job that executes a program has it, is left to a process that may wait (`reader`): such a job is not looked
at any more, and may be the one.
"""

from __future__ import annotations

import os
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from jobmaster.launcher.proc import processes as _processes
from jobmaster.launcher.proc import read as _read
from jobmaster.launcher.proc import tasks as _tasks
from jobmaster.launcher.reader import MOST_FILES, HeldUp, Reader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_FIRST: Final = (0,)
_FIRST_TWO: Final = (0, 1)
_SPLICE: Final = (0, 2)
_GENERIC: Final = {
    **dict.fromkeys((63, 64, 65, 66, 75, 286, 287), _FIRST),
    71: _FIRST_TWO,
    76: _SPLICE,
    77: _FIRST_TWO,
}  # include/uapi/asm-generic/unistd.h
_DESCRIPTORS: Final = {
    "x86_64": {
        **dict.fromkeys((0, 1, 19, 20, 278, 327, 328), _FIRST),
        40: _FIRST_TWO,
        275: _SPLICE,
        276: _FIRST_TWO,
    },
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
}
"""The system calls that may wait for something else with a pipe's lock, and which of their arguments are descriptors: read(2),
write(2), readv(2), writev(2), vmsplice(2), preadv2(2) and pwritev2(2), whose memory may have to come from a disk; sendfile(2),
splice(2) and tee(2). Of all others that concern a pipe the first argument is one."""
_MOST_DESCRIPTORS: Final = 2**31
_PIPE: Final = "pipe:["
_CLOSING: Final = "pipe_release"
_LOCKING: Final = ("pipe", "splice", "tee")
"""Parts of the names of the functions that lock pipes, and wait for nothing else that a SIGKILL does not end."""
MOST_STEPS: Final = 4_000
"""Threads and processes of jobs that are looked at in one look, of all jobs together; up to 100 microseconds each."""
STEPS_OF_JOB: Final = 4
"""So many of one job before the next one's: each of a thousand jobs has its turn in every look."""
MOST_LOOKS: Final = 10
"""Looks of one search."""
MOST_HELD_UP: Final = 4
"""Jobs that one look waits for, in vain."""
_AT_ONCE: Final = MOST_FILES // 2
"""Threads that are asked for at a time."""
_READER: Final = Reader()


class Waiting(NamedTuple):
    """What the threads of a process wait for.

    Attributes:
        pipes: st_ino of those whose lock somebody else holds.
        is_closing: a thread waits for the lock of one whose descriptor is no longer there.
        where: the kernel's functions in which threads wait.
    """

    pipes: frozenset[int]
    is_closing: bool
    where: tuple[str, ...]


def waiting(pid: int) -> Waiting:
    """What is left of a process that was killed."""
    wanted: set[int] = set()
    held: set[int] = set()
    where: list[str] = []
    for task in _tasks(pid):
        function = _read(f"{task}/wchan")
        call = _read(f"{task}/syscall")
        if function.strip("0"):
            where.append(function)
        if _is_for_a_lock(function):
            wanted.update(_pipes(task, call, _FIRST) if function != _CLOSING else ())
        else:
            held.update(_pipes(task, call))
    return Waiting(frozenset(wanted - held), is_closing=_CLOSING in where, where=tuple(where))


class Job(NamedTuple):
    """Whose processes are looked at.

    Attributes:
        id: its name.
        cgroup: path of its folder; empty where that is not known.
        pid: of its main process, where that lives.
    """

    id: str
    cgroup: str
    pid: int | None


class Search:
    """Who holds the locks of pipes: all jobs are looked at, in several looks where they have many threads."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._left = deque((job, held_by(job.cgroup, job.pid)) for job in jobs)
        self._looks = 0
        self.unseen: set[str] = set()
        """The ids of jobs that hold up who looks at them."""

    @property
    def is_over(self) -> bool:
        """Whether no other look is to follow."""
        return not self._left or self._looks >= MOST_LOOKS

    def look(self, pipes: frozenset[int]) -> set[str]:
        """The ids of jobs, among those that this look comes to, that may hold the lock of one of these."""
        self._looks += 1
        try:
            return self._look(pipes)
        finally:
            _READER.close()

    def _look(self, pipes: frozenset[int]) -> set[str]:
        found: set[str] = set()
        steps, most_unseen = 0, len(self.unseen) + MOST_HELD_UP
        while self._left and steps < MOST_STEPS and len(self.unseen) < most_unseen:
            job, held = self._left.popleft()
            some: list[frozenset[int]] = []
            is_unseen = False
            try:
                some.extend(islice(held, STEPS_OF_JOB))
            except HeldUp:
                is_unseen = True  # what was seen until then counts all the same
            steps += max(1, len(some))
            if any(map(pipes.intersection, some)):
                found.add(job.id)
            elif is_unseen:
                self.unseen.add(job.id)
            elif len(some) == STEPS_OF_JOB:
                self._left.append((job, held))
        return found


def held_by(cgroup: str, pid: int | None) -> Iterator[frozenset[int]]:
    """st_ino of the pipes whose locks a job may hold, step by step: each thread is one, and each process.

    Args:
        cgroup: path of its folder.
        pid: of its main process, where that lives.

    Raises:
        HeldUp: the job keeps who looks waiting.
    """
    tasks: list[str] = []
    for each in {*_processes(cgroup), *(() if pid is None else (pid,))}:
        yield frozenset()
        tasks += _tasks(each)
        while len(tasks) >= _AT_ONCE:
            yield from _held_by_threads(tasks[:_AT_ONCE])
            tasks = tasks[_AT_ONCE:]
    yield from _held_by_threads(tasks)


def _held_by_threads(tasks: list[str]) -> Iterator[frozenset[int]]:
    texts = iter(_read_patiently([f"{task}/{name}" for task in tasks for name in ("wchan", "syscall")]))
    for task, function, call in zip(tasks, texts, texts, strict=True):
        yield frozenset() if _is_for_a_lock(function) else frozenset(_pipes(task, call))


def pipe_of(fd: int) -> int | None:
    """st_ino of a pipe of ours; None where this is another kind of file."""
    return _inode_of(f"/proc/self/fd/{fd}")


def _is_for_a_lock(function: str) -> bool:
    return any(part in function for part in _LOCKING)


def _pipes(task: str, call: str, otherwise: tuple[int, ...] = ()) -> Iterator[int]:
    """Those among the descriptors of a thread's system call: of one that may hold a lock, or `otherwise` of these arguments."""
    number, *arguments = call.split() or ("",)
    if not number.isdecimal():  # "running", or in no system call
        return
    for position in _DESCRIPTORS.get(os.uname().machine, {}).get(int(number), otherwise):
        fd = int(arguments[position], 16)
        if fd < _MOST_DESCRIPTORS and (inode := _inode_of(f"{task}/fd/{fd}")) is not None:
            yield inode


def _inode_of(link: str) -> int | None:
    try:
        name = os.readlink(link)  # noqa: PTH115  # pathlib costs 5 ms
    except OSError:
        return None
    return int(name[len(_PIPE) : -1]) if name.startswith(_PIPE) else None


def _read_patiently(paths: list[str]) -> list[str]:
    """Of jobs, which may keep a reader waiting."""
    return _READER.read(paths) if paths else []
