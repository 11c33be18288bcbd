"""A job's input over a real pipe: in order, exactly once, bounded, and the same for the server that follows."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import tty
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from jobmaster.errors import InputClosed, InputRefused, InvalidRequest
from jobmaster.launcher.packets import close_all
from jobmaster.run import stdin as stdin_module
from jobmaster.run.stdin import (
    _RETRY_SECONDS,
    CAPACITY,
    CLOSE_SECONDS,
    FEEDERS,
    PIPE_SIZE,
    WIDE_CAPACITY,
    Stdin,
    _Ends,
    open_input_pipe,
    open_queue,
)
from jobmaster.threads import LAST_PAUSE
from tests.run.feeding import input_at
from tests.run.launching import DEADLINE, read_to_end

KILLS: Final = 15
TRIES: Final = 5
TOO_MUCH: Final = 2 * (WIDE_CAPACITY + PIPE_SIZE)
"""Bytes that are not taken for a job that reads nothing."""


class Fed:
    """An input, the job's end of its pipe, and how often the launcher was told to close its own."""

    def __init__(self) -> None:
        self.read_end, self.pipe = open_input_pipe()
        self.queue = open_queue()
        self.told = 0
        self.stdin = self.another_server(self.queue, self.pipe)

    def another_server(self, queue: int, pipe: int | None) -> Stdin:
        """The input as another server takes it over."""
        return Stdin(queue, pipe, close_kept=self.tell)

    async def tell(self) -> None:
        """The launcher closes its duplicate."""
        self.told += 1


@pytest.fixture
async def fed() -> AsyncIterator[Fed]:  # noqa: ASYNC124  # it needs Trio's loop
    """An input that nobody moves yet."""
    made = Fed()
    yield made
    made.stdin.leave()
    os.close(made.read_end)


