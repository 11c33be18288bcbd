"""What clients have said of their jobs, and what a server's records must say after a power cut. Pure.

A client says a line before each step whose traces may outlast a cut, and a line after what the server has answered. So
what is told is at most what is true, and a line that the cut has torn is none.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from jobmaster.jobs.v1 import jobs_pb2 as pb

SLEEPS: Final = "sleeps"
"""The end of a job that has none of its own."""
_MOST_FINDINGS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A Start that a client is about to ask for.

    Attributes:
        token: its last argument and its request id; no other Start has it.
        owner: who asks.
        args: all arguments.
        end: "exited 7" or "signalled 9", as its command ends by itself, or SLEEPS.
    """

    token: str
    owner: str
    command: str
    args: tuple[str, ...]
    end: str

    @property
    def output(self) -> bytes:
        """What it writes: its token in a line."""
        return f"{self.token}\n".encode()


@dataclass(slots=True)
class Told:
    """All that was said, by token."""

    asked: dict[str, Asked] = field(default_factory=dict)
    started: dict[str, str] = field(default_factory=dict)
    """The job's id, which the server has answered."""
    stopped_by: dict[str, str] = field(default_factory=dict)
    """Who is about to ask for its end."""
    refused: set[str] = field(default_factory=set)
    """The server has answered an error."""
    ended: dict[str, bytes] = field(default_factory=dict)
    """Its final record, as the server has answered it."""

    @classmethod
    def of(cls, lines: Iterable[str]) -> Self:
        """All of these lines; one that is no whole document says nothing."""
        told = cls()
        for line in lines:
            told.add(line)
        return told

    def add(self, line: str) -> bool:
        """Takes a line; returns whether it was one."""
        match _document(line):
            case {"asked": str(token), "owner": str(owner), "command": str(command), "args": args, "end": str(end)}:
                self.asked[token] = Asked(token=token, owner=owner, command=command, args=tuple(args), end=end)
            case {"started": str(token), "id": str(job_id)}:
                self.started[token] = job_id
            case {"refused": str(token)}:
                self.refused.add(token)
            case {"to_stop": str(token), "by": str(by)}:
                self.stopped_by[token] = by
            case {"ended": str(token), "record": str(record)}:
                self.ended[token] = base64.b64decode(record)
            case _:
                return False
        return True

    def in_doubt(self) -> list[Asked]:
        """The Starts that were asked for and not answered."""
        answered = self.started.keys() | self.refused
        return [asked for token, asked in self.asked.items() if token not in answered]


def _document(line: str) -> Any:
    try:
        return json.loads(line) if line.startswith("{") else None
    except ValueError:
        return None


def line_asked(asked: Asked) -> str:
    """Before a Start."""
    return json.dumps(
        {
            "asked": asked.token,
            "owner": asked.owner,
            "command": asked.command,
            "args": asked.args,
            "end": asked.end,
        }
    )


def line_started(token: str, job_id: str) -> str:
    """After a Start."""
    return json.dumps({"started": token, "id": job_id})


def line_refused(token: str) -> str:
    """After a Start that has failed."""
    return json.dumps({"refused": token})


def line_to_stop(token: str, by: str) -> str:
    """Before a Stop."""
    return json.dumps({"to_stop": token, "by": by})


def line_ended(token: str, record: pb.JobResponse) -> str:
    """After an answer that says that the job has ended."""
    return json.dumps({"ended": token, "record": base64.b64encode(_bytes(record)).decode()})


def _bytes(record: pb.JobResponse) -> bytes:
    return record.SerializeToString(deterministic=True)


def new_token(owner: str, boot: int, number: int) -> str:
    """The token of a Start of this boot."""
    return f"{owner}-{boot}-{number}"


def boot_of(token: str) -> int:
    """The boot in which a token was new."""
    return int(token.split("-")[1])


def token_of(record: pb.JobResponse) -> str:
    """The token of a job; empty where it has no arguments."""
    return record.cmd.args[-1] if record.cmd.args else ""


def findings(told: Told, records: Sequence[pb.JobResponse]) -> list[str]:
    """What the records of a server that has started after a power cut have wrong; the first few of it.

    Every job whose Start was answered is there, is its owner's and has its command; it has ended in a way that it may
    have, and where its end was told, in that one, to the last field. No Start has made two jobs.
    """
    there = {record.job_id_response.job_id: record for record in records}
    found = [f"{token}, which was started as {job}, is not there" for token, job in _missing(told, there)]
    found += [f"{count} jobs of {token}" for token, count in Counter(map(token_of, records)).items() if count > 1]
    for record in records:
        token = token_of(record)
        if token not in told.asked:
            found.append(f"nobody has asked for {record}")
        else:
            found += [f"{token}: {wrong}" for wrong in _wrong(told, told.asked[token], record)]
    return found[:_MOST_FINDINGS]


def _missing(told: Told, there: dict[str, pb.JobResponse]) -> list[tuple[str, str]]:
    return [(token, job_id) for token, job_id in told.started.items() if job_id not in there]


def _wrong(told: Told, asked: Asked, record: pb.JobResponse) -> list[str]:
    found = []
    if told.started.get(asked.token, record.job_id_response.job_id) != record.job_id_response.job_id:
        found.append(f"is {record.job_id_response.job_id}, and was {told.started[asked.token]}")
    if record.client != asked.owner:
        found.append(f"is {record.client}'s, and was {asked.owner}'s")
    if (record.cmd.command, *record.cmd.args) != (asked.command, *asked.args):
        found.append(f"has the command {record.cmd}")
    seen = told.ended.get(asked.token)
    if seen is not None and seen != _bytes(record):
        found.append(f"has another end than was told:\n{record}instead of\n{pb.JobResponse.FromString(seen)}")
    if not _may_end_so(told, asked, record):
        found.append(f"cannot have ended so: {record.job_msg}")
    return found


def _may_end_so(told: Told, asked: Asked, record: pb.JobResponse) -> bool:
    cause = record.cause
    match cause.WhichOneof("kind"):
        case "server_lost":
            return True
        case "exited":
            return asked.end == f"exited {cause.exited.code}" and record.exit_code == cause.exited.code
        case "signalled":
            return asked.end == f"signalled {cause.signalled.signal}"
        case "stopped":
            is_given_up = cause.stopped.by == "" and asked.token not in told.started  # by the server: it took too long
            return is_given_up or told.stopped_by.get(asked.token) == cause.stopped.by
        case _:
            return False
