"""A job's standard input: a client's bytes, through a queue that outlives the server, into the job's pipe.

Theory of operation
-------------------
The queue is a memfd. Its size is the number of bytes that were accepted from clients, in all; the position of its open
file description is the number of bytes that the pipe has taken. sendfile(2) moves bytes and position in one system call,
and write(2) bytes and size: a SIGKILL comes before or after, never between. The launcher keeps duplicates of the queue
and of the pipe's write end. So a server that follows knows both counts exactly, whenever the one before was killed: it
goes on moving where that one stopped, and tells the client at which offset to go on. Nothing is lost or doubled.

The end of the input is a seal of the queue (F_SEAL_GROW), which survives the server like the bytes. When all is moved,
the launcher is told to close its duplicate of the pipe, and then ours is closed. A queue without a pipe that is not
sealed, or has bytes left, is one whose job reads no more.

The pages of what was moved are referred to by the pipe until the job has read them. They are taken out of the queue
only when it is empty, and all of them: whole pages are left alone by that, parts of (large) ones would be zeroed. So the
queue is filled up to `CAPACITY` bytes, or `WIDE_CAPACITY`, and then again when it is empty.

Every operation on the pipe takes its lock in the kernel, which the job holds while it splices from it to a slow disk. So
none is done on the event loop. A thread that is left in such an operation closes the descriptors when it comes out. Where the
host has no thread, they stay open until it has one.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, Protocol

import trio

from jobmaster.errors import HandedOver, InputClosed, InputRefused, InvalidRequest
from jobmaster.launcher.packets import close_all
from jobmaster.threads import LeftThreads, NoThread, close_at_last, run_in_thread

CAPACITY: Final = 64 * 1024
"""Bytes that are accepted beyond what the pipe has taken, at most. With the pipe that is 192 KiB for a job that reads nothing."""
WIDE_CAPACITY: Final = 512 * 1024
"""The same for a writer that has a grant to send much: with the pipe 640 KiB, for as many jobs as there are grants. A job that a
server adopts may have so much in its queue without one, and gets no more before it has read it."""
PIPE_SIZE: Final = 128 * 1024
"""Bytes of the pipe: pieces of pages take a whole page of it, and all that is accepted should find its place at once. It does
not grow with the queue: a pipe shrinks only when the job has read what is in it, and closes before that."""
FEEDERS: Final = trio.CapacityLimiter(1_000)
"""Threads that move input and close pipes, one for each job at most, besides those that are left: a job can hold up its own."""
CLOSE_SECONDS: Final = 1.0
"""How long is waited for a thread that closes."""
_RETRY_SECONDS: Final = 0.05
_SOON: Final = 2
"""Milliseconds for which a thread waits for a job that reads, rather than to be called again for each piece."""
_FOREVER: Final = 2**62
_FALLOC_FL_KEEP_SIZE: Final = 1
_FALLOC_FL_PUNCH_HOLE: Final = 2
_libc: Final = ctypes.CDLL(None, use_errno=True)


def open_queue() -> int:
    """An empty queue."""
    return os.memfd_create("jobmaster-stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def open_input_pipe() -> tuple[int, int]:
    """A pipe for a job's input: its read end for the job, its non-blocking write end for the server."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(write_end, False)
    with suppress(OSError):  # EPERM above the user's pipe quota: the default of 64 KiB works as well, slower
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    return read_end, write_end


class Grant(Protocol):
    """Leave to be large, which others wait for."""

    def release(self) -> None:
        """It is needed no more."""


