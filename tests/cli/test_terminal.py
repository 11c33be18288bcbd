"""`run -t` and `attach` with a terminal of the test's own and a scripted server."""

from __future__ import annotations

import os
import select
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import pytest
import trio
import trio.testing

from jobmaster.api.statuses import status_of
from jobmaster.cli.actions import Attach, Run
from jobmaster.cli.attaching import attach
from jobmaster.cli.descriptors import STDIN, STDOUT
from jobmaster.cli.running import Runner
from jobmaster.cli.terminal import DETACH_SECONDS, RawMode, terminal
from jobmaster.errors import InputRefused
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.cli.test_attaching import chunk
from tests.cli.test_running import ID, RETURNED, START
from tests.client.scripted import LOST, OK, Answer, Ends, Quiet, Script

DEADLINE: Final = 60.0
RUN: Final = Run(argv=("vi",), tty=True)
RUNNING: Final[Answer] = [
    pb.JobResponse(job_id_response=ID, output_bytes=5, terminal=True, state=pb.JOBSTATE_RUNNING),
    OK,
]
OPEN: Final = pb.AttachResponse(input=pb.InputState(status=pb.INPUTSTATUS_OPEN))
REFUSED: Final = status_of(InputRefused("somebody else types"))
REFUSAL: Final = Ends(REFUSED.status_code.name, "somebody else types", details=REFUSED.details)


class Keyboard:
    """The other end of the terminal that is standard input and output."""

    def __init__(self, master: int) -> None:
        self._master = master

    def type(self, keys: bytes) -> None:
        """Types; returns when the kernel has brought it, which no clock of a test knows of."""
        os.write(self._master, keys)
        assert select.select([STDIN], [], [], DEADLINE)[0]

    def has_typed(self) -> bool:
        """Whether there is something that nobody has read."""
        return bool(select.select([STDIN], [], [], 0)[0])

    def screen(self) -> bytes:
        """What has come on the screen since."""
        return os.read(self._master, 10_000)

    def is_raw(self) -> bool:
        """Whether keys are passed on as they are."""
        return not termios.tcgetattr(STDIN)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)


@contextmanager
def keyboard_here() -> Iterator[Keyboard]:
    """Standard input and output are a terminal of 30 rows of 100 columns, for the block: pytest takes what a fixture would set."""
    master, slave = os.openpty()
    os.set_blocking(master, False)
    termios.tcsetwinsize(master, (30, 100))
    saved = os.dup(STDIN), os.dup(STDOUT)
    os.dup2(slave, STDIN)
    os.dup2(slave, STDOUT)
    try:
        yield Keyboard(master)
    finally:
        for before, descriptor in zip(saved, (STDIN, STDOUT), strict=True):
            os.dup2(before, descriptor)
            os.close(before)
        os.close(master)
        os.close(slave)


def starts_of(script: Script) -> list[pb.AttachStart]:
    """How each Attach began."""
    requests = [call.requests[0] for call in script.calls if call.method == "Attach"]
    return [request.start for request in requests if isinstance(request, pb.AttachRequest)]


def test_what_a_job_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of this terminal, and its kind, where that has a name that a server takes."""
    with keyboard_here():
        size = pb.WindowSize(rows=30, columns=100)
        for term, sent in (("screen-256color", "screen-256color"), ("x" * 65, ""), ("a b", "")):
            monkeypatch.setenv("TERM", term)
            assert terminal() == pb.Terminal(window=size, term=sent)
        monkeypatch.delenv("TERM")
        termios.tcsetwinsize(STDOUT, (0, 0))
        assert terminal() == pb.Terminal()


async def test_a_job_in_this_terminal() -> None:
    """It is raw while it is the job's; what comes is shown as it is, and the exit status is the job's."""
    with keyboard_here() as keyboard:
        was_raw: list[bool] = []
        script = Script([START, [OPEN, chunk(0, b"\x1b[2J\n"), OK]], waits=[RETURNED])
        script.on_call["Attach"] = lambda: was_raw.append(keyboard.is_raw())
        assert await Runner(script.jobs(), RUN).run() == (3, "")
        assert (was_raw, keyboard.is_raw(), keyboard.screen()) == ([True], False, b"\x1b[2J\n")
        (start,) = starts_of(script)
        assert (start.output_offset, start.window) == (0, pb.WindowSize(rows=30, columns=100))


async def test_detaching_from_an_editor() -> None:
    """The screen that was there before is there again, with its cursor, also in the middle of a title."""
    with keyboard_here() as keyboard:
        script = Script([START, [OPEN, chunk(0, b"\x1b[?1049h\x1b[?25ltext"), Quiet()]], waits=[[Quiet()]])
        screen = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Runner(script.jobs(), RUN).run)
            while b"text" not in screen:
                await trio.lowlevel.checkpoint()
                with suppress(BlockingIOError):
                    screen += keyboard.screen()
            keyboard.type(b"\x10\x11")
        assert screen + keyboard.screen() == b"\x1b[?1049h\x1b[?25ltext\x1b\\\x1b[m\x1b[?25h\x1b[?1049l\r\n"


async def test_detaching(capfd: pytest.CaptureFixture[str]) -> None:
    """The keys for it end the program with 0, and say how to come back; the job's end is not waited for."""
    with keyboard_here() as keyboard:
        script = Script([START, [OPEN, Quiet()]], waits=[[Quiet()]])
        script.on_call["Attach"] = lambda: keyboard.type(b"\x10\x11")
        assert await Runner(script.jobs(), RUN).run() == (0, "")
        assert not keyboard.is_raw()
        assert "the job goes on: `attach job` comes back to it" in capfd.readouterr().err


