"""Where the output of a job comes from: a pipe, or a terminal by way of one."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from jobmaster.output.index import Stream
from jobmaster.output.terminal import TerminalEnds, bytes_in, drain


class Left(NamedTuple):
    """What is left in a source.

    Attributes:
        in_pipe: bytes that stay in the pipe.
        taken: bytes that were taken out of a terminal, and are lost.
    """

    in_pipe: int
    taken: int


@dataclass(slots=True)
class Source:
    """A pipe of a job.

    Attributes:
        terminal: what it is filled from, where that is a terminal.
        is_at_end: every writer had closed it, and it was empty, when it was last looked at; a terminal may be opened again.
        may_have_more: it is to be looked at before anything tells of new bytes, which the terminal does not of old ones.
    """

    pipe: int
    stream: Stream
    terminal: TerminalEnds | None = None
    is_at_end: bool = False
    may_have_more: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)
    _threads: int = field(default=0, init=False)
    _is_given_up: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.may_have_more = self.terminal is not None  # an earlier server may have left some in the pipe

    @property
    def told_by(self) -> int:
        """What is readable when new bytes have come."""
        return self.pipe if self.terminal is None else self.terminal.master

    def is_spent(self) -> bool:
        """Whether every writer has closed the pipe and it is empty, as poll(2) tells without the pipe's lock.

        It looks for bytes first and for writers then (pipe_poll in fs/pipe.c): who writes and closes in between is told by a
        second look alone, which comes when there is no writer any more.
        """
        if self.terminal is not None:
            return False
        poll = select.poll()
        poll.register(self.pipe, select.POLLIN)
        return all([events for _, events in poll.poll(0)] == [select.POLLHUP] for _ in range(2))

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All of it."""
        return (self.pipe, *(self.terminal or ()))

    def duplicate(self) -> Source:
        """The same with descriptors of its own.

        Raises:
            OSError: there are none left.
        """
        duplicates: list[int] = []
        try:
            for fd in self.descriptors:
                duplicates.append(os.dup(fd))  # noqa: PERF401  # those before an error are closed
        except OSError:
            _close_all(duplicates)
            raise
        pipe, *ends = duplicates
        return Source(pipe, self.stream, TerminalEnds(*ends) if ends else None)

    def take_left(self) -> Left:
        """What nobody will move any more; that of a terminal is taken out of it. In a thread: the pipe may hold it up."""
        with self._in_use() as is_open:
            return Left(bytes_in(self.pipe), self._drained()) if is_open else Left(0, 0)

    def empty_terminal(self) -> int:
        """Of what `take_left` tells, only what is taken out of a terminal, for when the pipe holds up others already."""
        with self._in_use() as is_open:
            return self._drained() if is_open else 0

    def _drained(self) -> int:
        return 0 if self.terminal is None else drain(self.terminal)

    @contextmanager
    def _in_use(self) -> Iterator[bool]:
        """Keeps the descriptors open for the block, where they still are."""
        with self._lock:
            is_open = not self._is_given_up
            self._threads += is_open
        try:
            yield is_open
        finally:
            with self._lock:
                self._threads -= is_open
                is_last = is_open and self._is_given_up and not self._threads
            if is_last:
                _close_all(self.descriptors)

    def give_up(self) -> tuple[int, ...]:
        """The descriptors, for the caller to close; none where a thread still takes what is left, which closes them then."""
        with self._lock:
            self._is_given_up = True
            return () if self._threads else self.descriptors


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        with suppress(OSError):
            os.close(fd)
