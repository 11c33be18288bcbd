"""Calls that are made once, each with a subject of its own, and what their clients were told; held against an audit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class Key:
    """What tells a call from every other one.

    Attributes:
        client: who made it.
        method: its name, without the service's.
        subject: the job that it names, or the last word of its command.
    """

    client: str
    method: str
    subject: str


@dataclass(slots=True)
class Account:
    """What clients have been told.

    Attributes:
        outcomes: of each call; None where its client does not know.
        in_turn: the calls of each worker that were answered, in their order.
    """

    outcomes: dict[Key, str | None] = field(default_factory=dict)
    in_turn: dict[int, list[Key]] = field(default_factory=lambda: defaultdict(list))

    def begins(self, key: Key) -> None:
        """A call is made."""
        assert key not in self.outcomes, f"{key} is no other call's"
        self.outcomes[key] = None

    def ends(self, worker: int, key: Key, outcome: str) -> None:
        """Its client was told."""
        self.outcomes[key] = outcome
        self.in_turn[worker].append(key)

    def problems(self, entries: Sequence[dict[str, Any]], *, is_cut: bool) -> list[str]:
        """What is not so in an audit: each call once, in order, with the outcome that its client saw.

        Args:
            entries: all of the audit.
            is_cut: servers were killed: the outcome of a call may be unknown.
        """
        found: dict[Key, list[dict[str, Any]]] = defaultdict(list)
        for entry in entries:
            if entry["kind"] == "call" and (key := key_of(entry)) is not None:
                found[key].append(entry)
        wrong = [f"{key} is nobody's" for key in found.keys() - self.outcomes.keys()]
        for key, outcome in self.outcomes.items():
            told = [entry["outcome"] for entry in found[key]]
            allowed = [[outcome]] if outcome is not None else [[], *([each] for each in told)]
            if is_cut:
                allowed.append([UNKNOWN])
            if told not in allowed:
                wrong.append(f"{key} was told as {outcome}, and is there as {told}")
        for keys in self.in_turn.values():
            numbers = [entry["sequence"] for key in keys for entry in found[key]]
            if numbers != sorted(numbers):
                wrong.append(f"calls that were made one after the other have the numbers {numbers}")
        return wrong


def key_of(entry: dict[str, Any]) -> Key | None:
    """What tells the call of an entry from others; None for one that no client counts."""
    subject = entry["command"][-1] if entry["command"] else entry["job"]
    if entry["client"] is None or entry["method"] is None or subject is None:
        return None
    return Key(entry["client"], entry["method"].rpartition("/")[2], subject)


def problems_of_trail(entries: Sequence[dict[str, Any]], last_event: int) -> list[str]:
    """What is not so of an audit, whoever called: numbers without a hole, an end for each beginning, each event once."""
    wrong = []
    begun = Counter(entry["sequence"] for entry in entries if entry["kind"] == "begun")
    ended = Counter(entry["begun"] for entry in entries if entry["kind"] == "call" and entry["begun"] is not None)
    if begun != ended:
        wrong.append(f"beginnings without an end, and ends without a beginning: {begun - ended}, {ended - begun}")
    wrong += _holes("sequence", (entry["sequence"] for entry in entries), len(entries))
    wrong += _holes("journal", (entry["journal_sequence"] for entry in entries if entry["kind"] == "job"), last_event)
    wrong += [f"{entry}" for entry in entries if entry["kind"] == "gap"]
    return wrong


def _holes(what: str, numbers: Iterable[int], last: int) -> list[str]:
    told = list(numbers)
    if told == list(range(1, last + 1)):
        return []
    counted = Counter(told)
    missing = [number for number in range(1, last + 1) if number not in counted]
    twice = [number for number, count in counted.items() if count > 1]
    return [f"{what}: {missing[:20]} of {last} are missing ({len(missing)}), {twice[:20]} are there more than once"]
