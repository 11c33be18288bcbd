"""Followers whose disk does not answer: they can be left, and nothing stays open."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from jobmaster.output.log import OutputLog, StoredOutput, Stretch

DEADLINE = 20.0


@pytest.fixture
def stall() -> Iterator[threading.Event]:
    """Set when the disk answers again; at the latest when the test ends, for the thread's sake."""
    answers = threading.Event()
    yield answers
    answers.set()


async def test_a_read_that_stalls_can_be_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stall: threading.Event
) -> None:
    """A follower that is cancelled while the disk holds up its read ends at once."""
    log = OutputLog(tmp_path / "job.log")
    os.write(log.fd, b"x")

    def stalling_read(*_: object) -> bytes:
        stall.wait(DEADLINE)
        return b"x"

    monkeypatch.setattr(os, "pread", stalling_read)
    with trio.fail_after(DEADLINE / 2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Stretch(log.fd, 0, 1).read, 0, 1)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    os.close(log.fd)


async def test_an_opening_that_stalls_can_be_left(tmp_path: Path) -> None:
    """A follower that is cancelled while its file is being opened ends at once; what is opened later is closed."""
    path = tmp_path / "job.log"
    os.mkfifo(path)  # it opens when somebody opens the other end

    async def follow() -> None:
        async with aclosing(StoredOutput(path=path, size=1, lost=0).follow()) as stretches:
            await anext(stretches)

    with trio.fail_after(DEADLINE / 2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    other_end = await trio.to_thread.run_sync(os.open, path, os.O_WRONLY)
    poll = select.poll()
    poll.register(other_end, 0)
    assert await trio.to_thread.run_sync(poll.poll, DEADLINE * 1000) == [(other_end, select.POLLERR)]
    os.close(other_end)
