"""Executed as a job, by the host's Python: tries what one process can do to another, and says what came of each try."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PTRACE_SEIZE, _PTRACE_DETACH, _PTRACE_INTERRUPT = 0x4206, 17, 0x4207
_PIDFD_GETFD, _PROCESS_VM_READV = 438, 310
libc = ctypes.CDLL(None, use_errno=True)


class _Stretch(ctypes.Structure):
    """A struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _ptrace(pid: int) -> None:
    _checked(libc.ptrace(_PTRACE_SEIZE, pid, 0, 0))
    _checked(libc.ptrace(_PTRACE_INTERRUPT, pid, 0, 0))
    os.waitpid(pid, 0x40000000)  # __WALL
    _checked(libc.ptrace(_PTRACE_DETACH, pid, 0, 0))


def _pidfd_getfd(pid: int) -> None:
    _checked(libc.syscall(_PIDFD_GETFD, os.pidfd_open(pid), 1, 0))


def _process_vm_readv(pid: int) -> None:
    first = Path(f"/proc/{pid}/maps").read_text() if os.access(f"/proc/{pid}/maps", os.R_OK) else "0-0"
    try:
        start = int(first.split("-", 1)[0], 16)
    except ValueError:
        start = 0
    buffer = ctypes.create_string_buffer(16)
    here = _Stretch(ctypes.cast(buffer, ctypes.c_void_p), 16)
    there = _Stretch(start, 16)
    _checked(libc.syscall(_PROCESS_VM_READV, pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0))


def _mem(pid: int) -> None:
    Path(f"/proc/{pid}/mem").open("rb").close()


def _open(path: str, flags: int) -> None:
    os.close(os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY))


def _write(path: str, text: bytes) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)


def tries(pid: int, cgroup: str, terminal: str) -> dict[str, Callable[[], object]]:
    """What is tried, by its name."""
    proc = f"/proc/{pid}"
    of_process: dict[str, Callable[[], object]] = {
        "signal": lambda: os.kill(pid, signal.SIGWINCH),
        "ptrace": lambda: _ptrace(pid),
        "pidfd_getfd": lambda: _pidfd_getfd(pid),
        "process_vm_readv": lambda: _process_vm_readv(pid),
        "prlimit": lambda: resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0)),
        "setpriority": lambda: os.setpriority(os.PRIO_PROCESS, pid, 5),
        "sched_setaffinity": lambda: os.sched_setaffinity(pid, os.sched_getaffinity(pid)),
        "environ": lambda: Path(f"{proc}/environ").read_bytes(),
        "mem": lambda: _mem(pid),
        "maps": lambda: Path(f"{proc}/maps").read_bytes(),
        "cwd": lambda: os.readlink(f"{proc}/cwd"),
        "exe": lambda: os.readlink(f"{proc}/exe"),
        "fd": lambda: os.listdir(f"{proc}/fd"),
        "namespaces": lambda: os.readlink(f"{proc}/ns/user"),
        "open fd 0": lambda: _open(f"{proc}/fd/0", os.O_RDONLY),
        "open fd 1": lambda: _open(f"{proc}/fd/1", os.O_WRONLY),
    }
    of_cgroup: dict[str, Callable[[], object]] = {
        "cgroup.procs": lambda: _write(f"{cgroup}/cgroup.procs", b"0"),
        "cgroup.kill": lambda: _write(f"{cgroup}/cgroup.kill", b"1"),
        "cgroup.freeze": lambda: _write(f"{cgroup}/cgroup.freeze", b"1"),
        "make a cgroup": lambda: os.mkdir(f"{cgroup}/below"),
        "remove the cgroup": lambda: os.rmdir(cgroup),
    }
    of_terminal: dict[str, Callable[[], object]] = {
        "open terminal": lambda: _open(terminal, os.O_RDWR),
        "chmod terminal": lambda: os.chmod(terminal, 0o600),
    }
    return of_process | of_cgroup | (of_terminal if terminal else {})


def main() -> None:
    """Tries everything, and says in JSON what came of it."""
    said: dict[str, str] = {}
    for name, attempt in tries(int(sys.argv[1]), sys.argv[2], sys.argv[3]).items():
        try:
            attempt()
            said[name] = "done"
        except OSError as error:
            said[name] = errno.errorcode.get(error.errno or 0, str(error))
    sys.stdout.write(json.dumps(said))


main()
