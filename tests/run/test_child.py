"""What is asked of a launcher is valid once it exists."""

from __future__ import annotations

import pytest

from jobmaster.run.child import ChildAccount, Launch


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