class Stdin:
    """The input of one job. `run` it while the job lives, then `close` or `leave` it; the rest is for its writer.

    Attributes:
        left_threads: those of its threads that nobody waits for any more.
    """

    def __init__(self, queue: int, pipe: int | None, *, close_kept: Callable[[], Awaitable[None]]) -> None:
        """Takes over the descriptors; goes on where an earlier server stopped.

        Args:
            queue: as `open_queue` made it.
            pipe: the write end; None where it is closed.
            close_kept: has the launcher close its duplicate of it.
        """
        self.left_threads = LeftThreads()
        self._ends = _Ends(queue, pipe)
        self._close_kept = close_kept
        self._accepted = os.fstat(queue).st_size
        self._base = min(self._moved(), self._accepted - _bytes_of_pages(queue))
        self._has_ended = bool(fcntl.fcntl(queue, fcntl.F_GET_SEALS) & fcntl.F_SEAL_GROW)
        self._is_open = pipe is not None
        self._is_being_closed = False
        """The launcher is told to close its duplicate of the pipe."""
        self._is_left = False
        self._news = trio.Event()
        """Something was accepted, or the end."""
        self._has_space = trio.lowlevel.ParkingLot()
        self._writer: tuple[str, trio.CancelScope] | None = None
        self._wide_writers = 0
        self._left_grants: list[Grant] = []
        """Of writers that have left more in the queue than would be taken without."""

    def __repr__(self) -> str:
        return (
            f"<Stdin accepted={self._accepted} {'ended' if self._has_ended else 'open' if self._is_open else 'closed'}>"
        )

    @property
    def accepted(self) -> int:
        """Bytes that were accepted: the offset at which a writer goes on."""
        return self._accepted

    @property
    def has_ended(self) -> bool:
        """Whether a writer has ended the input: nothing more is accepted."""
        return self._has_ended

    @property
    def is_read(self) -> bool:
        """Whether the job can still read what is written; after the end, what is left."""
        return self._is_open

    # --- for its writer -----------------------------------------------------------------------------------------------

    @contextmanager
    def written_by(self, writer: str) -> Iterator[trio.CancelScope]:
        """Makes the caller the only writer for the block, which is cancelled where the same writer comes again.

        A writer that reconnects may be here before its old connection is known to be lost.

        Raises:
            InputRefused: somebody else writes.
            HandedOver: this server has left the job to the next one.
        """
        self._check_not_left()
        if self._writer is not None:
            name, scope = self._writer
            if name != writer:
                raise InputRefused("another client is attached to the input of this job; attach without input to read")
            scope.cancel()
        with trio.CancelScope() as scope:
            own = self._writer = (writer, scope)
            try:
                yield scope
            finally:
                if self._writer is own:
                    self._writer = None

    @contextmanager
    def wide_by(self, grant: Grant | None) -> Iterator[None]:
        """Takes more ahead for the block, where there is a grant, which is released when the queue is small again."""
        self._wide_writers += grant is not None
        self._release_grants()
        try:
            yield
        finally:
            if grant is not None:
                self._wide_writers -= 1
                self._left_grants.append(grant)
                self._release_grants()

    def _release_grants(self) -> None:
        """Those of writers that have left: one that writes by its own grant answers for all that is in the queue."""
        is_small = self._ends.queue < 0 or self._accepted - self._base <= CAPACITY
        if is_small or self._wide_writers:
            for grant in self._left_grants:
                grant.release()
            self._left_grants.clear()

    async def write(self, offset: int, data: bytes) -> None:
        """Accepts bytes of the input; waits while there is no space for all of them, or for as many as the queue takes.

        What was accepted before is passed over. Yields only when it waits.

        Args:
            offset: of the first of them in the whole input.
            data: the bytes.

        Raises:
            InvalidRequest: bytes before them are missing.
            InputClosed: the job reads no more, or the input has ended.
            HandedOver: this server has left the job to the next one.
        """
        self._check_offset(offset)
        view, end = memoryview(data), offset + len(data)
        while self._accepted < end:
            self._check_open()
            capacity = WIDE_CAPACITY if self._wide_writers else CAPACITY
            space = self._base + capacity - self._accepted
            if space < min(end - self._accepted, capacity):
                await self._has_space.park()
            else:
                start = self._accepted - offset  # the same bytes may have come from the same writer's other connection
                self._append(view[start : start + space])
        await trio.lowlevel.checkpoint_if_cancelled()

    def end(self, offset: int) -> None:
        """Ends the input: the job reads end-of-file when it has read all. Idempotent.

        Raises:
            InvalidRequest: bytes before the offset are missing.
            InputClosed: the job reads no more.
            HandedOver: this server has left the job to the next one.
        """
        self._check_offset(offset)
        if self._has_ended:
            return
        self._check_open()
        fcntl.fcntl(self._ends.queue, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        self._has_ended = True
        self._news.set()

    def _check_offset(self, offset: int) -> None:
        if offset > self._accepted:
            raise InvalidRequest(
                f"input from byte {offset} on, but the bytes from {self._accepted} on have not come", field="offset"
            )

    def _check_not_left(self) -> None:
        if self._is_left:
            raise HandedOver("the server has handed the job over to the one that comes after it; attach again")

    def _check_open(self) -> None:
        self._check_not_left()
        if self._has_ended:
            raise InputClosed("the input of this job has been ended")
        if not self._is_open:
            raise InputClosed("the job reads no more of its input")

    def _append(self, view: memoryview) -> None:
        self._accepted += os.pwrite(self._ends.queue, view, self._accepted)
        self._news.set()

    # --- for the job's supervisor -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Moves what is accepted into the pipe, until the end is moved too or the job reads no more."""
        while self._is_open:
            if self._moved() < self._accepted:
                is_read = await self._move()
            elif is_read := not self._has_ended:
                self._empty()
                self._news = trio.Event()
                await self._news.wait()
            if not is_read:
                await self._close_pipe()

    async def _move(self) -> bool:
        """Moves some bytes; False where nobody reads them any more."""
        try:
            with self.left_threads.counted(FEEDERS) as thread:
                await run_in_thread(FEEDERS, thread.run, self._ends.move, self._accepted, abandon=True)
        except BrokenPipeError:
            return False
        except BlockingIOError:
            await self._wait_for_space()
        except (NoThread, MemoryError, NotMoved):
            await trio.sleep(_RETRY_SECONDS)
        except OSError as error:
            if error.errno == errno.EIO:  # a terminal that no process has open
                return False
            if error.errno not in {errno.ENOMEM, errno.ENOBUFS}:
                raise
            await trio.sleep(_RETRY_SECONDS)
        return True

    async def _wait_for_space(self) -> None:
        """Returns when the pipe may take more."""
        with suppress(trio.ClosedResourceError):
            await trio.lowlevel.wait_writable(self._ends.pipe)

    def _moved(self) -> int:
        """Bytes that the pipe has taken."""
        return os.lseek(self._ends.queue, 0, os.SEEK_CUR)

    def _empty(self) -> None:
        """Frees what was moved, which is all."""
        if self._base != self._accepted:
            _punch(self._ends.queue)
            self._base = self._accepted
            self._release_grants()
        self._has_space.unpark_all()

    async def _close_pipe(self) -> None:
        """Lets the job read end-of-file: the launcher closes its duplicate first, since the last one may have to wait.

        Asked again when ours is closed, too, the launcher knows that no thread is left in that.
        """
        self._is_open = False
        self._is_being_closed = True
        self._empty()
        await self._close_kept()
        if await self._in_thread(self._ends.close_pipe):
            await self._close_kept()

    # --- the end ------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Closes all of it, when the launcher has closed its own; also where the caller is cancelled. Idempotent."""
        self._stop()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_SECONDS):
            await self._in_thread(self._ends.close)
        self._release_grants()

    def leave(self) -> None:
        """Closes what this server has of it; the launcher keeps it, so that nothing has to wait. Idempotent.

        A pipe that the launcher was told to close stays open until this process ends: whichever descriptor is the last one,
        its close may wait for the job, and neither the event loop nor the launcher may. Of a server that waits so at its end
        the launcher knows for which job that is.
        """
        self._is_left = True
        self._stop()
        self._ends.close(leaves_pipe=self._is_being_closed)
        self._release_grants()

    def _stop(self) -> None:
        self._is_open = False
        self._has_space.unpark_all()
        if self._ends.pipe >= 0:
            trio.lowlevel.notify_closing(self._ends.pipe)

    async def _in_thread(self, close: Callable[[], None]) -> bool:
        """Whether it is done, and no thread is left in it."""
        if self._ends.pipe >= 0:
            trio.lowlevel.notify_closing(self._ends.pipe)
        with trio.move_on_after(CLOSE_SECONDS):
            await close_at_last(FEEDERS, self.left_threads, lambda _: close())
            return True
        return False


