"""System calls that Python's standard library does not have, and what /proc/PID/stat tells of a child.

`ctypes.PyDLL` keeps the interpreter's lock, which the child of a clone needs to go on; the launcher has one thread.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final, NamedTuple

_libc: Final = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.prctl.argtypes = (ctypes.c_int, *(4 * (ctypes.c_ulong,)))
_libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
_libc.signal.restype = ctypes.c_void_p

_CLONE3: Final = 435  # the same on every architecture
_FSOPEN: Final = 430  # likewise, and the two after it
_FSCONFIG: Final = 431
_FSMOUNT: Final = 432
_CLOSE_ON_EXEC: Final = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
_FSCONFIG_CMD_CREATE: Final = 6
_AT_FDCWD: Final = -100
_AT_STATX_DONT_SYNC: Final = 0x4000
_STATX_BYTES: Final = 256
_STATX_DEVICE: Final = 136  # stx_dev_major, stx_dev_minor
_MINOR_BITS: Final = 20
_KEYCTL: Final = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "ppc64le": 271, "s390x": 280}
_KEYCTL_JOIN_SESSION_KEYRING: Final = 1

_CLONE_PIDFD: Final = 0x1000
_CLONE_INTO_CGROUP: Final = 0x2_0000_0000
_SIGCHLD: Final = 17

_PR_SET_PDEATHSIG: Final = 1
_PR_CAPBSET_DROP: Final = 24
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CAPABILITY_VERSION_3: Final = 0x20080522

_PF_EXITING: Final = 0x4
_PF_FORKNOEXEC: Final = 0x40
_SIGKILL_BIT: Final = 1 << 8
"""Of the pending signals of a thread; one that is fatal to a process is put there for each (kernel/signal.c)."""


class _CloneArguments(ctypes.Structure):
    """struct clone_args up to Linux 5.7 (CLONE_ARGS_SIZE_VER2)."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            *("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls"),
            *("set_tid", "set_tid_size", "cgroup"),
        )
    )


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def clone_into_cgroup(cgroup: int) -> tuple[int, int]:
    """Forks into the cgroup of this folder's descriptor: (pid, pidfd) in the parent, (0, -1) in the child."""
    pidfd = ctypes.c_int(-1)
    arguments = _CloneArguments(
        flags=_CLONE_PIDFD | _CLONE_INTO_CGROUP,
        pidfd=ctypes.addressof(pidfd),
        exit_signal=_SIGCHLD,
        cgroup=cgroup,
    )
    pid = _checked(_libc.syscall(ctypes.c_long(_CLONE3), ctypes.byref(arguments), ctypes.sizeof(arguments)))
    return pid, pidfd.value


def join_new_session_keyring() -> None:
    """Leaves the session keyring for a new, empty one; does nothing on an architecture whose number we do not have."""
    number = _KEYCTL.get(os.uname().machine)
    if number is not None:
        _checked(_libc.syscall(ctypes.c_long(number), ctypes.c_long(_KEYCTL_JOIN_SESSION_KEYRING), None))


def mount_detached(kind: str) -> int:
    """Mounts a file system of this kind where nobody sees it, in no mount namespace; its descriptor, as of O_PATH.

    Raises:
        OSError: it needs CAP_SYS_ADMIN, and Linux 5.2.
    """
    number, name, flags = ctypes.c_long, kind.encode(), ctypes.c_long(_CLOSE_ON_EXEC)
    context = _checked(_libc.syscall(number(_FSOPEN), name, flags))
    try:
        fd = number(context)
        _checked(_libc.syscall(number(_FSCONFIG), fd, number(_FSCONFIG_CMD_CREATE), None, None, number(0)))
        return _checked(_libc.syscall(number(_FSMOUNT), fd, flags, number(0)))
    finally:
        os.close(context)


def device_of(path: str) -> int:
    """The number of the device of a file's file system, which is not asked for it (statx(2), and fs/fuse/dir.c).

    Raises:
        OSError: there is no such file, or the kernel does not tell.
    """
    found = ctypes.create_string_buffer(_STATX_BYTES)
    _checked(_libc.statx(ctypes.c_int(_AT_FDCWD), os.fsencode(path), _AT_STATX_DONT_SYNC, 0, found))
    major, minor = struct.unpack_from("=II", found, _STATX_DEVICE)
    return device_number(major, minor)


def device_number(major: int, minor: int) -> int:
    """The number of a device in the kernel's own form (include/linux/kdev_t.h), in which `os.makedev` has it not."""
    return major << _MINOR_BITS | minor


