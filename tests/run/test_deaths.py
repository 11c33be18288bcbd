"""The death of the launcher, of the server, and launchers that are none."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
import trio
import trio.testing

from jobmaster.errors import HostError
from jobmaster.launcher import packets, protocol
from jobmaster.run import launcher as launcher_module
from jobmaster.run import outbox
from jobmaster.run.launcher import (
    Executed,
    Launch,
    LauncherLost,
    LaunchRefused,
    attached_launcher,
    inherited_launcher,
    use_launcher,
)
from tests.processes import command_line
from tests.run.launching import DEADLINE, ENVIRONMENT, Folder, Host, jobs_folder, parent_of, read_line, wait_gone

REPOSITORY: Final = Path(__file__).resolve().parents[2]
ROUNDS: Final = int(os.environ.get("LAUNCHER_ROUNDS", "10"))


# The launcher dies.


async def test_the_launcher_is_killed(host: Host) -> None:
    """Its children die with it, held or running, everybody who waits hears of it, and nothing can be started."""
    async with host.child("sleep", "1000") as (running, _), host.child("true") as (held, _):
        running.go()
        await running.wait_executed()
        os.kill(parent_of(running.pid), signal.SIGKILL)
        with trio.fail_after(DEADLINE):
            await host.launcher.lost.wait()
            for wait in (held.wait_executed, running.wait_status):
                with pytest.raises(LauncherLost):
                    await wait()
            await wait_gone(running.pid)
            await wait_gone(held.pid)
            assert running.has_died()
            assert await running.wait_executed() == Executed()
            for _ in range(2):
                running.release()
                await running.wait_forgotten()
        with pytest.raises(LauncherLost):
            await host.run("true")


async def test_waits_end_when_the_launcher_dies(host: Host) -> None:
    """Who waits at the moment of its death is woken, also who waits for a start or for the death of a survivor."""
    # setuid programs and the like are not needed to survive: a child may undo PDEATHSIG
    survivor = "import ctypes, time; ctypes.CDLL(None).prctl(1, 0); print('undone', flush=True); time.sleep(1000)"
    losses: list[str] = []
    async with host.child("/usr/bin/python3", "-c", survivor) as (child, output):
        child.go()
        assert await read_line(output) == b"undone"
        launcher = parent_of(child.pid)

        async def lose(name: str) -> None:
            with pytest.raises(LauncherLost):
                await {"died": child.wait_died, "status": child.wait_status, "start": start}[name]()
            losses.append(name)

        async def start() -> None:
            await host.run("true")

        os.kill(launcher, signal.SIGSTOP)
        with trio.fail_after(DEADLINE):
            async with trio.open_nursery() as nursery:
                for name in ("died", "status", "start"):
                    nursery.start_soon(lose, name)
                await trio.testing.wait_all_tasks_blocked()
                os.kill(launcher, signal.SIGKILL)
        assert sorted(losses) == ["died", "start", "status"]
        assert not child.has_died()
        child.send_signal(signal.SIGKILL)
        await wait_gone(child.pid)


# The server dies.

SERVER: Final = """
import itertools, os, socket, sys
from jobmaster.launcher import packets, protocol
kill, lock, job = map(int, sys.argv[1:])
sock = socket.socket(fileno=int(os.environ["JOBMASTER_LAUNCHER"]))
packets.send(sock, protocol.encode(protocol.Hello()), (kill, lock))
strings = protocol.pack_strings("/", ("sh", "-c", "setsid sleep 1000 & sleep 1000"), {"PATH": "/usr/bin:/bin"})
print("hello", flush=True)
sock.setblocking(True)
pipes = {}
for number in itertools.count():
    output, write = os.pipe()
    go, goes = os.pipe()
    start = protocol.Start(id=str(number), uid=65534, gid=65534, umask=0, open_files=64, nice=0, oom_score_adj=0,
                           argument_count=3, strings=strings)
    socket.send_fds(sock, [protocol.encode(start)], [write, output, go, job])
    os.close(write), os.close(go)
    pipes[str(number)] = goes
    while len(pipes) > 20 or number > 200:
        message, *_ = socket.recv_fds(sock, 65536, 4)
        message = protocol.decode(message)
        if isinstance(message, protocol.Started):
            os.close(pipes[message.id]) if int(message.id) % 5 == 0 else os.write(pipes[message.id], b"g")
            break
    if number > 20:
        pipes.pop(str(number - 20), None)
