"""What a List asks for, as a query."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from jobmaster.api.queries import CAUSE_NAMES, page_token, query_of
from jobmaster.errors import InvalidRequest
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.journal.stored import JobQuery

MOMENT: Final = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
COMPLETED: Final = ("exited", "failed_to_start", "signalled")
TERMINATED: Final = ("oom_killed", "output_capped", "server_lost", "server_shutdown", "stopped", "timed_out")


def asking(states: Sequence[int] = (), causes: Sequence[int] = ()) -> pb.ListRequest:
    """A request with enumerators by number, whether or not there are such."""
    kinds: Any = {"states": states, "causes": causes}
    return pb.ListRequest(**kinds)


def timestamp(moment: datetime) -> Timestamp:
    """A time as a message."""
    message = Timestamp()
    message.FromDatetime(moment)
    return message


@pytest.mark.parametrize(
    ("message", "query"),
    [
        (pb.ListRequest(), JobQuery()),
        (pb.ListRequest(client="client1", page_size=1000), JobQuery(owner="client1", limit=1000)),
        (pb.ListRequest(page_token="17", page_size=1), JobQuery(before=17, limit=1)),
        (asking(states=[1]), JobQuery(causes=())),
        (asking(states=[2]), JobQuery(with_open=False, causes=TERMINATED)),
        (asking(states=[3]), JobQuery(with_open=False, causes=COMPLETED)),
        (asking(states=[1, 3]), JobQuery(causes=COMPLETED)),
        (asking(causes=[1, 7]), JobQuery(with_open=False, causes=("exited", "server_lost"))),
        (asking(states=[2], causes=[1, 7]), JobQuery(with_open=False, causes=("server_lost",))),
        (asking(states=[1], causes=[1]), JobQuery(with_open=False, causes=())),
        (pb.ListRequest(name="é"), JobQuery(name="é")),
        (pb.ListRequest(labels={"b": "2", "a": ""}), JobQuery(labels=(("a", ""), ("b", "2")))),
        (
            pb.ListRequest(started_after=timestamp(MOMENT), started_before=timestamp(MOMENT)),
            JobQuery(started_from=MOMENT, started_before=MOMENT),
        ),
    ],
    ids=lambda value: str(value).replace("\n", " ") if isinstance(value, pb.ListRequest) else "",
)
def test_queries(message: pb.ListRequest, query: JobQuery) -> None:
    """States and causes that are both named both have to hold; a filter that is not named lets all pass."""
    assert query_of(message) == query


@pytest.mark.parametrize(
    ("message", "field", "words"),
    [
        (pb.ListRequest(page_size=1001), "page_size", "more than 1000"),
        (pb.ListRequest(page_token="x"), "page_token", "pass next_page_token as it is"),
        (pb.ListRequest(page_token="9" * 19), "page_token", "pass next_page_token as it is"),
        (pb.ListRequest(page_token="-1"), "page_token", "pass next_page_token as it is"),
        (pb.ListRequest(page_token="१"), "page_token", "pass next_page_token as it is"),
        (asking(states=[1, 0]), "states[1]", "0 is no state of a job"),
        (asking(states=[9]), "states[0]", "9 is no state of a job"),
        (asking(causes=[0]), "causes[0]", "0 is no kind of cause"),
        (asking(causes=[1, 99]), "causes[1]", "99 is no kind of cause"),
        (pb.ListRequest(started_after=Timestamp(seconds=1 << 60)), "started_after", "between the years"),
        (pb.ListRequest(started_before=Timestamp(nanos=-1)), "started_before", "between the years"),
    ],
    ids=lambda value: str(value).replace("\n", " ") if isinstance(value, pb.ListRequest) else "",
)
def test_what_no_list_can_mean(message: pb.ListRequest, field: str, words: str) -> None:
    """A wrong value is refused by the name of its field, with what would be right."""
    with pytest.raises(InvalidRequest, match=words) as caught:
        query_of(message)
    assert caught.value.field == field


def test_tokens_come_back() -> None:
    """The token of a page is the next query's key; the last page has none."""
    assert query_of(pb.ListRequest(page_token=page_token(123))).before == 123
    assert page_token(None) == ""


def test_kinds_of_causes_are_the_causes() -> None:
    """The enumeration has each cause under the number that it has in a record."""
    names = {number: name.removeprefix("CAUSEKIND_").lower() for name, number in pb.CauseKind.items() if number}
    assert names == CAUSE_NAMES
