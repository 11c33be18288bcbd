"""File systems of a guest that fail as a test wants it."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.kernel.disk import DISK

MEBIBYTE: Final = 1024**2
_FSGETXATTR: Final = 0x801C581F
_FSSETXATTR: Final = 0x401C5820
_XATTR: Final = struct.Struct("=5I8x")
"""struct fsxattr of linux/fs.h, whose fourth number is the project."""
_SYS_QUOTACTL: Final = 179
_SETQUOTA: Final = 0x800008 << 8 | 2
"""Q_SETQUOTA of a project."""
_DQBLK: Final = struct.Struct("=8QI4x")
"""struct if_dqblk of linux/quota.h."""
_BLOCK_LIMITS: Final = 1
_QUOTA_BLOCK: Final = 1024


def do(*command: str | Path) -> str:
    """Runs a program; what it says."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


class Volume:
    """A file system for one test, mounted at `folder`."""

    def __init__(self, folder: Path, device: str) -> None:
        self.folder = folder
        self.device = device
        self.is_frozen = False

    def remount(self, options: str) -> None:
        """Mounts it anew with other options, with all that is open on it."""
        do("mount", "-o", f"remount,{options}", self.folder)

    def freeze(self) -> None:
        """Whoever writes waits, until `thaw`."""
        do("fsfreeze", "--freeze", self.folder)
        self.is_frozen = True

    def thaw(self) -> None:
        """Lets those who wait go on."""
        do("fsfreeze", "--unfreeze", self.folder)
        self.is_frozen = False

    def limit(self, path: Path, project: int, size: int) -> None:
        """Lets the files of a project, which this one becomes the first of, have so many bytes; 0 for as many as there are."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            flags, *numbers = _XATTR.unpack(fcntl.ioctl(descriptor, _FSGETXATTR, bytes(_XATTR.size)))
            numbers[2] = project
            fcntl.ioctl(descriptor, _FSSETXATTR, _XATTR.pack(flags, *numbers))
        finally:
            os.close(descriptor)
        self.limit_project(project, size)

    def limit_project(self, project: int, size: int) -> None:
        """As `limit`, where the project has files."""
        blocks = size // _QUOTA_BLOCK
        limits = _DQBLK.pack(blocks, blocks, 0, 0, 0, 0, 0, 0, _BLOCK_LIMITS)
        syscall = ctypes.CDLL(None, use_errno=True).syscall
        if syscall(_SYS_QUOTACTL, ctypes.c_uint(_SETQUOTA), self.device.encode(), project, limits) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), self.device)


class FlakyDisk:
    """A disk that takes no writes while it is told so."""

    def __init__(self, name: str, under: str) -> None:
        sectors = do("blockdev", "--getsz", under)
        self._name = name
        self._whole = f"0 {sectors} linear {under} 0"
        self._failing = f"0 {sectors} flakey {under} 0 0 1 1 error_writes"
        self.device = f"/dev/mapper/{name}"
        do("modprobe", "-d", "/run/uml", "dm-flakey")
        do("dmsetup", "create", name, "--table", self._whole)
        do("dmsetup", "mknodes")

    def fail(self) -> None:
        """Every write is an error from now on."""
        self._become(self._failing)

    def mend(self) -> None:
        """Writes succeed again."""
        self._become(self._whole)

    def remove(self) -> None:
        """It is gone."""
        do("dmsetup", "remove", self._name)

    def _become(self, table: str) -> None:
        do("dmsetup", "suspend", "--nolockfs", self._name)
        do("dmsetup", "reload", self._name, "--table", table)
        do("dmsetup", "resume", self._name)


@contextmanager
def memory_volume(size: int) -> Iterator[Volume]:
    """A tmpfs."""
    with _folder() as folder:
        do("mount", "-t", "tmpfs", "-o", f"size={size}", "volume", folder)
        with _mounted(folder):
            yield Volume(folder, "volume")


@contextmanager
def ext4_volume(size: int, *, make: tuple[str, ...] = (), options: str = "defaults") -> Iterator[Volume]:
    """An ext4 on a disk in memory."""
    with _folder() as folder, _loop_device(size) as device:
        _mount_ext4(device, folder, make, options)
        volume = Volume(folder, device)
        with _mounted(folder):
            try:
                yield volume
            finally:
                if volume.is_frozen:
                    volume.thaw()


@contextmanager
def flaky_volume(
    size: int, *, make: tuple[str, ...] = (), options: str = "defaults"
) -> Iterator[tuple[Volume, FlakyDisk]]:
    """An ext4 on a disk that can be made to fail."""
    with _folder() as folder, _loop_device(size) as under:
        disk = FlakyDisk(folder.name, under)
        try:
            _mount_ext4(disk.device, folder, make, options)
            with _mounted(folder):
                yield Volume(folder, disk.device), disk
        finally:
            disk.mend()
            disk.remove()


@contextmanager
def read_only(*volumes: Volume) -> Iterator[None]:
    """The kernel makes every disk read-only, also for what is open on it, as it does where one has an error."""
    Path("/proc/sysrq-trigger").write_text("u")
    try:
        for volume in volumes:
            while not os.statvfs(volume.folder).f_flag & os.ST_RDONLY:  # the kernel does it in its own time
                time.sleep(0.01)
        yield
    finally:
        for folder in (DISK, *(volume.folder for volume in volumes)):
            do("mount", "-o", "remount,rw", folder)


def _mount_ext4(device: str, folder: Path, make: tuple[str, ...], options: str) -> None:
    do("mkfs.ext4", "-q", "-F", *make, device)
    do("mount", "-t", "ext4", "-o", options, device, folder)


@contextmanager
def _mounted(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        do("umount", "--lazy", folder)


@contextmanager
def _loop_device(size: int) -> Iterator[str]:
    with tempfile.NamedTemporaryFile(dir="/tmp") as image:
        image.truncate(size)
        do("modprobe", "-d", "/run/uml", "loop")
        device = do("losetup", "--find", "--show", image.name)
        try:
            yield device
        finally:
            do("losetup", "--detach", device)


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="volume-", dir="/tmp"))
    try:
        yield folder
    finally:
        folder.rmdir()
