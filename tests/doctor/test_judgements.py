"""What is thought of what was seen: each subject's good, doubtful and bad state."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from jobmaster.doctor.clock import Clock, of_clock
from jobmaster.doctor.configuration import of_address, of_configuration
from jobmaster.doctor.examination import of_new_certificates, of_server_user
from jobmaster.doctor.kernel import Kernel, of_kernel
from jobmaster.doctor.locks import of_holder, parse_locks
from jobmaster.doctor.resources import Resources, of_open_files, of_processes
from jobmaster.doctor.storage import Storage, of_storage, of_work_place, of_work_room
from jobmaster.doctor.systemd import Systemd, of_systemd
from jobmaster.doctor.users import Takers, of_takers
from jobmaster.host.uid_range import UidRange
from jobmaster.run.bounds import Disk, FreeSpace
from jobmaster.server.findings import Finding, Verdict

GIB: Final = 2**30
OK, WARNING, MISSING = Verdict.OK, Verdict.WARNING, Verdict.MISSING


def kernel(
    release: str = "6.1.0-13-amd64",
    *,
    kill: bool | None = True,
    clone: str | None = None,
    pidfd: str | None = None,
) -> dict[str, Finding]:
    """The findings on a kernel, by topic."""
    seen = Kernel(release=release, has_cgroup_kill=kill, clone_refusal=clone, pidfd_refusal=pidfd)
    return {finding.topic: finding for finding in of_kernel(seen)}


def test_a_kernel_of_today() -> None:
    """Its version and each of its calls are well."""
    found = kernel()
    assert found["kernel"].text == "Linux 6.1.0-13-amd64"
    assert {finding.verdict for finding in found.values()} == {OK}


@pytest.mark.parametrize(
    ("release", "verdict"),
    [("5.13.19", WARNING), ("4.19.0", WARNING), ("5.14.0", OK), ("6.18.44-fc-v657", OK), ("odd", OK)],
)
def test_the_kernels_version(release: str, verdict: Verdict) -> None:
    """One before 5.14 is warned of; where no cgroup shows it, cgroup.kill is there from 5.14 on."""
    found = kernel(release, kill=None)
    assert found["kernel"].verdict is verdict
    assert found["cgroup.kill"].verdict is (MISSING if verdict is WARNING else OK)


def test_calls_that_a_kernel_lacks() -> None:
    """Without clone3 a server starts jobs all the same; not without pidfd_open and cgroup.kill. Each has a remedy."""
    found = kernel(kill=False, clone="Function not implemented", pidfd="Operation not permitted")
    assert [found[name].verdict for name in ("cgroup.kill", "clone3", "pidfd")] == [MISSING, WARNING, MISSING]
    assert "Function not implemented" in found["clone3"].text
    assert "Operation not permitted" in found["pidfd"].text
    assert all(found[name].remedy for name in ("cgroup.kill", "clone3", "pidfd"))


def test_a_clock_that_is_set() -> None:
    """The kernel's own reckoning is told, and that the truth is not known."""
    found = of_clock(Clock(is_synchronised=True, largest_error=12.4))
    assert found.verdict is OK
    assert "to 12 ms as the kernel reckons; how far it is off cannot be known" in found.text


def test_a_clock_that_must_not_be_asked_for() -> None:
    """It is doubtful, and no reason for a server not to start."""
    found = of_clock(None)
    assert (found.verdict, "must not be asked" in found.text) == (WARNING, True)


def test_a_clock_that_nobody_sets() -> None:
    """It is a warning, which says no more than is known."""
    found = of_clock(Clock(is_synchronised=False, largest_error=16000.0))
    assert (found.verdict, "chrony" in found.remedy) == (WARNING, True)
    assert "cannot be known" in found.text


