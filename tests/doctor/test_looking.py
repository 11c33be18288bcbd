"""What is seen of this very host, which is left as it is."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

import pytest

from jobmaster.doctor.clock import look_at_clock
from jobmaster.doctor.configuration import look_at_address
from jobmaster.doctor.examination import examine
from jobmaster.doctor.kernel import look_at_kernel
from jobmaster.doctor.locks import holder_of_lock
from jobmaster.doctor.resources import look_at_resources
from jobmaster.doctor.storage import look_at_storage
from jobmaster.doctor.systemd import look_at_systemd
from jobmaster.doctor.users import Takers, look_at_takers
from jobmaster.host.uid_range import UidRange
from jobmaster.server.findings import Finding, Verdict
from jobmaster.server.options import ServerOptions
from tests.harness import cgroup_mount, options_for, own_cgroup_root


def by_topic(options: ServerOptions) -> dict[str, list[Finding]]:
    """What is found, by topic."""
    found: dict[str, list[Finding]] = {}
    for finding in examine(options):
        found.setdefault(finding.topic, []).append(finding)
    return found


def test_a_kernel_that_runs_jobs() -> None:
    """Where the tests of jobs run, the kernel has the calls, and asking for them makes no process."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = children.read_text()
    seen = look_at_kernel(cgroup_mount())
    assert (seen.clone_refusal, seen.pidfd_refusal) == (None, None)
    assert seen.has_cgroup_kill is not False
    assert children.read_text() == before


def test_a_clock() -> None:
    """The kernel tells; that it is synchronised depends on the host."""
    clock = look_at_clock()
    assert clock is None or clock.largest_error >= 0


def test_the_limits_of_a_process() -> None:
    """They are the kernel's numbers."""
    seen = look_at_resources()
    assert seen.open_files > 0
    assert seen.pids > 300


def test_systemd_as_it_is_here() -> None:
    """It is seen exactly where it is the first process."""
    assert (look_at_systemd() is not None) is Path("/run/systemd/system").is_dir()


def test_a_lock_is_seen_and_not_taken(tmp_path: Path) -> None:
    """The process that took it is told; afterwards, and in between, anybody can take it."""
    assert holder_of_lock(tmp_path) is None
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert holder_of_lock(tmp_path) == os.getpid()
    finally:
        os.close(descriptor)
    assert holder_of_lock(tmp_path) is None


def test_a_folder_below_a_file(tmp_path: Path) -> None:
    """An output folder that can't be made is told as such."""
    (tmp_path / "file").touch()
    fault = look_at_storage("output", tmp_path / "file" / "state").fault
    assert fault is not None
    assert "cannot be made" in fault


def test_nothing_is_changed(tmp_path: Path, certificates: Path) -> None:
    """No folder and no cgroup is made, no file written, and no descriptor left open."""
    with own_cgroup_root() as root:
        options = options_for(tmp_path, certificates, root)
        examine(options)  # which imports what it needs
        before = {path: path.stat().st_mtime_ns for path in certificates.rglob("*")}
        descriptors = os.listdir("/proc/self/fd")
        assert examine(options)
        assert os.listdir("/proc/self/fd") == descriptors
        assert {path: path.stat().st_mtime_ns for path in certificates.rglob("*")} == before
        assert list(tmp_path.iterdir()) == []
        assert not root.exists()


def test_what_cannot_be_looked_at(tmp_path: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a finding of its own, and the others are told all the same."""

    def fail() -> None:
        raise OSError(5, "Input/output error")

    with own_cgroup_root() as root:
        monkeypatch.setattr("jobmaster.doctor.examination.look_at_clock", fail)
        found = by_topic(options_for(tmp_path, certificates, root))
    (clock,) = found["clock"]
    assert (clock.verdict, "Input/output error" in clock.text) == (Verdict.MISSING, True)
    assert found["server"]


def test_options_that_need_what_is_not_there(tmp_path: Path, certificates: Path) -> None:
    """A user, a disk and certificates that a server was told of and that are not there are missing."""
    with own_cgroup_root() as root:
        words = ("--run-as", "no-such-user", "--iodevice-id", "4000:1", "--require-limits")
        found = by_topic(options_for(tmp_path, tmp_path / "none", root, *words))
    for topic in ("users", "io device"):
        assert [each.verdict for each in found[topic]] == [Verdict.MISSING]
    assert [each.verdict for each in found["certificate"]] == [Verdict.MISSING, Verdict.MISSING, Verdict.WARNING]
    del certificates


def test_limits_that_do_harm(tmp_path: Path, certificates: Path) -> None:
    """Limits of every job that are too small for the others are told, beside whether they are enforced."""
    with own_cgroup_root() as root:
        small, enough = (
            [each.text for each in by_topic(options_for(tmp_path, certificates, root, "--cpu-max", cores))["cpu"]]
            for cores in ("0.01", "0.5")
        )
    assert [text for text in small if text.startswith("--cpu-max 0.01 is so little")]
    assert len(small) == len(enough) + 1


def test_a_key_of_another_certificate(tmp_path: Path, certificates: Path) -> None:
    """What a server would refuse at its start is missing, in its words."""
    folder = tmp_path / "certs"
    folder.mkdir()
    for file in certificates.glob("*.pem"):
        (folder / file.name).write_bytes(file.read_bytes())
        (folder / file.name).chmod(0o600)
    (folder / "server1_key.pem").write_bytes((certificates / "client1_key.pem").read_bytes())
    with own_cgroup_root() as root:
        found = by_topic(options_for(tmp_path, folder, root))["certificate"]
    (fault,) = [each.text for each in found if each.verdict is Verdict.MISSING]
    assert "does not belong to" in fault


def test_who_has_numbers_of_a_range(tmp_path: Path) -> None:
    """Users, groups and subordinate ids that reach into it, each number counted once; lines that are none are passed over."""
    uids = UidRange(first=100_000, last=100_099)
    assert look_at_takers(uids, tmp_path) == Takers(tables=(), taken=0)
    (tmp_path / "passwd").write_bytes(b"root:x:0:0::/:/bin/sh\ninside:x:100001:1::/:/bin/sh\n+::::::\n\xff:x:y:\n")
    (tmp_path / "group").write_bytes(b"inside:x:100001:\nother:x:100002:\n")
    (tmp_path / "subuid").write_bytes(b"a:99990:20\nb:100005:10\nc:100100:65536\n")
    found = look_at_takers(uids, tmp_path)
    assert found.tables == tuple(str(tmp_path / name) for name in ("passwd", "group", "subuid"))
    assert found.taken == 15  # 100000 to 100014


def test_an_address_that_is_in_use() -> None:
    """It is told from one that is not this host's; and a free one is not taken by the look."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        fault, is_in_use = look_at_address("127.0.0.1", port)
        assert (is_in_use, fault is not None) == (True, True)
    assert look_at_address("127.0.0.1", port) == (None, False)
    fault, is_in_use = look_at_address("192.0.2.1", port)
    assert fault is not None
    assert (is_in_use, "name an address of this host" in fault) == (False, True)
