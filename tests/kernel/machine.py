"""Boot guests and run pytest in them: `python -m tests.kernel.machine [--systemd] FOLDER [pytest arguments]`.

Many hosts bind the memory, cpu, io and pids controllers to cgroup v1, so their cgroup v2 cannot enforce a limit.
User-Mode Linux is a kernel that runs as an ordinary process, with Python at the host's own speed. A guest boots in two
seconds over the host's files, read-only (hostfs); cgroup2 is at /sys/fs/cgroup with the four controllers; /tmp, /var/tmp
and /run are in its memory; an ext4 file system on a disk image of its own is mounted at ``$JOBMASTER_DISK`` and holds
pytest's folders, because hostfs has no O_DIRECT, holes, RWF_NOWAIT or xattrs.

A guest has one processor, so what runs in guests is shared out to two, side by side. A guest is one process group,
which setpriv ties to this process's life; its console is a pipe that is copied line by line to standard output, and the
exit status of its script is a file in its control folder, which no guest that panicked leaves behind.

With `--systemd` the guest's first process is the host's systemd, and the script is a service of it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import trio

from jobmaster.host.cgroup.mounts import find_cgroup2, read_mounts
from tests.kernel import registers

REPOSITORY: Final = Path(__file__).resolve().parents[2]
INIT: Final = Path(__file__).with_name("guest_init.sh")
UNITS: Final = Path(__file__).with_name("units")
"""What systemd needs to run the script."""
SYSTEMD_WORDS: Final = (
    *("systemd.unit=guest.target", "systemd.unified_cgroup_hierarchy=1", "systemd.show_status=0", "fstab=no"),
    "systemd.machine_id=5d0f3a8b6c1e4f7a9b2d4c6e8f0a1b3c",
)
"""What it reads on the kernel's command line."""
MASKED: Final = (
    *("dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount"),
    *("kmod-static-nodes.service", "modprobe@configfs.service", "modprobe@dm_mod.service", "modprobe@drm.service"),
    *("modprobe@efi_pstore.service", "modprobe@fuse.service", "modprobe@loop.service", "systemd-pstore.service"),
    *("systemd-remount-fs.service", "systemd-sysctl.service", "systemd-udev-trigger.service"),
    *("systemd-udevd.service", "systemd-update-utmp.service", "systemd-tmpfiles-clean.timer"),
    *("systemd-modules-load.service", "systemd-random-seed.service", "systemd-tmpfiles-setup.service"),
    *("systemd-tmpfiles-setup-dev.service", "systemd-journal-flush.service"),
)
"""Units of systemd that a guest is ready sooner without."""
MEMORY_BYTES: Final = 1536 * 1024**2
DISK_BYTES: Final = 8 * 1024**3
"""Of a sparse file: what the tests write at the same time is less than 2 GiB."""
OPEN_FILES: Final = 65_536
"""A guest's first process has 4,096, far less than a host: a server divides them between its clients."""
DISK_MOUNT: Final = "/run/jobmaster-disk"
MARKED: Final = re.compile(r"^(@|pytestmark = )pytest\.mark\.kernel$", re.MULTILINE)
"""In the files whose tests, all or some, need a guest."""


def _in_file(file: str, *tests: str) -> tuple[str, ...]:
    """These tests of a file, as pytest names them."""
    return tuple(f"{file}::{test}" for test in tests)