def test_locks_are_parsed() -> None:
    """Those of flock(2) that are held are told by place; POSIX locks, waiters and odd lines are left out."""
    text = (
        "1: FLOCK  ADVISORY  WRITE 811 fe:00:26 0 EOF\n"
        "1: -> FLOCK  ADVISORY  WRITE 900 fe:00:26 0 EOF\n"
        "2: POSIX  ADVISORY  WRITE 812 fe:00:27 0 EOF\n"
        "3: FLOCK  ADVISORY  WRITE 813 <none>:0 0 EOF\n"
        "4: FLOCK  ADVISORY  READ -1 00:1a:28 0 EOF\n\nodd\n"
    )
    assert parse_locks(text) == {("254:0", 26): 811, ("0:26", 28): -1}


def test_a_folder_that_a_server_has() -> None:
    """Both are well, and told apart."""
    assert of_holder(Path("/state"), None).text == "no server has /state"
    assert "taken by process 7" in of_holder(Path("/state"), 7).text


@pytest.mark.parametrize(
    ("systemd", "verdict", "words"),
    [
        (None, OK, "something else has to start the server"),
        (Systemd(version="252", unit=None), WARNING, "systemd 252 has no jobmaster.service"),
        (Systemd(version=None, unit=Path("/etc/x")), OK, "systemd has /etc/x"),
    ],
)
def test_systemd(systemd: Systemd | None, verdict: Verdict, words: str) -> None:
    """Where it runs, jobmaster should be a unit of it; where it does not, that is told."""
    found = of_systemd(systemd)
    assert (found.verdict, words in found.text) == (verdict, True)


@pytest.mark.parametrize(
    ("files", "verdict"), [(100_000, OK), (42_064, OK), (42_063, WARNING), (79, WARNING), (78, MISSING)]
)
def test_open_files(files: int, verdict: Verdict) -> None:
    """What they are enough for is told; where not for all that is wanted, how they are raised; too few keep a server from starting."""
    seen = Resources(open_files=files, processes=None, pids=32768)
    found = of_open_files(seen, jobs=1000, of_job=12, connections=10_000)
    assert (found.verdict, bool(found.remedy)) == (verdict, verdict is not OK)


@pytest.mark.parametrize(
    ("limit", "pids", "verdict", "words"),
    [
        (None, 32768, OK, "32768 processes and threads at a time, by kernel.pid_max"),
        (4096, 32768, OK, "4096 processes and threads at a time, by ulimit -u"),
        (1000, 32768, WARNING, "by ulimit -u"),
        (None, 300, WARNING, "kernel.pid_max"),
    ],
)
def test_processes(limit: int | None, pids: int, verdict: Verdict, words: str) -> None:
    """The lower of both bounds counts, and is warned of where not every job could have a process."""
    found = of_processes(Resources(open_files=1, processes=limit, pids=pids), jobs=1000)
    assert (found.verdict, words in found.text) == (verdict, True)


def storage(
    *, nearest: str = "/state", fault: str | None = None, kind: str = "ext4", free: int = 50 * GIB
) -> dict[str, Finding]:
    """The findings on a folder /state on a disk of 100 GiB, by topic."""
    disk = Disk(size=100 * GIB, free=free)
    seen = Storage(folder=Path("/state"), nearest=Path(nearest), fault=fault, filesystem=kind, disk=disk)
    return {finding.topic: finding for finding in of_storage(seen, FreeSpace(size=GIB, percent=5))}


def test_a_disk_with_room() -> None:
    """Folder, file system and free space are well; a folder that is not there will be made."""
    assert {finding.verdict for finding in storage().values()} == {OK}
    assert "will be made" in storage(nearest="/")["output folder"].text


def test_a_folder_that_a_server_would_refuse() -> None:
    """It is missing, in the server's own words."""
    found = storage(fault="is a link; name the folder itself")["output folder"]
    assert (found.verdict, found.text) == (MISSING, "is a link; name the folder itself")


