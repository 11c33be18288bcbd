"""This program's own terminal, as a job's: every key goes there, and everything that comes is shown as it is.

Raw mode is left in every way out: at the end of the block, by an exception, and by the signals that end a program. SIGKILL
is the exception; then `reset` helps.
"""

from __future__ import annotations

import math
import os
import re
import signal
import termios
import tty
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from contextlib import aclosing, contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import trio

from jobmaster.cli.attaching import say, show
from jobmaster.cli.descriptors import STDIN, STDOUT, write_output
from jobmaster.cli.detaching import KeyFilter
from jobmaster.cli.screen_modes import ScreenModes
from jobmaster.jobs.v1 import jobs_pb2 as pb

if TYPE_CHECKING:
    from jobmaster.client import Attachment, Jobs

READ_SIZE: Final = 16 * 1024
HOLD_SECONDS: Final = 0.5
"""How long a key that may be the first of those that detach is kept from the job."""
DETACH_SECONDS: Final = 5.0
"""How long who detaches waits for what was typed before to arrive."""
_END_STRING: Final = b"\x1b\\"
"""Ends a control string, such as a title, of which the job may have written the beginning alone: it would take what follows."""
REDRAW_SECONDS: Final = 0.1
"""How long a job's terminal has another size, so that its programs draw themselves anew."""
ENDS: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""The signals that end this program, unless it is to do something else about them."""
_TERM: Final = re.compile(r"[A-Za-z0-9._+-]{1,64}", re.ASCII)


def has_terminal() -> bool:
    """Whether there are keys and a screen: standard input and standard output are a terminal."""
    return os.isatty(STDIN) and os.isatty(STDOUT)


def window() -> pb.WindowSize | None:
    """The size of the screen; None where it is not known."""
    try:
        columns, rows = os.get_terminal_size(STDOUT)
    except OSError:
        return None
    return pb.WindowSize(rows=rows, columns=columns) if rows and columns else None


def terminal() -> pb.Terminal:
    """What a job is to have for a terminal: one like this."""
    term = os.environ.get("TERM", "")
    return pb.Terminal(window=window(), term=term if _TERM.fullmatch(term) and os.isatty(STDOUT) else "")


class RawMode:
    """The mode in which a terminal passes every key on."""

    def __init__(self, *, heeded: Collection[int] = ()) -> None:
        """Not entered yet. `heeded`: what of `ENDS` somebody else handles."""
        self._before: list[int | list[bytes | int]] | None = None
        self._ends = [number for number in ENDS if number not in heeded]
        self._handlers: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Raw mode, for the block."""
        self._before = termios.tcgetattr(STDIN)
        for number in self._ends:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._end)
        try:
            self.enter()
            yield
        finally:
            self.restore()
            for handled, handler in self._handlers.items():
                signal.signal(handled, handler)
            self._handlers = {}

    def enter(self) -> None:
        """Sets it, again where somebody else has changed it since."""
        if self._before is not None:
            with suppress(termios.error):  # it was hung up, which the next read tells
                tty.setraw(STDIN, termios.TCSADRAIN)

    def restore(self) -> None:
        """Sets what was before. Idempotent.

        What nobody has read by then goes: a terminal may have answered the job, with where its cursor is for instance, and a
        shell would take that for a command.
        """
        before, self._before = self._before, None
        if before is not None:
            with suppress(termios.error):
                termios.tcflush(STDIN, termios.TCIFLUSH)
                termios.tcsetattr(STDIN, termios.TCSANOW, before)

    def _end(self, number: int, _frame: FrameType | None) -> None:
        self.restore()
        signal.signal(number, self._handlers[number])
        os.kill(os.getpid(), number)


async def use_terminal(
    jobs: Jobs, job_id: str, mode: RawMode, *, offset: int, detach_keys: bytes, is_new: bool
) -> bool:
    """Makes this terminal a job's, until its output has ended; returns False where the user has detached before.

    Args:
        jobs: to call.
        job_id: the job, which has a terminal.
        mode: of this terminal.
        offset: the first byte of the output that is wanted.
        detach_keys: the bytes of the keys that detach; none: none do.
        is_new: the job has just been started, and all that it has drawn comes; else it is made to draw anew.

    Raises:
        OutputFailed: standard output did not take what came.
        Exception: as the iteration of an `Attachment`.
    """
    async with jobs.attach(job_id, output_offset=offset, window=window()) as attachment:
        session = _Session(attachment, mode, KeyFilter(detach_keys))
        with mode.entered():
            return await session.run(draws_anew=not is_new)


