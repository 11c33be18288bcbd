"""What may be asked to run."""

from __future__ import annotations

import dataclasses

import pytest

from jobmaster.errors import InvalidRequest
from jobmaster.job.specification import JobSpecification


@pytest.mark.parametrize(
    ("command", "args", "complaint"),
    [
        ("", (), "command is empty"),
        (" \t\n", (), "command is empty"),
        ("l\0s", (), "command contains a NUL"),
        ("ls", ("-l", "a\0b"), "argument 2 contains a NUL"),
        ("ls", ("\0",), "argument 1 contains a NUL"),
    ],
)
def test_what_no_host_can_run_is_refused(command: str, args: tuple[str, ...], complaint: str) -> None:
    """A specification that cannot be run on any Linux never exists; the error names the part."""
    with pytest.raises(InvalidRequest, match=complaint):
        JobSpecification(command=command, args=args)


def test_arguments_are_kept_as_they_are() -> None:
    """Empty arguments, options, shell syntax and non-ASCII text become the argument vector untouched."""
    args = ("", "-x", "--", "$(id)", "a b", "*", "é\n", "😀")
    assert JobSpecification(command="/bin/echo", args=args).argv == ("/bin/echo", *args)


def test_a_specification_does_not_change() -> None:
    """It is a value."""
    specification = JobSpecification(command="ls")
    with pytest.raises(dataclasses.FrozenInstanceError):
        specification.command = "rm"  # type: ignore[misc]  # that it is refused is the claim


def test_arguments_stay_out_of_logs() -> None:
    """The repr tells the command and how many arguments it has, not what they are."""
    shown = repr(JobSpecification(command="mysql", args=("--password=hunter2", "db")))
    assert "mysql" in shown
    assert "2 args" in shown
    assert "hunter2" not in shown
