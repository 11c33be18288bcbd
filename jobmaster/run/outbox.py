"""Messages on their way to the launcher: sent without blocking, and queued where the kernel does not take them.

The queue is bounded by who posts: one start and one order for each job, one `ack` for each child.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from dataclasses import dataclass
from typing import Final, final

import trio

from jobmaster.launcher.packets import close_all, send
from jobmaster.run.child import Child

_RETRY_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class _Outgoing:
    """A message that waits to be sent; the start of a child whose caller waits, with descriptors that are the caller's."""

    data: bytes
    descriptors: tuple[int, ...]
    start_of: Child | None

    def close(self) -> None:
        """It is done with."""
        if self.start_of is None:
            close_all(self.descriptors)


@final
class Outbox:
    """The sending half of the socket to the launcher."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._queue: deque[_Outgoing] = deque()
        self._has_some = trio.Event()
        self._is_empty = trio.Event()
        self._is_short_of_memory = False

    def post(self, data: bytes, descriptors: tuple[int, ...] = (), *, of: Child | None = None) -> None:
        """Sends a message now, or leaves it to `run`, with duplicates of its descriptors.

        A start of a child is told to it where the kernel refuses the message, and its descriptors stay open until it
        is answered or withdrawn.
        """
        if self._queue or not self._try_to_send(data, descriptors, of):
            kept = descriptors if of is not None else tuple(map(os.dup, descriptors))
            self._queue.append(_Outgoing(data, kept, of))
            self._has_some.set()

    def withdraw(self, child: Child) -> bool:
        """Takes back the start of a child; False where it was sent."""
        for outgoing in self._queue:
            if outgoing.start_of is child:
                self._queue.remove(outgoing)
                return True
        return False

    def close(self) -> None:
        """Nothing more is sent."""
        while self._queue:
            self._queue.popleft().close()
        self._is_empty.set()

    async def wait_empty(self) -> None:
        """Waits until all is sent, or nothing more will be."""
        while self._queue:
            self._is_empty = trio.Event()
            await self._is_empty.wait()

    async def run(self) -> None:
        """Sends what is queued, until cancelled."""
        while True:
            await self._has_some.wait()
            while self._queue:
                first = self._queue[0]
                if not self._try_to_send(first.data, first.descriptors, first.start_of):
                    break
                self._queue.popleft().close()
            if self._queue:
                if self._is_short_of_memory:
                    await trio.sleep(_RETRY_SECONDS)
                await trio.lowlevel.wait_writable(self._socket)
                continue
            self._has_some = trio.Event()
            self._is_empty.set()

    def _try_to_send(self, data: bytes, descriptors: tuple[int, ...], child: Child | None) -> bool:
        """Whether the message is done with: taken by the kernel, refused by it, or nobody is left to read it."""
        try:
            send(self._socket, data, descriptors)
        except (BrokenPipeError, ConnectionResetError):
            return True  # the receiving task sees the end, after what came before it
        except OSError as error:
            if child is None or isinstance(error, BlockingIOError):
                self._is_short_of_memory = not isinstance(error, BlockingIOError)
                return False
            child._on_refused(error.errno or errno.EIO)
        return True