LIFE_OF_JOBS: Final = (
    *("tests/host/cgroup/test_kernel.py", "tests/integration", "tests/server/test_preparation.py"),
    *("tests/test_cancellation.py", "tests/test_leaks.py", "tests/test_readme.py"),
)
"""Tests that run on any host, and here with every controller."""
SECOND: Final = (
    *("tests/host/cgroup/test_kernel.py", "tests/host/cgroup/test_kernel_limits.py", "tests/integration"),
    *("tests/kernel/test_limits.py", "tests/kernel/test_totals.py", "tests/server/test_preparation.py"),
)
"""What the second guest runs, so that both end at about one time."""
NOT_HERE: Final = (
    *("tests/integration/test_output_at_scale.py", "tests/integration/test_tmux.py"),
    "tests/integration/test_pipe_locks.py",
    *_in_file(
        "tests/integration/test_fuse.py",
        *("test_a_gap_that_is_too_long", "test_a_stop_beside_a_crowd", "test_a_stop_of_one_that_syncs"),
        *("test_an_accomplice", "test_another_server_follows"),
    ),
)
"""So much output, and so many looks at a screen, take a guest long, and meet no limit; and its kernel does not tell in /proc
what a thread waits for."""
SHOWN_BY_HOST: Final = (
    *_in_file(
        "tests/host/cgroup/test_kernel.py",
        *("test_a_pid_that_left_before_the_signal_is_not_hit", "test_more_processes_than_one_batch_are_signalled"),
    ),
    *_in_file(
        "tests/integration/test_adoption.py",
        *("test_a_folder_that_is_not_there", "test_a_job_outlives_its_server[11]", "test_a_journal_that_is_removed"),
        *("test_a_job_that_ends_without_a_server", "test_a_part_of_an_output_outlives_servers"),
        *("test_a_second_server_is_refused", "test_a_stop_of_a_job_that_is_being_executed"),
        *("test_an_output_that_a_killed_server_was_to_remove", "test_ended_jobs_are_there_after_a_restart"),
        *("test_modules_in_the_working_folder", "test_more_jobs_than_open_files_at_the_start"),
    ),
    *("tests/integration/test_attach.py", "tests/integration/test_audit.py", "tests/integration/test_certificates.py"),
    *("tests/integration/test_command_line.py", "tests/integration/test_damaged_output.py"),
    *("tests/integration/test_grpcurl.py", "tests/integration/test_health.py", "tests/integration/test_interop.py"),
    *_in_file(
        "tests/integration/test_isolation.py",
        *("test_cannot_leave_its_cgroup[daemon]", "test_descriptors", "test_environment", "test_privileges"),
        *("test_output_file_is_private", "test_root_only_by_name", "test_surroundings"),
    ),
    *_in_file(
        "tests/integration/test_jobs.py",
        *("test_a_program_that_the_kernel_refuses", "test_binary_output", "test_caller_that_leaves_start"),
        *("test_commands_that_cannot_run", "test_exit_codes_of_setpriv_are_a_jobs_too", "test_invalid_requests"),
        *("test_live_output", "test_no_output", "test_ownership", "test_remove", "test_stop_after_the_caller_left"),
        "test_stop_lets_a_handler_finish",
    ),
    *("tests/integration/test_configuration.py", "tests/integration/test_draining.py"),
    *("tests/integration/test_identities.py", "tests/integration/test_server_info.py"),
    *("tests/integration/test_watchdog.py", "tests/integration/test_work_folders.py"),
    *("tests/integration/test_output_bounds.py", "tests/integration/test_reflection.py"),
    "tests/integration/test_run.py",
    *_in_file(
        "tests/integration/test_shutdown.py",
        *("test_a_signal_before_all_else", "test_ends_on_a_signal[1]", "test_ends_on_a_signal[2]"),
        *(
            "test_first_start_makes_certificates",
            "test_one_server_for_a_cgroup_root",
            "test_output_folder_must_be_ours",
        ),
        *("test_port_in_use", "test_second_signal_hurries", "test_signals_before_and_after_service"),
        *("test_stderr_that_nobody_reads", "test_stdout_that_takes_nothing", "test_too_few_open_files"),
        "test_wrong_options",
    ),
    *("tests/integration/test_terminal.py", "tests/integration/test_stalled_input.py"),
    *("tests/integration/test_upgrade.py", "tests/integration/test_withheld.py"),
    *_in_file("tests/test_cancellation.py", "test_caller_is_cancelled"),
    *_in_file(
        "tests/test_leaks.py",
        *("test_a_follower_that_is_killed_leaves_no_task", "test_no_job_waits_for_the_cycle_collector"),
        "test_nothing_waits_for_the_cycle_collector",
    ),
    "tests/test_readme.py",
)
"""Tests of what no controller touches: run here only where the host cannot run the servers that they need."""
KILLS: Final = "JOBMASTER_KILLS"
"""The environment variable that says how many kills are told apart, as `tests/kernel/test_ends.py` has it."""
DEADLINE: Final = 10 * 60.0
"""Seconds until a guest that has not ended is taken for hung."""
HIDDEN: Final = (Path("/run"), Path("/tmp"), Path("/var/tmp"))
"""Host folders over which a guest mounts a file system of its own."""
NO_STATUS: Final = 255
"""The exit status of a guest that left none."""


class MachineError(Exception):
    """A guest could not be prepared or did not end; the text names the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A guest's name and what pytest is told in it; whether its first process is systemd."""

    name: str
    arguments: tuple[str, ...]
    has_systemd: bool = False


