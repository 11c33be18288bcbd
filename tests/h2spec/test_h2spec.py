"""The transport's server side against h2spec, the conformance suite of HTTP/2 and HPACK."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from tests.h2spec.runner import Outcome, Verdict, all_cases, cases_in, run_cases, verdict_in
from tests.h2spec.server import CALL_PATH, REFUSED_PATH
from tests.harness import REPOSITORY

CASES: Final = 146
"""Of h2spec 2.2.1, the one strict case included."""
START_SECONDS: Final = 60.0

SAY_NOTHING_OF_A_REFUSAL: Final = frozenset(
    {
        # They close the window, so that the server cannot end the stream, and then wait for DATA, or for the refusal
        # of one stream too many. A refusal in headers alone ends each stream at once.
        "generic/2/2",
        "generic/2/3",
        "http2/5.1.2/1",
        # They ask for the length of the body first, and skip themselves when there is none.
        "http2/6.5.3/1",
        "http2/6.9.1/1",
        "http2/6.9.2/1",
        "http2/6.9.2/2",
        # They break a request after its headers. A refusal needs no more than the headers, and resets the stream with
        # NO_ERROR (RFC 9113, 8.1); whether it is faster than the frame that is wrong is a matter of luck.
        "http2/6.9.1/3",
        "http2/8.1/1",
        "http2/8.1.2.1/3",
        "http2/8.1.2.6/1",
        "http2/8.1.2.6/2",
    }
)
"""The cases that cannot judge a request which is refused. Calls have to pass them."""


@asynccontextmanager
async def served() -> AsyncIterator[int]:
    """The port of a server in a process of its own, which has no bug to tell of at the end."""
    command = [sys.executable, "-m", "tests.h2spec.server"]
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY
        )
        assert process.stdout is not None
        assert process.stderr is not None
        said = bytearray()
        nursery.start_soon(collect, process.stderr, said)
        try:
            with trio.fail_after(START_SECONDS):
                line = await process.stdout.receive_some(100)
            assert line, f"the server did not start: {said.decode()}"
            yield int(line)
        finally:
            process.kill()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + START_SECONDS):
                await process.wait()
    assert not said, f"the server told of bugs: {said.decode()}"


async def collect(stream: trio.abc.ReceiveStream, into: bytearray) -> None:
    """Reads all of a stream."""
    async for data in stream:
        into += data


def complaint(outcomes: list[Outcome]) -> str:
    """The cases that did not pass, by id, and what h2spec said of each."""
    others = [outcome for outcome in outcomes if outcome.verdict is not Verdict.PASSED]
    lines = [f"{len(others)} of {len(outcomes)} did not pass; where all after one do not, it has felled the server"]
    lines += [f"{outcome.case}: {outcome.verdict.name.lower()}" for outcome in others]
    lines += [outcome.report for outcome in others]
    return "\n".join(lines)


async def test_calls_conform() -> None:
    """Every case passes, none is skipped, when the requests are calls that are served."""
    cases = await all_cases()
    async with served() as port:
        outcomes = await run_cases(cases, port=port, path=CALL_PATH)
    assert len(outcomes) == CASES
    assert all(outcome.verdict is Verdict.PASSED for outcome in outcomes), complaint(outcomes)


async def test_refusals_conform() -> None:
    """Every case that can say something about it passes when the requests are refused as not gRPC."""
    every = await all_cases()
    cases = [case for case in every if case not in SAY_NOTHING_OF_A_REFUSAL]
    async with served() as port:
        outcomes = await run_cases(cases, port=port, path=REFUSED_PATH)
    assert len(outcomes) == CASES - len(SAY_NOTHING_OF_A_REFUSAL)
    assert all(outcome.verdict is Verdict.PASSED for outcome in outcomes), complaint(outcomes)


async def test_a_silent_server_passes_nothing() -> None:
    """The runner tells a server that does not speak HTTP/2 from one that conforms."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener:
        port = listener.socket.getsockname()[1]
        cases = ["generic/1/1", "http2/3.5/1", "hpack/2.3.3/1"]
        outcomes = await run_cases(cases, port=port, path=REFUSED_PATH, seconds=1)
    assert [outcome.verdict for outcome in outcomes if outcome.verdict is Verdict.PASSED] == []


async def test_a_case_that_does_not_exist_does_not_pass() -> None:
    """A wrong id, for which h2spec runs nothing and exits with 0, is a failure."""
    async with served() as port:
        (outcome,) = await run_cases(["http2/6.9.1/99"], port=port, path=CALL_PATH)
    assert outcome.verdict is Verdict.FAILED


def test_list_of_cases() -> None:
    """Ids are made of the suite, the innermost section and the number."""
    listing = """\
Generic tests for HTTP/2 server
  1. Starting HTTP/2
    1: Sends a client connection preface

HPACK: Header Compression for HTTP/2
  2. Compression Process Overview
    2.3. Indexing Tables
      2.3.3. Index Address Space
        1: Sends a header field representation with invalid index
        2: Sends another
"""
    assert cases_in(listing) == ["generic/1/1", "hpack/2.3.3/1", "hpack/2.3.3/2"]


def test_verdicts() -> None:
    """A verdict is read from the summary; a report without one, of a case that broke off, is a failure."""
    assert verdict_in("\n1 tests, 1 passed, 0 skipped, 0 failed\n") is Verdict.PASSED
    assert verdict_in("\n1 tests, 0 passed, 1 skipped, 0 failed\n") is Verdict.SKIPPED
    assert verdict_in("\n1 tests, 0 passed, 0 skipped, 1 failed\n") is Verdict.FAILED
    assert verdict_in("Error: dial tcp: connection refused") is Verdict.FAILED
