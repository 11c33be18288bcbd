"""What a child decides between fork and exec; the steps themselves are seen from inside in tests/run."""

from __future__ import annotations

import errno
import os
from typing import Final

import pytest

from jobmaster.launcher.child import _candidates, _first_accepted
from jobmaster.launcher.protocol import Command


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
