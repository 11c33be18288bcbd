"""Block devices by number, by node and by what lies on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobmaster.errors import ConfigurationError
from jobmaster.host.cgroup.devices import (
    DeviceNumber,
    Disk,
    device_under,
    disk_of,
    list_devices,
    parse_device,
    resolve_device,
)
from jobmaster.host.cgroup.mounts import Mount


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """A sysfs with the disk 254:0 (vda) and its partition 254:1, a disk 8:16 (sdb) and an empty drive."""
    sysfs = tmp_path / "sys"
    _device(sysfs, "vda", "254:0", sectors=2**21)
    _device(sysfs, "sdb", "8:16", sectors=2**22)
    _device(sysfs, "sr0", "11:0", sectors=0)
    _device(sysfs, "vda/vda1", "254:1", sectors=1000)
    (sysfs / "block" / "vda" / "vda1" / "partition").write_text("1\n")
    return sysfs


def _device(sysfs: Path, name: str, number: str, *, sectors: int) -> None:
    folder = sysfs / "block" / name
    folder.mkdir(parents=True)
    (folder / "dev").write_text(f"{number}\n")
    (folder / "size").write_text(f"{sectors}\n")
    index = sysfs / "dev" / "block"
    index.mkdir(parents=True, exist_ok=True)
    (index / number).symlink_to(folder)


def test_disks_are_listed_by_number(sysfs: Path) -> None:
    """Disks come with name and size in bytes; partitions and empty drives are left out."""
    assert list_devices(sysfs) == (
        Disk(number=DeviceNumber(8, 16), name="sdb", size=2**31),
        Disk(number=DeviceNumber(254, 0), name="vda", size=2**30),
    )


def test_a_host_without_sysfs_has_no_disks(tmp_path: Path) -> None:
    """A missing sysfs is an empty list."""
    assert list_devices(tmp_path / "nowhere") == ()


def test_an_unplugged_disk_is_left_out(sysfs: Path) -> None:
    """A disk whose files vanish while we look does not spoil the list."""
    (sysfs / "block" / "sdb" / "size").unlink()
    assert [disk.name for disk in list_devices(sysfs)] == ["vda"]


def test_a_device_number_is_written_as_the_kernel_does() -> None:
    """Parsing and printing are the same MAJ:MIN."""
    assert parse_device("254:0") == DeviceNumber(254, 0)
    assert str(parse_device("8:16")) == "8:16"
    assert DeviceNumber.of((8 << 8) | 16) == DeviceNumber(8, 16)


@pytest.mark.parametrize(
    "text", ["", "254", "254:", ":0", "a:b", "254:0 ", "-1:0", "08:0", "4096:0", "1:1048576", "٨:0"]
)
def test_texts_that_are_no_device_number_are_refused(text: str) -> None:
    """Anything but two numbers within the kernel's bits is refused, with the form to use."""
    with pytest.raises(ConfigurationError, match="is not the number of a device"):
        parse_device(text)


def test_a_partition_stands_for_its_disk(sysfs: Path) -> None:
    """The kernel takes io limits for whole disks only."""
    assert resolve_device("254:1", sysfs) == DeviceNumber(254, 0)
    assert resolve_device("254:0", sysfs) == DeviceNumber(254, 0)


@pytest.mark.parametrize("text", ["9:9", "/dev/nowhere", "/dev/null", "/"])
def test_an_unknown_device_lists_the_ones_there_are(sysfs: Path, text: str) -> None:
    """The operator sees what could have been meant, sizes included."""
    with pytest.raises(ConfigurationError) as caught:
        resolve_device(text, sysfs)
    assert str(caught.value) == f"no block device {text}; there are: 8:16 (sdb, 2.0 GiB), 254:0 (vda, 1.0 GiB)"


def test_a_host_without_disks_says_so(tmp_path: Path) -> None:
    """An empty list is spelled out."""
    with pytest.raises(ConfigurationError, match="there are: none"):
        resolve_device("8:0", tmp_path)


def test_the_disk_under_a_folder(tmp_path: Path) -> None:
    """A folder on a partition lies on the partition's disk."""
    number = DeviceNumber.of(tmp_path.stat().st_dev)
    if number.major == 0:
        pytest.skip("the temporary folder lies on no block device")
    sysfs = tmp_path / "sys"
    _device(sysfs, "disk", "254:200", sectors=1)
    _device(sysfs, "disk/part", str(number), sectors=1)
    (sysfs / "block" / "disk" / "part" / "partition").write_text("1\n")
    assert device_under(tmp_path, sysfs) == DeviceNumber(254, 200)
    assert device_under(tmp_path, tmp_path / "nowhere") is None


def _mount(mount_point: str, source: str) -> Mount:
    return Mount(device="0:30", root="/", mount_point=Path(mount_point), filesystem="btrfs", source=source)


def test_a_folder_without_a_block_device_number(sysfs: Path) -> None:
    """On an anonymous device the source of the nearest mount counts, and only if it is a block device."""
    assert device_under(Path("/proc"), sysfs, [_mount("/proc", "proc")]) is None
    assert device_under(Path("/proc"), sysfs, [_mount("/proc", "/dev/nowhere")]) is None
    assert device_under(Path("/proc"), sysfs, [_mount("/proc", "/dev/null")]) is None
    assert device_under(Path("/proc"), sysfs, []) is None


def test_the_nearest_and_latest_mount_counts(sysfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the mounts that cover a folder the deepest is used, and of two on one point the later one."""
    nodes = {Path("/dev/a"): DeviceNumber(8, 16), Path("/dev/b"): DeviceNumber(254, 1)}
    monkeypatch.setattr("jobmaster.host.cgroup.devices._number_of_node", nodes.get)
    near = [_mount("/proc", "/dev/a"), _mount("/proc", "/dev/b")]
    assert device_under(Path("/proc"), sysfs, [*near, _mount("/", "/dev/a")]) == DeviceNumber(254, 0)
    assert device_under(Path("/proc"), sysfs, [*near, _mount("/pro", "/dev/a")]) == DeviceNumber(254, 0)
    assert device_under(Path("/proc"), sysfs, near[:1]) == DeviceNumber(8, 16)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """The error names the folder that is not there."""
    with pytest.raises(ConfigurationError, match="nowhere"):
        device_under(tmp_path / "nowhere")


def test_the_disks_of_this_host_resolve_to_themselves() -> None:
    """Every disk of the real sysfs is found by its own number."""
    disks = list_devices()
    assert [resolve_device(str(disk.number)) for disk in disks] == [disk.number for disk in disks]


@pytest.mark.parametrize(
    ("text", "disk"),
    [("254:0", "254:0"), ("254:1", "254:0"), ("8:16", "8:16"), ("8:17", None), ("", None), ("sdb", None)],
)
def test_what_a_number_of_a_client_means(sysfs: Path, text: str, disk: str | None) -> None:
    """A partition stands for its disk, and what sysfs does not have is no device; nothing else is looked up."""
    assert disk_of(text, sysfs) == disk
