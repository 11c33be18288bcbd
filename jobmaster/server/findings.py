"""What is found out about a host, and how it is told: by the server at its start, and by `jobmaster doctor`. Pure."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable


class Verdict(enum.StrEnum):
    """What a finding means for a server on this host."""

    OK = "ok"
    WARNING = "warning"
    """A server runs all the same; what it then lacks is told."""
    MISSING = "missing"
    """A server that is asked for this does not start, or nobody can use it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: what, in a word or two.
        text: what was found.
        remedy: what to do; empty where there is nothing to be done, or the text says it.
    """

    topic: str
    verdict: Verdict
    text: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if not self.topic or not self.text:
            raise ValueError(f"a finding says of what it is, and what was found: {self}")
        if self.verdict is Verdict.OK and self.remedy:
            raise ValueError(f"what is well needs no remedy: {self}")

    @property
    def sentence(self) -> str:
        """What was found, and the remedy."""
        return f"{self.text}: {self.remedy}" if self.remedy else self.text


_VERDICT_WIDTH: Final = max(len(verdict) for verdict in Verdict)


def is_fit(findings: Iterable[Finding]) -> bool:
    """Whether nothing is missing."""
    return all(finding.verdict is not Verdict.MISSING for finding in findings)


def as_table(findings: Iterable[Finding]) -> str:
    """A line for each finding, in its order: verdict, topic, sentence."""
    found = tuple(findings)
    width = max((len(finding.topic) for finding in found), default=0)
    return "".join(
        f"{finding.verdict:<{_VERDICT_WIDTH}}  {finding.topic:<{width}}  {finding.sentence}\n" for finding in found
    )


def as_json(findings: Iterable[Finding], version: str) -> str:
    """One line of JSON: the findings, and whether nothing is missing; `version` is that of the program."""
    found = tuple(findings)
    rows = [
        {"topic": each.topic, "verdict": str(each.verdict), "text": each.text, "remedy": each.remedy} for each in found
    ]
    return json.dumps({"version": version, "ok": is_fit(found), "findings": rows}) + "\n"


def as_report(findings: Iterable[Finding]) -> tuple[str, ...]:
    """The lines in which a server that starts tells those that are not well."""
    return tuple(f"{finding.verdict}: {finding.sentence}" for finding in findings if finding.verdict is not Verdict.OK)
