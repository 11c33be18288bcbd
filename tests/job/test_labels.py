"""What a job is called."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from jobmaster.errors import InvalidRequest
from jobmaster.job.labels import MOST_LABELS, Labels, check_name, checked_labels
from jobmaster.job.request import RequestKey
from jobmaster.job.specification import JobSpecification

FULL = [(f"key-{number}", "x" * 100) for number in range(MOST_LABELS)]


@pytest.mark.parametrize("name", ["", "x", "nightly build", "überprüfung", "x" * 128])
def test_names(name: str) -> None:
    """A name is of printable characters, or there is none."""
    check_name(name)


@pytest.mark.parametrize("name", [" ", "x" * 129, "a\nb", "a\0b", "\x1b[31m", "\udcff"])
def test_what_is_no_name(name: str) -> None:
    """What a terminal would obey, what nobody sees and what is too long is none."""
    with pytest.raises(InvalidRequest) as refused:
        check_name(name)
    assert refused.value.field == "name"


def test_labels_have_an_order() -> None:
    """It is that of the keys, however they are given; a value may be empty."""
    assert checked_labels([("b", "2"), ("a.b/c_d-1", "")]) == (("a.b/c_d-1", ""), ("b", "2"))
    assert len(checked_labels(FULL)) == MOST_LABELS


@pytest.mark.parametrize(
    ("labels", "field"),
    [
        ([*FULL, ("one-more", "")], "labels"),
        ([(f"key-{number}", "é" * 100) for number in range(25)], "labels"),
        ([("", "x")], "labels[]"),
        ([("A", "x")], "labels[A]"),
        ([("a b", "x")], "labels[a b]"),
        ([('a"b', "x")], 'labels[a"b]'),
        ([("k" * 64, "x")], f"labels[{'k' * 64}]"),
        ([("a", "x" * 256)], "labels[a]"),
        ([("a", "x\n")], "labels[a]"),
    ],
)
def test_what_are_no_labels(labels: Sequence[tuple[str, str]], field: str) -> None:
    """Too many, too large, or a key or value that cannot be: what it is about is named."""
    with pytest.raises(InvalidRequest) as refused:
        JobSpecification(command="x", labels=tuple(labels))
    assert refused.value.field == field


def test_another_name_is_another_request() -> None:
    """A request id stands for name and labels too; that these are in another order is no difference."""

    def digest(name: str = "", labels: Labels = ()) -> bytes:
        return RequestKey.of("r", JobSpecification(command="ls", name=name, labels=labels)).digest

    given = [digest(), digest("a"), digest("", (("a", ""),)), digest("a", (("b", ""),)), digest("a", (("b", "c"),))]
    assert len(set(given)) == len(given)
    assert digest(labels=(("a", "1"), ("b", "2"))) == digest(labels=(("b", "2"), ("a", "1")))
