"""What the launcher says on stderr, which never waits for who reads."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Final

import pytest

from jobmaster.launcher.streams import NonBlockingWriter

SAYS_MUCH: Final = """
from jobmaster.launcher.streams import say
for number in range(1000):
    say(f"{number:999}")
say("\\udcff")
"""


WRITES_MUCH: Final = """
import os
from contextlib import suppress
from jobmaster.launcher.streams import NonBlockingWriter

def refuse(*_):
    raise PermissionError

really, os.open = os.open, refuse
writer = NonBlockingWriter(1)
os.open = really
for _ in range(20_000):
    with suppress(BlockingIOError):
        writer.write(memoryview(b"word"))
"""


@pytest.mark.parametrize("kind", ["terminal", "socket", "pipe"])
def test_a_stderr_that_nobody_reads(kind: str) -> None:
    """The launcher goes on, and what it says is lost."""
    reads, writes = {"terminal": os.openpty, "socket": sockets, "pipe": os.pipe}[kind]()
    with subprocess.Popen([sys.executable, "-c", SAYS_MUCH], stderr=writes) as process:
        try:
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
            assert os.read(reads, 999).strip() == b"0"
            os.close(reads)
            os.close(writes)


def sockets() -> tuple[int, int]:
    """Two connected sockets."""
    one, other = socket.socketpair()
    return one.detach(), other.detach()


@pytest.mark.parametrize("kind", ["terminal", "pipe"])
def test_without_a_description_of_its_own(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot be opened again, a pipe is written as long as it takes PIPE_BUF bytes, a terminal until it is full."""

    def refuse(*_: object) -> int:
        raise PermissionError

    reads, writes = {"terminal": os.openpty, "pipe": os.pipe}[kind]()
    with monkeypatch.context() as patches:
        patches.setattr(os, "open", refuse)
        writer = NonBlockingWriter(writes)
    taken: list[int] = []
    with suppress(BlockingIOError):
        while True:
            taken.append(writer.write(memoryview(b"some words that end\n" * 500)))
    assert sum(taken) > select.PIPE_BUF
    assert kind == "terminal" or set(taken) == {select.PIPE_BUF}
    assert os.get_blocking(writes), "others have it as it was"
    writer.close()
    os.close(reads)
    os.close(writes)


def test_two_that_cannot_open_their_terminal() -> None:
    """Launcher and server, or two servers, write side by side: neither ever waits, and the terminal is as it was afterwards."""
    reads, writes = os.openpty()
    programs = [subprocess.Popen([sys.executable, "-c", WRITES_MUCH], stdout=writes) for _ in range(2)]
    try:
        assert [program.wait(timeout=60) for program in programs] == [0, 0]
        assert os.get_blocking(writes)
    finally:
        for program in programs:
            program.kill()
            program.wait()
        os.close(reads)
        os.close(writes)


def test_a_descriptor_that_is_closed() -> None:
    """The write fails."""
    reads, writes = os.pipe()
    os.close(reads)
    os.close(writes)
    with pytest.raises(OSError, match="Bad file descriptor"):
        NonBlockingWriter(writes).write(memoryview(b"x"))