def suites(*, host_runs_servers: bool) -> list[Guest]:
    """The guests that run when nothing else was asked for, of about the same length."""
    files = (REPOSITORY / "tests").rglob("test_*.py")
    kernel = sorted(str(file.relative_to(REPOSITORY)) for file in files if MARKED.search(file.read_text()))
    left_out = (*NOT_HERE, *(SHOWN_BY_HOST if host_runs_servers else ()))
    options = [f"--{'deselect' if '::' in each else 'ignore'}={each}" for each in left_out]
    wanted = sorted({*kernel, *LIFE_OF_JOBS} - {*left_out})  # pytest ignores nothing that it is named
    return [
        Guest(name="kernel", arguments=(*(each for each in wanted if each not in SECOND), *options)),
        Guest(name="server", arguments=(*(each for each in wanted if each in SECOND), *options)),
    ]


def host_runs_servers() -> bool:
    """Whether the tests of a server have run on the host: it has a cgroup v2 that this user may change."""
    mount = find_cgroup2(read_mounts())
    return mount is not None and os.access(mount.mount_point, os.W_OK)


def make_disk(image: Path) -> None:
    """Make a file that a guest sees as a block device with an empty ext4 file system."""
    image.unlink(missing_ok=True)
    with image.open("xb") as file:
        file.truncate(DISK_BYTES)
    mkfs = shutil.which("mkfs.ext4") or "/sbin/mkfs.ext4"
    subprocess.run([mkfs, "-q", "-F", str(image)], check=True)


def mounts_of_hidden(needed: Sequence[Path]) -> list[str]:
    """Shell commands that mount again, read-only, what is needed and lies in a folder that the guest hides."""
    lines = []
    for folder in sorted({path.resolve() for path in needed}):
        if any(folder.is_relative_to(hidden) for hidden in HIDDEN):
            lines.append(shlex.join(["mkdir", "-p", str(folder)]))
            lines.append(shlex.join(["mount", "-t", "hostfs", "-o", f"ro,{folder}", "host", str(folder)]))
    return lines


def pytest_command(guest: Guest) -> list[str]:
    """What the guest runs: pytest, with its folders on the disk."""
    options = ["-p", "no:cacheprovider", f"--basetemp={DISK_MOUNT}/pytest", "--color=no", *guest.arguments]
    return [sys.executable, "-m", "pytest", *options]


def guest_script(command: Sequence[str]) -> str:
    """The shell script that the guest runs, its disk mounted; its exit status is the command's."""
    environment = {
        "JOBMASTER_GUEST": "1",
        "JOBMASTER_DISK": DISK_MOUNT,
        "HYPOTHESIS_STORAGE_DIRECTORY": f"{DISK_MOUNT}/hypothesis",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin",
        "PYTHONDONTWRITEBYTECODE": "1",  # the root file system is read-only
        "PYTHONUNBUFFERED": "1",
        **{name: os.environ[name] for name in (KILLS,) if name in os.environ},
    }
    assignments = [f"{name}={value}" for name, value in environment.items()]
    return "\n".join(
        [
            "set -e",
            f"ulimit -n {OPEN_FILES}",
            'echo "Linux $(uname -r), up after $(cut -d" " -f1 /proc/uptime) s"',
            f"mkdir {DISK_MOUNT}",
            f"mount -t ext4 /dev/ubda {DISK_MOUNT}",
            *mounts_of_hidden([REPOSITORY, Path(sys.prefix), Path(sys.base_prefix)]),
            f"cd {shlex.quote(str(REPOSITORY))}",
            f"exec env {shlex.join([*assignments, *command])}",
            "",
        ]
    )


def memory_folder(folder: Path) -> Path:
    """Where the file that is the guest's memory is made: in memory itself, if there is room and programs may run."""
    shared = Path("/dev/shm")
    with suppress(OSError):
        found = os.statvfs(shared)
        if not found.f_flag & os.ST_NOEXEC and found.f_bavail * found.f_frsize > 2 * MEMORY_BYTES:
            return shared
    return folder


def provide_units(control: Path) -> None:
    """Have systemd be the guest's first process, with the script as a service."""
    (control / "units").mkdir()
    for unit in UNITS.iterdir():
        (control / "units" / unit.name).write_text(unit.read_text().replace("@control@", str(control)))
    for name in MASKED:
        (control / "units" / name).touch()  # systemd takes an empty file for a unit that is not to be