def test_what_a_terminal_has_answered() -> None:
    """What came for the job and was not read is not left for the shell."""
    with keyboard_here() as keyboard:
        with RawMode().entered():
            keyboard.type(b"\x1b[24;80R")
        keyboard.type(b"ls\n")
        assert os.read(STDIN, 100) == b"ls\n"


async def test_detaching_from_a_server_that_does_not_answer(
    capfd: pytest.CaptureFixture[str], mock_clock: trio.testing.MockClock
) -> None:
    """It is not waited for longer than some seconds, and that keys may be lost is said."""
    results: list[tuple[int, str]] = []
    with keyboard_here() as keyboard:
        called = trio.Event()
        script = Script([START, [OPEN, LOST]], waits=[[Quiet()]])

        def on_call() -> None:
            keyboard.type(b"typed\x10\x11")
            called.set()

        async def use() -> None:
            results.append(await Runner(script.jobs(), RUN).run())

        script.on_call["Attach"] = on_call
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use)
            await called.wait()
            while keyboard.has_typed():
                await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
            script.script += [LOST] * 1000
            mock_clock.jump(DETACH_SECONDS)
    assert results == [(0, "")]
    assert "typed last may not have reached the job" in capfd.readouterr().err


async def test_detaching_from_a_terminal_that_takes_no_output(
    capfd: pytest.CaptureFixture[str], autojump_clock: trio.testing.MockClock
) -> None:
    """What was typed counts as arrived when the server says so, however much output that comes behind."""
    much, screen = 1_000_000, b""
    with keyboard_here() as keyboard:
        arrived = pb.AttachResponse(input=pb.InputState(offset=5, status=pb.INPUTSTATUS_OPEN))
        script = Script(
            [START, [OPEN, chunk(0, b"x" * much), chunk(much, b"more"), arrived, Quiet()]], waits=[[Quiet()]]
        )
        script.on_call["Attach"] = lambda: keyboard.type(b"typed\x10\x11")
        assert await Runner(script.jobs(), RUN).run() == (0, "")
        while b"\r\n" not in screen:  # behind what of the output was begun before
            with suppress(BlockingIOError):
                screen += keyboard.screen()
    assert b"more" not in screen
    assert "may not have reached" not in capfd.readouterr().err


async def test_a_terminal_that_somebody_else_has(capfd: pytest.CaptureFixture[str]) -> None:
    """Its output is shown all the same, the keys stay here, and why is said."""
    with keyboard_here() as keyboard:
        script = Script([RUNNING, [REFUSAL], [chunk(5, b"abc"), OK]], waits=[RETURNED])
        assert await attach(script.jobs(), Attach(job_id="job")) == (3, "")
        assert (keyboard.is_raw(), keyboard.screen()) == (False, b"abc")
        assert capfd.readouterr().err == "jobmaster: the keyboard is not the job's: somebody else types\n"
        assert [bool(start.writer) for start in starts_of(script)] == [True, False]


async def test_an_error() -> None:
    """Whatever the server does, the terminal is given back as it was."""
    with keyboard_here() as keyboard:
        script = Script([START, [OPEN, Ends("INTERNAL", "a bug")]], waits=[[Quiet()]])
        assert await Runner(script.jobs(), RUN).run() == (125, "")
        assert not keyboard.is_raw()
