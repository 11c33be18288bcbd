"""The result: rows, as a table for people and as a JSON document. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

HEAD: Final = ("", "unit", "jobmaster", "rounds", "peer", "rounds", "ratio", "of AES", "CPU ms", "peer CPU ms")
LEGEND: Final = """\
peer: grpcio's server over the same mTLS; spawns by Popen alone, streams the same file in messages of the same size.
      For the command line: python -c 'import trio'; both with their user and system time.
      Where a row names two sides ("full beside off"), jobmaster in the other condition, or what the row says.
jobmaster, peer: each side's best round; the worst and the best of its rounds beside it.
ratio: jobmaster / peer, the median over the rounds, in which both took turns; (+) more is better, (-) less is better.
of AES: share of what one core encrypts.  CPU ms: the server's own for each start, job, call or MB; the least of its rounds.\
"""


class Better(enum.Enum):
    """Which value of a row is the better one."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """One side's rounds: the values, and the server's CPU time for each operation."""

    values: tuple[float, ...]
    cpu_milliseconds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("no round was measured")

    def best(self, better: Better) -> float:
        """The round that was disturbed least."""
        return max(self.values) if better is Better.HIGHER else min(self.values)

    @property
    def cpu(self) -> float | None:
        """The least CPU time of the rounds."""
        return min(self.cpu_milliseconds, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement of both sides; of one where there is nothing to compare with.

    Attributes:
        limit: what a single core could do at most, in the row's unit.
    """

    name: str
    unit: str
    better: Better
    jobmaster: Runs
    peer: Runs | None = None
    limit: float | None = None

    @property
    def ratio(self) -> float | None:
        """Jobmaster's value over the peer's of the same round, by median: the best rounds alone may be one lucky one."""
        if self.peer is None:
            return None
        return median(ours / theirs for ours, theirs in zip(self.jobmaster.values, self.peer.values, strict=True))

    @property
    def share(self) -> float | None:
        """Jobmaster's best round over the limit."""
        return self.jobmaster.best(self.better) / self.limit if self.limit is not None else None


def as_text(rows: Sequence[Row]) -> str:
    """The table, with its legend."""
    lines = [HEAD, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = "\n".join(_line(cells, widths) for cells in lines)
    return f"{table}\n\n{LEGEND}"


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    name, unit, *numbers = (*cells,)
    right = (cell.rjust(width) for cell, width in zip(numbers, widths[2:], strict=True))
    return "  ".join((name.ljust(widths[0]), unit.ljust(widths[1]), *right)).rstrip()


def _cells(row: Row) -> tuple[str, ...]:
    sign = "+" if row.better is Better.HIGHER else "-"
    return (
        row.name,
        f"{row.unit} ({sign})",
        *_side(row.jobmaster, row.better),
        *(_side(row.peer, row.better) if row.peer is not None else ("", "")),
        f"{row.ratio:.2f}" if row.ratio is not None else "",
        f"{row.share:.1%}" if row.share is not None else "",
        _number(row.jobmaster.cpu),
        _number(row.peer.cpu if row.peer is not None else None),
    )


def _side(runs: Runs, better: Better) -> tuple[str, str]:
    return _number(runs.best(better)), f"{_number(min(runs.values))}..{_number(max(runs.values))}"


def _number(value: float | None) -> str:
    """Three significant digits or all whole ones: the noise is larger than more would say."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def as_document(rows: Sequence[Row], conditions: Mapping[str, object]) -> dict[str, Any]:
    """All that was measured, round by round, ready for JSON."""
    return {"conditions": dict(conditions), "measurements": [_entry(row) for row in rows]}


def _entry(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "unit": row.unit,
        "better": row.better.value,
        "jobmaster": _rounds(row.jobmaster, row.better),
        "peer": _rounds(row.peer, row.better) if row.peer is not None else None,
        "ratio": row.ratio,
        "share_of_cipher": row.share,
    }


def _rounds(runs: Runs, better: Better) -> dict[str, Any]:
    return {
        "best": runs.best(better),
        "rounds": list(runs.values),
        "server_cpu_milliseconds": list(runs.cpu_milliseconds),
    }
