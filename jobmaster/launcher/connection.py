"""The launcher's end of the socket pair: it never blocks, and what the kernel does not take is queued.

The queue is bounded by the server: three messages for each child, and reading pauses while more than `PAUSE_AT` wait.
What a new server is told of the children is not queued but made when it can be sent: its descriptors are as many as
those that are open, and could not be duplicated.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from typing import TYPE_CHECKING, Final

from jobmaster.launcher.packets import EndOfFile, Received, close_all, receive, send
from jobmaster.launcher.protocol import Message, ProtocolError, encode

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from jobmaster.launcher.poller import Poller

PAUSE_AT: Final = 256
_BATCH: Final = 32
"""Messages read before other descriptors are looked at again."""
_RETRY_SECONDS: Final = 0.05


class Connection:
    """Messages to and from the server."""

    def __init__(
        self,
        sock: socket.socket,
        poller: Poller,
        *,
        on_message: Callable[[Received], None],
        on_error: Callable[[ProtocolError], None],
        on_end: Callable[[], None],
    ) -> None:
        self._socket = sock
        self._poller = poller
        self._on_message = on_message
        self._on_error = on_error
        self._on_end = on_end
        self._queue: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._source: Iterator[tuple[Message, tuple[int, ...]]] | None = None
        self._is_open = True
        self._is_short_of_memory = False
        self._watch()

    def send(self, message: Message, descriptors: tuple[int, ...] = ()) -> None:
        """Sends a message, or queues it with duplicates of its descriptors."""
        if not self._is_open:
            return
        data = encode(message)
        if self._queue or not self._try_to_send(data, descriptors):
            self._queue.append((data, _duplicates(descriptors)))
            self._watch()

    def send_all(self, source: Iterator[tuple[Message, tuple[int, ...]]]) -> None:
        """Sends what comes from there, each message when the kernel may take it, in place of what is left of another."""
        self._source = source
        self._flush()

    def read_to_end(self) -> None:
        """Reads what a server that is dead has sent, and closes this end."""
        while self._is_open and self._read_one():
            pass
        self._close()

    def _watch(self) -> None:
        if self._is_open:
            reads = len(self._queue) <= PAUSE_AT
            writes = (
                bool(self._queue) or self._source is not None
            ) and not self._is_short_of_memory  # or the poller would spin
            self._poller.watch(self._socket.fileno(), self._on_ready, readable=reads, writable=writes)

    def _on_ready(self) -> None:
        self._flush()
        for _ in range(_BATCH):
            if not self._is_open or len(self._queue) > PAUSE_AT or not self._read_one():
                break

    def _flush(self) -> None:
        if not self._is_open or self._is_short_of_memory or not (self._queue or self._source):
            return
        while self._queue and self._try_to_send(*self._queue[0]):
            close_all(self._queue.popleft()[1])
        while self._source is not None and not self._queue:
            found = next(self._source, None)
            if found is None:
                self._source = None
            else:
                self.send(*found)
        self._watch()

    def _try_to_send(self, data: bytes, descriptors: tuple[int, ...]) -> bool:
        """Whether the message is done with: taken by the kernel, or nobody is left to read it."""
        try:
            send(self._socket, data, descriptors)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError):
            return True  # the end is told by reading, after what came before it
        except OSError as error:
            if error.errno not in {errno.ENOMEM, errno.ENOBUFS, errno.ETOOMANYREFS}:
                raise
            self._is_short_of_memory = True
            self._poller.call_later(_RETRY_SECONDS, self._retry)
            return False
        return True

    def _retry(self) -> None:
        self._is_short_of_memory = False
        self._flush()

    def _read_one(self) -> bool:
        """Whether there may be more to read."""
        try:
            received = receive(self._socket)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True  # once, before messages that are there all the same
        except EndOfFile:
            self._end()
            return False
        except ProtocolError as error:
            self._on_error(error)
            return True
        self._on_message(received)
        return True

    def _end(self) -> None:
        self._close()
        self._on_end()

    def _close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._poller.forget(self._socket.fileno())
        self._socket.close()
        self._source = None
        while self._queue:
            close_all(self._queue.popleft()[1])


def _duplicates(descriptors: tuple[int, ...]) -> tuple[int, ...]:
    """Descriptors that stay open until they are sent; none near the limit, which the server takes for EMFILE.

    One descriptor is always left for /proc/PID/stat: each start needs more than it keeps, and here it is tried out.
    """
    copies: list[int] = []
    try:
        for fd in descriptors:
            copies.append(os.dup(fd))
            os.close(os.dup(fd))
    except OSError:
        close_all(copies)
        return ()
    return tuple(copies)
