"""Servers that do not begin, or do not end: what the launcher does about them, by a clock of the test's own."""

from __future__ import annotations

import heapq
import itertools
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Final

import pytest

from jobmaster.launcher import kernel, servers
from jobmaster.launcher.kept import Kept
from jobmaster.launcher.notification import Notifier
from jobmaster.launcher.origin import Origin
from jobmaster.launcher.pipe_locks import Waiting
from jobmaster.launcher.poller import Poller
from jobmaster.launcher.protocol import Close, Message, Ready, encode
from jobmaster.launcher.servers import Hooks, Servers
from jobmaster.launcher.snapshot import Snapshot
from jobmaster.launcher.succession import Succession
from jobmaster.launcher.table import Table

DEADLINE: Final = 60
ALIVE: Final = kernel.ProcessStat(is_zombie=False, is_dying=False, executed=True, start_time=1, exit_code=0)


class FakePoller(Poller):
    """Its timers go by a clock that the test sets; descriptors are not watched."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def watch(self, fd: int, handler: Callable[[], None], *, readable: bool = True, writable: bool = False) -> None:
        """Does nothing."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Calls back when the clock has gone so far."""
        heapq.heappush(self._due, (self.now + seconds, next(self._count), callback))

    def go_on(self, seconds: float) -> None:
        """Lets time pass."""
        end = self.now + seconds
        while self._due and self._due[0][0] <= end:
            self.now, _, callback = heapq.heappop(self._due)
            callback()
        self.now = end


class Case:
    """The servers of a launcher, one of which there is: a process that never does anything."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        sock: socket.socket,
        other: socket.socket,
        *,
        is_first: bool,
        is_to_stop: bool,
    ) -> None:
        self.process = process
        self.poller = FakePoller()
        self.killed_jobs = 0
        self.asked: list[bool] = []
        self.holders: list[str] = []
        self.said: list[tuple[Message, bool]] = []
        self.other = other
        succession = Succession()
        succession.is_stopping = is_to_stop
        if not is_first:
            succession.on_ready(0.0, max_gap=1000, max_crashes=5)
        origin = Origin((), oom_score=0, open_files=(100, 100))
        known = Snapshot(origin, Table(), Kept(), succession, servers=0, told="")
        hooks = Hooks(
            on_message=lambda received: self.said.append((received.message, self.servers.lives())),
            on_gone=lambda: None,
            kill_jobs=self._kill_jobs,
            renew=lambda: None,
            end_holders=self._end_holders,
        )
        self.servers = Servers(self.poller, known, ("/nonexistent",), Notifier(None), hooks)
        self.servers.use(process.pid, os.pidfd_open(process.pid), sock)

    def _kill_jobs(self) -> None:
        self.killed_jobs += 1

    def _end_holders(self, _waiting: Waiting, is_sure: bool) -> list[str]:  # as it is called
        self.asked.append(is_sure)
        return self.holders

    def has_died(self) -> bool:
        """Whether the server has; one that is killed may take its time."""
        poll = select.poll()
        with open(os.pidfd_open(self.process.pid), "rb", buffering=0) as pidfd:  # a descriptor
            poll.register(pidfd, select.POLLIN)
            return bool(poll.poll(0))

    def status(self) -> int:
        """How it has ended."""
        return self.process.wait(DEADLINE)


@contextmanager
def serving(*, is_first: bool = False, is_to_stop: bool = False) -> Iterator[Case]:
    """Such servers for the block."""
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    deaf = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); sys.stdin.read()"
    with (
        closing(other),
        subprocess.Popen([sys.executable, "-c", deaf], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        case = Case(process, own, other, is_first=is_first, is_to_stop=is_to_stop)
        try:
            yield case
        finally:
            process.kill()
            if case.servers.current is not None and case.servers.current.pid is not None:
                case.servers.current.on_reaped()  # closes what there is of it


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process looks as if it had died and could not be reaped."""
    monkeypatch.setattr(kernel, "read_stat", lambda _pid: ALIVE._replace(is_zombie=True, is_dying=True))


@pytest.mark.parametrize(("is_to_stop", "seconds"), [(False, servers.READY_SECONDS), (True, servers.STOP_SECONDS)])
def test_a_next_server_that_is_never_ready(capfd: pytest.CaptureFixture[str], is_to_stop: bool, seconds: float) -> None:
    """It is killed when its time is over, not before, and followed; one line says why."""
    with serving(is_to_stop=is_to_stop) as case:
        case.poller.go_on(seconds - 1)
        assert not case.has_died()
        case.poller.go_on(1)
        assert case.status() == -signal.SIGKILL
        case.servers.on_reaped({case.process.pid: signal.SIGKILL})
        said = capfd.readouterr().err.splitlines()
        assert said[0].startswith(f"jobmaster: the server was not ready {seconds:g} s after its start, and was killed")
        assert case.servers.current is None
        assert case.servers.has_ended == is_to_stop


