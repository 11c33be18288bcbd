"""A job's terminal: the pair of ends, its size, and the input that is typed into it.

Its output is the pump's business (`jobmaster.output.terminal`). Its input takes the way of any stdin: a queue that the
launcher keeps, and sendfile(2) from there to the master, so that every key arrives once, whenever a server is killed. A
program that does not read stops it: the kernel takes some ten KiB ahead. What a line discipline does with what it takes is
between it and the program: in canonical mode a line has 4,095 bytes and what is beyond is dropped (termios(3)).
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios
from typing import Final, NoReturn

import trio

from jobmaster.errors import InvalidRequest
from jobmaster.job.terminal import Window
from jobmaster.run.stdin import Stdin

_IUTF8: Final = 0o40000
"""Of c_iflag in termios(3), which Python has no name for: erasing takes a character of UTF-8, the encoding of jobs."""
RECHECK_SECONDS: Final = 1.0
"""How long a wait for space lasts before it is looked for: a terminal may have it without telling."""
_MODE: Final = 0o600
"""Of the job's end: other users, and write(1), are kept from the screen."""


def open_terminal(window: Window) -> tuple[int, int]:
    """A new terminal: its non-blocking master for the server, and the job's end.

    Raises:
        OSError: there is none; no descriptor is left open.
    """
    master, slave = os.openpty()
    try:
        os.set_blocking(master, False)
        os.fchmod(slave, _MODE)
        attributes = termios.tcgetattr(slave)
        attributes[0] |= _IUTF8
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        set_window(master, window)
    except BaseException:
        os.close(master)
        os.close(slave)
        raise
    return master, slave


def set_window(master: int, window: Window) -> None:
    """Gives a terminal this size. Where it had another, the kernel sends SIGWINCH to its foreground processes."""
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", window.rows, window.columns, 0, 0))


def _is_hung_up(master: int) -> bool:
    """Whether no process has a terminal open."""
    poll = select.poll()
    poll.register(master, select.POLLOUT)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


class TerminalInput(Stdin):
    """What is typed into a job's terminal."""

    def __init__(self, queue: int, master: int) -> None:
        """Takes over the descriptors; goes on where an earlier server stopped.

        Args:
            queue: as `stdin.open_queue` made it.
            master: a descriptor of the terminal of its own.
        """
        super().__init__(queue, master, close_kept=trio.lowlevel.checkpoint)  # the launcher's is the output's, too

    def end(self, offset: int) -> NoReturn:
        """Refuses: the end-of-file of a terminal is typed.

        Raises:
            InvalidRequest: always.
        """
        del offset
        raise InvalidRequest("the input of a terminal has no end but the key for it, Ctrl-D", field="end")

    async def _wait_for_space(self) -> None:
        with trio.move_on_after(RECHECK_SECONDS):
            if not _is_hung_up(self._ends.pipe):
                await super()._wait_for_space()
            if self._is_open and _is_hung_up(self._ends.pipe):  # which passes for writable, though no process reads it
                await trio.sleep_forever()

    def resize(self, window: Window) -> None:
        """Gives the terminal this size, as long as a process has it open."""
        if self._is_open:
            set_window(self._ends.pipe, window)
