"""Events and records survive the way to text and back."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmaster.job.cause import Exited, OomKilled, Signalled, StopOrder
from jobmaster.job.identifier import JobId
from jobmaster.job.record import (
    JobEvent,
    JobRecord,
    Launched,
    LimitReport,
    OomKillsCounted,
    Paused,
    Resumed,
    SignalOrdered,
    record_of,
)
from jobmaster.job.request import RequestKey
from jobmaster.job.run_time import MOST_MS, RunTime
from jobmaster.job.specification import CommandLine, JobSpecification
from jobmaster.job.state import Executed, Finished, MainProcessDied, Running, StopOrdered
from jobmaster.job.stop_terms import MOST_GRACE_MS, StopTerms
from jobmaster.job.usage import CpuUsage, DeviceUsage, IoUsage, MemoryEventCounts, MemoryUsage, Usage
from jobmaster.journal.codec import Undecodable, decode_event, decode_record, encode_event, encode_record, event_name

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
run_times = st.builds(
    lambda max_ms, part, number: RunTime(
        max_ms=max_ms, warn_before_ms=max_ms * part // 100, warn_signal=number if max_ms * part // 100 else 0
    ),
    st.integers(min_value=1, max_value=MOST_MS),
    st.integers(min_value=0, max_value=99),
    st.sampled_from([1, 2, 10, 15, 64]),
)
stop_terms = st.builds(
    StopTerms,
    signal=st.sampled_from([1, 2, 15, 64]),
    grace_ms=st.none() | st.integers(min_value=0, max_value=MOST_GRACE_MS),
)
labels = st.dictionaries(
    st.from_regex(r"[a-z0-9._/-]{1,20}", fullmatch=True),
    st.text(st.characters(categories=["L", "N"]), max_size=20),
    max_size=8,
).map(lambda pairs: tuple(sorted(pairs.items())))
for kind, strategy in (
    (StopTerms, stop_terms),
    (RunTime, run_times),
    (CommandLine, commands),
    (datetime, times),
    (RequestKey, keys),
    (JobId, st.just(ID)),
):
    st.register_type_strategy(kind, strategy)
for described in (Launched, JobRecord):
    st.register_type_strategy(described, st.builds(described, labels=labels))
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
        user="nobody",
    )


WRITTEN: Final = (
    '{"id":"0ujtsYcgvSTl8PAuAdqWYSMnLOv","owner":"client1","command":{"words":["ls","-l"],"omitted":0},"pid":42,'
    '"start_time":7000,"boot_id":"7b1c4a5e-0d6f-4a53-9d0c-3f0a2f1c9e11","at":"2026-01-02T12:00:00+00:00",'
    '"limits":[{"name":"memory","value":"memory.max 1","not_enforced_because":null}],"request":{"id":"r",'
    '"digest":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},"output_max":0,"ends_when_full":false,"terminal":false,"user":"nobody"}'
)


def test_what_is_written() -> None:
    """The text is what databases have: a change of it needs a migration."""
    event = launched(CommandLine.of(JobSpecification(command="ls", args=("-l",))))
    assert encode_event(event) == ("launched", WRITTEN)


def test_what_few_jobs_have_is_written_for_these() -> None:
    """A field that most values leave at its default is not written for them; one that is there comes back."""
    event = replace(
        launched(CommandLine.of(JobSpecification(command="ls", args=("-l",)))),
        run_time=RunTime(max_ms=1500, warn_before_ms=500, warn_signal=10),
    )
    name, text = encode_event(event)
    more = ',"run_time":{"max_ms":1500,"warn_before_ms":500,"warn_signal":10}}'
    assert text == WRITTEN.removesuffix("}") + more
    assert decode_event(name, text) == event
    running = Running(pid=1, started_at=NOON, warned_by=10)
    record = replace(record_of(event), state=running)
    assert decode_record(encode_record(record)).state == running


def test_labels_are_an_object() -> None:
    """By which a list finds them; those of a damaged database that are none are refused."""
    event = replace(
        launched(CommandLine.of(JobSpecification(command="ls", args=("-l",)))), name="é", labels=(("a.b", "1"),)
    )
    name, text = encode_event(event)
    assert text == WRITTEN.removesuffix("}") + r',"name":"\u00e9","labels":{"a.b":"1"}}'
    assert decode_event(name, text) == event
    for wrong in ('{"a.b":1}', '["a"]', '{"A":""}'):
        with pytest.raises(Undecodable):
            decode_event(name, text.replace('{"a.b":"1"}', wrong))


def test_a_damaged_run_time() -> None:
    """One that no caller can have asked for is refused."""
    text = WRITTEN.removesuffix("}") + ',"run_time":{"max_ms":0,"warn_before_ms":0,"warn_signal":0}}'
    with pytest.raises(Undecodable):
        decode_event("launched", text)


def test_fields_of_later_and_earlier_programs() -> None:
    """A field that is not known is ignored, and one that is missing has its default."""
    document = json.loads(WRITTEN)
    del document["limits"], document["request"], document["user"]
    event = decode_event("launched", json.dumps({**document, "colour": "red"}))
    assert isinstance(event, Launched)
    assert (event.pid, event.limits, event.request, event.user) == (42, (), None, "")


USED: Final = Usage(
    cpu=CpuUsage(user=5, system=0),
    memory=MemoryUsage(peak=4096, events=MemoryEventCounts(oom=0)),
    io=IoUsage(devices=(DeviceUsage(device="254:0", read_bytes=1, written_bytes=2, reads=3, writes=4),)),
)
WRITTEN_OF_USAGE: Final = (
    '"usage":{"cpu":{"user":5,"system":0},"memory":{"peak":4096,"events":{"oom":0}},"io":{"devices":[{"device":"254:0",'
    '"read_bytes":1,"written_bytes":2,"reads":3,"writes":4}],"omitted":0}}}'
)


def test_what_is_written_of_usage() -> None:
    """A number that is not known takes no room, and one that is 0 is written."""
    end = Finished(cause=Exited(0), at=NOON, output_bytes=0, output_bytes_lost=0, usage=USED)
    name, text = encode_event(end)
    assert text.endswith(WRITTEN_OF_USAGE)
    assert decode_event(name, text.replace('"oom":0', '"oom":0,"colour":"red"')) == end


def test_the_age_of_a_paused_job_at_its_end() -> None:
    """It is written with the end, where it was paused to that."""
    end = Finished(cause=Exited(0), at=NOON, output_bytes=0, output_bytes_lost=0, age=5)
    name, text = encode_event(end)
    assert '"age":5' in text
    assert decode_event(name, text) == end
    assert '"age"' not in encode_event(replace(end, age=None))[1]


def test_an_order_whose_signal_was_not_sent() -> None:
    """It says so; any other one is written as by earlier programs."""
    order = StopOrdered(order=StopOrder(by="client1", requested_at=NOON), unsent=True)
    name, text = encode_event(order)
    assert '"unsent":true' in text
    assert decode_event(name, text) == order
    assert "unsent" not in encode_event(replace(order, unsent=False))[1]


def test_ends_of_earlier_programs() -> None:
    """They had no usage, and knew less of a job that was killed for memory."""
    killed = '{"is":"oom_killed","memory_max":null,"processes_killed":2}'
    text = f'{{"cause":{killed},"at":"2026-01-02T12:00:00+00:00","output_bytes":1,"output_bytes_lost":2}}'
    assert decode_event("finished", text) == Finished(
        cause=OomKilled(memory_max=None, processes_killed=2), at=NOON, output_bytes=1, output_bytes_lost=2
    )
    died = '{"death":{"is":"signalled","signal":9,"core_dumped":false},"killed_for_memory":true}'
    assert decode_event("main_process_died", died) == MainProcessDied(death=Signalled(9), killed_for_memory=True)


ORDERS: Final = (
    Paused(by="client1", at=NOON, age=1_500_000),
    Paused(by="client1", at=NOON),
    Resumed(by="client1", at=NOON, age=1_500_000),
    SignalOrdered(signal=10, by="client1", at=NOON, to_all=True),
)


@pytest.mark.parametrize("event", ORDERS, ids=lambda event: type(event).__name__)
def test_what_earlier_programs_make_of_an_order(event: JobEvent) -> None:
    """To them it is a count of no OOM kills, which changes nothing: the job is not set aside. Its name is its own."""
    name, text = encode_event(event)
    document = json.loads(text)
    cargo = document.pop("event")
    assert (name, document) == ("oom_kills_counted", {"count": 0})
    assert event_name(event) == cargo["is"] != name
    assert decode_event(name, json.dumps(document)) == OomKillsCounted(count=0)
    with pytest.raises(Undecodable):
        decode_event(name, json.dumps({**document, "event": {"is": "danced"}}))


@pytest.mark.parametrize(("word", "is_requested"), [("", False), (',"requested":true', True)])
def test_limits_that_were_asked_for(word: str, is_requested: bool) -> None:
    """A limit that a job has asked for says so; one without a word, as all of earlier programs are, is the server's default."""
    text = WRITTEN.replace('"not_enforced_because":null}', f'"not_enforced_because":null{word}}}')
    event = decode_event("launched", text)
    assert isinstance(event, Launched)
    assert [(limit.value, limit.requested) for limit in event.limits] == [("memory.max 1", is_requested)]
    assert encode_event(event) == ("launched", text)


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
        ("main_process_died", '{"death":{"is":"exited","code":1},"oom_limit":"moon"}'),
        (
            "finished",
            '{"cause":{"is":"exited","code":1},"at":"2026-01-02T12:00:00+00:00","output_bytes":1,"output_bytes_lost":2,"usage":{"cpu":{"user":"1"}}}',
        ),
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
