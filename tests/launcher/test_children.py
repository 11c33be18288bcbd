"""What the launcher sees of its children. Where it reaps, a process of its own plays it, so that it has no others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Final

import pytest

from jobmaster.launcher import children, kernel
from jobmaster.launcher.child import Heritage
from jobmaster.launcher.children import Children
from jobmaster.launcher.poller import Poller
from jobmaster.launcher.protocol import Executed, Exited, Message
from jobmaster.launcher.table import Entry, Table

COUNT: Final = 300
SCRIPT: Final = f"""
import os
from jobmaster.launcher.child import Heritage
from jobmaster.launcher.children import Children
from jobmaster.launcher.poller import Poller

expected = {{}}
for number in range({COUNT}):
    pid = os.fork()
    if pid == 0:
        os._exit(number % 256)
    expected[pid] = number % 256
for pid in expected:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
children = Children(Poller(), lambda *_: None, Heritage(ignored=(), last_capability=0))
reaped = []
while not reaped or not reaped[-1].is_all:
    reaped.append(children.collect())
statuses = {{pid: os.waitstatus_to_exitcode(status) for each in reaped for pid, status in each.others.items()}}
assert statuses == expected
print(max(len(each.others) for each in reaped))
"""


def test_a_crowd_of_the_dead_is_reaped_in_batches() -> None:
    """Nobody can hold up the launcher by dying: it reaps a bounded number, and goes on later until none is left."""
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, timeout=60, check=True)
    assert 0 < int(ended.stdout) < COUNT / 2


def test_a_child_that_is_dying_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at once, as its pipe that has ended would ask for, but from time to time, until it is known what became of it."""
    looks = [False, False, True]
    monkeypatch.setattr(kernel, "has_memory", lambda _pid: looks.pop(0))
    poller, said = Poller(), list[Message]()
    waits = list[float]()
    call_later = poller.call_later

    def wait(seconds: float, call: Callable[[], None]) -> None:
        waits.append(seconds)
        call_later(seconds, call)

    monkeypatch.setattr(poller, "call_later", wait)

    def say(message: Message, _: tuple[int, ...]) -> None:
        said.append(message)

    with subprocess.Popen(["sleep", "1000"]) as child:
        errors, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.close(write_end)
        entry = Entry(id="a", pid=child.pid, pidfd=os.pidfd_open(child.pid), output=-1, errors=errors)
        table = Table()
        table.add(entry)
        Children(poller, say, Heritage(ignored=(), last_capability=0), table)
        while not said:
            poller.run_once()
        child.kill()
    os.close(entry.pidfd)
    assert said == [Executed(id="a")]
    assert len(waits) == 2


@pytest.mark.parametrize("is_withheld", [False, True])
def test_when_a_child_has_died(is_withheld: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of the death is told, also where its status is withheld for longer."""
    poller, said = Poller(), list[Message]()
    with subprocess.Popen(["sleep", "1000"]) as process:
        entry = Entry(id="a", pid=process.pid, pidfd=os.pidfd_open(process.pid), output=-1, errors=None)
        table = Table()
        table.add(entry)
        Children(poller, lambda message, _: said.append(message), Heritage(ignored=(), last_capability=0), table)
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        process.kill()
        if is_withheld:
            with monkeypatch.context() as patch:
                patch.setattr(children, "_dead_child", lambda *_: None)
                patch.setattr(children, "WITHHELD_SECONDS", 0.2)
                poller.run_once()
        after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        while not said:
            poller.run_once()
            after = after if is_withheld else time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    os.close(entry.pidfd)
    (exited,) = said
    assert isinstance(exited, Exited)
    assert exited.died_at is not None
    assert before <= exited.died_at <= after