@pytest.mark.parametrize(
    ("kind", "verdict"), [("ext4", OK), ("", OK), ("tmpfs", WARNING), ("nfs4", WARNING), ("btrfs", OK)]
)
def test_file_systems(kind: str, verdict: Verdict) -> None:
    """One in memory or on the network is warned of."""
    assert storage(kind=kind)["file system"].verdict is verdict


@pytest.mark.parametrize(("free", "verdict"), [(GIB, OK), (GIB - 1, WARNING), (2**20, MISSING)])
def test_free_space(free: int, verdict: Verdict) -> None:
    """Less than outputs leave is warned of; where the journal has no room, a server has none."""
    found = storage(free=free)["free space"]
    assert (found.verdict, bool(found.remedy)) == (verdict, verdict is not OK)


@pytest.mark.parametrize(
    ("fault", "is_named", "verdict"),
    [(None, True, OK), ("closed; chmod it", False, WARNING), ("closed", True, MISSING)],
)
def test_the_place_of_jobs_folders(fault: str | None, is_named: bool, verdict: Verdict) -> None:
    """One that cannot be used is missing where it was named; else jobs have none, which is warned of."""
    found = of_work_place(Path("/work"), fault, is_named=is_named)
    assert (found.verdict, (fault or "/work") in found.text) == (verdict, True)


@pytest.mark.parametrize(("free", "verdict"), [(GIB, OK), (GIB - 1, WARNING)])
def test_room_for_jobs_folders(free: int, verdict: Verdict) -> None:
    """So little that no job is started is warned of."""
    found = of_work_room(Disk(size=100 * GIB, free=free), FreeSpace(size=GIB, percent=5))
    assert (found.verdict, bool(found.remedy)) == (verdict, verdict is not OK)


def test_the_user_of_a_server() -> None:
    """What one that is not root can't do is told."""
    assert of_server_user(0).verdict is OK
    assert of_server_user(1000).verdict is WARNING


def test_certificates_that_are_not_made_yet() -> None:
    """A first start makes those of the default folder, where its user may."""
    assert of_new_certificates(Path("/c"), may_be_made=True).verdict is OK
    assert of_new_certificates(Path("/c"), may_be_made=False).verdict is MISSING


@pytest.mark.parametrize(("taken", "verdict"), [(0, OK), (1, WARNING), (99, WARNING), (100, MISSING)])
def test_a_range_of_users(taken: int, verdict: Verdict) -> None:
    """Numbers that somebody has are warned of; a range without any other serves nobody."""
    uids = UidRange(first=100_000, last=100_099)
    found = of_takers(uids, Takers(tables=("/etc/subuid",) if taken else (), taken=taken))
    assert (found.verdict, bool(found.remedy)) == (verdict, verdict is not OK)
    assert "100000-100099" in found.text
    assert ("/etc/subuid" in found.text) == bool(taken)


@pytest.mark.parametrize(
    ("fault", "is_in_use", "has_server", "verdict", "words"),
    [
        (None, False, False, OK, "can listen on localhost:6443"),
        ("in use", True, True, OK, "where the server that has the output folder listens"),
        ("in use", True, False, MISSING, "ss -ltnp sport = :6443"),
        ("cannot listen: none of this host's", False, True, MISSING, "none of this host's"),
    ],
)
def test_an_address(fault: str | None, is_in_use: bool, has_server: bool, verdict: Verdict, words: str) -> None:
    """One that a server has is well if that may be ours; one that somebody else has, or that is not here, is missing."""
    found = of_address("localhost", 6443, fault, is_in_use=is_in_use, has_server=has_server)
    assert found.verdict is verdict
    assert words in found.sentence


def test_a_configuration_file() -> None:
    """Which one is used, or would be; without one, who may connect."""
    place = Path("/etc/jobmaster/config.toml")
    assert of_configuration(place, place).text == f"{place} can be used"
    assert of_configuration(None, place).text.startswith(f"there is no {place}: the clients that are built in")
    assert of_configuration(None, None).text.startswith("no file: the clients that are built in")
