"""The entries of the audit, and the line of JSON that each becomes. Pure.

The lines stay on disk for years and programs read them: a field may be added, any other change needs a new `VERSION`.
Each line begins with `version`, `sequence` and `kind`, and then the number by which it refers to something else, where it
has one; `audit.scan` relies on that order. The text is ASCII.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, assert_never

from jobmaster.job.secret import MASK

VERSION: Final = 1
UNKNOWN: Final = "unknown"
"""The outcome of a call that a crash cut off."""
KEPT_CHARACTERS: Final = 16 * 1024
"""Characters of a command that an entry keeps; the record of a job keeps as many bytes."""
MAX_TEXT: Final = 1024
"""Characters of any other text of a caller's or a peer's."""
_ENTRY_BYTES: Final = 700
"""What an entry holds in memory beside its command, as a rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who is at the other end of a connection.

    Attributes:
        client: the name by which the server knows it; None for one that it does not know.
        serial: of its certificate, hexadecimal; None where there was none to read.
        fingerprint: SHA-256 of the certificate, hexadecimal.
        peer: its address and port.
    """

    client: str | None
    serial: str | None
    fingerprint: str | None
    peer: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command as an entry keeps it; `omitted` words at its end are not."""

    words: tuple[str, ...]
    omitted: int = 0

    @classmethod
    def of(cls, words: Iterable[str]) -> Command:
        """What is kept of a command."""
        kept: list[str] = []
        left, omitted = KEPT_CHARACTERS, 0
        for word in words:
            left -= len(word) + 1
            if left < 0:
                omitted += 1
            else:
                kept.append(word)
        return cls(tuple(kept), omitted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A call that changes something or lasts has begun."""

    at: datetime
    caller: Caller
    method: str | None
    job: str | None = None
    command: Command | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call has ended, allowed or refused.

    Attributes:
        outcome: the name of its gRPC status, `HTTP_` and the status of a request that is no gRPC, or `UNKNOWN`.
        why: the status's text; empty for one that went well.
        seconds: how long it took; None where that is not known.
    """

    at: datetime
    caller: Caller
    method: str | None
    job: str | None = None
    command: Command | None = None
    outcome: str
    why: str = ""
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobChange:
    """Something happened to a job, as the journal has it.

    Attributes:
        journal_sequence: the event's number in the journal.
        at: when it happened, as the journal has it.
        client: whose job it is.
        event: what happened, by the journal's name for it.
        by: who ordered a stop; None for the server itself, and in other events.
        why: the reason of a stop, in the client's words, or of an end.
    """

    journal_sequence: int
    at: datetime
    client: str
    job: str
    event: str
    by: str | None = None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """A connection was refused before any call."""

    at: datetime
    caller: Caller
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalsCounted:
    """Connections that were refused and have no entry of their own: there were too many.

    Attributes:
        since: they were refused between then and `at`.
        reasons, peers: how many of them for each reason and of each address; those of the rest are under "other".
    """

    at: datetime
    since: datetime
    count: int
    reasons: Mapping[str, int]
    peers: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Entries are missing here: so many could not be written, between `since` and `at`."""

    at: datetime
    since: datetime
    count: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A server has begun to write.

    Attributes:
        journal_sequence: the job events up to this one of the journal are in the audit already, or will never be.
        before: "nothing"; "closed" where the server before came to its end; "cut off" where entries of its last moment
            may be missing.
        server: the version of the program.
    """

    journal_sequence: int
    at: datetime
    before: str
    server: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """A server has ended, and everything was written."""

    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """The first entry of a file that follows another.

    Attributes:
        journal_sequence: as in `Opened`.
        begun: the numbers of the begun calls that have not ended.
    """

    journal_sequence: int
    at: datetime
    begun: tuple[int, ...]


Entry = Begun | Call | JobChange | Handshake | RefusalsCounted | Gap | Opened | Closed | Rotated

_write_json: Final = json.JSONEncoder(separators=(",", ":")).encode  # ASCII, by default


def encode(entry: Entry, sequence: int, begun: int | None = None) -> bytes:
    """The line of an entry.

    Args:
        entry: what happened.
        sequence: its number.
        begun: of a call's end, the number of the entry of its beginning; None where there is none.
    """
    document: dict[str, Any] = {"version": VERSION, "sequence": sequence}
    match entry:
        case Call():
            document |= {"kind": "call", "begun": begun, **_call(entry)}
        case Begun():
            document |= {"kind": "begun", **_asked(entry)}
        case JobChange(journal_sequence=number):
            document |= {"kind": "job", "journal_sequence": number, **_job_change(entry)}
        case Handshake():
            document |= {"kind": "handshake", "time": _time(entry.at), **_caller(entry.caller), "why": entry.why}
        case RefusalsCounted():
            document |= {"kind": "counted", **_counted(entry)}
        case Gap(at=at, since=since, count=count, why=why):
            document |= {"kind": "gap", "time": _time(at), "since": _time(since), "count": count, "why": why}
        case Opened(journal_sequence=number, at=at, before=before, server=server):
            document |= {"kind": "opened", "journal_sequence": number, "time": _time(at)}
            document |= {"before": before, "server": server}
        case Closed(at=at):
            document |= {"kind": "closed", "time": _time(at)}
        case Rotated(journal_sequence=number, at=at, begun=open_calls):
            document |= {"kind": "rotated", "journal_sequence": number, "time": _time(at), "open": open_calls}
        case unreachable:
            assert_never(unreachable)
    return f"{_write_json(document)}\n".encode("ascii")


def cost_of(entry: Entry) -> int:
    """Bytes of memory that an entry holds, about."""
    match entry:
        case Begun(command=Command(words=words)) | Call(command=Command(words=words)):
            return _ENTRY_BYTES + sum(map(len, words)) + 60 * len(words)
        case _:
            return _ENTRY_BYTES


def masked(text: str, secrets: frozenset[bytes]) -> str:
    """The text with `MASK` in the place of each secret; the longest first, for one may be a part of another."""
    if not secrets:
        return text
    data = text.encode("utf-8", "surrogateescape")
    for secret in sorted(secrets, key=len, reverse=True):
        if secret:
            data = data.replace(secret, MASK.encode())
    return data.decode("utf-8", "surrogateescape")


def shortened(text: str, most: int = MAX_TEXT) -> str:
    """At most so many characters of a text."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _call(entry: Call) -> dict[str, Any]:
    document = _asked(entry)
    document["outcome"] = entry.outcome
    document["why"] = entry.why
    document["seconds"] = None if entry.seconds is None else round(entry.seconds, 6)
    return document


def _asked(entry: Begun | Call) -> dict[str, Any]:
    command = entry.command
    return {
        "time": _time(entry.at),
        **_caller(entry.caller),
        "method": entry.method,
        "job": entry.job,
        "command": None if command is None else command.words,
        "command_omitted": 0 if command is None else command.omitted,
    }


def _caller(caller: Caller) -> dict[str, Any]:
    return {
        "client": caller.client,
        "serial": caller.serial,
        "fingerprint": caller.fingerprint,
        "peer": caller.peer,
    }


def _job_change(entry: JobChange) -> dict[str, Any]:
    return {
        "time": _time(entry.at),
        "client": entry.client,
        "job": entry.job,
        "event": entry.event,
        "by": entry.by,
        "why": entry.why,
    }


def _counted(entry: RefusalsCounted) -> dict[str, Any]:
    return {
        "time": _time(entry.at),
        "since": _time(entry.since),
        "count": entry.count,
        "reasons": dict(entry.reasons),
        "peers": dict(entry.peers),
    }


def _time(moment: datetime) -> str:
    in_utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return f"{in_utc.isoformat(timespec='microseconds')[:-6]}Z"  # without +00:00
