"""Children of a real launcher, in a real cgroup: started, executed or not, ended, and told of."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Final

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from jobmaster.run.launcher import (
    Child,
    ChildAccount,
    ExecFailed,
    ExecOutcome,
    Executed,
    Launch,
    LaunchRefused,
    NeverExecuted,
    attached_launcher,
    use_launcher,
)
from tests.run.launching import DEADLINE, ENVIRONMENT, NOBODY, ROOT, Folder, Host, parent_of, read_line, wait_gone

ARM: Final = b"\x7fELF\x01\x01\x01" + bytes(9) + b"\x02\x00\x28\x00\x01" + bytes(100)


async def test_a_command_runs(host: Host) -> None:
    """Its output, its exec and its exit code arrive, and it was in its cgroup from its first instruction on."""
    ran = await host.run("sh", "-c", "cat /proc/self/cgroup; exit 42")
    assert (ran.outcome, ran.exit_code, ran.status.executed) == (Executed(), 42, True)
    assert f"0::/{host.folder.path.name}/job" in ran.output.decode().splitlines()


async def test_a_signal_is_a_status(host: Host) -> None:
    """A command that a signal ended has that as its wait status."""
    assert (await host.run("sh", "-c", "kill -SEGV $$")).exit_code == -signal.SIGSEGV


@pytest.fixture
def programs() -> Iterator[Path]:
    """A folder of files that cannot be executed, each for another reason; everybody may look at it."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        folder.chmod(0o755)
        _fill(folder)
        yield folder


def _fill(folder: Path) -> None:
    contents = {"arm": ARM, "garbage": b"\x00\x01garbage", "empty": b"", "script": b"#!/nonexistent/sh\nexit 0\n"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o755)
    (folder / "data").write_bytes(b"exit 0\n")
    (folder / "loop").symlink_to("loop")
    (folder / "folder").mkdir()
    (folder / "secret").write_bytes(b"#!/bin/sh\nexit 0\n")
    (folder / "secret").chmod(0o700)


@pytest.mark.parametrize(
    ("name", "number", "stage"),
    [
        ("none", errno.ENOENT, "lookup"),
        ("data/none", errno.ENOTDIR, "lookup"),
        ("data", errno.EACCES, "lookup"),
        ("folder", errno.EACCES, "lookup"),
        ("secret", errno.EACCES, "lookup"),
        ("loop", errno.ELOOP, "lookup"),
        ("x" * 300, errno.ENAMETOOLONG, "lookup"),
        ("script", errno.ENOENT, "exec"),
        ("arm", errno.ENOEXEC, "exec"),
        ("garbage", errno.ENOEXEC, "exec"),
        ("empty", errno.ENOEXEC, "exec"),
    ],
)
async def test_what_cannot_be_executed(host: Host, programs: Path, name: str, number: int, stage: str) -> None:
    """The kernel's own errno for this user, and whether there was no such command or it could not be executed."""
    ran = await host.run(str(programs / name))
    assert ran.outcome == ExecFailed(errno=number, stage=stage)
    assert (ran.status.executed, ran.output) == (False, b"")


async def test_names_along_the_path(host: Host) -> None:
    """A name without a slash that is nowhere, or empty, is not found."""
    for name in ("no-such-command", ""):
        assert (await host.run(name)).outcome == ExecFailed(errno=errno.ENOENT, stage="lookup")


async def test_looked_up_as_the_jobs_user(host: Host) -> None:
    """What root alone can see is the same EACCES whether it exists or not."""
    hidden = Path(f"/root/.jobmaster-test-{os.getpid()}")
    hidden.write_bytes(b"")
    Path("/root").chmod(0o700)
    try:
        outcomes = {(await host.run(f"/root/{name}")).outcome for name in (hidden.name, "none")}
    finally:
        hidden.unlink()
    assert outcomes == {ExecFailed(errno=errno.EACCES, stage="lookup")}


async def test_a_working_folder_that_is_closed_to_the_user(host: Host, tmp_path: Path) -> None:
    """The working folder is entered as the job's user."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    ran = await host.run("true", working_folder=str(closed))
    assert ran.outcome == ExecFailed(errno=errno.EACCES, stage="working_folder")


@pytest.mark.parametrize("code", [1, 126, 127])
async def test_a_program_called_setpriv(host: Host, programs: Path, code: int) -> None:
    """A command's name and exit code say nothing about whether it was executed."""
    program = programs / "setpriv"
    shutil.copy("/bin/sh", program)
    program.chmod(0o755)
    ran = await host.run(str(program), "-c", f"exit {code}")
    assert (ran.outcome, ran.exit_code) == (Executed(), code)