def test_a_server_that_is_ready_in_time() -> None:
    """No time is over for a server that was ready; nor for one that has begun to end the jobs, however long that takes."""
    with serving() as case, serving(is_to_stop=True) as other:
        case.servers.on_ready(Ready())
        case.servers.pass_on(signal.SIGTERM)
        other.servers.on_stopping()
        other.servers.pass_on(signal.SIGTERM)
        for each in (case, other):
            each.poller.go_on(10 * servers.READY_SECONDS)
            assert not each.has_died()


def test_a_first_server_may_take_its_time() -> None:
    """Nobody waits for it but who started it."""
    with serving(is_first=True) as case:
        case.poller.go_on(10 * servers.READY_SECONDS)
        assert not case.has_died()


@pytest.mark.parametrize(("is_first", "seconds"), [(False, servers.END_SECONDS), (True, servers.STOP_SECONDS)])
def test_a_signal_to_end_that_is_not_heeded(
    capfd: pytest.CaptureFixture[str],
    is_first: bool,
    seconds: float,
) -> None:
    """A server that is not ready is killed; the next one ends the jobs, where there can be any."""
    with serving(is_first=is_first) as case:
        case.servers.pass_on(signal.SIGTERM)
        case.poller.go_on(seconds - 1)
        assert not case.has_died()
        case.poller.go_on(1)
        assert case.status() == -signal.SIGKILL
        case.servers.on_reaped({case.process.pid: signal.SIGKILL})
        assert f"the server was not ready {seconds:g} s after the signal to end" in capfd.readouterr().err
        assert case.servers.has_ended == is_first


@pytest.mark.usefixtures("dead")
def test_a_dead_server_that_cannot_be_reaped(capfd: pytest.CaptureFixture[str]) -> None:
    """The gap begins when it has been seen twice; then the jobs that may hold it up are asked for, again and again."""
    with serving() as case:
        case.servers.on_ready(Ready(max_gap=1000))
        gaps = []
        for _ in range(servers.DEAD_LOOKS):
            gaps.append(case.servers.succession.gap_since is not None)
            case.poller.go_on(servers.LOOK_SECONDS)
        gaps.append(case.servers.succession.gap_since is not None)
        assert gaps == [False, False, True]
        case.poller.go_on(servers.STUCK_LOOKS * servers.LOOK_SECONDS)
        assert case.asked == [False]
        case.poller.go_on(servers.STUCK_LOOKS * servers.LOOK_SECONDS)
        assert case.asked == [False, True]
        assert "the server has died, but is left in the kernel" in capfd.readouterr().err
        case.holders = ["one", "two"]
        case.poller.go_on(servers.STUCK_LOOKS * servers.LOOK_SECONDS)
        assert capfd.readouterr().err.endswith(
            "has died, but waits for pipes that jobs have locked; they are ended: one, two\n"
        )
        assert (case.killed_jobs, case.servers.has_ended) == (0, False)


@pytest.mark.usefixtures("dead")
def test_a_signal_to_end_for_a_dead_server(capfd: pytest.CaptureFixture[str]) -> None:
    """Where no other server can follow to end the jobs in time, the launcher does."""
    with serving() as case:
        case.servers.on_ready(Ready(max_gap=1000))
        case.poller.go_on(2 * servers.LOOK_SECONDS)
        case.servers.pass_on(signal.SIGTERM)
        case.poller.go_on(servers.END_SECONDS - 1)
        assert not case.servers.has_ended
        case.poller.go_on(1)
        assert (case.servers.has_ended, case.servers.exit_status()) == (True, 1)
        assert "cannot be followed by another one; its jobs are ended" in capfd.readouterr().err


@pytest.mark.usefixtures("dead")
def test_a_server_that_dies_while_it_ends_the_jobs() -> None:
    """Its time to be reaped begins when it is seen to be dead."""
    with serving() as case:
        case.servers.on_ready(Ready(max_gap=1000))
        case.servers.on_stopping()
        case.poller.go_on(2 * servers.LOOK_SECONDS)
        case.poller.go_on(servers.END_SECONDS - 1)
        assert not case.servers.has_ended
        case.poller.go_on(1)
        assert case.servers.has_ended


