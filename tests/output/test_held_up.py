"""Pumps whose thread a disk holds up, and what that costs others; and hosts without a thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from jobmaster import threads
from jobmaster.output import moving, pump
from jobmaster.output.log import OutputLog
from jobmaster.output.pump import Pump, open_pipe
from jobmaster.threads import NoThread


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A disk that does not answer writes to one file until `answers` is set."""

    fd: int
    asked: threading.Event = field(default_factory=threading.Event)
    answers: threading.Event = field(default_factory=threading.Event)

    def stall(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Stands between the pump and the kernel."""
        splice = os.splice

        def stalled(source: int, target: int, count: int, *, offset_dst: int) -> int:
            if target == self.fd:
                self.asked.set()
                self.answers.wait()
            return splice(source, target, count, offset_dst=offset_dst)

        monkeypatch.setattr(os, "splice", stalled)


def job_that_wrote(path: Path, data: bytes) -> tuple[Pump, OutputLog]:
    """The pump of a job that has ended."""
    log = OutputLog(path)
    read_end, write_end = open_pipe()
    os.write(write_end, data)
    os.close(write_end)
    return Pump(read_end, log), log


async def test_an_abandoned_move_takes_no_others_thread(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A job that ended while its disk held up its pump leaves every thread of the bound to others, until it is let."""
    monkeypatch.setattr(moving, "PUMPS", trio.CapacityLimiter(1))
    held_up, its_log = job_that_wrote(tmp_path / "held up", b"lost")
    disk = Disk(fd=its_log.fd)
    disk.stall(monkeypatch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(held_up.finish)
        await trio.to_thread.run_sync(disk.asked.wait)
        for _ in range(2):
            mock_clock.jump(pump.FINISH_SECONDS)
            await wait_all_tasks_blocked()
    assert (its_log.size, its_log.lost) == (0, 4)
    assert moving.PUMPS.available_tokens == 1
    other, log = job_that_wrote(tmp_path / "other", b"kept")
    await other.finish()
    assert (log.size, log.lost) == (4, 0)
    disk.answers.set()
    while moving.PUMPS.borrowed_tokens:
        await trio.lowlevel.checkpoint()
    assert moving.PUMPS.total_tokens == 1
    await other.close()


async def test_the_rest_waits_for_a_thread(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A host that has no thread at the moment a job ends costs it no output, if it has one within the deadline."""
    ended, log = job_that_wrote(tmp_path / "job", b"kept")
    exhausted = [True] * 10

    async def run_in_thread(_: trio.CapacityLimiter, function: Callable[..., Any], *args: Any, abandon: bool) -> Any:
        await trio.lowlevel.checkpoint()
        assert abandon
        if exhausted and exhausted.pop():
            raise NoThread("none")
        return function(*args)

    for module in (pump, threads):
        monkeypatch.setattr(module, "run_in_thread", run_in_thread)
    await ended.finish()
    assert (log.size, log.lost) == (4, 0)
    await ended.close()
