"""`install-unit` as the program that it is; `doctor` is shown on its hosts in `tests/doctor`."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from jobmaster.unit.text import NAME
from tests.harness import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path


def install_unit(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs it."""
    command = [sys.executable, "-m", "jobmaster", "install-unit", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)


def test_a_unit_is_printed(tmp_path: Path) -> None:
    """Its server has the options behind `--`, and nothing is written."""
    done = install_unit("--print", "--directory", str(tmp_path), "--", "--grace", "60", "--output-dir", "/var/lib/a b")
    assert (done.returncode, done.stderr) == (0, "")
    words = f'ExecStart={sys.executable} -P -m jobmaster.serve --grace 60 --output-dir "/var/lib/a b"\n'
    assert words in done.stdout
    assert "TimeoutStopSec=120\n" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_unit_is_installed(tmp_path: Path) -> None:
    """Its path is printed, and what is to be done next is told; one that differs is refused, and replaced when asked for."""
    done = install_unit("--directory", str(tmp_path))
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / NAME}\n")
    assert "now run: systemctl daemon-reload && systemctl enable --now jobmaster" in done.stderr
    assert "there already" in install_unit("--directory", str(tmp_path)).stderr
    refused = install_unit("--directory", str(tmp_path), "--", "--max-jobs", "7")
    assert (refused.returncode, refused.stdout, "--force" in refused.stderr) == (2, "", True)
    assert install_unit("--directory", str(tmp_path), "--force", "--", "--max-jobs", "7").returncode == 0
    assert "--max-jobs 7\n" in (tmp_path / NAME).read_text()


def test_options_that_a_server_refuses(tmp_path: Path) -> None:
    """No unit is made whose server would not start."""
    relative = [
        [option, "jobmaster/server/config.example.toml"] for option in ("--certs-dir", "--config", "--cgroup-root")
    ]
    wrong = (["--max-jobs", "none"], ["--run-as", "no-such-user"], ["--grace", "7", "--check-config"])
    for words in (*relative, *wrong):
        done = install_unit("--directory", str(tmp_path), "--", *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert words[-1] in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_certificates_of_ones_own() -> None:
    """Where a folder is named, no other is made."""
    assert "ConfigurationDirectory" in install_unit("--print").stdout
    assert "ConfigurationDirectory" not in install_unit("--print", "--", "--certs-dir", "/srv/certs").stdout


def test_root_jobs(tmp_path: Path) -> None:
    """Jobs that are to run as root keep what the unit would take from them."""
    assert "CapabilityBoundingSet" not in install_unit("--print", "--", "--run-as", "root").stdout
    assert "CapabilityBoundingSet" in install_unit("--print", "--", "--run-as", "nobody").stdout
    del tmp_path


def test_root_jobs_by_the_configuration_file(tmp_path: Path) -> None:
    """The same where the file says so; a command line that names another user wins over it."""
    file = tmp_path / "config.toml"
    file.write_text('[jobs]\nrun_as = "root"\n')
    words = ("--print", "--", "--config", str(file))
    assert "CapabilityBoundingSet" not in install_unit(*words).stdout
    assert "CapabilityBoundingSet" in install_unit(*words, "--run-as", "nobody").stdout


def test_a_configuration_that_a_server_refuses(tmp_path: Path) -> None:
    """No unit is made where its file is broken, or this host lacks what it names; the reason is told."""
    file, folder = tmp_path / "config.toml", tmp_path / "units"
    folder.mkdir()
    for text, reason in (
        ("[jobs]\nmacs = 3\n", "jobs.macs"),
        ('[jobs]\nrun_as = "no-such-user"\n', "no-such-user"),
        ('listen = "192.0.2.1:6443"\n', "its server would not start: listen: cannot listen on 192.0.2.1:6443"),
    ):
        file.write_text(text)
        done = install_unit("--directory", str(folder), "--", "--config", str(file))
        assert (done.returncode, done.stdout) == (2, "")
        assert reason in done.stderr
    assert list(folder.iterdir()) == []
    printed = install_unit("--print", "--", "--config", str(file))
    assert (printed.returncode, "ExecStart=" in printed.stdout) == (0, True)
    assert "its server would not start: listen" in printed.stderr
