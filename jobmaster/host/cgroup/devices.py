"""Block devices, for ``io.max``, which takes whole disks by ``MAJ:MIN`` and no partitions (ENODEV).

Read from sysfs: ``/sys/block/<disk>`` are the disks, ``/sys/dev/block/<MAJ:MIN>`` every block device.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jobmaster.errors import ConfigurationError
from jobmaster.host.cgroup.mounts import read_mounts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jobmaster.host.cgroup.mounts import Mount

SYSFS: Final = Path("/sys")
_NUMBER: Final = re.compile(r"(0|[1-9][0-9]{0,6}):(0|[1-9][0-9]{0,6})", re.ASCII)
_SECTOR_BYTES: Final = 512  # the unit of sysfs "size", whatever the disk's own sector (block/genhd.c)


@dataclass(frozen=True, slots=True, order=True)
class DeviceNumber:
    """The number of a block device."""

    major: int
    minor: int

    def __post_init__(self) -> None:
        """Refuse what does not fit the kernel's 12 + 20 bits."""
        if not (0 <= self.major < 2**12 and 0 <= self.minor < 2**20):
            raise ValueError(f"not the number of a device: {self}")

    def __str__(self) -> str:
        """The kernel's way to write it: MAJ:MIN."""
        return f"{self.major}:{self.minor}"

    @classmethod
    def of(cls, number: int) -> DeviceNumber:
        """From ``st_dev`` or ``st_rdev``."""
        return cls(os.major(number), os.minor(number))


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A whole disk."""

    number: DeviceNumber
    name: str
    size: int
    """Bytes; 0 for a drive with nothing in it."""


def list_devices(sysfs: Path = SYSFS) -> tuple[Disk, ...]:
    """The disks of this host that hold something, by number."""
    try:
        folders = list((sysfs / "block").iterdir())
    except OSError:
        return ()
    disks = (_disk(folder) for folder in folders)
    return tuple(sorted((disk for disk in disks if disk and disk.size), key=lambda disk: disk.number))


def parse_device(text: str) -> DeviceNumber:
    """The number written as ``254:0``.

    Raises:
        ConfigurationError: the text is no such number.
    """
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ConfigurationError(f"{text!r} is not the number of a device: write MAJ:MIN, such as 254:0")
    try:
        return DeviceNumber(int(match[1]), int(match[2]))
    except ValueError as error:
        raise ConfigurationError(f"{text!r} is not the number of a device: out of the kernel's range") from error


def resolve_device(text: str, sysfs: Path = SYSFS) -> DeviceNumber:
    """The disk meant by ``254:0`` or ``/dev/vda1``: a partition stands for its disk.

    Raises:
        ConfigurationError: there is no such block device; the text lists those there are.
    """
    try:
        number = _number_of_node(Path(text)) if text.startswith("/") else parse_device(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}; there are: {_listing(sysfs)}") from None
    disk = None if number is None else _disk_of(number, sysfs)
    if disk is None:
        raise ConfigurationError(f"no block device {text}; there are: {_listing(sysfs)}")
    return disk


def disk_of(text: str, sysfs: Path = SYSFS) -> str | None:
    """The disk that `MAJ:MIN` is or is a partition of, likewise; None where there is no such block device.

    It is looked up and never opened: the kernel would make a device, or load a module, for a number that has none.
    """
    try:
        disk = _disk_of(parse_device(text), sysfs)
    except ConfigurationError:
        return None
    return None if disk is None else str(disk)


def device_under(path: Path, sysfs: Path = SYSFS, mounts: Iterable[Mount] | None = None) -> DeviceNumber | None:
    """The disk that holds ``path``; None where there is no single one (tmpfs, overlay, network).

    Btrfs gives its files device numbers of no block device; there the disk is looked up by the mount's source.

    Raises:
        ConfigurationError: there is no ``path``.
        CgroupError: mountinfo can't be read.
    """
    try:
        number = DeviceNumber.of(path.stat().st_dev)
        resolved = path.resolve(strict=True)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    if number.major != 0:
        return _disk_of(number, sysfs)
    mount = mount_of(resolved, read_mounts() if mounts is None else mounts)
    if mount is None or not mount.source.startswith("/dev/"):
        return None
    source = _number_of_node(Path(mount.source))
    return None if source is None else _disk_of(source, sysfs)


def _disk(folder: Path) -> Disk | None:
    try:
        number = parse_device((folder / "dev").read_text().strip())
        size = int((folder / "size").read_text()) * _SECTOR_BYTES
    except (OSError, ValueError, ConfigurationError):
        return None  # unplugged while we looked
    return Disk(number=number, name=folder.name, size=size)


def _disk_of(number: DeviceNumber, sysfs: Path) -> DeviceNumber | None:
    try:
        folder = (sysfs / "dev" / "block" / str(number)).resolve(strict=True)
    except OSError:
        return None
    if not (folder / "partition").exists():
        return number
    try:
        return parse_device((folder.parent / "dev").read_text().strip())
    except OSError:
        return None


def _number_of_node(node: Path) -> DeviceNumber | None:
    try:
        status = node.stat()
    except OSError:
        return None
    return DeviceNumber.of(status.st_rdev) if stat.S_ISBLK(status.st_mode) else None


def mount_of(path: Path, mounts: Iterable[Mount]) -> Mount | None:
    """The mount of those in which a resolved path lies; None where none of them has it."""
    # Later mounts cover earlier ones on the same point, so of equals the last is the one that is seen.
    covering = [mount for mount in mounts if path.is_relative_to(mount.mount_point)]
    return max(reversed(covering), key=lambda mount: len(mount.mount_point.parts), default=None)


def _listing(sysfs: Path) -> str:
    disks = (f"{disk.number} ({disk.name}, {disk.size / 2**30:.1f} GiB)" for disk in list_devices(sysfs))
    return ", ".join(disks) or "none"