"""


@pytest.mark.parametrize("seed", range(ROUNDS))
async def test_the_server_is_killed_among_starts(folder: Folder, seed: int) -> None:
    """A server killed at any moment of its starts leaves no process; its launcher gives up the lock when that is so."""
    own_lock = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    lock = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    descriptors = (folder.kill, lock, folder.job)
    command = ["--", sys.executable, "-c", SERVER, *map(str, descriptors)]
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "jobmaster/launcher", *command],
        pass_fds=descriptors,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=REPOSITORY,
        env={"PYTHONPATH": str(REPOSITORY)},
    ) as launcher:
        os.close(lock)
        assert launcher.stdout is not None
        assert launcher.stderr is not None
        assert await trio.to_thread.run_sync(launcher.stdout.readline) == b"hello\n"
        await trio.sleep(random.Random(seed).uniform(0, 0.15))
        os.kill(_server_of(launcher.pid), signal.SIGKILL)
        with trio.fail_after(DEADLINE):
            while not _lock(own_lock):
                await trio.sleep(0.002)
            assert folder.pids() == []
            assert await trio.to_thread.run_sync(launcher.wait) == 128 + signal.SIGKILL
        assert b"the server was killed by signal 9" in launcher.stderr.read()
    os.close(own_lock)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _server_of(launcher: int) -> int:
    """The pid of a launcher's server; children that are held still have the launcher's own command line."""
    start = f"{sys.executable}\0-c\0".encode()
    pids = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    (server,) = (pid for pid in map(int, pids) if command_line(pid).startswith(start))
    return server


async def test_a_block_that_fails(folder: Folder) -> None:
    """When the server's block ends by an exception the launcher kills all that is in the jobs' cgroup."""
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        (folder.path / "job" / "cgroup.procs").write_text(str(stranger.pid))
        with pytest.RaisesGroup(ValueError):
            await _use_and_fail(folder)
        assert await trio.to_thread.run_sync(stranger.wait) == -signal.SIGKILL


async def _use_and_fail(folder: Folder) -> None:
    async with (
        attached_launcher() as sock,
        use_launcher(sock, kill_fd=folder.kill, lock_fd=folder.lock) as launcher,
        Host(launcher=launcher, folder=folder).child("sleep", "1000") as (child, _),
    ):
        child.go()
        raise ValueError


async def test_farewell(folder: Folder) -> None:
    """After a block that ends by itself the launcher ends its own children, and leaves the cgroup alone."""
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        (folder.path / "job" / "cgroup.procs").write_text(str(stranger.pid))
        output, write = os.pipe2(os.O_CLOEXEC)
        async with (
            attached_launcher() as sock,
            use_launcher(sock, kill_fd=folder.kill, lock_fd=folder.lock) as launcher,
        ):
            launch = Launch(
                id="kept", argv=("sleep", "9"), environment=ENVIRONMENT, working_folder="/", account=None, open_files=64
            )
            child = await launcher.start(launch, cgroup=folder.job, output_read=output, output_write=write)
            child.go()
            await child.wait_executed()
        assert child.has_died()
        assert folder.pids() == [stranger.pid]
        stranger.kill()
    child.release()
    os.close(output)
    os.close(write)


# Launchers that are none, and what they send.


@asynccontextmanager
async def fake_launcher(folder: Folder, *answers: bytes) -> AsyncIterator[tuple[Host, socket.socket]]:
    """A launcher that the test plays: its end of the socket pair, after the greeting."""
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with other:
        other.send(protocol.encode(protocol.Hello()))
        other.send(protocol.encode(protocol.TableEnd()))
        async with use_launcher(own, kill_fd=folder.kill, lock_fd=folder.lock) as launcher:
            assert packets.receive(other).message == protocol.Hello()
            packets.close_all(packets.receive(other).descriptors)
            yield Host(launcher=launcher, folder=folder), other


async def test_a_pidfd_that_could_not_be_received(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child whose pidfd the server has no descriptor for is given up; the launcher is told to end it."""
    monkeypatch.setattr(launcher_module, "WITHDRAW_SECONDS", 0.01)
    async with fake_launcher(folder) as (host, sock), trio.open_nursery() as nursery:
        refusals: list[int] = []

        async def start() -> None:
            with pytest.raises(LaunchRefused) as refusal:
                await host.run("true")
            refusals.append(refusal.value.errno)

        nursery.start_soon(start)
        await trio.testing.wait_all_tasks_blocked()
        received = packets.receive(sock)
        assert isinstance(received.message, protocol.Start)
        go = received.descriptors[2]
        sock.send(protocol.encode(protocol.Started(id=received.message.id, pid=1, start_time=1)))
        await trio.lowlevel.wait_readable(go)
        assert os.read(go, 1) == b""
        packets.close_all(received.descriptors)
        await trio.lowlevel.wait_readable(sock)
        assert packets.receive(sock).message == protocol.Ack(id=received.message.id)
    assert refusals == [errno.EMFILE]


