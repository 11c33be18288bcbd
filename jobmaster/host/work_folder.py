"""A job's own folder: made and removed by root, emptied as the user whom what is in it belongs to.

What a job leaves is anything that its user can make: links, deep trees, a million names, and another job of the same user may
go on changing it. So nothing in it is looked at with root's rights: the thread that empties a folder has the user's own for
files (setfsuid(2), which counts for this thread alone and takes the capabilities that override permissions, capabilities(7)),
follows no link and goes up by no `..`. Only the folder itself, whose name is in a folder that only root can write, is removed as root.

Nobody can signal or trace a thread with such rights: that goes by its other user ids (kill(2), ptrace(2)), which are root's. The
kernel keeps a process from dumping core after such a change (PR_SET_DUMPABLE, prctl(2)); here that is undone after each.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

MODE: Final = 0o700
_DEPTH: Final = 64
"""Folders in folders that are held open; a deeper one is first moved up to the top."""
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPENAT2: Final = 437  # the same on every architecture
_RESOLVE_NO_XDEV: Final = 0x01
"""Of openat2(2): nothing that is mounted is entered, also where it is of the same file system, as a bind mount is."""
_UNCHANGED: Final = 2**32 - 1
_NICE: Final = 10
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.setfsuid.argtypes = _libc.setfsgid.argtypes = (ctypes.c_uint,)
_libc.prctl.argtypes = (ctypes.c_int, *(4 * (ctypes.c_ulong,)))
_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4
_IS_DUMPABLE: Final = _libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) == 1


class _OpenHow(ctypes.Structure):
    """struct open_how (openat2(2))."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in ("flags", "mode", "resolve"))


class NotInTime(Exception):
    """Something is left, and more time is needed."""


def make(path: Path, uid: int, gid: int) -> None:
    """Makes a folder of this user alone, in one that nobody else can write.

    Raises:
        OSError: it is not made.
    """
    path.mkdir(MODE)
    try:
        os.chown(path, uid, gid, follow_symlinks=False)
        path.chmod(MODE)  # whatever the umask is
    except OSError:
        path.rmdir()
        raise


def remove(path: Path, *, goes_on: Callable[[], bool]) -> None:
    """Removes the folder and all that is in it; for a thread that does nothing else afterwards. A folder that is gone is removed.

    Args:
        path: the folder, in one that only this process's user can write.
        goes_on: asked before each name; false ends it.

    Raises:
        NotInTime: it did not go on; what was removed by then is.
        OSError: something in it cannot be removed; all else is.
    """
    with suppress(FileNotFoundError):
        try:
            path.rmdir()
        except OSError:
            _empty(path, goes_on)
            path.rmdir()


def _empty(path: Path, goes_on: Callable[[], bool]) -> None:
    details = path.lstat()
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
    parent = os.open(path.parent, _FOLDER)
    try:
        with _with_rights_of(details.st_uid, details.st_gid):
            _Emptying(path.name, parent, goes_on).run()
    finally:
        os.close(parent)


@contextmanager
def _with_rights_of(uid: int, gid: int) -> Iterator[None]:
    """For the block, this thread has a user's rights for files; a process that is not root has its own, which are the same.

    Raises:
        PermissionError: the kernel did not take them.
    """
    if os.geteuid() != 0:
        yield
        return
    try:
        _libc.setfsgid(gid)
        _libc.setfsuid(uid)
        if _libc.setfsuid(_UNCHANGED) != ctypes.c_int(uid).value:  # both calls return what was before, and never fail
            raise PermissionError(f"no rights of user {uid} to be had for files")
        yield
    finally:
        _libc.setfsuid(0)
        _libc.setfsgid(0)
        if _IS_DUMPABLE:
            _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


class _Emptying:
    """One folder that is being emptied."""

    def __init__(self, name: str, parent: int, goes_on: Callable[[], bool]) -> None:
        self._name = name
        self._parent = parent
        self._goes_on = goes_on
        self._moved = 0
        self._errors: list[OSError] = []
        self._has_changed = False

    def run(self) -> None:
        """Goes through the folder until nothing is left in it, or nothing more can be removed."""
        fd = _opened(self._name, self._parent)
        try:
            while not self._is_done(fd):
                pass
        finally:
            os.close(fd)

    def _is_done(self, fd: int) -> bool:
        self._errors.clear()
        self._has_changed = False
        self._empty(fd, fd, depth=1)
        if self._errors and not self._has_changed:
            raise self._errors[0]
        return not self._has_changed

    def _empty(self, fd: int, top: int, *, depth: int) -> None:
        with os.scandir(fd) as entries:
            for entry in entries:
                if not self._goes_on():
                    raise NotInTime
                try:
                    if entry.is_dir(follow_symlinks=False):
                        self._remove_folder(entry.name, fd, top, depth)
                    else:
                        os.unlink(entry.name, dir_fd=fd)
                    self._has_changed = True
                except (
                    FileNotFoundError,
                    NotADirectoryError,
                    IsADirectoryError,
                ):  # another job has put something else there
                    self._has_changed = True
                except OSError as error:
                    self._errors[1:] = [error]  # the first one tells why, and they may be a million

    def _remove_folder(self, name: str, parent: int, top: int, depth: int) -> None:
        try:
            os.rmdir(name, dir_fd=parent)
            return
        except OSError:  # mostly ENOTEMPTY; a mount point says EBUSY again
            pass
        if depth == _DEPTH:
            self._move_up(name, parent, top)
            return
        fd = _opened(name, parent)
        try:
            self._empty(fd, top, depth=depth + 1)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=parent)

    def _move_up(self, name: str, parent: int, top: int) -> None:
        os.close(_opened(name, parent))  # with the rights that a move of it needs
        self._moved += 1
        os.rename(name, f".{os.getpid()}-{id(self)}-{self._moved}", src_dir_fd=parent, dst_dir_fd=top)


def _opened(name: str, parent: int) -> int:
    """A folder of the user's, which may have taken its own rights from it."""
    try:
        fd = _open_here(name, parent)
    except PermissionError:
        # Of a link that has come into its place, the target's: the user could have done that as well.
        os.chmod(name, MODE, dir_fd=parent)
        return _open_here(name, parent)
    if os.fstat(fd).st_mode & MODE != MODE:
        with suppress(OSError):
            os.fchmod(fd, MODE)
    return fd


def _open_here(name: str, parent: int) -> int:
    """Opens a folder on which nothing is mounted; a job of root may have mounted anything.

    Raises:
        OSError: EXDEV, where it is one.
    """
    how = _OpenHow(_FOLDER, 0, _RESOLVE_NO_XDEV)
    path = ctypes.c_char_p(os.fsencode(name))
    size = ctypes.c_size_t(ctypes.sizeof(how))
    fd = int(_libc.syscall(ctypes.c_long(_OPENAT2), ctypes.c_long(parent), path, ctypes.byref(how), size))
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
    return fd