def become_subreaper() -> None:
    """Orphaned descendants become children of this process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_parent_death_signal(number: int) -> None:
    """The kernel sends this signal when the parent dies. setresuid(2) clears it; ask for the parent's pid after."""
    _prctl(_PR_SET_PDEATHSIG, number)


def set_default_disposition(number: int) -> None:
    """SIG_DFL for a signal, behind the back of Python's `signal`, which takes ten times as long; before an exec alone."""
    _libc.signal(number, None)


def set_no_new_privileges() -> None:
    """No execve(2) of this process or its descendants gains privileges."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def drop_bounding_set(last_capability: int) -> None:
    """Empties the capability bounding set; `last_capability` is /proc/sys/kernel/cap_last_cap."""
    prctl = _libc.prctl
    for capability in range(last_capability + 1):
        if prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
            _checked(-1)


def clear_inherited_capabilities() -> None:
    """Empties the inheritable and, with it, the ambient set."""
    header, data = _CapabilityHeader(_CAPABILITY_VERSION_3, 0), (_CapabilityData * 2)()
    _checked(_libc.capget(ctypes.byref(header), ctypes.byref(data)))
    for half in data:
        half.inheritable = 0
    _checked(_libc.capset(ctypes.byref(header), ctypes.byref(data)))
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)


def clear_capabilities() -> None:
    """Empties every capability set but the bounding set; also where SECBIT_NO_SETUID_FIXUP kept them."""
    header, data = _CapabilityHeader(_CAPABILITY_VERSION_3, 0), (_CapabilityData * 2)()
    _checked(_libc.capset(ctypes.byref(header), ctypes.byref(data)))


def _prctl(option: int, argument: int) -> None:
    _checked(_libc.prctl(option, argument, 0, 0, 0))


class ProcessStat(NamedTuple):
    """Fields of /proc/PID/stat.

    Attributes:
        is_zombie: it has died and is not reaped.
        is_dying: that, or it is about to: it is exiting, or a SIGKILL waits for it.
        executed: it has executed a program since it was forked (PF_FORKNOEXEC of the flags is off).
        start_time: in clock ticks since boot.
        exit_code: as of wait(2), once it has died, where `tells_exit_code`; else 0.
    """

    is_zombie: bool
    is_dying: bool
    executed: bool
    start_time: int
    exit_code: int


def parse_stat(text: bytes) -> ProcessStat:
    """Reads a /proc/PID/stat; the program's name, in parentheses, may contain anything."""
    fields = text.rpartition(b")")[2].split()  # the first one here is number 3 of proc_pid_stat(5)
    flags, is_zombie, waits_for_it = int(fields[6]), fields[0] in b"ZX", int(fields[28])
    return ProcessStat(
        is_zombie=is_zombie,
        is_dying=is_zombie or bool(flags & _PF_EXITING or waits_for_it & _SIGKILL_BIT),
        executed=not flags & _PF_FORKNOEXEC,
        start_time=int(fields[19]),
        exit_code=int(fields[49]),
    )


def read_stat(pid: int) -> ProcessStat:
    """What the kernel says of a child that is not reaped. Where that executes a program, newer kernels have it wait for the end of that."""
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return parse_stat(os.read(fd, 4096))
    finally:
        os.close(fd)


def has_memory(pid: int) -> bool:
    """Whether a child has memory of its own. Never waits.

    One that dies has none from before its files are closed; one that executes a program has the new program's by then.
    """
    if _has_memory(f"/proc/{pid}"):
        return True
    threads = f"/proc/{pid}/task"  # the main thread may end by itself (pthread_exit(3)) and leave the process to others
    try:
        return any(_has_memory(f"{threads}/{name}") for name in os.listdir(threads))  # noqa: PTH208  # pathlib costs 5 ms
    except OSError:
        return False


def _has_memory(folder: str) -> bool:
    try:
        fd = os.open(f"{folder}/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not os.read(fd, 100).startswith(b"0 ")
    except OSError:
        return False
    finally:
        os.close(fd)


def tells_exit_code(pid: int) -> bool:
    """Whether the kernel tells us how a zombie ended: the same user, or who has CAP_SYS_PTRACE, which root may lack.

    The kernel asks for the same permission before it follows /proc/PID/exe, of which a zombie has none.
    """
    try:
        os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115  # pathlib would take longer to import than all else here
    except PermissionError:
        return False
    except OSError:
        pass
    return True