@pytest.mark.parametrize(("sent", "why"), [(b"nonsense", "it sent"), (b"", "it has died")])
async def test_what_is_no_message(folder: Folder, caplog: pytest.LogCaptureFixture, sent: bytes, why: str) -> None:
    """A launcher that sends nonsense is lost, and so is one that closes; the operator is told once, with the reason."""
    async with fake_launcher(folder) as (host, sock):
        if sent:
            sock.send(sent)
        else:
            sock.shutdown(socket.SHUT_RDWR)
        with trio.fail_after(DEADLINE):
            await host.launcher.lost.wait()
    assert caplog.text.count("the launcher is lost: ") == 1
    assert why in caplog.text


@pytest.mark.parametrize("answer", [b"", b"nonsense", protocol.encode(protocol.Farewell())])
async def test_an_answer_that_is_no_greeting(folder: Folder, answer: bytes) -> None:
    """What does not answer as a launcher is none, and is told apart before anything is started."""
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if answer:
        other.send(answer)
    else:
        other.close()
    with pytest.raises(LauncherLost):
        async with use_launcher(own, kill_fd=folder.kill, lock_fd=folder.lock):
            pytest.fail("there is no launcher")
    other.close()


async def test_a_launcher_that_never_answers(folder: Folder, autojump_clock: trio.testing.MockClock) -> None:
    """The greeting has a deadline."""
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with other, pytest.raises(LauncherLost):
        async with use_launcher(own, kill_fd=folder.kill, lock_fd=folder.lock):
            pytest.fail("there is no launcher")


async def test_a_launcher_that_reads_slowly(folder: Folder, autojump_clock: trio.testing.MockClock) -> None:
    """More than the socket holds waits in order, and arrives when the launcher reads on."""
    async with fake_launcher(folder) as (host, sock), trio.open_nursery() as nursery:
        for _ in range(400):
            nursery.start_soon(host.settle)
        await trio.testing.wait_all_tasks_blocked()
        ids: list[str] = []
        while len(ids) < 400:
            await trio.lowlevel.wait_readable(sock)
            received = packets.receive(sock)
            packets.close_all(received.descriptors)
            match received.message:
                case protocol.Start(id=child_id):
                    ids.append(child_id)
                    sock.send(protocol.encode(protocol.Refused(id=child_id, errno=errno.EAGAIN)))
                case protocol.Ack():
                    pass
        assert len(set(ids)) == 400


