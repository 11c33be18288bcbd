"""What a List asks for, as a query, and where its pages end, as tokens."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from jobmaster.errors import InvalidRequest
from jobmaster.job.labels import check_name, checked_labels
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.journal.stored import JobQuery

DEFAULT_PAGE_SIZE: Final = 100
MAX_PAGE_SIZE: Final = 1_000

_TOKEN: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
CAUSE_NAMES: Final = {field.number: field.name for field in pb.Cause.DESCRIPTOR.oneofs_by_name["kind"].fields}
"""The name of each cause, by the number of its kind."""
_CAUSES_OF_STATE: Final[dict[int, frozenset[str]]] = {
    pb.JOBSTATE_RUNNING: frozenset(),
    pb.JOBSTATE_TERMINATED_BY_API: frozenset(
        {"stopped", "oom_killed", "server_shutdown", "server_lost", "output_capped", "timed_out"}
    ),
    pb.JOBSTATE_COMPLETED: frozenset({"exited", "signalled", "failed_to_start"}),
}
"""How the jobs in each state have ended."""


def query_of(message: pb.ListRequest) -> JobQuery:
    """Which jobs a List asks for.

    Raises:
        InvalidRequest: no List can be meant; names the field.
    """
    with_open, causes = _kinds(message)
    return JobQuery(
        owner=message.client or None,
        with_open=with_open,
        causes=causes,
        started_from=_time(message.started_after, "started_after") if message.HasField("started_after") else None,
        started_before=_time(message.started_before, "started_before") if message.HasField("started_before") else None,
        name=_name(message.name),
        labels=checked_labels(message.labels.items()),
        before=_key(message.page_token),
        limit=_page_size(message.page_size),
    )


def page_token(key: int | None) -> str:
    """The token by which the jobs after this key are asked for; empty where there are none."""
    return "" if key is None else str(key)


def _kinds(message: pb.ListRequest) -> tuple[bool, tuple[str, ...] | None]:
    """Whether jobs that run are wanted, and of those that have ended which; None: all."""
    for position, state in enumerate(message.states):
        if state not in _CAUSES_OF_STATE:
            raise InvalidRequest(f"{state} is no state of a job; leave it out for all", field=f"states[{position}]")
    for position, cause in enumerate(message.causes):
        if cause not in CAUSE_NAMES:
            raise InvalidRequest(f"{cause} is no kind of cause; leave it out for all", field=f"causes[{position}]")
    if not message.states and not message.causes:
        return True, None
    named = {CAUSE_NAMES[cause] for cause in message.causes} or set(CAUSE_NAMES.values())
    possible = set().union(*(_CAUSES_OF_STATE[state] for state in message.states or _CAUSES_OF_STATE))
    return pb.JOBSTATE_RUNNING in message.states and not message.causes, tuple(sorted(named & possible))


def _time(timestamp: Timestamp, field: str) -> datetime:
    try:
        return timestamp.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(f"{field} is not between the years 1 and 9999", field=field) from None


def _name(name: str) -> str:
    check_name(name)
    return name


def _key(token: str) -> int | None:
    if not token:
        return None
    if _TOKEN.fullmatch(token) is None:
        raise InvalidRequest(
            "page_token is none that List has given: pass next_page_token as it is", field="page_token"
        )
    return int(token)


def _page_size(asked: int) -> int:
    if asked > MAX_PAGE_SIZE:
        raise InvalidRequest(f"page_size is more than {MAX_PAGE_SIZE}; ask for the jobs in pages", field="page_size")
    return asked or DEFAULT_PAGE_SIZE