class _Session:
    """One use of a terminal."""

    def __init__(self, attachment: Attachment, mode: RawMode, keys: KeyFilter) -> None:
        self._attachment = attachment
        self._mode = mode
        self._keys = keys
        self._modes = ScreenModes()
        self._detached = trio.Event()
        self._showing = trio.CancelScope()

    async def run(self, *, draws_anew: bool) -> bool:
        """Whether the output has ended."""
        failure: Exception | None = None
        has_ended = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._type, nursery.cancel_scope)
            nursery.start_soon(self._follow_size, draws_anew)
            try:
                has_ended = await self._show_output()
            except Exception as error:  # noqa: BLE001  # raised below, and not in a group
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if not has_ended:  # and the cursor is anywhere
            with trio.move_on_after(DETACH_SECONDS):  # a terminal that has stopped stays as it is
                back = _END_STRING + self._modes.back() + b"\r\n"
                await trio.to_thread.run_sync(write_output, back, abandon_on_cancel=True)
        return has_ended

    async def _show_output(self) -> bool:
        """Reads the output to its end, and shows it until the user detaches; whether that was all of it.

        What the server says of the keys that were typed last comes behind the output before.
        """
        is_all = True
        async for chunk in self._attachment:
            if self._detached.is_set():
                is_all = False
                continue
            self._modes.feed(chunk.data)
            with trio.CancelScope() as self._showing:
                await show(chunk)
            is_all = not self._showing.cancelled_caught
        return is_all

    # --- keys -----------------------------------------------------------------------------------------------------

    async def _type(self, session: trio.CancelScope) -> None:
        sent = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, sent)
            await self._detached.wait()
            self._showing.cancel()
            with trio.move_on_after(DETACH_SECONDS):
                await sent.wait()
            if not sent.is_set():
                say("the server does not answer: what was typed last may not have reached the job")
            session.cancel()

    async def _send(self, sent: trio.Event) -> None:
        async with aclosing(self._typed()) as typed:
            await self._attachment.send(typed, ends=False)
        sent.set()
        async with aclosing(self._typed()) as typed:  # the job takes no more, but who sits here may still detach
            async for _ in typed:
                pass

    async def _typed(self) -> AsyncGenerator[bytes, None]:
        """What is typed for the job, until the user detaches or the terminal is gone."""
        while not self._detached.is_set():
            data: bytes | None = None
            with trio.move_on_after(HOLD_SECONDS if self._keys.holds else math.inf):
                data = await _read()
            passed = self._keys.release() if data is None else self._keys.feed(data)
            if passed:
                yield passed
            if data == b"" or self._keys.has_matched:
                self._detached.set()

    # --- size -----------------------------------------------------------------------------------------------------

    async def _follow_size(self, draws_anew: bool) -> None:  # start_soon takes positions
        with trio.open_signal_receiver(signal.SIGWINCH, signal.SIGCONT) as signals:
            if draws_anew:
                await self._attachment.admitted.wait()
                await self._draw_anew()
            async for number in signals:
                if number == signal.SIGCONT:
                    self._mode.enter()
                    await self._draw_anew()
                elif (size := window()) is not None:
                    self._attachment.resize(size)

    async def _draw_anew(self) -> None:
        """Has the programs of the job show themselves, which they do where the size is another one."""
        if (size := window()) is not None:
            self._attachment.resize(pb.WindowSize(rows=size.rows - 1 or 2, columns=size.columns))
            await trio.sleep(REDRAW_SECONDS)
            self._attachment.resize(window() or size)


async def _read() -> bytes:
    """What was typed; nothing where the terminal is gone."""
    while True:
        await trio.lowlevel.wait_readable(STDIN)
        try:
            return os.read(STDIN, READ_SIZE)
        except BlockingIOError:
            continue
        except OSError:
            return b""