async def test_a_start_that_the_kernel_does_not_take(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of sending a start is that start's alone, with the kernel's number, and is not tried again."""
    async with fake_launcher(folder) as (host, sock):
        refuse = OSError(errno.ETOOMANYREFS, "too many descriptors in flight")

        def send(*_: object) -> None:
            raise refuse

        with monkeypatch.context() as patch:
            patch.setattr(outbox, "send", send)
            with pytest.raises(LaunchRefused, match=os.strerror(errno.ETOOMANYREFS)) as refusal:
                await host.run("true")
        assert refusal.value.errno == errno.ETOOMANYREFS
        await host.launcher._say_last(protocol.Farewell())
        received = [packets.receive(sock).message for _ in range(2)]
        assert [type(message) for message in received] == [protocol.Ack, protocol.Farewell]


async def test_an_answer_that_comes_too_late(folder: Folder) -> None:
    """A child whose caller has left is killed when the launcher tells of it, whatever holds it up; its caller waits for it."""
    async with fake_launcher(folder) as (host, sock), trio.open_nursery() as nursery:
        nursery.start_soon(host.run, "true")
        await trio.testing.wait_all_tasks_blocked()
        received = packets.receive(sock)
        packets.close_all(received.descriptors)
        assert isinstance(received.message, protocol.Start)
        child_id = received.message.id
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True), subprocess.Popen(["sleep", "1000"]) as stuck:
            await trio.testing.wait_all_tasks_blocked()
            pidfd = os.pidfd_open(stuck.pid)
            packets.send(sock, protocol.encode(protocol.Started(id=child_id, pid=stuck.pid, start_time=1)), (pidfd,))
            os.close(pidfd)
            assert await trio.to_thread.run_sync(stuck.wait) == -signal.SIGKILL
            end = protocol.Exited(id=child_id, wait_status=int(signal.SIGKILL), phase=protocol.Phase.ABANDONED)
            sock.send(protocol.encode(end))


async def test_a_kernel_that_is_short_of_memory(
    folder: Folder, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that the kernel has no memory for is sent again after a pause, as often as it takes, and in order."""
    sent: list[bytes] = []
    failures = [OSError(errno.ENOBUFS, "no buffer space")] * 5

    def send(_: socket.socket, data: bytes, _descriptors: object) -> None:
        if failures:
            raise failures.pop()
        sent.append(data)

    async with fake_launcher(folder) as (host, _sock):
        with monkeypatch.context() as patch:
            patch.setattr(outbox, "send", send)
            messages = [protocol.encode(protocol.Ack(id=str(number))) for number in range(3)]
            for message in messages:
                host.launcher._outbox.post(message)
            before = trio.current_time()
            await trio.sleep(10)
        assert sent == messages
        assert trio.current_time() - before == 10


async def test_descriptors_that_nobody_asked_for(folder: Folder) -> None:
    """What comes with a message that has no meaning here, or is for a child that is gone, is closed."""
    strangers = (protocol.Hello(), protocol.Farewell(), protocol.Executed(id="none"))
    async with fake_launcher(folder) as (_host, sock):
        await trio.testing.wait_all_tasks_blocked()
        before = os.listdir("/proc/self/fd")
        for message in strangers:
            packets.send(sock, protocol.encode(message), (folder.lock,))
        await trio.testing.wait_all_tasks_blocked()
        assert os.listdir("/proc/self/fd") == before


def fill(host: Host) -> list[protocol.Message]:
    """Sends more than the socket holds; what a launcher will read of it."""
    acks: list[protocol.Message] = [protocol.Ack(id=str(number)) for number in range(1000)]
    for ack in acks:
        host.launcher._outbox.post(protocol.encode(ack))
    assert host.launcher._outbox._queue
    return acks


async def read_all(sock: socket.socket, received: list[protocol.Message]) -> None:
    """Reads what comes up to the farewell, and closes the socket."""
    with sock:
        while protocol.Farewell() not in received:
            await trio.lowlevel.wait_readable(sock)
            packet = packets.receive(sock)
            packets.close_all(packet.descriptors)
            received.append(packet.message)


async def test_a_launcher_that_reads_the_farewell_late(folder: Folder, mock_clock: trio.testing.MockClock) -> None:
    """What was queued is sent in order, the farewell last, and then nothing is waited for; the clock stands still."""
    received: list[protocol.Message] = []
    async with trio.open_nursery() as nursery, fake_launcher(folder) as (host, sock):
        acks = fill(host)
        nursery.start_soon(read_all, sock.dup(), received)
    assert received == [*acks, protocol.Farewell()]


async def test_a_start_that_is_given_up_in_the_queue(folder: Folder) -> None:
    """A caller that leaves before its start was sent leaves at once, and the launcher is never asked to start it."""
    received: list[protocol.Message] = []
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery, fake_launcher(folder) as (host, sock):
            acks = fill(host)
            async with trio.open_nursery() as callers:
                callers.start_soon(host.run, "true")
                await trio.testing.wait_all_tasks_blocked()
                callers.cancel_scope.cancel()
            others = [os.dup(folder.lock) for _ in range(10)]  # with the numbers that its descriptors had
            nursery.start_soon(read_all, sock.dup(), received)
    packets.close_all(others)
    assert received == [*acks, protocol.Ack(id="child-0"), protocol.Farewell()]


async def test_a_launcher_that_reads_nothing_more(folder: Folder, autojump_clock: trio.testing.MockClock) -> None:
    """The farewell has a deadline."""
    async with fake_launcher(folder) as (host, _sock):
        fill(host)
        before = trio.current_time()
    assert trio.current_time() - before == launcher_module.FAREWELL_SECONDS


async def test_a_launcher_that_dies_before_the_farewell(folder: Folder, mock_clock: trio.testing.MockClock) -> None:
    """A farewell that nobody will read is not waited for; the clock stands still."""
    ended = trio.Event()

    async def serve(*, task_status: trio.TaskStatus[socket.socket]) -> None:
        async with fake_launcher(folder) as (host, sock):
            fill(host)
            task_status.started(sock.dup())
        ended.set()

    async with trio.open_nursery() as nursery:
        with await nursery.start(serve) as sock:
            await trio.testing.wait_all_tasks_blocked()
            assert not ended.is_set()
            sock.shutdown(socket.SHUT_RDWR)
            await ended.wait()


def test_no_launcher_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable there is none; with a number that is no socket there is an error, not another's descriptor."""
    monkeypatch.delenv(protocol.ENVIRONMENT_VARIABLE, raising=False)
    assert inherited_launcher() is None
    for number in ("x", "9999"):
        monkeypatch.setenv(protocol.ENVIRONMENT_VARIABLE, number)
        with pytest.raises(HostError, match="unset"):
            inherited_launcher()
    with jobs_folder() as made:
        monkeypatch.setenv(protocol.ENVIRONMENT_VARIABLE, str(made.job))
        with pytest.raises(HostError, match="unset"):
            inherited_launcher()


def test_the_inherited_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket that the launcher has left is taken once, and no child of the server's inherits it or its number."""
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    own.set_inheritable(True)
    monkeypatch.setenv(protocol.ENVIRONMENT_VARIABLE, str(own.detach()))
    with other:
        inherited = inherited_launcher()
        assert inherited is not None
        with inherited:
            assert not inherited.get_inheritable()
            other.send(b"hello")
            assert inherited.recv(100) == b"hello"
        assert inherited_launcher() is None
