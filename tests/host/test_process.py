"""A child process as a pid and a pidfd, with real processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from types import SimpleNamespace
from typing import Protocol

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from jobmaster.host.process import ChildProcess
from jobmaster.job.cause import Death, Exited, Signalled

DEADLINE = 20.0


class Spawn(Protocol):
    """Runs a shell script as a child."""

    def __call__(self, script: str, stdin: int | None = None) -> ChildProcess:
        """Returns at once."""
        ...


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Runs a shell script as a child; what is left of it at the end is killed and reaped."""

    def run(script: str, stdin: int | None = None) -> ChildProcess:
        actions = [(os.POSIX_SPAWN_DUP2, stdin, 0)] if stdin is not None else []
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", script], os.environ, file_actions=actions)
        child = ChildProcess(pid)
        ends.callback(_end, child)
        return child

    with ExitStack() as ends:
        yield run


def _end(child: ChildProcess) -> None:
    child.send_signal(signal.SIGKILL)
    with suppress(ChildProcessError):
        child.reap()
    child.close()


@pytest.mark.parametrize(
    ("script", "death"),
    [
        ("exit 0", Exited(0)),
        ("exit 7", Exited(7)),
        ("exit 255", Exited(255)),
        ("kill -KILL $$", Signalled(signal.SIGKILL)),
        ("kill -TERM $$", Signalled(signal.SIGTERM)),
        ("kill -USR1 $$", Signalled(signal.SIGUSR1)),
    ],
)
async def test_how_it_died(spawn: Spawn, script: str, death: Death) -> None:
    """The exit code or the signal is told as waitid(2) has it."""
    child = spawn(script)
    with trio.fail_after(DEADLINE):
        await child.wait_died()
    assert child.reap() == death


def test_a_core_dump_is_told(spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal with a core dump is told as such; whether the host writes cores is not this test's matter."""
    child = spawn("exit 0")
    dumped = SimpleNamespace(si_code=os.CLD_DUMPED, si_status=signal.SIGSEGV)
    with monkeypatch.context() as patch:
        patch.setattr(os, "waitid", lambda *_: dumped)
        assert child.reap() == Signalled(signal.SIGSEGV, core_dumped=True)


async def test_the_dead_are_waited_for_and_keep_their_name(spawn: Spawn) -> None:
    """wait_died returns when the process dies, not before; it stays a zombie with its name until it is reaped."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    child = spawn("exec cat", read_end)
    os.close(read_end)
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child.wait_died)
            await wait_all_tasks_blocked()
            assert not child.has_died()
            os.close(write_end)
    assert child.has_died()
    assert child.program_name() == "cat"
    assert child.reap() == Exited(0)
    assert child.program_name() == ""


async def test_many_may_wait(spawn: Spawn) -> None:
    """A process that has died already is not waited for, however often it is asked."""
    child = spawn("exit 0")
    with trio.fail_after(DEADLINE):
        await child.wait_died()
        await child.wait_died()
    assert child.has_died()


async def test_a_signal_reaches_it(spawn: Spawn) -> None:
    """A signal goes to the process."""
    child = spawn("kill -STOP $$")
    child.send_signal(signal.SIGKILL)
    with trio.fail_after(DEADLINE):
        await child.wait_died()
    assert child.reap() == Signalled(signal.SIGKILL)


async def test_a_signal_to_the_dead_is_nothing(spawn: Spawn) -> None:
    """A signal to a zombie, or to a process that is reaped, changes nothing and is no error."""
    child = spawn("exit 3")
    with trio.fail_after(DEADLINE):
        await child.wait_died()
    child.send_signal(signal.SIGKILL)
    assert child.reap() == Exited(3)
    child.send_signal(signal.SIGKILL)
