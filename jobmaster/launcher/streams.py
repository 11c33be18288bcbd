"""The launcher's standard streams: occupied, and stderr for what it has to say."""

from __future__ import annotations

import contextlib
import os
import select


def say(line: str) -> None:
    """Writes a line to stderr if that does not block."""
    with contextlib.suppress(OSError):
        if select.select([], [2], [], 0)[1]:  # a pipe is writable when it takes PIPE_BUF bytes
            os.write(2, f"{line}\n".encode()[: select.PIPE_BUF])


def occupy_standard_streams() -> None:
    """Opens 0, 1 and 2 where they are closed: the descriptors of children have to be others."""
    while (fd := os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
