"""The table: best rounds, ratios of rounds, and shares."""

from __future__ import annotations

import json

import pytest

from tests.bench.table import Better, Row, Runs, as_document, as_text


def row(better: Better) -> Row:
    """Two rounds of 10 and 20 for jobmaster, of 40 and 50 for the peer."""
    return Row(
        name="a thing",
        unit="MB/s",
        better=better,
        jobmaster=Runs(values=(20.0, 10.0), cpu_milliseconds=(3.0, 2.0)),
        peer=Runs(values=(40.0, 50.0), cpu_milliseconds=(1.0, 1.0)),
        limit=200.0,
    )


@pytest.mark.parametrize(("better", "share"), [(Better.HIGHER, 0.1), (Better.LOWER, 0.05)])
def test_best_round_is_the_share(better: Better, share: float) -> None:
    """A share is that of the best round, whichever direction is the better one."""
    assert row(better).share == share


def test_ratio_is_that_of_rounds() -> None:
    """A ratio compares values of the same round, and one lucky round of either side does not make it."""
    ours, theirs = Runs(values=(10.0, 90.0, 12.0)), Runs(values=(10.0, 10.0, 10.0))
    assert Row(name="", unit="", better=Better.HIGHER, jobmaster=ours, peer=theirs).ratio == 1.2


def test_text() -> None:
    """A line shows each side's best round, its spread, the ratio, the share and the least CPU time."""
    line = as_text([row(Better.HIGHER)]).splitlines()[1]
    assert line.split("  ")[0] == "a thing"
    assert line.split()[2:] == [
        *("MB/s", "(+)", "20.0", "10.0..20.0", "50.0", "40.0..50.0"),
        *("0.35", "10.0%", "2.00", "1.00"),
    ]


def test_nothing_to_compare_with() -> None:
    """A row without a peer has no ratio, in the table and in the document."""
    alone = Row(name="a cipher", unit="MB/s", better=Better.HIGHER, jobmaster=Runs(values=(1234.0,)))
    assert as_text([alone]).splitlines()[1].split() == ["a", "cipher", "MB/s", "(+)", "1,234", "1,234..1,234"]
    (entry,) = as_document([alone], {})["measurements"]
    assert (entry["peer"], entry["ratio"], entry["share_of_cipher"]) == (None, None, None)


def test_document_keeps_every_round() -> None:
    """The document has all rounds in their order, and what they depend on, and survives JSON."""
    document = as_document([row(Better.HIGHER)], {"processors": 2})
    assert json.loads(json.dumps(document)) == document
    assert document["conditions"] == {"processors": 2}
    assert document["measurements"][0]["peer"]["rounds"] == [40.0, 50.0]