class NotMoved(Exception):
    """The kernel has moved nothing for now."""


class _Ends:
    """The descriptors: closed when nobody needs them, by the last thread in an operation on them."""

    def __init__(self, queue: int, pipe: int | None) -> None:
        self.queue = queue
        self.pipe = -1 if pipe is None else pipe
        self._lock = threading.Lock()
        self._threads = 0
        self._left: list[int] = []

    def move(self, end: int) -> None:
        """Moves all bytes up to this offset, as long as the job reads; in a thread. Raises what sendfile(2) does.

        Raises:
            NotMoved: the kernel moves nothing, though there are bytes left and the pipe takes some.
        """
        with self._lock:
            if self.pipe < 0:
                return
            self._threads += 1
            queue, pipe = self.queue, self.pipe
        try:
            rest = end - os.lseek(queue, 0, os.SEEK_CUR)
            was_held_up = False
            while self.pipe == pipe and rest > 0:
                try:
                    if not (count := os.sendfile(pipe, queue, None, rest)):
                        raise NotMoved
                    rest -= count
                    was_held_up = False
                except BlockingIOError:
                    if was_held_up or not _is_writable_soon(pipe):  # a terminal may pass for writable, and is not
                        raise
                    was_held_up = True
        finally:
            with self._lock:
                self._threads -= 1
                left = self._take_left()
            close_all(left)

    def close_pipe(self) -> None:
        """Closes the pipe. May wait for the job."""
        with self._lock:
            if self.pipe >= 0:
                self._left.append(self.pipe)
            self.pipe = -1
            left = self._take_left()
        close_all(left)

    def close(self, *, leaves_pipe: bool = False) -> None:
        """Closes both, or leaves the pipe open. May wait for the job where this is the last descriptor of the pipe."""
        with self._lock:
            if self.queue >= 0:
                self._left += (fd for fd in (self.queue, -1 if leaves_pipe else self.pipe) if fd >= 0)
            self.queue = self.pipe = -1
            left = self._take_left()
        close_all(left)

    def _take_left(self) -> list[int]:
        if self._threads:
            return []
        left, self._left = self._left, []
        return left


def _is_writable_soon(pipe: int) -> bool:
    """Whether a pipe takes more within `_SOON`, and somebody has its other end."""
    poll = select.poll()
    poll.register(pipe, select.POLLOUT)
    return [events for _, events in poll.poll(_SOON)] == [select.POLLOUT]


def _bytes_of_pages(queue: int) -> int:
    """Bytes of memory that a queue takes; what was moved may be among them."""
    return os.fstat(queue).st_blocks * 512


def _punch(queue: int) -> None:
    """Frees all pages of a queue; its size and its position stay."""
    mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    with suppress(OSError):  # it only frees memory
        if _libc.fallocate(queue, mode, ctypes.c_long(0), ctypes.c_long(_FOREVER)) < 0:
            raise OSError(ctypes.get_errno(), "fallocate")
