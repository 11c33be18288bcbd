"""`jobmaster doctor` as a program: where every controller enforces, where some are bound to v1, and as an ordinary user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from jobmaster.host.cgroup.controllers import parse_proc_cgroups
from jobmaster.host.cgroup.limits import Controller
from tests.harness import REPOSITORY, Server, cgroup_mount, own_cgroup_root

NOBODY: Final = 65534
V1_NAMES: Final = {Controller.IO: "blkio"}


@dataclass(frozen=True, slots=True)
class Examined:
    """What the program has said, and its exit status."""

    status: int
    document: dict[str, Any]

    def verdicts(self, *topics: str) -> list[str]:
        """Those of the topics, in the order in which they were told."""
        return [each["verdict"] for each in self.document["findings"] if each["topic"] in topics]

    def text(self, topic: str) -> str:
        """The first of a topic, with its remedy."""
        found = next(each for each in self.document["findings"] if each["topic"] == topic)
        return f"{found['text']}: {found['remedy']}"


def doctor(*words: str, user: int | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs it."""
    return subprocess.run(
        [sys.executable, "-m", "jobmaster", "doctor", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        env={**os.environ, **environment},
        timeout=60,
    )


def examined(*words: str, user: int | None = None, **environment: str) -> Examined:
    """What it says in JSON, which is one line."""
    done = doctor("--json", *words, user=user, **environment)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    return Examined(done.returncode, json.loads(done.stdout))


def bound_to_v1() -> list[Controller]:
    """The controllers that this host binds to cgroup v1."""
    kernel = parse_proc_cgroups(Path("/proc/cgroups").read_text())
    rows = {each: kernel.get(V1_NAMES.get(each, each.value)) for each in Controller}
    return [each for each, row in rows.items() if row is not None and row.hierarchy != 0]


@pytest.mark.kernel
def test_a_host_that_has_all(certificates: Path) -> None:
    """In the guest every controller enforces, the disk under the outputs is the one of IO limits, and nothing is missing."""
    if os.environ.get("JOBMASTER_GUEST") != "1":
        pytest.skip("runs in the guest of `nox -s kernel`")
    state = Path(os.environ["JOBMASTER_DISK"]) / "doctor"
    places = ("--output-dir", str(state), "--certs-dir", str(certificates), "--require-limits")
    found = examined(*places)
    assert (found.status, found.document["ok"]) == (0, True)
    assert found.verdicts("cpu", "io", "memory", "pids", "cgroup", "cgroup root", "io device") == ["ok"] * 7
    assert found.verdicts("kernel", "cgroup.kill", "clone3", "pidfd", "output folder", "open files") == ["ok"] * 6
    doubtful = {each["topic"] for each in found.document["findings"] if each["verdict"] != "ok"}
    assert doubtful <= {"clock"}  # which nobody sets in a guest
    assert "(hybrid)" not in found.text("cgroup")
    print(doctor(*places).stdout)


def test_a_host_that_binds_controllers_to_v1(tmp_path: Path, certificates: Path) -> None:
    """Each of those is told as bound, with the limit that is then not enforced; that is missing where all are required."""
    bound = bound_to_v1()
    cgroup_mount()
    if not bound:
        pytest.skip("this host binds no controller to cgroup v1")
    with own_cgroup_root() as root:
        folders = ("--output-dir", str(tmp_path / "o"), "--certs-dir", str(certificates), "--cgroup-root", str(root))
        places = (*folders, "--listen", "127.0.0.1:0")
        found = examined(*places, "--memory-max", "1G")
        required = examined(*places, "--require-limits")
    names = [str(each) for each in bound]
    assert (found.status, found.verdicts(*names)) == (0, ["warning"] * len(names))
    assert (required.status, required.verdicts(*names)) == (1, ["missing"] * len(names))
    assert "(hybrid)" in found.text("cgroup")
    for name in names:
        assert f"NOT ENFORCED: this host binds the {name} controller to cgroup v1" in found.text(name)
    assert "memory.max 1073741824; NOT ENFORCED" in found.text("memory") or "memory" not in names


def test_an_ordinary_user(tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> None:
    """No cgroup may be used, which is missing and told with the remedy; and what a server that is not root can't do is told."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody who is not")
    cgroup_mount()
    del tmp_path_factory, certificates
    found = examined(
        "--output-dir", "/nonexistent/state", "--certs-dir", "/nonexistent/certs", user=NOBODY, HOME="/nonexistent"
    )
    assert (found.status, found.document["ok"]) == (1, False)
    assert found.verdicts("cgroup root", "output folder") == ["missing", "missing"]
    assert "is not delegated to it): start the server in a delegated unit" in found.text("cgroup root")
    assert found.verdicts("server's user") == ["warning"]
    assert found.verdicts("kernel", "clone3", "pidfd") == ["ok"] * 3


async def test_a_server_that_runs(server: Server) -> None:  # noqa: ASYNC124  # its server runs in this loop
    """The folder that it has, and the cgroup that it uses, are told."""
    address = ("--listen", f"localhost:{server.port}")
    found = examined("--output-dir", str(server.output), "--certs-dir", str(server.certificates), *address)
    assert "a server has" in found.text("server")
    assert found.text("cgroup root").startswith(f"{server.cgroup_root}, in use by the server that is running")
    assert "is in use, as it is where the server that has the output folder listens" in found.text("address")


def test_a_broken_configuration(tmp_path: Path, certificates: Path) -> None:
    """It is missing, in the parser's words, and all else is told as without it."""
    file = tmp_path / "config.toml"
    file.write_text('[jobs]\nmacs = 3\n[clients.x]\nrole = "user"\n')
    broken = examined("--config", str(file), "--certs-dir", str(certificates), "--output-dir", str(tmp_path / "o"))
    assert (broken.status, broken.verdicts("configuration")) == (1, ["missing"])
    assert f"configuration {file}: " in broken.text("configuration")
    assert "jobs.macs" in broken.text("configuration")
    assert broken.verdicts("kernel", "server") == ["ok", "ok"]
    file.write_text("[jobs]\nmax = 3\n")
    assert examined("--config", str(file)).verdicts("configuration") == ["ok"]


def test_a_line_for_each_finding(tmp_path: Path, certificates: Path) -> None:
    """Without --json each line has a verdict first, and a certificate folder that is named before the verb counts."""
    done = subprocess.run(
        [sys.executable, "-m", "jobmaster", "--certs-dir", certificates, "doctor", "-o", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    lines = done.stdout.splitlines()
    assert len(lines) > 15
    assert {line.split()[0] for line in lines} <= {"ok", "warning", "missing"}
    assert sum("_cert.pem is valid until" in line for line in lines) == 7


def test_an_option_that_is_wrong() -> None:
    """It is refused as by the server, in this program's name."""
    done = doctor("--max-jobs", "none")
    assert (done.returncode, done.stdout) == (2, "")
    assert "jobmaster doctor: error: argument --max-jobs" in done.stderr
