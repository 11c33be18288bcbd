"""Loads: what goes to the client process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.load import (
    CLIENTS,
    Client,
    Kind,
    Load,
    Outcome,
    WrongAnswer,
    kept_id,
    kept_owner,
    require_bytes,
    require_jobs,
    require_success,
)


def load(kind: Kind, *, count: int = 10, in_flight: int = 1, job_id: str = "") -> Load:
    """A load by jobmaster's client."""
    return Load(
        kind=kind,
        client=Client.JOBMASTER,
        port=1,
        server=2,
        certificates=Path("/c"),
        count=count,
        in_flight=in_flight,
        job_id=job_id,
    )


def test_json() -> None:
    """A load and an outcome are the same on the other side of JSON."""
    given = load(Kind.STREAM, job_id="x")
    outcome = Outcome(seconds=1.5, server_seconds=0.5, latencies=(0.5, 1.0), job_id="x")
    assert Load.from_json(given.to_json()) == given
    assert Outcome.from_json(outcome.to_json()) == outcome


def test_shares() -> None:
    """The workers' shares differ by one at most and are the whole load."""
    assert load(Kind.JOBS, count=10, in_flight=4).shares() == [3, 3, 2, 2]


@pytest.mark.parametrize(
    ("kind", "in_flight", "job_id"),
    [(Kind.START, 2, ""), (Kind.STREAM, 1, ""), (Kind.STATUS, 1, "x"), (Kind.PAGES, 2, "")],
)
def test_senseless_load(kind: Kind, in_flight: int, job_id: str) -> None:
    """A load that measures nothing does not come to be."""
    with pytest.raises(ValueError, match=r"at a time|of a job"):
        load(kind, in_flight=in_flight, job_id=job_id)


@pytest.mark.parametrize("kind", [Kind.RECORDS, Kind.ADOPT, Kind.UPGRADE])
def test_load_of_nothing(kind: Kind) -> None:
    """A load of jobs that are kept, or of servers that are replaced, says which."""
    with pytest.raises(ValueError, match=r"kept|launcher"):
        load(kind)


def test_wrong_answers() -> None:
    """Lost bytes and a failed job end a measurement instead of being measured."""
    require_bytes(3, 3)
    require_success(3, 0, 3)
    with pytest.raises(WrongAnswer, match="2 bytes"):
        require_bytes(2, 3)
    with pytest.raises(WrongAnswer, match="exit code 1"):
        require_success(3, 1, 3)
    require_jobs(3, 3)
    with pytest.raises(WrongAnswer, match="2 jobs"):
        require_jobs(2, 3)


def test_kept_jobs() -> None:
    """Kept jobs have ids of their own, and every client has as many of them."""
    numbers = range(1, 401)
    assert len({kept_id(number) for number in numbers}) == 400
    assert {[kept_owner(number) for number in numbers].count(client) for client in CLIENTS} == {100}
