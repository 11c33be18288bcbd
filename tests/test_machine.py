"""What boots the guests of the kernel tests, with a stand-in for the kernel; the real one is `nox -s kernel`."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import REPOSITORY
from tests.kernel import machine

HEAD = "#!/bin/sh\nfor word; do case $word in control=*) control=${word#control=} ;; esac; done\n"


def environment_with(folder: Path, kernel: str) -> dict[str, str]:
    """An environment where `linux.uml` is this shell script, and a disk image costs nothing."""
    programs = folder / "bin"
    programs.mkdir()
    for name, script in (("linux.uml", HEAD + kernel), ("mkfs.ext4", "#!/bin/sh\n")):
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    return {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}


def command_for(folder: Path) -> list[str]:
    """One guest, as a program."""
    return [sys.executable, "-m", "tests.kernel.machine", str(folder), "tests/kernel"]


def test_what_was_written_before_stays(tmp_path: Path) -> None:
    """A machine that truncates its standard output takes nothing from the file that `nox > file` writes."""
    environment = environment_with(tmp_path, ': >/proc/self/fd/1; echo from the guest; echo 0 >"$control/status"\n')
    file = tmp_path / "all.txt"
    with file.open("wb") as output:
        output.write(b"lint was fine\n")
        output.flush()
        ended = subprocess.run(command_for(tmp_path), stdout=output, env=environment, check=False)
    assert (ended.returncode, file.read_text()) == (0, "lint was fine\nfrom the guest\n")


@pytest.mark.parametrize(
    ("kernel", "status"),
    [
        ('echo 5 >"$control/status"\n', 5),
        ("echo panic >&2\n", machine.NO_STATUS),
    ],
)
def test_exit_status(tmp_path: Path, kernel: str, status: int) -> None:
    """The status is that of the guest's script; without one it is an error, which tells what the kernel said."""
    environment = environment_with(tmp_path, kernel)
    ended = subprocess.run(command_for(tmp_path), capture_output=True, env=environment, check=False)
    assert ended.returncode == status
    assert (b"panic" in ended.stderr) == (status == machine.NO_STATUS)


def test_systemd_finds_its_units(tmp_path: Path) -> None:
    """With --systemd the script is a unit that names the guest's own folder, and the kernel hands the target on."""
    kernel = (
        'case "$*" in *" systemd.unit=guest.target "*) ;; *) exit ;; esac\n'
        'grep -q "^ExecStart=/bin/sh $control/script$" "$control/units/guest.service" && echo 0 >"$control/status"\n'
    )
    command = command_for(tmp_path)
    command.insert(3, "--systemd")
    ended = subprocess.run(command, env=environment_with(tmp_path, kernel), check=False)
    assert ended.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_guest_ends_with_its_starter(tmp_path: Path, number: signal.Signals) -> None:
    """A guest does not outlive an interrupted or killed session."""
    environment = environment_with(tmp_path, "echo $$; exec sleep 1000\n")
    command = ["env", "--default-signal=INT", *command_for(tmp_path)]  # ignored where CI runs in the background
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as starter:
        try:
            assert starter.stdout is not None
            guest = os.pidfd_open(int(starter.stdout.readline()))
            starter.send_signal(number)
            assert starter.wait(60) != 0
            assert select.select([guest], [], [], 60)[0] == [guest]
            os.close(guest)
        finally:
            starter.kill()


def test_blanks_in_a_path(tmp_path: Path) -> None:
    """A folder that the kernel's command line cannot name is an error with a remedy."""
    with pytest.raises(machine.MachineError, match="takes no path with blanks"):
        machine.boot_command("guest", tmp_path / "two words")


def test_hidden_folders_come_back() -> None:
    """What the guest needs of a folder that it hides is mounted again, and nothing else is."""
    mounts = machine.mounts_of_hidden([Path("/tmp/a b"), Path("/nonexistent/repository")])
    assert mounts == ["mkdir -p '/tmp/a b'", "mount -t hostfs -o 'ro,/tmp/a b' host '/tmp/a b'"]


@pytest.mark.parametrize("host_runs_servers", [True, False])
def test_every_kernel_test_has_a_guest(*, host_runs_servers: bool) -> None:
    """Each file with a test marked `kernel` is run by a guest; each file and test that a guest is told of exists."""
    files = {str(file.relative_to(REPOSITORY)): file for file in (REPOSITORY / "tests").rglob("test_*.py")}
    marked = {name for name, file in files.items() if "mark.kernel\n" in file.read_text()}
    guests = machine.suites(host_runs_servers=host_runs_servers)
    named = {argument for guest in guests for argument in guest.arguments if not argument.startswith("--")}
    assert marked
    assert marked <= named
    for name in (*named, *machine.SECOND, *machine.NOT_HERE, *machine.SHOWN_BY_HOST):
        file, _, test = name.partition("::")
        assert not test or f"def {test.partition('[')[0]}(" in files[file].read_text()
        assert (REPOSITORY / file).exists()


def test_a_host_without_cgroup_v2_leaves_all_to_the_guests() -> None:
    """What the host shows as well is left out of the guests only where it does."""
    left_out = [
        {argument for guest in machine.suites(host_runs_servers=runs) for argument in guest.arguments}
        & {f"--ignore={name}" for name in machine.SHOWN_BY_HOST}
        for runs in (True, False)
    ]
    assert left_out[0]
    assert not left_out[1]