def test_a_server_whose_own_end_takes_long(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has ended the jobs, and said so, is not taken for one that has not: it ends with its own status."""
    with serving() as case:
        case.servers.on_ready(Ready(max_gap=1000))
        case.servers.pass_on(signal.SIGTERM)
        case.servers.on_stopping()
        case.poller.go_on(servers.END_SECONDS - 5 * servers.LOOK_SECONDS)
        case.servers.on_farewell()
        monkeypatch.setattr(kernel, "read_stat", lambda _pid: ALIVE._replace(is_zombie=True, is_dying=True))
        case.poller.go_on(11 * servers.LOOK_SECONDS)  # its threads are left in the kernel
        assert not case.servers.has_ended
        case.servers.on_reaped({case.process.pid: 0})
        assert (case.servers.has_ended, case.servers.exit_status()) == (True, 0)
        assert "its jobs are ended" not in capfd.readouterr().err


@pytest.mark.parametrize(("status", "code"), [(0, 0), (3 << 8, 3), (None, 1)])
def test_a_server_whose_end_is_not_awaited(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, status: int | None, code: int
) -> None:
    """The launcher ends as one did that cannot be reaped, where the kernel tells how."""
    stat = ALIVE._replace(is_zombie=True, is_dying=True, exit_code=status or 0)
    monkeypatch.setattr(kernel, "read_stat", lambda _pid: stat)
    monkeypatch.setattr(kernel, "tells_exit_code", lambda _pid: status is not None)
    with serving() as case:
        case.servers.on_ready(Ready(max_gap=1000))
        case.servers.on_stopping()
        case.servers.on_farewell()
        case.poller.go_on(servers.END_SECONDS + servers.DEAD_LOOKS * servers.LOOK_SECONDS)
        assert (case.servers.has_ended, case.servers.exit_status()) == (True, code)
        assert capfd.readouterr().err.endswith(
            "the server has not died within 10 s of its end; does its output disk answer?\n"
        )


def test_a_server_that_is_about_to_be_reaped(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is seen to be dead for the first time may have said farewell: that is read before anything is made of it."""
    with serving() as case:
        case.servers.on_ready(Ready(max_gap=1000))
        case.poller.go_on(servers.LOOK_SECONDS / 2)
        case.servers.pass_on(signal.SIGTERM)
        case.poller.go_on(servers.END_SECONDS - servers.LOOK_SECONDS)
        monkeypatch.setattr(kernel, "read_stat", lambda _pid: ALIVE._replace(is_zombie=True, is_dying=True))
        case.poller.go_on(servers.LOOK_SECONDS)
        case.servers.on_farewell()
        case.servers.on_reaped({case.process.pid: 0})
        assert (case.servers.has_ended, case.servers.exit_status()) == (True, 0)
        assert capfd.readouterr().err == ""


def test_the_last_words_of_a_server() -> None:
    """What it has said is heard when it was reaped; that it can no longer close its own descriptors is known then."""
    with serving() as case:
        close = Close(id="a", keeps=("stdin",))
        case.other.send(encode(close))
        case.process.kill()
        case.process.wait(DEADLINE)
        case.servers.on_ready(Ready())
        case.servers.on_reaped({case.process.pid: signal.SIGKILL})
        assert case.said == [(close, False)]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> float:
    """The service manager waits for signs of life, so many seconds."""
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    return 60.0


def test_a_server_that_falls_silent(watched: float, capfd: pytest.CaptureFixture[str]) -> None:
    """As long as it says that it is alive it lives; when it is silent for longer it is killed, and its jobs go on."""
    with serving() as case:
        case.servers.on_ready(Ready())
        for _ in range(5):
            case.servers.on_alive()
            case.poller.go_on(watched)
        assert not case.has_died()
        case.poller.go_on(1)
        assert case.status() == -signal.SIGKILL
        case.servers.on_reaped({case.process.pid: signal.SIGKILL})
        said = capfd.readouterr().err
        assert "the server has not said that it is alive for 61 s, and was killed; its jobs go on" in said
        assert (case.servers.has_ended, case.killed_jobs) == (False, 0)


def test_servers_that_may_be_silent(watched: float) -> None:
    """One that has never said that it is alive, one that ends, and one that hands over are left alone."""
    with serving() as old, serving() as ending, serving() as leaving:
        for case in (old, ending, leaving):
            case.servers.on_ready(Ready())
        ending.servers.on_alive()
        ending.servers.on_stopping()
        leaving.servers.on_alive()
        leaving.servers.current.hands_over = True  # type: ignore[union-attr]  # there is one
        for case in (old, ending, leaving):
            case.poller.go_on(10 * watched)
            assert not case.has_died()


def test_silence_without_a_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no service manager waits, nobody is killed for it."""
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    with serving() as case:
        case.servers.on_ready(Ready())
        case.servers.on_alive()
        case.poller.go_on(10_000)
        assert not case.has_died()