async def test_arguments_arrive_untouched(host: Host) -> None:
    """Options, quotes, empty and non-UTF-8 arguments reach the command byte for byte."""
    arguments = ("", "-x", "--", "$(id)", "a b", "*", "'\"\\", "é\n😀", os.fsdecode(b"\xff\xfe"))
    ran = await host.run("sh", "-c", 'printf "%s\\0" "$@"', "sh", *arguments)
    assert ran.output == b"\0".join(map(os.fsencode, (*arguments, "")))


@pytest.mark.parametrize("count", [600, 20_000], ids=["in the message", "in a memfd"])
async def test_many_arguments(host: Host, count: int) -> None:
    """Long argument vectors arrive whole, up to what the kernel takes."""
    ran = await host.run("sh", "-c", 'echo $# ${#1}; shift $(($# - 1)); echo "$1"', "sh", *["x" * 95] * count, "last")
    assert ran.output == f"{count + 1} 95\nlast\n".encode()


async def test_more_arguments_than_the_kernel_takes(host: Host) -> None:
    """The kernel's E2BIG is told, for one argument or all together; what no kernel takes is not even sent."""
    too_big = ExecFailed(errno=errno.E2BIG, stage="exec")
    assert (await host.run("true", "x" * 131_072)).outcome == too_big
    assert (await host.run("true", *["x" * 100_000] * 70)).outcome == too_big
    with pytest.raises(LaunchRefused) as refusal:
        await host.run("true", *["x" * 100_000] * 90)
    assert refusal.value.errno == errno.E2BIG


async def test_a_memfd_that_cannot_be_sealed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments that the kernel has no room for are a refused start, with its number, and no descriptor is left."""
    before = os.listdir("/proc/self/fd")

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOMEM, "no memory")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "fcntl", refuse)
        with pytest.raises(LaunchRefused) as refusal:
            await host.run("true", "x" * 100_000)
    assert refusal.value.errno == errno.ENOMEM
    assert os.listdir("/proc/self/fd") == before


# The go byte.


async def test_nothing_runs_before_the_go_byte(host: Host, tmp_path: Path) -> None:
    """A held child is in its cgroup and has become the user, and has not executed anything."""
    async with host.child("true") as (child, _output):
        assert host.folder.pids() == [child.pid]
        with trio.move_on_after(0.3):
            await child.wait_executed()
        assert os.readlink(f"/proc/{child.pid}/exe") == os.readlink(f"/proc/{parent_of(child.pid)}/exe")
        assert not child.has_died()


async def test_what_a_held_child_holds(host: Host) -> None:
    """Its streams, the go pipe and the error pipe: nothing of the launcher's, whose death others have to see."""
    async with host.child("true"), host.child("true") as (child, output):
        with trio.fail_after(DEADLINE):
            while len(holds := _files(child.pid)) != 4:
                await trio.sleep(0.001)  # it is on its way still
        assert {os.readlink(f"/proc/self/fd/{output}"), "/dev/null"} < holds
        assert all(name.startswith("pipe:") for name in holds - {"/dev/null"})


def _files(pid: int) -> set[str]:
    """What its descriptors name; one that is closed meanwhile is left out."""
    names: set[str] = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            names.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return names


async def test_an_abandoned_child_runs_nothing(host: Host) -> None:
    """End of file instead of the go byte: the child ends, and neither it nor its status claim a command."""
    async with host.child("echo", "ran") as (child, output):
        child.abandon()
        child.abandon()
        with trio.fail_after(DEADLINE):
            assert await child.wait_executed() == NeverExecuted()
            assert not (await child.wait_status()).executed
        assert os.read(output, 100) == b""


async def test_killed_before_the_go_byte(host: Host) -> None:
    """A child that is killed while held never executed, though its error pipe ends as by an exec."""
    async with host.child("true") as (child, _output):
        child.send_signal(signal.SIGKILL)
        child.go()
        with trio.fail_after(DEADLINE):
            assert await child.wait_executed() == NeverExecuted()
            status = await child.wait_status()
        assert (status.wait_status, status.executed) == (signal.SIGKILL, False)


