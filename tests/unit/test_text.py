"""The unit's text: what systemd reads there is what was meant."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from jobmaster.errors import ConfigurationError
from jobmaster.unit.text import NAME, Unit, command_line, unit_text

UNIT: Final = Unit(
    command=("/usr/bin/python3", "-P", "-m", "jobmaster.serve"), grace_seconds=10, port=6443, jobs_are_root=False
)
MOST_EXPOSURE: Final = 5.0


def settings(text: str) -> dict[str, str]:
    """The unit's assignments."""
    return dict(re.findall(r"^([A-Za-z]+)=(.*)$", text, re.MULTILINE))


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("--listen", "--listen"),
        ("0.0.0.0:6443", "0.0.0.0:6443"),
        ("", '""'),
        ("a b", '"a b"'),
        ("100%", '"100%%"'),
        ("$HOME", '"$$HOME"'),
        ("${HOME}", '"$${HOME}"'),
        (";", '";"'),
        ('a"b', '"a\\"b"'),
        ("a'b", '"a\'b"'),
        ("a\\sb", '"a\\\\sb"'),
        ("a\nb\tc\x01", '"a\\nb\\tc\\x01"'),
        ("größe", '"größe"'),
    ],
)
def test_words_are_quoted(word: str, written: str) -> None:
    """Blanks, quotes, backslashes, control characters, `$` and `%` come to the program as they are."""
    assert command_line(["/bin/x", word]) == f"/bin/x {written}"


@pytest.mark.parametrize(("word", "why"), [("\udce9", "UTF-8"), ("a\0b", "NUL")])
def test_words_that_no_unit_has(word: str, why: str) -> None:
    """They are refused."""
    with pytest.raises(ConfigurationError, match=why):
        command_line([word])


@pytest.mark.parametrize("program", ["python3", "/opt/a b/python3", "/opt/$x/python3", "/opt/50%/python3"])
def test_a_program_whose_path_has_other_rules(program: str) -> None:
    """For the first word systemd has rules of its own, so that it is a plain one or refused."""
    with pytest.raises(ConfigurationError, match="install jobmaster elsewhere"):
        Unit(command=(program,), grace_seconds=1, port=1, jobs_are_root=False)


@pytest.mark.parametrize(("grace", "seconds"), [(0.5, "90"), (10, "90"), (30.5, "91"), (3600, "3660")])
def test_a_stop_has_time_for_the_grace_period(grace: float, seconds: str) -> None:
    """Systemd kills nothing before the server has ended its jobs with their grace."""
    unit = dataclasses.replace(UNIT, grace_seconds=grace)
    assert settings(unit_text(unit))["TimeoutStopSec"] == seconds


def test_nothing_is_left_to_fill_in() -> None:
    """Every part of the files has its place in the unit, and what a service of jobs needs is there."""
    text = unit_text(UNIT)
    found = settings(text)
    assert "@command@" not in text
    assert not re.search(r"@[a-z]+_?[a-z]*@", text)
    needed = {
        "Type": "notify",
        "Delegate": "yes",
        "KillMode": "mixed",
        "OOMPolicy": "continue",
        "Restart": "on-failure",
    }
    assert needed.items() <= found.items()
    assert found["ExecStart"] == "/usr/bin/python3 -P -m jobmaster.serve"
    assert found["ExecReload"] == "/bin/kill -HUP $MAINPID"


def test_the_folder_of_certificates() -> None:
    """Systemd makes it where the first start is to fill it, and may write there though /etc is protected; else not."""
    made, named = (settings(unit_text(dataclasses.replace(UNIT, makes_certificates=each))) for each in (True, False))
    assert (made["ConfigurationDirectory"], made["ReadWritePaths"]) == ("jobmaster", "-/etc/jobmaster")
    assert "ConfigurationDirectory" not in named


def test_a_privileged_port() -> None:
    """The capability for it is kept, and only where it is needed."""
    bounded = {
        port: settings(unit_text(dataclasses.replace(UNIT, port=port)))["CapabilityBoundingSet"] for port in (443, 6443)
    }
    assert bounded[443].endswith(" CAP_NET_BIND_SERVICE")
    assert "CAP_NET_BIND_SERVICE" not in bounded[6443]


def test_jobs_with_all_of_roots_power() -> None:
    """Nothing is taken from jobs that run as root."""
    found = settings(unit_text(dataclasses.replace(UNIT, jobs_are_root=True)))
    assert not {"CapabilityBoundingSet", "NoNewPrivileges", "ProtectSystem", "SystemCallFilter", "UMask"} & found.keys()
    assert found["Delegate"] == "yes"


def test_what_would_be_in_the_way_of_jobs() -> None:
    """No option that hides the host's files from jobs, or takes clone3 and compilers away."""
    found = settings(unit_text(UNIT))
    hiding = {"PrivateTmp", "ProtectHome", "PrivateDevices", "ProcSubset", "PrivateNetwork", "RootDirectory"}
    breaking = {"RestrictNamespaces", "MemoryDenyWriteExecute", "ProtectControlGroups", "LockPersonality", "User"}
    assert not (hiding | breaking) & found.keys()
    assert found["ProtectSystem"] == "full"


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    """Its own checker takes the unit, and reckons an exposure under 5.0."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("needs systemd-analyze")
    file = tmp_path / NAME
    file.write_text(unit_text(UNIT))
    verified = subprocess.run([analyze, "verify", file], capture_output=True, text=True, check=False)
    assert (verified.returncode, [line for line in verified.stderr.splitlines() if NAME in line]) == (0, [])
    command = [analyze, "security", "--offline=true", "--no-pager", str(file)]
    judged = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    (exposure,) = re.findall(r"exposure level for jobmaster\.service: ([0-9.]+)", judged)
    assert float(exposure) < MOST_EXPOSURE
