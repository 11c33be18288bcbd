"""How findings are told."""

from __future__ import annotations

import json

import pytest

from jobmaster.server.findings import Finding, Verdict, as_json, as_report, as_table, is_fit

WELL = Finding(topic="kernel", verdict=Verdict.OK, text="Linux 6.1")
DOUBTFUL = Finding(topic="clock", verdict=Verdict.WARNING, text="not synchronised", remedy="run chrony")
BAD = Finding(topic="cgroup", verdict=Verdict.MISSING, text="no cgroup v2")


def test_a_line_each() -> None:
    """The table has a line for each finding, in order and in columns; the remedy follows what was found."""
    assert as_table([WELL, DOUBTFUL, BAD]).splitlines() == [
        "ok       kernel  Linux 6.1",
        "warning  clock   not synchronised: run chrony",
        "missing  cgroup  no cgroup v2",
    ]


def test_one_line_of_json() -> None:
    """The document has all of it in one line, and whether nothing is missing."""
    text = as_json([DOUBTFUL, BAD], "1.2.3")
    assert text.count("\n") == 1
    assert json.loads(text) == {
        "version": "1.2.3",
        "ok": False,
        "findings": [
            {"topic": "clock", "verdict": "warning", "text": "not synchronised", "remedy": "run chrony"},
            {"topic": "cgroup", "verdict": "missing", "text": "no cgroup v2", "remedy": ""},
        ],
    }


@pytest.mark.parametrize(("findings", "fit"), [([], True), ([WELL, DOUBTFUL], True), ([WELL, BAD], False)])
def test_a_warning_keeps_no_host_from_being_fit(findings: list[Finding], fit: bool) -> None:
    """Only what is missing does."""
    assert is_fit(findings) is fit


def test_a_report_leaves_out_what_is_well() -> None:
    """A server that starts tells what its operator should see to, each with its verdict."""
    assert as_report([WELL, DOUBTFUL, BAD]) == ("warning: not synchronised: run chrony", "missing: no cgroup v2")


def test_findings_that_say_nothing() -> None:
    """A finding has a topic and a text, and what is well has no remedy."""
    for wrong in ({"topic": "", "text": "x"}, {"topic": "x", "text": ""}, {"topic": "x", "text": "x", "remedy": "y"}):
        with pytest.raises(ValueError, match=r"finding says|needs no remedy"):
            Finding(verdict=Verdict.OK, **wrong)