async def test_a_child_is_known_by_pid_and_start_time(host: Host) -> None:
    """The start time is the kernel's, read while the child is held; a log can name it."""
    async with host.child("true") as (child, _output):
        stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        assert child.start_time == int(stat[19])
        assert f"{child.id} pid={child.pid} held" in repr(child)


async def test_death_is_seen_without_the_launcher(host: Host) -> None:
    """The pidfd tells of a death while the launcher is stopped; the status comes when it goes on."""
    async with host.child("sleep", "1000") as (child, _output):
        launcher = parent_of(child.pid)
        child.go()
        assert await child.wait_executed() == Executed()
        os.kill(launcher, signal.SIGSTOP)
        try:
            assert not child.has_died()
            child.send_signal(signal.SIGTERM)
            with trio.fail_after(DEADLINE):
                await child.wait_died()
            assert child.has_died()
            child.send_signal(signal.SIGTERM)
        finally:
            os.kill(launcher, signal.SIGCONT)
        assert (await child.wait_status()).wait_status == signal.SIGTERM


# What a child starts with.


async def fields(host: Host, account: ChildAccount | None = NOBODY) -> dict[str, str]:
    """What /proc/self/status says inside a child."""
    ran = await host.run("cat", "/proc/self/status", account=account)
    return dict(line.split(":\t", 1) for line in ran.output.decode().splitlines() if ":\t" in line)


async def test_privileges(host: Host) -> None:
    """User, groups, an empty capability set of every kind, and no_new_privs."""
    found = await fields(host)
    assert (found["Uid"], found["Gid"]) == ("65534\t" * 3 + "65534",) * 2
    assert found["Groups"].split() == ["65534"]
    assert {found[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert found["NoNewPrivs"] == "1"


async def test_root_by_name(host: Host) -> None:
    """Root asked for by name keeps its capabilities, but inherits none to what it executes beyond root's own."""
    found, own = await fields(host, ROOT), await fields(host, None)
    assert (found["Uid"], found["NoNewPrivs"], own["NoNewPrivs"]) == ("0\t0\t0\t0", "0", "1")
    assert found["CapEff"] == found["CapBnd"] == own["CapBnd"] != "0" * 16
    assert found["CapInh"] == found["CapAmb"] == "0" * 16


async def test_surroundings(host: Host) -> None:
    """A session, umask, limits, OOM score, streams and environment of its own, and no descriptor beside."""
    script = (
        "cat; pwd; umask; ulimit -S -n; cat /proc/self/oom_score_adj;"
        "read -r pid _ _ _ group session _ </proc/self/stat; [ $pid = $$ ] && [ $group-$session = $$-$$ ] && echo leads;"
        "[ /proc/$$/fd/1 -ef /proc/$$/fd/2 ] && echo one; env; ls /proc/self/fd"
    )
    ran = await host.run("sh", "-c", script)
    words = ran.output.decode().split()
    assert words[:6] == ["/", "0022", "256", "0", "leads", "one"]
    assert {word.partition("=")[0] for word in words[6:-4]} <= {"PATH", "PWD", "OLDPWD", "SHLVL", "_"}
    assert words[-4:] == ["0", "1", "2", "3"]  # 3 is ls reading the folder


async def test_standard_error_can_be_opened(host: Host) -> None:
    """The output pipe belongs to the job's user, so that >/dev/stderr works as it does in a shell."""
    ran = await host.run("sh", "-c", "echo opened >/dev/stderr; echo too >/dev/stdout")
    assert ran.output == b"opened\ntoo\n"


async def test_what_is_not_asked_for(host: Host) -> None:
    """Without a word of nice, umask and OOM score a child has those of any process, whatever the launcher's are."""
    script = "nice; umask; cat /proc/self/oom_score_adj"
    output, write = os.pipe2(os.O_CLOEXEC)
    child = await host.launcher.start(
        a_launch("plain", "sh", "-c", script), cgroup=host.folder.job, output_read=output, output_write=write
    )
    os.close(write)
    child.go()
    assert [await read_line(output) for _ in range(3)] == [b"0", b"0022", b"0"]
    child.release()
    os.close(output)


async def test_umask(host: Host) -> None:
    """The umask is the one asked for, whatever the launcher's is."""
    async with host.child("sh", "-c", "umask", umask=0o027) as (child, output):
        child.go()
        assert await read_line(output) == b"0027"


async def test_nice(host: Host) -> None:
    """The nice value is the one asked for, whatever the launcher's is."""
    assert (await host.run("nice", nice=5)).output == b"5\n"


SESSION_KEYRING: Final = "import ctypes, sys; print(ctypes.CDLL(None).syscall({number}, 0, -3, 0))"


async def test_session_keyring(host: Host) -> None:
    """Each child has a session keyring of its own, which is not that of the server."""
    number = {"x86_64": 250, "aarch64": 219}.get(os.uname().machine)
    if number is None or not Path("/proc/keys").exists():
        pytest.skip("needs a kernel with keyrings, of x86-64 or AArch64")
    ask = ("/usr/bin/python3", "-c", SESSION_KEYRING.format(number=number))
    server = (await trio.run_process([*ask], capture_stdout=True)).stdout
    inside = [(await host.run(*ask)).output for _ in range(2)]
    assert len({server, *inside}) == 3
    assert all(int(serial) > 0 for serial in inside)


INTERNAL_SIGNALS: Final = 1 << 31 | 1 << 32
"""Signals 32 and 33 are the C library's own: its posix_spawn(3) has the child ignore them, and no program may see them."""


@pytest.fixture
def hostile_signals() -> Iterator[None]:
    """What a server may have been started with: signals ignored, as under nohup, and blocked."""
    ignored = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGALRM, signal.SIGCHLD, signal.SIGRTMIN)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGUSR2))
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("hostile_signals")
async def test_signals(folder: Folder) -> None:
    """A child has default dispositions and an empty mask, whatever the server and the launcher were started with."""
    async with (
        attached_launcher() as sock,
        use_launcher(sock, kill_fd=folder.kill, lock_fd=folder.lock) as launcher,
    ):
        found = await fields(Host(launcher=launcher, folder=folder))
        names = ("SigBlk", "SigIgn", "SigCgt", "ShdPnd", "SigPnd")
        assert {int(found[name], 16) & ~INTERNAL_SIGNALS for name in names} == {0}


