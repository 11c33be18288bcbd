"""The entries of the audit, and the line of JSON that each becomes. Pure.

The lines stay on disk for years and programs read them: a field may be added, any other change needs a new `VERSION`.
Each line begins with `version`, `sequence` and `kind`, and then the number by which it refers to something else, where it
has one; `audit.scan` relies on that order. The text is ASCII.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii
from typing import Any, Final, assert_never

from jobmaster.job.secret import MASK

VERSION: Final = 1
UNKNOWN: Final = "unknown"
"""The outcome of a call whose own end is not in the audit: nobody knows whether it completed. A crash cut off the call, or it
had ended and its entry was nowhere but in the server's memory, or was lost and counted."""
KEPT_CHARACTERS: Final = 16 * 1024
"""Characters of a command that an entry keeps; the record of a job keeps as many bytes."""
MAX_TEXT: Final = 1024
"""Characters of any other text of a caller's or a peer's."""
_TIME: Final = "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ"
"""A time in UTC as `datetime.isoformat` has it, which takes twice as long."""
_ENTRY_BYTES: Final = 1200
"""What an entry and its line hold in memory beside the command, as a rule."""


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
    text: str = field(init=False, repr=False, compare=False)
    """Its fields in an entry: the same in all of a connection."""

    def __post_init__(self) -> None:
        text = (
            f'"client":{_quoted(self.client)},"serial":{_quoted(self.serial)},"fingerprint":{_quoted(self.fingerprint)}'
        )
        object.__setattr__(self, "text", f'{text},"peer":{_quoted(self.peer)}')


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


_KINDS: Final[dict[type, str]] = {
    Begun: "begun",
    Call: "call",
    JobChange: "job",
    Handshake: "handshake",
    RefusalsCounted: "counted",
    Gap: "gap",
    Opened: "opened",
    Closed: "closed",
    Rotated: "rotated",
}

Entry = Begun | Call | JobChange | Handshake | RefusalsCounted | Gap | Opened | Closed | Rotated

_write_json: Final = json.JSONEncoder(separators=(",", ":")).encode  # ASCII, by default


def encode(entry: Entry, sequence: int, begun: int | None = None, body: bytes | None = None) -> bytes:
    """The line of an entry.

    Args:
        entry: what happened.
        sequence: its number.
        begun: of a call's end, the number of the entry of its beginning; None where there is none.
        body: of `body_of`, where that was called before.
    """
    head = f'{{"version":{VERSION},"sequence":{sequence},"kind":"{_KINDS[type(entry)]}",'
    match entry:
        case Call():
            head += f'"begun":{"null" if begun is None else begun},'
        case JobChange(journal_sequence=number) | Opened(journal_sequence=number) | Rotated(journal_sequence=number):
            head += f'"journal_sequence":{number},'
        case _:
            pass
    return head.encode("ascii") + (body_of(entry) if body is None else body)


def body_of(entry: Entry) -> bytes:
    """What a line has behind the numbers, which are known when it is written."""
    match entry:
        case Call(outcome=outcome, why=why, seconds=seconds):
            took = "null" if seconds is None else f"{seconds:.6f}"
            text = f'{_asked(entry)},"outcome":"{outcome}","why":{_quoted(why)},"seconds":{took}}}\n'
            return text.encode("ascii")
        case Begun():
            return f"{_asked(entry)}}}\n".encode("ascii")
        case JobChange():
            document = _job_change(entry)
        case Handshake():
            return f'"time":"{_time(entry.at)}",{entry.caller.text},"why":{_quoted(entry.why)}}}\n'.encode("ascii")
        case RefusalsCounted():
            document = _counted(entry)
        case Gap(at=at, since=since, count=count, why=why):
            document = {"time": _time(at), "since": _time(since), "count": count, "why": why}
        case Opened(at=at, before=before, server=server):
            document = {"time": _time(at), "before": before, "server": server}
        case Closed(at=at):
            document = {"time": _time(at)}
        case Rotated(at=at, begun=open_calls):
            document = {"time": _time(at), "open": open_calls}
        case unreachable:
            assert_never(unreachable)
    return f"{_write_json(document)[1:]}\n".encode("ascii")


def entry_of(document: dict[str, Any]) -> Begun | Call | None:
    """The entry of a call that a document tells; None for one of another kind, or that tells too little."""
    caller, command = caller_of(document), command_of(document)
    method, job = document.get("method"), document.get("job")
    try:
        at = datetime.fromisoformat(document["time"]).astimezone(UTC)
        if document["kind"] == "begun":
            return Begun(at=at, caller=caller, method=method, job=job, command=command)
        if document["kind"] == "call":
            return Call(
                at=at,
                caller=caller,
                method=method,
                job=job,
                command=command,
                outcome=document["outcome"],
                why=document["why"],
                seconds=document["seconds"],
            )
    except (KeyError, TypeError, ValueError):
        pass
    return None


def caller_of(document: dict[str, Any]) -> Caller:
    """Who called, as a document tells."""
    return Caller(
        client=document.get("client"),
        serial=document.get("serial"),
        fingerprint=document.get("fingerprint"),
        peer=document.get("peer", ""),
    )


def command_of(document: dict[str, Any]) -> Command | None:
    """The command that a document tells; None where it tells none."""
    words = document.get("command")
    return Command(tuple(map(str, words)), document.get("command_omitted") or 0) if isinstance(words, list) else None


def cost_of(entry: Entry, body: bytes) -> int:
    """Bytes of memory that an entry holds with the body of its line, about."""
    match entry:
        case Begun(command=Command(words=words)) | Call(command=Command(words=words)):
            return _ENTRY_BYTES + len(body) + sum(map(sys.getsizeof, words)) + 8 * len(words)
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


def _asked(entry: Begun | Call) -> str:
    command = entry.command
    words = "null" if command is None else f"[{','.join(map(encode_basestring_ascii, command.words))}]"
    return (
        f'"time":"{_time(entry.at)}",{entry.caller.text},"method":{_quoted(entry.method)},"job":{_quoted(entry.job)},'
        f'"command":{words},"command_omitted":{0 if command is None else command.omitted}'
    )


def _quoted(text: str | None) -> str:
    return "null" if text is None else encode_basestring_ascii(text)


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
    at = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return _TIME % (at.year, at.month, at.day, at.hour, at.minute, at.second, at.microsecond)
