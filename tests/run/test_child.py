"""What is asked of a launcher is valid once it exists."""

from __future__ import annotations

import os

import pytest
import trio

from jobmaster.run.child import Child, ChildAccount, Launch


def test_a_launch_has_a_command() -> None:
    """There is no launch of nothing."""
    with pytest.raises(ValueError, match="argv is empty"):
        Launch(id="a", argv=(), environment={}, working_folder="/", account=None, open_files=64)


@pytest.mark.parametrize(
    ("uid", "keeps", "is_valid"), [(0, True, True), (0, False, True), (1, False, True), (1, True, False)]
)
def test_only_root_keeps_capabilities(*, uid: int, keeps: bool, is_valid: bool) -> None:
    """Another user with root's capabilities is refused."""
    if is_valid:
        ChildAccount(uid=uid, gid=1, groups=(), keeps_capabilities=keeps)
    else:
        with pytest.raises(ValueError, match="only root"):
            ChildAccount(uid=uid, gid=1, groups=(), keeps_capabilities=keeps)


def test_an_environment_is_not_shown() -> None:
    """What a launch looks like in a log has no variable of the job's environment: it may be a secret."""
    launch = Launch(
        id="a", argv=("true",), environment={"TOKEN": "secret"}, working_folder="/", account=None, open_files=64
    )
    assert "secret" not in repr(launch)


@pytest.mark.parametrize(("goes", "said"), [(True, b"g"), (False, b"")])
async def test_a_child_is_told_once_what_to_do(goes: bool, said: bytes) -> None:  # noqa: ASYNC124  # it needs Trio's loop
    """It executes its command on one byte, or ends on none; either way the server's end of the pipe is closed then."""
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    child = Child("a", write, lost=trio.Event(), forget=lambda *_: trio.Event())
    decide = child.go if goes else child.abandon
    decide()
    child.go()
    assert os.read(read, 10) == said
    assert os.read(read, 10) == b""
    os.close(read)
