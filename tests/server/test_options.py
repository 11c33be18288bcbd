"""The server's options."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from jobmaster import __version__
from jobmaster.errors import ConfigurationError
from jobmaster.host.cgroup.limits import IoLimits, Limits, OomPolicy
from jobmaster.host.uid_range import UidRange
from jobmaster.journal.connection import Synchronous
from jobmaster.places import default_output_folder
from jobmaster.run.bounds import FreeSpace
from jobmaster.server.options import ServerOptions, parse

BASE: Final = ("--output-dir", "/srv/output")
DEFAULTS: Final = ServerOptions(output_folder=Path("/srv/output"))


def limited(**limits: object) -> dict[str, object]:
    """The change of options that have these limits."""
    return {"limits": Limits(**{"pids_max": 4096, **limits})}  # type: ignore[arg-type]  # checked by Limits itself


def bounded(**rates: int) -> dict[str, object]:
    """The change of options that have these IO limits."""
    return limited(io=IoLimits(**rates))


# Every option but --help and --version: an example, and what it changes.
OPTIONS: Final[dict[str, tuple[list[str], dict[str, object]]]] = {
    "-v": ([], {"verbose": True}),
    "--verbose": ([], {"verbose": True}),
    "--config": (["/etc/x.toml"], {}),
    "--check-config": ([], {}),
    "--listen": (["[::]:7000"], {"host": "::", "port": 7000}),
    "-o": (["/other"], {"output_folder": Path("/other")}),
    "--output-dir": (["/other"], {"output_folder": Path("/other")}),
    "--certs-dir": (["certs"], {"certificates": Path("certs")}),
    "--cgroup-root": (["/sys/fs/cgroup/x"], {"cgroup_root": Path("/sys/fs/cgroup/x")}),
    "-d": (["8:16"], {"io_device": "8:16"}),
    "--iodevice-id": (["8:16"], {"io_device": "8:16"}),
    "--run-as": (["worker"], {"run_as": "worker"}),
    "--work-dir": (["/work"], {"work_folder": Path("/work")}),
    "--work-free": (["10%"], {"work_free": FreeSpace(percent=10)}),
    "--uid-range": (["5000-6000"], {"uid_range": UidRange(first=5_000, last=6_000)}),
    "--grace": (["0.5"], {"grace_seconds": 0.5}),
    "--output-max": (["64M"], {"output_max": 64 * 2**20}),
    "--output-folder-max": (["10G"], {"output_folder_max": 10 * 2**30}),
    "--output-free": (["10%"], {"output_free": FreeSpace(percent=10)}),
    "--max-jobs": (["20000"], {"max_jobs": 20_000}),
    "--durability": (["off"], {"durability": Synchronous.OFF}),
    "--keep-jobs": (["5"], {"keep_jobs": 5}),
    "--keep-days": (["7"], {"keep_for": timedelta(days=7)}),
    "--max-gap": (["60"], {"max_gap_seconds": 60}),
    "--max-crashes": (["9"], {"max_crashes": 9}),
    "--audit-folder": (["/audit"], {"audit_folder": Path("/audit")}),
    "--audit-size": (["1M"], {"audit_size": 2**20}),
    "--audit-files": (["0"], {"audit_files": 0}),
    "--oom-policy": (["process"], {"oom_policy": OomPolicy.PROCESS}),
    "--require-limits": ([], {"require_limits": True}),
    "--cpu-max": (["0.5"], limited(cpu_max=0.5)),
    "--memory-max": (["512M"], limited(memory_max=512 * 2**20)),
    "--pids-max": (["max"], limited(pids_max=None)),
    "--io-read-bps": (["10M"], bounded(read_bps=10 * 2**20)),
    "--io-write-bps": (["1G"], bounded(write_bps=2**30)),
    "--io-read-iops": (["100"], bounded(read_iops=100)),
    "--io-write-iops": (["200"], bounded(write_iops=200)),
}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The error of a command line that is refused, with exit status 2."""
    with pytest.raises(SystemExit) as exit_info:
        parse(arguments)
    assert exit_info.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_defaults() -> None:
    """Without options the server is for this host alone, with a bound on processes and no other limit."""
    assert parse(BASE) == DEFAULTS
    assert (DEFAULTS.host, DEFAULTS.port, DEFAULTS.grace_seconds) == ("localhost", 6443, 10.0)
    assert DEFAULTS.limits == Limits(pids_max=4096)
    assert DEFAULTS.oom_policy is OomPolicy.JOB


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option(option: str) -> None:
    """An option changes what it names and nothing else."""
    values, changed = OPTIONS[option]
    expected = {field.name: getattr(DEFAULTS, field.name) for field in fields(ServerOptions)} | changed
    assert parse((*BASE, option, *values)) == ServerOptions(**expected)


def test_options_together() -> None:
    """Limits given one by one come together."""
    given = parse((*BASE, "--cpu-max", "2", "--memory-max", "1G", "--io-read-bps", "1K", "--io-write-iops", "5"))
    io = IoLimits(read_bps=1024, write_iops=5)
    assert given.limits == Limits(cpu_max=2.0, memory_max=2**30, pids_max=4096, io=io)