@asynccontextmanager
async def moving(stdin: Stdin) -> AsyncIterator[None]:
    """What is accepted is moved, for the block."""
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stdin.run)  # noqa: ASYNC113  # nothing depends on when it begins
            yield
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Returns when this holds, which threads and the kernel bring about."""
    while not condition():
        await trio.lowlevel.checkpoint()


async def read_exactly(fd: int, count: int) -> bytes:
    """So many bytes of a pipe."""
    data = b""
    while len(data) < count:
        await trio.lowlevel.wait_readable(fd)
        data += os.read(fd, count - len(data))
    return data


async def test_all_of_it_arrives(fed: Fed) -> None:
    """Every byte in order, whatever the sizes of the pieces, then end-of-file, of which the launcher is told before and after."""
    async with moving(fed.stdin):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_pieces, fed.stdin, [1, 0, 4095, 200_000, 65_536, 3])
            assert await read_exactly(fed.read_end, 269_635) == input_at(0, 269_635)
        fed.stdin.end(269_635)
        assert await read_to_end(fed.read_end) == b""
        await until(lambda: fed.told == 2)
    assert (fed.stdin.has_ended, fed.stdin.is_read) == (True, False)


async def write_pieces(stdin: Stdin, sizes: list[int]) -> None:
    """Writes pieces of these sizes."""
    for size in sizes:
        await stdin.write(stdin.accepted, input_at(stdin.accepted, size))


async def write_until_closed(stdin: Stdin) -> None:
    """Writes more than there is space for, until it is told that nobody reads it."""
    with pytest.raises(InputClosed, match="reads no more"):
        await stdin.write(0, bytes(TOO_MUCH))


async def test_a_job_that_reads_nothing(fed: Fed) -> None:
    """No more than the pipe and `CAPACITY` is taken for it, and the writer waits for the rest."""
    async with moving(fed.stdin), trio.open_nursery() as nursery:
        nursery.start_soon(write_pieces, fed.stdin, [TOO_MUCH])
        await until(lambda: fed.stdin.accepted >= PIPE_SIZE + CAPACITY)
        await wait_all_tasks_blocked(0.01)
        assert fed.stdin.accepted == PIPE_SIZE + CAPACITY
        assert await read_exactly(fed.read_end, TOO_MUCH) == input_at(0, TOO_MUCH)
    assert fed.stdin.accepted == TOO_MUCH


class Grant:
    """Counts how often it was released."""

    def __init__(self) -> None:
        self.released = 0

    def release(self) -> None:
        """As `WideGrant.release`."""
        self.released += 1


async def test_a_writer_with_a_grant(fed: Fed) -> None:
    """More is taken; when it leaves, its grant stays taken until the job has read so much that the queue is small."""
    grant = Grant()
    async with moving(fed.stdin):
        async with trio.open_nursery() as nursery:
            with fed.stdin.wide_by(grant):
                nursery.start_soon(write_pieces, fed.stdin, [TOO_MUCH])
                await until(lambda: fed.stdin.accepted >= WIDE_CAPACITY)
                await wait_all_tasks_blocked(0.01)
                assert fed.stdin.accepted == WIDE_CAPACITY
            nursery.cancel_scope.cancel()
        assert grant.released == 0
        await read_exactly(fed.read_end, WIDE_CAPACITY)
        await until(lambda: grant.released == 1)
        with fed.stdin.wide_by(another := Grant()):
            pass
    assert (grant.released, another.released) == (1, 1)


async def test_a_hostile_writer(fed: Fed) -> None:
    """Who attaches, fills the queue and leaves, again and again, has the grants taken; the next one with a grant answers."""
    grants = [Grant(), Grant()]
    with fed.stdin.wide_by(grants[0]):
        await fed.stdin.write(0, bytes(WIDE_CAPACITY))
    with fed.stdin.wide_by(None):
        assert grants[0].released == 0
    with fed.stdin.wide_by(grants[1]):
        assert [grant.released for grant in grants] == [1, 0]
    assert grants[1].released == 0
    await fed.stdin.close()
    assert [grant.released for grant in grants] == [1, 1]


async def test_what_nobody_reads_costs_no_memory(fed: Fed) -> None:
    """The queue of a job that reads no more is freed, and with it the grant."""
    grant = Grant()
    with fed.stdin.wide_by(grant):
        await fed.stdin.write(0, bytes(WIDE_CAPACITY))
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, fed.read_end)
    os.close(null)
    async with moving(fed.stdin):
        await until(lambda: fed.told == 2)
        assert (os.fstat(fed.queue).st_blocks, grant.released) == (0, 1)


async def test_what_is_moved_costs_no_memory(fed: Fed) -> None:
    """The queue has no pages when all is in the pipe, though its size is all that was ever accepted."""
    async with moving(fed.stdin):
        for _ in range(5):
            await fed.stdin.write(fed.stdin.accepted, bytes(10_000))
            await read_exactly(fed.read_end, 10_000)
        await until(lambda: os.fstat(fed.queue).st_blocks == 0)
        assert os.fstat(fed.queue).st_size == 50_000


async def test_what_is_in_the_pipe_stays_when_the_queue_is_freed(fed: Fed) -> None:
    """The pipe refers to pages of the queue; neither freeing these nor what comes after changes them."""
    async with moving(fed.stdin):
        for _ in range(10):
            await fed.stdin.write(fed.stdin.accepted, input_at(fed.stdin.accepted, 1_000))
            await until(lambda: os.fstat(fed.queue).st_blocks == 0)
        assert await read_exactly(fed.read_end, 10_000) == input_at(0, 10_000)


async def test_the_job_reads_no_more(fed: Fed) -> None:
    """Its writer is told, also one that waits for space, and the launcher closes its end as well."""
    async with moving(fed.stdin):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_until_closed, fed.stdin)
            await wait_all_tasks_blocked(0.01)
            null = os.open("/dev/null", os.O_RDONLY)
            os.dup2(null, fed.read_end)
            os.close(null)
        with pytest.raises(InputClosed):
            await fed.stdin.write(fed.stdin.accepted, b"more")
        with pytest.raises(InputClosed):
            fed.stdin.end(fed.stdin.accepted)
        await until(lambda: fed.told == 2)
    assert (fed.stdin.is_read, fed.stdin.has_ended) == (False, False)


async def test_nothing_after_the_end(fed: Fed) -> None:
    """What comes after the end is refused; the end again, and bytes from before, are not."""
    await fed.stdin.write(0, b"all")
    fed.stdin.end(3)
    fed.stdin.end(3)
    await fed.stdin.write(1, b"ll")
    with pytest.raises(InputClosed, match="ended"):
        await fed.stdin.write(3, b" more")


@pytest.mark.parametrize("offset", [4, 2**60])
async def test_missing_bytes(fed: Fed, offset: int) -> None:
    """Bytes or an end beyond what has come are refused, and nothing of them is taken."""
    await fed.stdin.write(0, b"abc")
    with pytest.raises(InvalidRequest, match="from 3 on"):
        await fed.stdin.write(offset, b"x")
    with pytest.raises(InvalidRequest):
        fed.stdin.end(offset)
    assert (fed.stdin.accepted, fed.stdin.has_ended) == (3, False)


async def test_bytes_that_come_twice(fed: Fed) -> None:
    """A writer that goes on before where it was is only heard from there on."""
    await fed.stdin.write(0, b"abc")
    await fed.stdin.write(0, b"ab")
    await fed.stdin.write(1, b"bcdef")
    async with moving(fed.stdin):
        assert await read_exactly(fed.read_end, 6) == b"abcdef"
    assert fed.stdin.accepted == 6


async def test_one_writer(fed: Fed) -> None:  # noqa: ASYNC124  # scopes need Trio's loop
    """Another one is refused as long as there is one, and not after."""
    with fed.stdin.written_by("one"), pytest.raises(InputRefused), fed.stdin.written_by("another"):
        pass
    with fed.stdin.written_by("another"):
        pass


async def test_a_writer_that_comes_again(fed: Fed) -> None:
    """It takes the place of its own old connection, whose bytes, the same, count once wherever that was."""

    async def write(data: bytes) -> None:
        with fed.stdin.written_by("one"):
            await fed.stdin.write(0, data)

    data = input_at(0, TOO_MUCH)
    async with moving(fed.stdin), trio.open_nursery() as nursery:
        nursery.start_soon(write, data)
        await wait_all_tasks_blocked(0.01)
        assert 0 < fed.stdin.accepted < len(data)
        nursery.start_soon(write, data)
        assert await read_exactly(fed.read_end, len(data)) == data
    assert fed.stdin.accepted == len(data)


async def test_the_next_server_goes_on(fed: Fed) -> None:
    """It finds how much was accepted, moves what was not moved, and the end that was not reached."""
    data = input_at(0, CAPACITY)
    await fed.stdin.write(0, data)
    fed.stdin.end(CAPACITY)
    queue, pipe = os.dup(fed.queue), os.dup(fed.pipe)
    fed.stdin.leave()
    heir = fed.another_server(queue, pipe)
    assert (heir.accepted, heir.has_ended, heir.is_read) == (CAPACITY, True, True)
    async with moving(heir):
        assert await read_to_end(fed.read_end) == data
        await until(lambda: fed.told == 2)
    heir.leave()


async def test_the_next_server_finds_it_closed(fed: Fed) -> None:
    """A queue that was given back without a pipe is one that takes nothing more."""
    await fed.stdin.write(0, b"abc")
    heir = fed.another_server(os.dup(fed.queue), None)
    assert (heir.accepted, heir.has_ended, heir.is_read) == (3, False, False)
    with pytest.raises(InputClosed):
        await heir.write(3, b"d")
    heir.leave()


async def test_leaving_while_the_launcher_closes(fed: Fed) -> None:
    """Who leaves does not close a pipe that the launcher was told to close: it may be the last who does, and have to wait."""
    queue, pipe = os.dup(fed.queue), os.dup(fed.pipe)
    fed.stdin.leave()
    heir = Stdin(queue, pipe, close_kept=trio.sleep_forever)
    heir.end(0)
    async with moving(heir):
        await wait_all_tasks_blocked()
    heir.leave()
    os.close(pipe)  # which is open
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(queue)


async def test_a_kernel_that_moves_nothing(fed: Fed, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sendfile(2) that moves no byte though there are some is tried again after a pause, and no thread spins meanwhile."""
    move, calls = os.sendfile, 0

    def move_nothing(out: int, source: int, offset: None, count: int) -> int:
        nonlocal calls
        calls += 1
        return move(out, source, offset, count) if calls > TRIES else 0

    monkeypatch.setattr(os, "sendfile", move_nothing)
    await fed.stdin.write(0, b"abc")
    async with moving(fed.stdin):
        for number in range(TRIES):
            await until(lambda: 0 < trio.lowlevel.current_statistics().seconds_to_next_deadline < 1)
            assert calls == number + 1
            mock_clock.jump(_RETRY_SECONDS)
        await until(lambda: calls > TRIES)
    await fed.stdin.close()
    assert await read_to_end(fed.read_end) == b"abc"


