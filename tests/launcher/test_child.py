"""What a child decides between fork and exec; the steps themselves are seen from inside in tests/run."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from typing import Final, NoReturn

import pytest

from jobmaster.launcher import kernel
from jobmaster.launcher.child import _candidates, _first_accepted, read_outcome
from jobmaster.launcher.protocol import Command, Phase
from jobmaster.launcher.table import Outcome


def command(name: bytes, path: bytes | None = None) -> Command:
    """A command with this name and PATH."""
    environment = {} if path is None else {b"PATH": path}
    return Command(working_folder=b"/", arguments=(name,), environment=environment)


@pytest.mark.parametrize(
    ("name", "path", "candidates"),
    [
        (b"ls", b"/usr/bin:/bin", [b"/usr/bin/ls", b"/bin/ls"]),
        (b"ls", b":bin", [b"./ls", b"bin/ls"]),
        (b"ls", None, [b"/bin/ls", b"/usr/bin/ls"]),
        (b"./ls", b"/bin", [b"./ls"]),
        (b"/bin/ls", b"/usr/bin", [b"/bin/ls"]),
        (b"", b"/bin", [b""]),
    ],
)
def test_where_a_command_is_looked_for(name: bytes, path: bytes | None, candidates: list[bytes]) -> None:
    """A name without a slash is looked for along PATH, where an empty folder is the working folder."""
    assert list(_candidates(command(name, path))) == candidates


GO_ON: Final = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENODEV, errno.ETIMEDOUT)


@pytest.mark.parametrize(
    ("answers", "accepted"),
    [([0], 0), ([0, errno.EIO], 0), *(([number, 0], 1) for number in GO_ON), ([errno.EACCES, 0], 1)],
)
def test_the_first_that_is_accepted(answers: list[int], accepted: int) -> None:
    """A missing or a denied candidate is passed over, and none is tried after the first that is accepted."""
    assert _first_accepted(map(str.encode, map(str, answers)), attempt) == accepted


@pytest.mark.parametrize(
    ("answers", "number"),
    [
        ([], errno.ENOENT),
        ([errno.ENOENT, errno.ENOTDIR], errno.ENOTDIR),
        ([errno.EACCES, errno.ENOENT], errno.EACCES),
        ([errno.ENOENT, errno.EACCES], errno.EACCES),
        ([errno.ENOENT, errno.ENOEXEC, 0], errno.ENOEXEC),
        ([errno.E2BIG, 0], errno.E2BIG),
        ([errno.ELOOP, 0], errno.ELOOP),
    ],
)
def test_none_is_accepted(answers: list[int], number: int) -> None:
    """A denied candidate outweighs missing ones; anything else ends the search, also what is no program."""
    with pytest.raises(OSError, match=r".*") as caught:
        _first_accepted(map(str.encode, map(str, answers)), attempt)
    assert caught.value.errno == number


def attempt(answer: bytes) -> None:
    """Answers with the errno that the candidate is named after."""
    if int(answer):
        raise OSError(int(answer), os.strerror(int(answer)))


@pytest.fixture
def running() -> Iterator[int]:
    """The pid of a child that lives."""
    with subprocess.Popen(["sleep", "1000"]) as child:
        yield child.pid
        child.kill()


@pytest.fixture
def ended_pipe() -> Iterator[int]:
    """The read end of an error pipe that has ended."""
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    os.close(write_end)
    yield read_end
    os.close(read_end)


def test_nothing_is_asked_of_the_living_that_may_wait_for_them(
    running: int, ended_pipe: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client's program, which may never come to the end of its next execve(2), cannot hold up the launcher."""

    def waits(_pid: int) -> NoReturn:
        raise AssertionError("this waits for the end of an execve(2)")

    monkeypatch.setattr(kernel, "read_stat", waits)
    assert read_outcome(ended_pipe, running, is_dead=False) == Outcome(phase=Phase.EXECUTED)


def test_a_child_that_is_dying(running: int, ended_pipe: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One without memory may have executed its command or not: which, its death tells."""
    monkeypatch.setattr(kernel, "has_memory", lambda _pid: False)
    assert read_outcome(ended_pipe, running, is_dead=False) is None
    assert read_outcome(ended_pipe, running, is_dead=True) == Outcome(phase=Phase.EXECUTED)


def test_the_pipe_of_a_held_child(running: int) -> None:
    """It says nothing until it ends, or the child is dead and somebody else has it open."""
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    assert read_outcome(read_end, running, is_dead=False) is None
    assert read_outcome(read_end, running, is_dead=True) == Outcome(phase=Phase.EXECUTED)
    os.close(read_end)
    os.close(write_end)
