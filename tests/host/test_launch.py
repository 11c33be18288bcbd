"""From a specification to a process, with the real shell and the real setpriv; a plain file plays cgroup.procs."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest
import trio

from jobmaster.errors import HostError, InvalidRequest, ServerBusy
from jobmaster.host import launch
from jobmaster.host.account import Account, own_account
from jobmaster.host.launch import Launcher, spawn
from jobmaster.host.process import ChildProcess
from jobmaster.job.cause import Death, Exited, Signalled

DEADLINE: Final = 20.0
WORKER: Final = Account(name="worker", uid=4711, gid=500, groups=(44, 500), home="/home/worker")
ROOT: Final = Account(name="root", uid=0, gid=0, groups=(0,), home="/root")
AS_WORKER: Final = Launcher(setpriv=Path("/usr/bin/setpriv"), account=WORKER, drops_privileges=True, open_files=1024)
PROCS: Final = Path("/sys/fs/cgroup/jobs/cgroup.procs")


@pytest.fixture
def launcher() -> Launcher:
    """A launcher that leaves the account as it is."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("needs setpriv of util-linux")
    return Launcher(setpriv=Path(setpriv), account=own_account(), drops_privileges=False, open_files=64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a launched command did."""

    output: bytes
    report: bytes
    death: Death
    program: str


async def run(command_line: list[str], environment: dict[str, str] | None = None) -> Run:
    """Spawns a command line and lives until it has ended."""
    output, output_end = os.pipe2(os.O_CLOEXEC)
    report, report_end = os.pipe2(os.O_CLOEXEC)
    child = await trio.to_thread.run_sync(
        lambda: spawn(command_line, environment or {"PATH": os.defpath}, output=output_end, report=report_end)
    )
    os.close(output_end)
    os.close(report_end)
    with trio.fail_after(DEADLINE):
        complaint = await trio.to_thread.run_sync(read_all, report)
        written = await trio.to_thread.run_sync(read_all, output)
        await child.wait_died()
    program, death = child.program_name(), child.reap()
    child.close()
    return Run(output=written, report=complaint, death=death, program=program)


def read_all(fd: int) -> bytes:
    """Reads to the end and closes."""
    with open(fd, "rb") as file:
        return file.read()


@pytest.mark.parametrize("hostile", ["$(reboot)", "`reboot`", "'; reboot; '", "\n reboot", "--reuid=0", ""])
def test_data_is_never_part_of_the_script(hostile: str) -> None:
    """Whatever a client or a path says, the text that the shell runs is the same; the data follows as arguments."""
    plain = AS_WORKER.command_line(PROCS, ("ls",))
    given = AS_WORKER.command_line(PROCS / hostile, (hostile or "x", hostile))
    assert given[:3] == plain[:3] == ["/bin/sh", "-c", plain[2]]
    assert given[-3:] == ["--", hostile or "x", hostile]


@pytest.mark.parametrize(
    ("launcher", "privileges"),
    [
        (
            AS_WORKER,
            [
                "--reuid=4711",
                "--regid=500",
                "--groups=44,500",
                "--inh-caps=-all",
                "--bounding-set=-all",
                "--no-new-privs",
            ],
        ),
        (replace(AS_WORKER, account=ROOT), ["--inh-caps=-all"]),
        (replace(AS_WORKER, drops_privileges=False), ["--no-new-privs"]),
    ],
    ids=["another user", "root asked for by name", "a server that is not root"],
)
def test_privileges(launcher: Launcher, privileges: list[str]) -> None:
    """A job's user, groups and capabilities are set by setpriv, and only root itself may gain privileges again."""
    command_line = launcher.command_line(PROCS, ("ls", "-l"))
    assert command_line[command_line.index("/usr/bin/setpriv") :] == ["/usr/bin/setpriv", *privileges, "--", "ls", "-l"]


async def test_it_joins_before_it_runs(launcher: Launcher, tmp_path: Path) -> None:
    """The process writes itself into cgroup.procs, and the command finds that done; the report stays empty."""
    procs = tmp_path / "cgroup.procs"
    done = await run(launcher.command_line(procs, ("/bin/cat", str(procs))))
    assert done == Run(output=b"0\n", report=b"", death=Exited(0), program="cat")


async def test_a_failure_to_join_is_reported(launcher: Launcher, tmp_path: Path) -> None:
    """Where cgroup.procs cannot be written the command is not run, and the report says why."""
    done = await run(launcher.command_line(tmp_path / "gone" / "cgroup.procs", ("/bin/echo", "ran")))
    assert b"gone/cgroup.procs" in done.report
    assert (done.output, done.death) == (b"", Exited(125))


async def test_arguments_arrive_untouched(launcher: Launcher, tmp_path: Path) -> None:
    """Options, quotes, shell syntax, empty and non-ASCII arguments reach the command byte for byte."""
    args = ("", "-x", "--", "$(id)", "`id`", "a b", "*", "'\"\\", "é\n😀", "; exit 9")
    command = ("/bin/sh", "-c", 'printf "%s\\0" "$@"', "sh", *args)
    done = await run(launcher.command_line(tmp_path / "procs", command))
    assert done.output.decode().split("\0") == [*args, ""]


async def test_what_a_job_starts_with(launcher: Launcher, tmp_path: Path) -> None:
    """A job has an empty stdin, its own session, the set limit of open files, umask 022 and starts in /."""
    script = (
        "cat; pwd; umask; ulimit -S -n; read -r _ _ _ _ _ session _ </proc/self/stat; [ $session = $$ ] && echo leads"
    )
    done = await run(launcher.command_line(tmp_path / "procs", ("/bin/sh", "-c", script)))
    assert done.output.decode().split() == ["/", "0022", "64", "leads"]


async def test_stdout_and_stderr_are_one(launcher: Launcher, tmp_path: Path) -> None:
    """Both streams go to the output in the order in which they are written."""
    command = ("/bin/sh", "-c", "echo 1; echo 2 >&2; echo 3")
    assert (await run(launcher.command_line(tmp_path / "procs", command))).output == b"1\n2\n3\n"


async def test_nothing_is_inherited(launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is the one given (and the shell's PWD), and no descriptor but 0, 1 and 2 is open."""
    monkeypatch.setenv("SECRET", "of the server")
    leaky = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leaky, True)
    script = "/usr/bin/env; echo; ls /proc/self/fd"
    environment = {"PATH": os.defpath, "JOBMASTER_CLIENT": "client1"}
    done = await run(launcher.command_line(tmp_path / "procs", ("/bin/sh", "-c", script)), environment)
    os.close(leaky)
    variables, descriptors = done.output.decode().split("\n\n")
    names = {line.partition("=")[0] for line in variables.splitlines()}
    assert {"PATH", "JOBMASTER_CLIENT"} <= names <= {"PATH", "JOBMASTER_CLIENT", "PWD", "OLDPWD", "SHLVL", "_"}
    assert descriptors.split() == ["0", "1", "2", "3"]  # 3 is ls reading the folder


@pytest.mark.parametrize(
    ("death", "program", "ran"),
    [
        (Exited(1), "setpriv", False),
        (Exited(126), "setpriv", False),
        (Exited(127), "setpriv", False),
        (Exited(0), "setpriv", True),
        (Exited(2), "setpriv", True),
        (Exited(127), "sh", True),
        (Exited(1), "false", True),
        (Exited(1), "", True),
        (Signalled(9), "setpriv", True),
    ],
)
def test_whether_the_command_ran(death: Death, program: str, ran: bool) -> None:
    """Only a process that failed under setpriv's own name, with a code of setpriv's failures, never ran its command."""
    assert (AS_WORKER.never_ran(death, program) is None) is ran


def test_a_long_name_of_setpriv() -> None:
    """The kernel keeps 15 bytes of a program's name, and that much is compared."""
    launcher = replace(AS_WORKER, setpriv=Path("/opt/setpriv-of-another-package"))
    assert launcher.never_ran(Exited(127), "setpriv-of-anot") is not None


@pytest.mark.parametrize(
    ("first_line", "ran"), [("#!/nonexistent/interpreter", False), ("#!/bin/sh", True)], ids=["no interpreter", "runs"]
)
async def test_a_command_that_the_kernel_refuses(
    launcher: Launcher, tmp_path: Path, first_line: str, ran: bool
) -> None:
    """A real refusal of execve(2) is told from a command that returned setpriv's code, and its reason is output."""
    command = tmp_path / "command"
    command.write_text(f"{first_line}\nexit 127\n")
    command.chmod(0o755)
    done = await run(launcher.command_line(tmp_path / "procs", (str(command),)))
    assert (launcher.never_ran(done.death, done.program) is None) is ran
    assert (b"command" in done.output) is not ran


@pytest.mark.parametrize("args", [("x" * 131_072,), ("x" * 100_000,) * 100], ids=["one argument", "all together"])
def test_more_arguments_than_the_kernel_takes(launcher: Launcher, args: tuple[str, ...]) -> None:
    """E2BIG is the caller's mistake, and the text says how much is taken."""
    with pytest.raises(InvalidRequest, match="128 KiB"):
        spawn(launcher.command_line(PROCS, ("/bin/true", *args)), {}, output=1, report=0)


def test_a_host_without_a_shell() -> None:
    """What only the operator can mend is an error of the host."""
    with pytest.raises(HostError, match="cannot start"):
        spawn(["/nonexistent/sh"], {}, output=1, report=0)


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """In this block the process cannot open anything."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_server_without_descriptors(launcher: Launcher) -> None:
    """A resource that runs out means "not now"."""
    with pytest.raises(ServerBusy), no_descriptors_left():
        spawn(launcher.command_line(PROCS, ("/bin/true",)), {}, output=1, report=0)


def test_a_process_that_cannot_be_held_is_not_left_behind(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the last descriptor went to something else, the process is killed and reaped."""
    pids: list[int] = []

    def exhausted(pid: int) -> ChildProcess:
        pids.append(pid)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(launch, "ChildProcess", exhausted)
    with suppress(OSError, ServerBusy):
        spawn(["/bin/sh", "-c", "kill -STOP $$"], {}, output=1, report=0)
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_PID, pids[0], os.WEXITED | os.WNOHANG | os.WNOWAIT)


async def test_a_signal_before_the_command_ran_is_its_death(launcher: Launcher, tmp_path: Path) -> None:
    """A process killed by a signal is not called one that never ran."""
    done = await run(launcher.command_line(tmp_path / "procs", ("/bin/sh", "-c", "kill -KILL $$")))
    assert done.death == Signalled(signal.SIGKILL)
    assert launcher.never_ran(done.death, done.program) is None