async def test_closing_while_a_thread_moves(fed: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who closes does not wait for a thread that the job holds up; the thread closes the descriptors when it comes out."""
    entered, may_go = threading.Event(), threading.Event()
    free, total = FEEDERS.available_tokens, FEEDERS.total_tokens
    move = os.sendfile

    def held_up(out: int, source: int, offset: None, count: int) -> int:
        entered.set()
        may_go.wait(DEADLINE)
        return move(out, source, offset, count)

    monkeypatch.setattr(os, "sendfile", held_up)
    await fed.stdin.write(0, b"abc")
    async with moving(fed.stdin):
        await trio.to_thread.run_sync(entered.wait)
    await fed.stdin.close()
    os.fstat(fed.queue)
    assert (fed.stdin.left_threads.count, FEEDERS.available_tokens) == (1, free)
    may_go.set()
    assert await read_to_end(fed.read_end) == b"abc"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fed.queue)
    await until(lambda: fed.stdin.left_threads.count == 0)
    assert FEEDERS.total_tokens == total


async def test_a_thread_that_closes_and_is_held_up(
    fed: Fed, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has the lock of the pipe holds up the thread that closes it, which counts until it comes out."""
    entered, may_go = threading.Event(), threading.Event()

    def held_up(descriptors: list[int]) -> None:
        entered.set()
        may_go.wait(DEADLINE)
        close_all(descriptors)

    monkeypatch.setattr(stdin_module, "close_all", held_up)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fed.stdin.close)
        await trio.to_thread.run_sync(entered.wait)
        mock_clock.jump(CLOSE_SECONDS)
    assert fed.stdin.left_threads.count == 1
    may_go.set()
    await until(lambda: fed.stdin.left_threads.count == 0)


