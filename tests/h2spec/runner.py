"""Runs h2spec case by case: each in a process of its own with a deadline, for one case can hang h2spec for ever."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import trio

ANSWER_SECONDS: Final = 20
"""How long h2spec waits for an answer; from a server that conforms there is one to every case."""
LONG_HEADER: Final = 13_500
"""Bytes of a header that h2spec takes for long: five of them are more than a frame of our server's may have."""
ANSWERS: Final = 3
"""So many, at most, are waited for in a case, with what the case itself takes."""
AT_A_TIME: Final = 8

_SUITES: Final = {
    "Generic tests for HTTP/2 server": "generic",
    "Hypertext Transfer Protocol Version 2 (HTTP/2)": "http2",
    "HPACK: Header Compression for HTTP/2": "hpack",
}
_SECTION: Final = re.compile(r" +(\d+(?:\.\d+)*)\. ")
_CASE: Final = re.compile(r" +(\d+): ")
_SUMMARY: Final = re.compile(r"^1 tests, (\d) passed, (\d) skipped, (\d) failed$", re.MULTILINE)


class Verdict(Enum):
    """What came of a case."""

    PASSED = auto()
    SKIPPED = auto()
    FAILED = auto()
    HUNG = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A case by its id (`http2/6.9.2/1`), what came of it, and all that h2spec said."""

    case: str
    verdict: Verdict
    report: str


def h2spec_binary() -> str:
    """The h2spec that the nox session provides."""
    found = shutil.which("h2spec")
    assert found is not None, "h2spec is not on PATH: run this test by `nox -s tests`, which builds it"
    return found


def cases_in(listing: str) -> list[str]:
    """The ids of the cases in what `h2spec --dryrun` prints.

    Raises:
        ValueError: a line is none of a suite, a section and a case.
    """
    cases: list[str] = []
    suite = section = ""
    for line in filter(str.strip, listing.splitlines()):
        if line in _SUITES:
            suite = _SUITES[line]
        elif match := _CASE.match(line):
            cases.append(f"{suite}/{section}/{match[1]}")
        elif match := _SECTION.match(line):
            section = match[1]
        else:
            raise ValueError(f"not a line of h2spec's list of cases: {line!r}")
    return cases


async def all_cases() -> list[str]:
    """The ids of h2spec's cases, the strict ones included."""
    listing = await trio.run_process([h2spec_binary(), "--strict", "--dryrun"], capture_stdout=True)
    return cases_in(listing.stdout.decode())


def verdict_in(report: str) -> Verdict:
    """What h2spec says of one case. Its exit status is no help: it is 0 for a case that does not exist."""
    match _SUMMARY.search(report):
        case re.Match() as summary if summary.groups() == ("1", "0", "0"):
            return Verdict.PASSED
        case re.Match() as summary if summary.groups() == ("0", "1", "0"):
            return Verdict.SKIPPED
        case _:
            return Verdict.FAILED


async def run_case(case: str, *, port: int, path: str, seconds: int = ANSWER_SECONDS) -> Outcome:
    """Runs one case against a server on the loopback address, which may take so many seconds for an answer."""
    options = ["--timeout", str(seconds), "--max-header-length", str(LONG_HEADER), "--port", str(port), "--path", path]
    command = [h2spec_binary(), "--strict", *options, case]
    with trio.move_on_after(ANSWERS * seconds):
        ended = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT, check=False)
        report = ended.stdout.decode()
        return Outcome(case=case, verdict=verdict_in(report), report=report)
    return Outcome(case=case, verdict=Verdict.HUNG, report=f"no end within {ANSWERS * seconds} s")


async def run_cases(cases: list[str], *, port: int, path: str, seconds: int = ANSWER_SECONDS) -> list[Outcome]:
    """Runs cases, `AT_A_TIME` of them at a time, begun in their order, in which the outcomes are as well."""
    outcomes: dict[str, Outcome] = {}
    left = iter(cases)

    async def run_next_ones() -> None:
        for case in left:
            outcomes[case] = await run_case(case, port=port, path=path, seconds=seconds)

    async with trio.open_nursery() as nursery:
        for _ in range(AT_A_TIME):
            nursery.start_soon(run_next_ones)
    return [outcomes[case] for case in cases]