def boot_command(name: str, control: Path) -> list[str]:
    """The guest's command line: what it says goes to standard output; paths with blanks can't be said in it."""
    for path in (control, INIT):
        if set(str(path)) & set(" \t\n\"'"):
            raise MachineError(
                f"{path}: the kernel's command line takes no path with blanks or quotes; move it elsewhere"
            )
    return [
        *("setpriv", "--pdeathsig=TERM", "linux.uml", f"mem={MEMORY_BYTES}", f"umid={name}", f"uml_dir={control}"),
        *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", f"init={INIT}", f"control={control}"),
        *("con=null", "con0=null,fd:1", "loglevel=1", "noreboot", "panic=-1", "ubd0=disk.img"),
    ]


async def run_guest(guest: Guest, folder: Path, prefix: str) -> int:
    """Boot a guest with a disk in this folder; the exit status of its script."""
    folder.mkdir(parents=True, exist_ok=True)
    make_disk(folder / "disk.img")
    with tempfile.TemporaryDirectory(prefix="jobmaster-guest-") as temporary:
        control = Path(temporary).resolve()
        (control / "script").write_text(guest_script(pytest_command(guest)))
        if guest.has_systemd:
            provide_units(control)
        words = SYSTEMD_WORDS if guest.has_systemd else ()
        with (control / "kernel.log").open("wb") as log:
            await _live([*boot_command(guest.name, control), *words], folder, log, prefix)
        try:
            return int((control / "status").read_text())
        except FileNotFoundError:
            said = (control / "kernel.log").read_text(errors="replace")
            raise MachineError(
                f"the guest {guest.name} ended without an exit status; its kernel said:\n{said}"
            ) from None


async def _live(command: Sequence[str], folder: Path, log: IO[bytes], prefix: str) -> None:
    """Run a guest to its end, copying its console."""
    with trio.fail_after(DEADLINE):
        async with booted(command, folder, log) as running:
            await copy_lines(running.console, prefix)


@dataclass(frozen=True, slots=True)
class RunningGuest:
    """A guest that was booted: the process group that it is, and its console."""

    group: int
    console: trio.abc.ReceiveStream

    def cut_power(self) -> None:
        """Kill it. What it has written to its disks is in the host's files; what its kernel had in memory is gone."""
        with suppress(ProcessLookupError):
            os.killpg(self.group, signal.SIGKILL)  # the helpers of a guest outlive its first process


@asynccontextmanager
async def booted(command: Sequence[str], folder: Path, log: IO[bytes]) -> AsyncIterator[RunningGuest]:
    """A guest for the block.

    Popen's thread is this one, of which setpriv's signal tells the death: none of Trio's worker threads may start it.
    """
    environment = {**os.environ, "TMPDIR": str(memory_folder(folder)), **registers.preload(folder)}
    machine = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,
    )
    assert machine.stdout is not None
    console = trio.lowlevel.FdStream(os.dup(machine.stdout.fileno()))
    running = RunningGuest(machine.pid, console)
    try:
        async with console:
            yield running
    finally:
        running.cut_power()
        machine.stdout.close()
        machine.wait()


async def copy_lines(console: trio.abc.ReceiveStream, prefix: str) -> None:
    """Copy what comes to standard output, line by line, each behind a prefix."""
    rest = b""
    async for chunk in console:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            print(prefix + line.decode(errors="replace").rstrip("\r"), flush=True)
    if rest:
        print(prefix + rest.decode(errors="replace"), flush=True)


async def run_all(guests: Sequence[Guest], folder: Path) -> list[int]:
    """Boot all guests side by side; their statuses."""
    statuses = [NO_STATUS] * len(guests)

    async def run_one(index: int, guest: Guest) -> None:
        prefix = f"{guest.name}: " if len(guests) > 1 else ""
        try:
            statuses[index] = await run_guest(guest, folder / guest.name, prefix)
        except trio.TooSlowError:
            print(f"{prefix}the guest was killed, as it was not done after {DEADLINE:.0f} s", file=sys.stderr)
        except (MachineError, registers.NoCompiler, subprocess.CalledProcessError) as error:
            print(f"{prefix}{error}", file=sys.stderr)

    async with trio.open_nursery() as nursery:
        for index, guest in enumerate(guests):
            nursery.start_soon(run_one, index, guest)
    return statuses


def main(arguments: Sequence[str]) -> int:
    """Run the suites, or pytest with these arguments in one guest, with disks in the folder named first.

    Returns the highest exit status of all.
    """
    has_systemd = arguments[0] == "--systemd"
    folder, *options = arguments[1:] if has_systemd else arguments
    named = Guest(name="guest", arguments=tuple(options), has_systemd=has_systemd)
    guests = [named] if options else suites(host_runs_servers=host_runs_servers())
    return max(trio.run(run_all, guests, Path(folder).resolve()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