async def test_closing_without_a_thread(fed: Fed, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job may have the lock of the pipe: that is closed by no event loop, but when there is a thread."""
    run_sync = trio.to_thread.run_sync

    async def refuse(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(trio.to_thread, "run_sync", refuse)
    fed.stdin.end(0)
    async with moving(fed.stdin):
        for _ in range(2):
            await wait_all_tasks_blocked()
            mock_clock.jump(CLOSE_SECONDS)
        await wait_all_tasks_blocked()
        os.fstat(fed.pipe)
        assert fed.stdin.left_threads.count == 1
        monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
        mock_clock.jump(LAST_PAUSE)
        assert await read_to_end(fed.read_end) == b""
    await until(lambda: fed.stdin.left_threads.count == 0)
    await fed.stdin.close()


async def test_a_thread_does_not_wait_for_what_nobody_reads(fed: Fed) -> None:
    """A pipe that stays full, and a terminal that no process has open, are left by the thread that moves, soon."""
    await fed.stdin.write(0, bytes(CAPACITY))
    master, slave = os.openpty()
    os.set_blocking(master, False)
    tty.setraw(slave)  # else the kernel may take lines without an end, and forget them
    os.close(slave)
    os.write(fed.pipe, bytes(PIPE_SIZE))
    for end in (master, fed.pipe):
        moving = _Ends(os.dup(fed.queue), end)
        with pytest.raises(OSError):  # noqa: PT011  # EIO or EAGAIN
            await trio.to_thread.run_sync(moving.move, CAPACITY)
        os.close(moving.queue)
    os.close(master)


def test_servers_killed_at_any_moment() -> None:
    """Each goes on where the one before was killed: the job reads every byte once and in order."""
    random = Random(7)
    read_end, pipe = open_input_pipe()
    queue = open_queue()
    reader = _Reader(read_end)
    for _ in range(KILLS):
        command = [sys.executable, "-m", "tests.run.feeding", str(queue), str(pipe)]
        feeder = subprocess.Popen(command, pass_fds=(queue, pipe))
        reader.wait_for(reader.read + 1_000_000)
        threading.Event().wait(random.uniform(0, 0.01))
        feeder.kill()
        feeder.wait()
    size, moved = os.fstat(queue).st_size, os.lseek(queue, 0, os.SEEK_CUR)
    os.set_blocking(pipe, True)
    while moved < size:
        moved += os.sendfile(pipe, queue, None, size - moved)
    os.close(pipe)
    os.close(queue)
    reader.join()
    assert (reader.wrong, reader.read) == (0, size)


class _Reader(threading.Thread):
    """A job that checks what it reads."""

    def __init__(self, fd: int) -> None:
        super().__init__(daemon=True)
        self._fd = fd
        self._progress = threading.Condition()
        self.read = self.wrong = 0
        self.start()

    def run(self) -> None:
        """Reads to the end."""
        while data := os.read(self._fd, 50_000):
            self.wrong += data != input_at(self.read, len(data))
            with self._progress:
                self.read += len(data)
                self._progress.notify_all()
        os.close(self._fd)

    def wait_for(self, count: int) -> None:
        """Returns when so much has been read."""
        with self._progress:
            assert self._progress.wait_for(lambda: self.read >= count, DEADLINE)
