"""The schema: what each entry becomes, and what never does."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Final, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.audit.entry import (
    KEPT_CHARACTERS,
    Begun,
    Call,
    Closed,
    Command,
    Entry,
    Gap,
    Handshake,
    JobChange,
    Opened,
    RefusalsCounted,
    Rotated,
    encode,
    masked,
)
from jobmaster.job.secret import MASK
from tests.audit.entries import AT, CALLER, START, call

ASKED: Final = [
    "time",
    "client",
    "serial",
    "fingerprint",
    "peer",
    "method",
    "job",
    "command",
    "command_omitted",
]
FIELDS: Final[list[tuple[Entry, str, list[str]]]] = [
    (Begun(at=AT, caller=CALLER, method=START), "begun", ASKED),
    (call(), "call", ["begun", *ASKED, "outcome", "why", "seconds"]),
    (
        JobChange(journal_sequence=7, at=AT, client="c", job="J", event="launched"),
        "job",
        ["journal_sequence", "time", "client", "job", "event", "by", "why"],
    ),
    (
        Handshake(at=AT, caller=CALLER, why="x"),
        "handshake",
        ["time", "client", "serial", "fingerprint", "peer", "why"],
    ),
    (
        RefusalsCounted(at=AT, since=AT, count=2, reasons={"x": 2}, peers={"127.0.0.1": 2}),
        "counted",
        ["time", "since", "count", "reasons", "peers"],
    ),
    (Gap(at=AT, since=AT, count=3, why="x"), "gap", ["time", "since", "count", "why"]),
    (
        Opened(journal_sequence=7, at=AT, before="nothing", server="0.1.0"),
        "opened",
        ["journal_sequence", "time", "before", "server"],
    ),
    (Closed(at=AT), "closed", ["time"]),
    (Rotated(journal_sequence=7, at=AT, begun=(3, 4)), "rotated", ["journal_sequence", "time", "open"]),
]


@pytest.mark.parametrize(("entry", "kind", "names"), FIELDS, ids=[kind for _, kind, _ in FIELDS])
def test_each_kind_of_entry(entry: Entry, kind: str, names: list[str]) -> None:
    """A line is one object in ASCII, whose fields are always the same and in the same order."""
    line = encode(entry, 42)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    document = json.loads(line.decode("ascii"))
    assert list(document) == ["version", "sequence", "kind", *names]
    assert (document["version"], document["sequence"], document["kind"]) == (1, 42, kind)


def test_all_kinds_are_tried() -> None:
    """The table above has every kind of entry."""
    assert {type(entry) for entry, _, _ in FIELDS} == set(get_args(Entry))


def test_a_call_in_full() -> None:
    """What is said of a call is who, from where, what, how it came out, and how long it took."""
    entry = dataclasses.replace(call("NOT_FOUND", why="no such job", words=("ls", "é\n")), job="J")
    assert json.loads(encode(entry, 9, begun=8)) == {
        "version": 1,
        "sequence": 9,
        "kind": "call",
        "begun": 8,
        "time": "2026-11-29T10:17:28.960906Z",
        "client": "client1",
        "serial": "5663",
        "fingerprint": "d70d",
        "peer": "127.0.0.1:46594",
        "method": "jobmaster.jobs.v1.JobService/Start",
        "job": "J",
        "command": ["ls", "é\n"],
        "command_omitted": 0,
        "outcome": "NOT_FOUND",
        "why": "no such job",
        "seconds": 0.5,
    }


def test_times_are_in_utc() -> None:
    """A time of another zone is told in UTC, to the microsecond also where that is 0."""
    moment = datetime(2026, 1, 1, 1, 0, tzinfo=timezone(timedelta(hours=1)))
    assert json.loads(encode(Closed(at=moment), 1))["time"] == "2026-01-01T00:00:00.000000Z"
    assert moment.astimezone(UTC).hour == 0


def test_secrets_are_masked() -> None:
    """Each secret is masked wherever it is in a text, a longer one before one that is a part of it."""
    secrets = frozenset({b"hunter2", b"hunter2222", b""})
    assert masked("hunter2 is wrong, hunter2222 too", secrets) == f"{MASK} is wrong, {MASK} too"


TEXT: Final = st.text(st.characters(codec="utf-8", exclude_characters="*"))


@given(TEXT.filter(bool), TEXT, TEXT)
def test_no_secret_is_left(secret: str, before: str, after: str) -> None:
    """Whatever is around a secret, it isn't in the word any more."""
    assert secret not in masked(before + secret + after, frozenset({secret.encode()}))


def test_a_long_command_is_cut() -> None:
    """An entry keeps the first words of a command, and says how many it leaves out."""
    command = Command.of(["x" * (KEPT_CHARACTERS // 2)] * 3)
    assert (len(command.words), command.omitted) == (1, 2)
    assert Command.of(["x" * (KEPT_CHARACTERS + 1)]) == Command((), 1)
    many = Command.of(["x"] * 20_000)
    assert (len(many.words), many.omitted) == (8192, 20_000 - 8192)
    assert len(encode(Call(at=AT, caller=CALLER, method=None, command=many, outcome="OK"), 1)) < 60_000
