"""What may be asked to run."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.errors import InvalidRequest
from jobmaster.job.specification import MAX_ARGUMENTS, CommandLine, JobSpecification

KIB: Final = 1024
MIB: Final = 1024 * KIB
LONGEST_PATH: Final = os.pathconf("/", "PC_PATH_MAX") - 1
"""Without its NUL."""


@pytest.mark.parametrize(
    ("command", "args", "complaint", "field"),
    [
        ("", (), "command is empty", "command"),
        (" \t\n", (), "command is empty", "command"),
        ("l\0s", (), "command contains a NUL", "command"),
        ("ls", ("-l", "a\0b"), "argument 2 contains a NUL", "args[1]"),
        ("ls", ("\0",), "argument 1 contains a NUL", "args[0]"),
    ],
)
def test_what_no_host_can_run_is_refused(command: str, args: tuple[str, ...], complaint: str, field: str) -> None:
    """A specification that cannot be run on any Linux never exists; the error names the part, in words and as a field."""
    with pytest.raises(InvalidRequest, match=complaint) as caught:
        JobSpecification(command=command, args=args)
    assert caught.value.field == field


def test_what_is_not_asked_for() -> None:
    """A command alone has no input, one stream, no terminal and no bound of its own on its output."""
    alone = JobSpecification(command="ls")
    assert (alone.args, alone.stdin, alone.separate_streams, alone.terminal, alone.secrets) == (
        (),
        False,
        False,
        None,
        (),
    )
    assert (alone.output_max, alone.ends_when_full) == (0, False)


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


@pytest.mark.parametrize(
    ("command", "args", "complaint", "field"),
    [
        ("x" * (LONGEST_PATH + 1), (), "longer than a path", "command"),
        ("é" * (LONGEST_PATH // 2 + 1), (), "longer than a path", "command"),
        ("ls", ("",) * (MAX_ARGUMENTS + 1), "more than 65536 arguments", "args"),
        ("ls", ("x" * (2 * MIB),), "more than 2 MiB", "args"),
        ("ls", ("x" * (2 * MIB // 1024),) * 1024, "more than 2 MiB", "args"),
    ],
    ids=["command", "command in UTF-8", "count", "one large argument", "NULs count"],
)
def test_bounds(command: str, args: Sequence[str], complaint: str, field: str) -> None:
    """What is more than the kernel takes is refused, with the field and a remedy."""
    with pytest.raises(InvalidRequest, match=complaint) as caught:
        JobSpecification(command=command, args=tuple(args))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("x" * LONGEST_PATH, ()),
        ("é" * (LONGEST_PATH // 2), ()),
        ("ls", ("",) * MAX_ARGUMENTS),
        ("ls", ("x" * (2 * MIB - 1),)),
    ],
    ids=["command", "command in UTF-8", "count", "bytes"],
)
def test_up_to_the_bounds(command: str, args: tuple[str, ...]) -> None:
    """What is just within the bounds is taken."""
    assert JobSpecification(command=command, args=args).argv == (command, *args)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12), max_size=100))
def test_a_command_line_comes_back_as_it_was(args: list[str]) -> None:
    """A record gives back every word of a command of ordinary size, empty ones and all."""
    specification = JobSpecification(command="prog é", args=tuple(args))
    kept = CommandLine.of(specification)
    assert (kept.command, tuple(kept.args), kept.omitted) == ("prog é", specification.args, 0)


def test_bytes_that_are_no_text_come_back() -> None:
    """A word that Linux allows and UTF-8 does not (surrogateescape) is kept as it is."""
    args = (b"\xff\xfe".decode("utf-8", "surrogateescape"), "", "é")
    kept = CommandLine.of(JobSpecification(command="x\udc80", args=args))
    assert (kept.command, tuple(kept.args)) == ("x\udc80", args)


@pytest.mark.parametrize("character", ["\x01", "é", "😀"], ids=ascii)
def test_what_is_long_on_the_disk_counts_so(character: str) -> None:
    """The bound is on what is written in JSON, where a character may have twelve bytes."""
    kept = CommandLine.of(JobSpecification(command="c", args=(character * 50,) * 1_000))
    assert 15 * KIB < len(json.dumps(list(kept.args))) <= 17 * KIB
    assert kept.omitted == 1_000 - len(kept.args)


@pytest.mark.parametrize("count", [0, 1, 3, MAX_ARGUMENTS])
@pytest.mark.parametrize("size", [0, 1, 30, 16 * KIB - 1, 16 * KIB])
def test_a_record_keeps_a_bounded_part(count: int, size: int) -> None:
    """Of however many arguments those that fit into 16 KiB are kept, whole, in one piece, and the rest is counted."""
    args = ("x" * size,) * min(count, (2 * MIB - 1) // (size + 1))
    kept = CommandLine.of(JobSpecification(command="c" * LONGEST_PATH, args=args))
    assert len(kept.args) == min(len(args), 16 * KIB // (size + 1))
    assert tuple(kept.args) == args[: len(kept.args)]
    assert len(kept.args) + kept.omitted == len(args)
    assert sys.getsizeof(kept._packed) <= 16 * KIB + LONGEST_PATH + 64


def test_a_kept_command_line_stays_out_of_logs() -> None:
    """Its repr tells the command alone."""
    shown = repr(CommandLine.of(JobSpecification(command="mysql", args=("--password=hunter2",))))
    assert "mysql" in shown
    assert "hunter2" not in shown