# Descriptors, refusals and callers that leave.


async def test_descriptors_run_out_in_the_launcher(host: Host) -> None:
    """At its limit the launcher refuses and keeps nothing; below it everything works again."""
    async with host.child("true") as (child, _output):
        launcher = parent_of(child.pid)
        child.abandon()
        await child.wait_status()
    await host.settle()
    before = os.listdir(f"/proc/{launcher}/fd")
    free = [fd for fd in range(100) if str(fd) not in before]
    limit = resource.prlimit(launcher, resource.RLIMIT_NOFILE)
    refusals: set[int] = set()
    for left in range(8):
        resource.prlimit(launcher, resource.RLIMIT_NOFILE, (free[left], limit[1]))
        try:
            await host.run("true")
        except LaunchRefused as refusal:
            refusals.add(refusal.errno)
        await host.settle()
        assert sorted(os.listdir(f"/proc/{launcher}/fd")) == sorted(before), left
    resource.prlimit(launcher, resource.RLIMIT_NOFILE, limit)
    assert refusals == {errno.EMFILE}
    assert (await host.run("true")).exit_code == 0


async def test_a_cgroup_that_is_gone(host: Host) -> None:
    """The kernel's refusal to put a child into the cgroup is a refusal of the start."""
    gone = host.folder.path / "gone"
    gone.mkdir()
    fd = os.open(gone, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    gone.rmdir()
    output, write = os.pipe2(os.O_CLOEXEC)
    try:
        with pytest.raises(LaunchRefused) as refusal:
            await host.launcher.start(a_launch("a"), cgroup=fd, output_read=output, output_write=write)
    finally:
        for each in (fd, output, write):
            os.close(each)
    assert refusal.value.errno in {errno.ENOENT, errno.ENODEV}  # by the kernel's version


def a_launch(child_id: str, *argv: str) -> Launch:
    """A launch of true, or of another command."""
    return Launch(
        id=child_id,
        argv=argv or ("true",),
        environment=ENVIRONMENT,
        working_folder="/",
        account=NOBODY,
        open_files=64,
    )


@pytest.mark.parametrize("checkpoints", range(6))
async def test_a_caller_that_leaves(host: Host, checkpoints: int) -> None:
    """A start that is cancelled, at whatever moment, leaves no process and no descriptor."""
    await host.run("true")
    before = sorted(os.listdir("/proc/self/fd"))
    output, write = os.pipe2(os.O_CLOEXEC)
    started: list[Child] = []

    async def start() -> None:
        started.append(
            await host.launcher.start(
                a_launch("left", "sleep", "1000"), cgroup=host.folder.job, output_read=output, output_write=write
            )
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start)
        for _ in range(checkpoints):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    for child in started:
        child.release()
        await wait_gone(child.pid)
    os.close(output)
    os.close(write)
    assert host.folder.pids() == []
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert (await host.run("true")).exit_code == 0


async def test_a_caller_that_leaves_a_launcher_that_is_stopped(host: Host) -> None:
    """A caller that leaves before the launcher has answered waits until its child has ended."""
    async with host.child("true") as (child, _output):
        launcher = parent_of(child.pid)
    await child.wait_forgotten()  # so that it has ended
    output, write = os.pipe2(os.O_CLOEXEC)
    left = trio.Event()

    async def start(*, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            await host.launcher.start(a_launch("left"), cgroup=host.folder.job, output_read=output, output_write=write)
        left.set()

    os.kill(launcher, signal.SIGSTOP)
    try:
        async with trio.open_nursery() as nursery:
            (await nursery.start(start)).cancel()
            await wait_all_tasks_blocked()
            assert not left.is_set()
            os.kill(launcher, signal.SIGCONT)
    finally:
        os.kill(launcher, signal.SIGCONT)
        os.close(output)
        os.close(write)
    assert host.folder.pids() == []


async def test_a_block_that_is_cancelled(folder: Folder) -> None:
    """What ends within a cancelled block is told to who waits there behind a shield."""
    async with attached_launcher() as sock:
        with trio.CancelScope() as block:
            async with (
                use_launcher(sock, kill_fd=folder.kill, lock_fd=folder.lock) as launcher,
                Host(launcher=launcher, folder=folder).child("sh", "-c", "exit 7") as (child, _),
            ):
                child.go()
                block.cancel()
                with trio.CancelScope(shield=True, deadline=trio.current_time() + DEADLINE):
                    assert (await child.wait_status()).wait_status == 7 << 8


async def test_signals_at_any_moment(host: Host) -> None:
    """A signal hits a child on its way to the command: what is told of exec and status always fits together."""
    random = Random(8)
    numbers = (signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
    seen: set[tuple[type[ExecOutcome], bool]] = set()

    async def one(number: signal.Signals, before: float, between: float) -> None:
        async with host.child("sleep", "0") as (child, _):
            with trio.fail_after(DEADLINE):
                await trio.sleep(before)
                if between < 0:
                    child.go()
                await trio.sleep(abs(between))
                child.send_signal(number)
                child.go()
                outcome, status = await child.wait_executed(), await child.wait_status()
        was_killed = status.wait_status & 0x7F == number
        assert was_killed or (status.wait_status, outcome) == (0, Executed())
        assert status.executed is (outcome == Executed())
        assert outcome in (Executed(), NeverExecuted())
        seen.add((type(outcome), was_killed))

    for _ in range(15):
        async with trio.open_nursery() as nursery:
            for number in numbers:
                nursery.start_soon(one, number, random.uniform(0, 0.002), random.uniform(-0.004, 0.002))
    assert (NeverExecuted, True) in seen
    pause = 0.004
    while (Executed, False) not in seen:  # on a busy machine none may have ended before its signal
        pause *= 2
        await one(signal.SIGTERM, 0.0, -pause)
    assert host.folder.pids() == []


async def test_release_ends_a_child(host: Host) -> None:
    """A child that is released while it lives is killed, held or not; releasing it again does nothing."""
    before = os.listdir("/proc/self/fd")
    for goes in (False, True):
        async with host.child("sleep", "1000") as (child, _output):
            pid = child.pid
            if goes:
                child.go()
                await child.wait_executed()
            child.release()
            child.release()
        await wait_gone(pid)
    assert host.folder.pids() == []
    assert os.listdir("/proc/self/fd") == before


async def test_a_release_ends_the_wait_for_the_death(host: Host) -> None:
    """Whoever waits for the death of a child that another releases has seen the last of it."""
    async with host.child("sleep", "1000") as (child, _output), trio.open_nursery() as nursery:
        nursery.start_soon(child.wait_died)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.deadline = trio.current_time() + DEADLINE
        child.release()
    assert not nursery.cancel_scope.cancelled_caught


async def test_waits_can_be_cancelled(host: Host) -> None:
    """Whoever waits for a child can leave, and somebody else waits again."""
    waits: tuple[Callable[[Child], Awaitable[object]], ...] = (Child.wait_died, Child.wait_status)
    async with host.child("sleep", "1000") as (child, _output):
        for wait in waits:
            with trio.move_on_after(0.01) as scope:
                await wait(child)
            assert scope.cancelled_caught
        child.abandon()
        with trio.fail_after(DEADLINE):
            await child.wait_died()
            await child.wait_status()


async def test_ids_are_not_used_again(host: Host) -> None:
    """The id of a child that is not released is refused."""
    async with host.child("true") as (child, output):
        with pytest.raises(ValueError, match="in use"):
            await host.launcher.start(
                a_launch(child.id), cgroup=host.folder.job, output_read=output, output_write=output
            )


async def test_the_launcher_has_a_session_of_its_own(host: Host) -> None:
    """What a terminal sends to the server's process group does not end the launcher before the server has ended its jobs."""
    async with host.child("true") as (child, _output):
        launcher = parent_of(child.pid)
        assert os.getsid(launcher) == launcher != os.getsid(0)


async def test_the_launcher_reads_no_input(host: Host) -> None:
    """The launcher leaves the server's stdin alone."""
    async with host.child("true") as (child, _output):
        assert os.readlink(f"/proc/{parent_of(child.pid)}/fd/0") == "/dev/null"


async def test_many_at_once(host: Host) -> None:
    """Two hundred children at once, more messages than the socket holds, and each its own status."""
    codes: dict[int, int] = {}

    async def run(number: int) -> None:
        codes[number] = (await host.run("sh", "-c", f"exit {number}")).exit_code

    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(run, number)
    assert codes == {number: number for number in range(200)}


# A tracer that keeps a dead child from being reaped.

# Forks nothing: a SIGCHLD would stop it.
EXIT_WHEN_TRACED: Final = """
echo $$
tracer=0
while [ $tracer = 0 ]; do
    while read -r name value; do [ $name = TracerPid: ] && tracer=$value; done </proc/$$/status
done
exit 42
"""
SEIZE: Final = """
import ctypes, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
if libc.ptrace(0x4206, int(sys.argv[1]), None, None):
    raise OSError(ctypes.get_errno(), "PTRACE_SEIZE")
print("seized", flush=True)
time.sleep(1000)
"""


async def test_a_zombie_that_a_tracer_withholds(host: Host) -> None:
    """Its true status is told all the same, others' are not held up by it, and it is reaped when the tracer leaves."""
    async with host.child("sh", "-c", EXIT_WHEN_TRACED, account=None) as (victim, victim_output):
        victim.go()
        pid = int(await read_line(victim_output))
        tracing = host.child("/usr/bin/python3", "-c", SEIZE, str(pid), account=None)
        async with tracing as (tracer, tracer_output):
            tracer.go()
            with trio.fail_after(DEADLINE):
                assert await read_line(tracer_output) == b"seized"
                await victim.wait_died()
                assert (await host.run("sh", "-c", "exit 7")).exit_code == 7
                assert (await victim.wait_status()).wait_status == 42 << 8
            assert Path(f"/proc/{pid}").exists()
            tracer.send_signal(signal.SIGKILL)
            await tracer.wait_status()
        while Path(f"/proc/{pid}").exists():
            await trio.sleep(0.01)


async def test_the_launcher_is_not_the_last_to_close_the_output(host: Host) -> None:
    """A released child is said to be forgotten once the launcher has closed its end of the output pipe.

    The last close of a pipe's read end waits for whoever writes to it, which a hostile writer can make for ever; so that
    has to be the server's, in a thread.
    """
    launch = Launch(
        id="closing", argv=("true",), environment=ENVIRONMENT, working_folder="/", account=NOBODY, open_files=64
    )
    output, write = os.pipe2(os.O_CLOEXEC)
    child = await host.launcher.start(launch, cgroup=host.folder.job, output_read=output, output_write=write)
    os.close(output)
    os.write(write, b"the launcher has the other end")
    child.release()
    with trio.fail_after(DEADLINE):
        await child.wait_forgotten()
    with pytest.raises(BrokenPipeError):
        os.write(write, b"nobody has it any more")
    os.close(write)
