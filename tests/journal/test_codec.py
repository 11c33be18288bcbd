"""Events and records survive the way to text and back."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.job.cause import StopOrder
from jobmaster.job.identifier import JobId
from jobmaster.job.record import JobEvent, JobRecord, Launched, LimitReport
from jobmaster.job.request import RequestKey
from jobmaster.job.specification import CommandLine, JobSpecification
from jobmaster.job.state import Executed, StopOrdered
from jobmaster.journal.codec import Undecodable, decode_event, decode_record, encode_event, encode_record

NOON: Final = datetime(2026, 1, 2, 12, tzinfo=UTC)
ID: Final = JobId("0ujtsYcgvSTl8PAuAdqWYSMnLOv")

# What gRPC and the command line can bring: any text, and bytes that are no UTF-8 as lone surrogates.
words = st.binary(max_size=20).map(lambda word: word.replace(b"\0", b"").decode("utf-8", "surrogateescape"))
commands = st.builds(
    lambda program, arguments: CommandLine.of(JobSpecification(command=f"x{program}", args=tuple(arguments))),
    words,
    st.lists(words, max_size=4),
)
times = st.datetimes(timezones=st.just(UTC))
keys = st.builds(
    RequestKey, id=st.from_regex(r"[!-~]{1,128}", fullmatch=True), digest=st.binary(min_size=32, max_size=32)
)
for kind, strategy in ((CommandLine, commands), (datetime, times), (RequestKey, keys), (JobId, st.just(ID))):
    st.register_type_strategy(kind, strategy)
events: Final[st.SearchStrategy[JobEvent]] = st.one_of(
    *(st.from_type(kind) for kind in JobEvent.__args__),
)


@given(events)
def test_an_event_comes_back(event: JobEvent) -> None:
    """What is decoded is what was encoded, whatever it says."""
    name, text = encode_event(event)
    assert text.isascii()
    assert decode_event(name, text) == event


@given(st.from_type(JobRecord))
def test_a_record_comes_back(record: JobRecord) -> None:
    """What is decoded is what was encoded, in every state and with every cause."""
    text = encode_record(record)
    assert text.isascii()
    assert decode_record(text) == record


def test_bytes_that_are_no_text() -> None:
    """An argument that is no UTF-8 comes back byte for byte."""
    command = CommandLine.of(
        JobSpecification(command="cat", args=(b"\xff\xfe/\xc3".decode("utf-8", "surrogateescape"),))
    )
    decoded = decode_event(*encode_event(launched(command)))
    assert isinstance(decoded, Launched)
    assert [word.encode("utf-8", "surrogateescape") for word in decoded.command.args] == [b"\xff\xfe/\xc3"]


def launched(command: CommandLine) -> Launched:
    """The first event of a job."""
    return Launched(
        id=ID,
        owner="client1",
        command=command,
        pid=42,
        start_time=7_000,
        boot_id="7b1c4a5e-0d6f-4a53-9d0c-3f0a2f1c9e11",
        at=NOON,
        limits=(LimitReport(name="memory", value="memory.max 1"),),
        request=RequestKey(id="r", digest=hashlib.sha256().digest()),
    )


WRITTEN: Final = (
    '{"id":"0ujtsYcgvSTl8PAuAdqWYSMnLOv","owner":"client1","command":{"words":["ls","-l"],"omitted":0},"pid":42,'
    '"start_time":7000,"boot_id":"7b1c4a5e-0d6f-4a53-9d0c-3f0a2f1c9e11","at":"2026-01-02T12:00:00+00:00",'
    '"limits":[{"name":"memory","value":"memory.max 1","not_enforced_because":null,"requested":false}],'
    '"request":{"id":"r","digest":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},"output_max":0,"ends_when_full":false,"terminal":false}'
)


def test_what_is_written() -> None:
    """The text is what databases have: a change of it needs a migration."""
    event = launched(CommandLine.of(JobSpecification(command="ls", args=("-l",))))
    assert encode_event(event) == ("launched", WRITTEN)


def test_fields_of_later_and_earlier_programs() -> None:
    """A field that is not known is ignored, and one that is missing has its default."""
    document = json.loads(WRITTEN)
    del document["limits"], document["request"]
    event = decode_event("launched", json.dumps({**document, "colour": "red"}))
    assert isinstance(event, Launched)
    assert (event.pid, event.limits, event.request) == (42, (), None)


def test_limits_of_an_earlier_program() -> None:
    """A limit that was written when jobs could ask for none is the server's default."""
    event = decode_event("launched", WRITTEN.replace(',"requested":false', ""))
    assert isinstance(event, Launched)
    assert [(limit.value, limit.requested) for limit in event.limits] == [("memory.max 1", False)]


def test_times_are_of_one_zone() -> None:
    """A time of another zone is written in UTC; one of none is refused."""
    elsewhere = StopOrder(by=None, requested_at=NOON.astimezone(timezone(timedelta(hours=5))))
    assert '"2026-01-02T12:00:00+00:00"' in encode_event(StopOrdered(order=elsewhere))[1]
    with pytest.raises(ValueError, match="no time zone"):
        encode_event(StopOrdered(order=StopOrder(by=None, requested_at=NOON.replace(tzinfo=None))))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("exploded", "{}"),
        ("launched", "{}"),
        ("launched", WRITTEN[:-1]),
        ("launched", WRITTEN.replace("42", '"42"')),
        ("launched", WRITTEN.replace("42", "true")),
        ("launched", WRITTEN.replace("0uj", "0u/")),
        ("launched", WRITTEN.replace('"r"', '""')),
        ("launched", WRITTEN.replace('["ls","-l"]', "[]")),
        ("launched", WRITTEN.replace('"ls"', r'"\ud800"')),
        ("launched", WRITTEN.replace("2026-01", "2026-13")),
        ("launched", WRITTEN.replace("e3b0", "e3b")),
        ("executed", "[" * 100_000),
        ("executed", "null"),
        ("finished", '{"cause":{"is":"bored"},"at":"2026-01-02T12:00:00+00:00"}'),
        ("finished", '{"cause":"exited","at":"2026-01-02T12:00:00+00:00"}'),
        ("oom_kills_counted", '{"count":1.5}'),
    ],
)
def test_text_that_is_none(name: str, text: str) -> None:
    """Any text that is not what this program writes is refused, and never read as something else."""
    with pytest.raises(Undecodable):
        decode_event(name, text)


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_a_record_of_any_text(text: str) -> None:
    """No text makes the decoder fail in another way."""
    with pytest.raises(Undecodable):
        decode_record(text)


def test_an_event_without_content() -> None:
    """An event that says nothing but that it happened has an empty document."""
    assert encode_event(Executed()) == ("executed", "{}")
