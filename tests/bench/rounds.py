"""Loads in rounds in which both sides take turns, and rows made of what they came to."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from statistics import median, quantiles

from tests.bench.load import Load, Outcome
from tests.bench.servers import Clients
from tests.bench.table import Better, Row, Runs


def take_turns(clients: Clients, rounds: int, *loads: Load) -> list[list[Outcome]]:
    """For each load the outcomes of its rounds."""
    outcomes: list[list[Outcome]] = [[] for _ in loads]
    for number in range(rounds):
        tell(f"{loads[0].kind}: round {number + 1} of {rounds}")
        for own, load in zip(outcomes, loads, strict=True):
            own.append(clients.run(load)[0])
    return outcomes


def runs_of(outcomes: Sequence[Outcome], values: Iterable[float], operations: float) -> Runs:
    """Values of rounds, with the server's CPU time for each of the operations."""
    costs = tuple(1000 * outcome.server_seconds / operations for outcome in outcomes)
    return Runs(values=tuple(values), cpu_milliseconds=costs)


def latency_rows(
    name: str, count: int, ours: Sequence[Outcome], theirs: Sequence[Outcome] | None = None
) -> Iterator[Row]:
    """Median and 99th percentile of `count` operations, in milliseconds."""
    for which, figure in (("median", median), ("p99", _p99)):
        yield Row(
            name=f"{name}, {which} of {count}",
            unit="ms",
            better=Better.LOWER,
            jobmaster=runs_of(ours, [1000 * figure(outcome.latencies) for outcome in ours], count),
            peer=runs_of(theirs, [1000 * figure(outcome.latencies) for outcome in theirs], count) if theirs else None,
        )


def _p99(latencies: Sequence[float]) -> float:
    return quantiles(latencies, n=100, method="inclusive")[98]


def tell(line: str) -> None:
    """Says on stderr how far it has come."""
    print(line, file=sys.stderr, flush=True)