def test_help_mentions_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    """--help is on stdout, exits 0, and lists the options that this test knows, and no others."""
    with pytest.raises(SystemExit) as exit_info:
        parse(["--help"])
    assert exit_info.value.code == 0
    shown = capsys.readouterr().out
    lines = re.findall(r"^  (-[^ ].*?)(?:  |$)", shown, re.MULTILINE)
    listed = {option for line in lines for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", line)}
    assert listed == {*OPTIONS, "-h", "--help", "--version"}


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version names the program and its version."""
    with pytest.raises(SystemExit) as exit_info:
        parse(["--version"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out == f"jobmaster {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["stray"], "unrecognized arguments: stray"),
        (["--listen", "6443"], "argument --listen: '6443' is not HOST:PORT"),
        (["--listen", "::1:6443"], "argument --listen: '::1:6443': write an IPv6 address in brackets"),
        (["--listen"], "argument --listen: expected one argument"),
        (["--output-dir", "relative"], "--output-dir relative: must be an absolute path"),
        (["--output-dir", "/a/../b"], "--output-dir /a/../b: must be an absolute path without '..'"),
        (["--audit-folder", "relative"], "--audit-folder relative: must be an absolute path"),
        (["--audit-size", "1K"], "'1K' is not a size of 64K or more"),
        (["--audit-size", "max"], "'max' is not a size of 64K or more"),
        (["--audit-files", "100001"], "'100001' is not a number of files from 0 to 100000"),
        (["--grace", "-1"], "'-1' is not a number of seconds from 0 to 3600"),
        (["--grace", "3601"], "'3601' is not a number of seconds"),
        (["--grace", "nan"], "'nan' is not a number of seconds"),
        (["--grace", "inf"], "'inf' is not a number of seconds"),
        (["--grace", "soon"], "'soon' is not a number of seconds"),
        (["--oom-policy", "nobody"], "invalid choice: 'nobody'"),
        (["--work-dir", "relative"], "--work-dir relative: must be an absolute path"),
        (["--uid-range", "5000"], "argument --uid-range: '5000' is no range of user ids"),
        (["--uid-range", "0-5000"], "argument --uid-range: 0-5000 is no range of user ids from 1000 to 2147483647"),
        (["--run-as", "nobody", "--uid-range", "5000-6000"], "--run-as and --uid-range exclude each other"),
        (["--cpu-max", "0"], "cpu_max must be from 0.01"),
        (["--cpu-max", "-1"], "argument --cpu-max"),
        (["--cpu-max", "many"], "argument --cpu-max: 'many' is not a number of cores"),
        (["--memory-max", "0"], "memory_max must be from 1"),
        (["--memory-max", "1X"], "argument --memory-max: '1X' is not a size"),
        (["--pids-max", "1.5"], "argument --pids-max: '1.5' is not a count"),
        (["--pids-max", "0"], "pids_max must be from 1"),
        (["--io-read-bps", "fast"], "argument --io-read-bps: 'fast' is not a size"),
        (["--io-write-bps", "0"], "write_bps must be from 1"),
        (["--io-read-iops", "1K"], "argument --io-read-iops: '1K' is not a count"),
        (["--io-write-iops", "0"], "write_iops must be from 1"),
    ],
)
def test_wrong_options(capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str) -> None:
    """A wrong option exits 2; stderr has the usage and a text that names the option or its value."""
    error = refused(capsys, *BASE, *arguments)
    assert error.startswith("usage: python -m jobmaster.serve")
    assert complaint in error


def test_a_user_without_a_home(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no default output folder can be told, the remedy is."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert "give --output-dir" in refused(capsys)


@pytest.mark.parametrize(
    ("environment", "is_root", "folder"),
    [
        ({"HOME": "/root", "XDG_STATE_HOME": "/x"}, True, "/var/lib/jobmaster"),
        ({}, True, "/var/lib/jobmaster"),
        ({"HOME": "/home/u"}, False, "/home/u/.local/state/jobmaster"),
        ({"HOME": "/home/u", "XDG_STATE_HOME": "/state"}, False, "/state/jobmaster"),
        ({"HOME": "/home/u", "XDG_STATE_HOME": ""}, False, "/home/u/.local/state/jobmaster"),
        ({"HOME": "/home/u", "XDG_STATE_HOME": "relative"}, False, "/home/u/.local/state/jobmaster"),
    ],
)
def test_the_default_output_folder(environment: dict[str, str], is_root: bool, folder: str) -> None:
    """Root's is in /var/lib; a user's is where XDG says, which ignores relative paths."""
    assert default_output_folder(environment, is_root=is_root) == Path(folder)


@pytest.mark.parametrize("environment", [{}, {"HOME": ""}, {"HOME": "relative", "XDG_STATE_HOME": "too"}])
def test_no_default_output_folder(environment: dict[str, str]) -> None:
    """A user without a home gets a remedy and not a folder somewhere."""
    with pytest.raises(ConfigurationError, match="--output-dir"):
        default_output_folder(environment, is_root=False)


@pytest.mark.parametrize(("option", "status"), [("--help", 0), ("--version", 0), ("--nonsense", 2)])
def test_a_full_disk_in_place_of_a_terminal(option: str, status: int) -> None:
    """The exit status is that of the option, also where what is said about it cannot be written."""
    program = "import sys; from jobmaster.server.options import parse; parse(sys.argv[1:])"
    with Path("/dev/full").open("wb") as full:
        told = subprocess.run([sys.executable, "-c", program, option], stdout=full, stderr=full, check=False)
    assert told.returncode == status
