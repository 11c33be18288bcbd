"""What a caller gives a job beside its words."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from jobmaster.errors import InvalidRequest
from jobmaster.job.environment import MOST_VARIABLES, check_folder, checked_environment, size_of
from jobmaster.job.request import RequestKey
from jobmaster.job.specification import MAX_ARGUMENT_BYTES, JobSpecification

SECRET = "hunter2"


def test_variables_have_an_order() -> None:
    """It is that of the names, however they are given; values are any text."""
    assert checked_environment([("_b", "é\n "), ("A.b-1", "")]) == (("A.b-1", ""), ("_b", "é\n "))
    assert size_of((("A", "é"), ("B", ""))) == 8


@pytest.mark.parametrize(
    ("pairs", "field"),
    [
        ([("", SECRET)], "environment[]"),
        ([("a=b", SECRET)], "environment[a=b]"),
        ([("1", SECRET)], "environment[1]"),
        ([("a b", SECRET)], "environment[a b]"),
        ([("a\0", SECRET)], "environment[a\0]"),
        ([("é", SECRET)], "environment[é]"),
        ([("a" * 129, SECRET)], f"environment[{'a' * 80}]"),
        ([("JOBMASTER_JOB_ID", SECRET)], "environment[JOBMASTER_JOB_ID]"),
        ([("JOBMASTER_", SECRET)], "environment[JOBMASTER_]"),
        ([("A", f"{SECRET}\0")], "environment[A]"),
        ([(f"V{number}", SECRET) for number in range(MOST_VARIABLES + 1)], "environment"),
        ([(f"{'V' * 60}{number}", SECRET) for number in range(MOST_VARIABLES)], "environment"),
    ],
)
def test_what_are_no_variables(pairs: Sequence[tuple[str, str]], field: str) -> None:
    """What a job cannot be given is named by its name, and its value is not shown."""
    with pytest.raises(InvalidRequest) as refused:
        JobSpecification(command="x", environment=tuple(pairs))
    assert refused.value.field == field
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("folder", ["srv", "./srv", " /srv", "/a\0b", "/" * 4096, f"/{'é' * 2048}"])
def test_what_is_no_folder(folder: str) -> None:
    """A working folder is an absolute path that the kernel can take."""
    with pytest.raises(InvalidRequest) as refused:
        JobSpecification(command="x", working_folder=folder)
    assert refused.value.field == "working_folder"


def test_folders() -> None:
    """Any absolute path may be one: its process finds out."""
    for folder in ("", "/", "/srv/../etc", "/" + "é" * 2047):
        check_folder(folder)


def test_the_bound_of_the_arguments_is_shared() -> None:
    """Arguments and variables are together as large as arguments alone may be."""
    half = "x" * (MAX_ARGUMENT_BYTES // 2)
    JobSpecification(command="x", args=(half[:-1],), environment=(("A", half[:-3]),))
    with pytest.raises(InvalidRequest, match="more than 2 MiB of arguments and environment"):
        JobSpecification(command="x", args=(half[:-1],), environment=(("A", half[:-2]),))


def test_no_value_is_shown() -> None:
    """What is written of a specification in a log has none."""
    specification = JobSpecification(command="x", environment=(("A", SECRET),))
    assert SECRET not in repr(specification)


def test_another_environment_is_another_request() -> None:
    """A request id stands for the names and the folder; for no value, of which a digest would let it be guessed."""

    def digest(*environment: tuple[str, str], folder: str = "") -> bytes:
        specification = JobSpecification(command="ls", environment=environment, working_folder=folder)
        return RequestKey.of("r", specification).digest

    given = [digest(), digest(("A", "")), digest(("B", "")), digest(("A", ""), ("B", "")), digest(folder="/srv")]
    assert len(set(given)) == len(given)
    assert digest(("A", "1"), ("B", "2")) == digest(("B", "3"), ("A", "4"))
