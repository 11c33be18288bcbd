"""What a client is told to do, and what it measured: values that go between processes as JSON."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from jobmaster.job.identifier import JobId, encode
from tests.bench.stopwatch import Stopwatch

WARM_UP: Final = 5
"""Operations before the clock runs."""
CLIENT: Final = "client1"
CLIENTS: Final = (CLIENT, "client2", "client3", "superuser")
"""Each may have a quarter of the jobs."""
PAGE: Final = 100
"""Jobs of a page of List."""


class WrongAnswer(Exception):
    """A server did not do what was measured: the numbers would mean nothing."""


class Kind(enum.StrEnum):
    """What is done `count` times."""

    START = "start"
    """Start `true`, one after another."""
    JOBS = "jobs"
    """Start `true` from `in_flight` workers, each of which then follows its jobs to their end."""
    STATUS = "status"
    """Ask for the record of a job that has ended, `in_flight` calls at a time."""
    STREAM = "stream"
    """Take the output of job `job_id`, `count` bytes."""
    FOLLOW_STORED = "follow-stored"
    """The same by FollowOutput."""
    STDIN = "stdin"
    """Write `count` bytes to a job that computes their SHA-256."""
    FOLLOW = "follow"
    """Follow a job that writes `count` bytes, by `in_flight` followers at once."""
    LATENCY = "latency"
    """Receive `count` lines as a job writes them, while `in_flight` other jobs run."""
    WRITE = "write"
    """Run a job that writes `count` bytes, by `command` where there is one; its id is the outcome."""
    RECORDS = "records"
    """Ask for the records of `count` jobs, anywhere among `kept` ones that have ended."""
    PAGES = "pages"
    """Ask `count` times for the newest page of the jobs of one client."""
    ADOPT = "adopt"
    """Kill the server under `count` jobs, and wait until the next one has them all."""
    UPGRADE = "upgrade"
    """Replace the server `count` times, after `pause` seconds each, while `in_flight` jobs write, each with a follower."""


_ONE_AT_A_TIME: Final = frozenset(
    {Kind.START, Kind.STREAM, Kind.FOLLOW_STORED, Kind.STDIN, Kind.WRITE, Kind.RECORDS, Kind.PAGES}
)


class Client(enum.StrEnum):
    """Whose client makes the calls."""

    JOBMASTER = "jobmaster"
    GRPCIO = "grpcio"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The work of one client process, over one connection to the process `server`.

    Attributes:
        launcher: the server's parent, where the server is to be replaced.
        separate: whether the job's stdout and stderr are told apart.
    """

    kind: Kind
    client: Client
    port: int
    server: int
    certificates: Path
    count: int
    in_flight: int = 1
    job_id: str = ""
    kept: int = 0
    launcher: int = 0
    pause: float = 0.0
    command: tuple[str, ...] = ()
    separate: bool = False

    def __post_init__(self) -> None:
        if self.count < 1 or self.in_flight < 1:
            raise ValueError("a load has at least one operation")
        if self.in_flight > 1 and self.kind in _ONE_AT_A_TIME:
            raise ValueError(f"{self.kind}: comes one at a time")
        if (self.kind in {Kind.STREAM, Kind.FOLLOW_STORED}) != bool(self.job_id):
            raise ValueError("a stream, and nothing else, is of a job that exists")
        if (self.kind is Kind.RECORDS) != bool(self.kept):
            raise ValueError("records, and nothing else, are those of jobs that are kept")
        if (self.kind in {Kind.ADOPT, Kind.UPGRADE}) != bool(self.launcher):
            raise ValueError("a server that is replaced, and no other, has a launcher to say so to")

    def shares(self) -> list[int]:
        """How many operations each of the `in_flight` workers has."""
        each, more = divmod(self.count, self.in_flight)
        return [each + (number < more) for number in range(self.in_flight)]

    def to_json(self) -> str:
        """For the command line of the client program."""
        return json.dumps(asdict(self) | {"certificates": str(self.certificates)})

    @classmethod
    def from_json(cls, text: str) -> Load:
        """The inverse of `to_json`."""
        fields = json.loads(text)
        return cls(
            **fields
            | {
                "kind": Kind(fields["kind"]),
                "client": Client(fields["client"]),
                "certificates": Path(fields["certificates"]),
                "command": tuple(fields["command"]),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a client measured, warm-up and checks left out.

    Attributes:
        seconds: for all operations together.
        server_seconds: CPU time of the server meanwhile.
        latencies: seconds of each operation, where that is the question.
        job_id: the job that was run, where it is used later.
        server_peak_bytes: the most memory that the server has had, where that is the question.
    """

    seconds: float
    server_seconds: float
    latencies: tuple[float, ...] = ()
    job_id: str = ""
    server_peak_bytes: int = 0

    @classmethod
    def of(
        cls, watch: Stopwatch, *, latencies: Iterable[float] = (), job_id: str = "", server_peak_bytes: int = 0
    ) -> Outcome:
        """What a stopwatch saw, and more."""
        return cls(
            seconds=watch.seconds,
            server_seconds=watch.server_seconds,
            latencies=tuple(latencies),
            job_id=job_id,
            server_peak_bytes=server_peak_bytes,
        )

    def to_json(self) -> str:
        """For the client program's stdout."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        """The inverse of `to_json`."""
        fields = json.loads(text)
        return cls(**fields | {"latencies": tuple(fields["latencies"])})


def kept_id(number: int) -> JobId:
    """The id of a job that is kept: they are numbered from 1 on."""
    return encode(number, bytes(16))


def kept_owner(number: int) -> str:
    """Whose it is: the clients have the same number of them."""
    return CLIENTS[(number - 1) % len(CLIENTS)]


def require_success(state: int, exit_code: int, completed: int) -> None:
    """Checks that a job ran `true` to its end.

    Raises:
        WrongAnswer: it did not.
    """
    if (state, exit_code) != (completed, 0):
        raise WrongAnswer(f"a job of `true` ended in state {state} with exit code {exit_code}")


def require_bytes(received: int, expected: int) -> None:
    """Checks that all of an output arrived.

    Raises:
        WrongAnswer: it did not.
    """
    if received != expected:
        raise WrongAnswer(f"{received} bytes of output arrived where {expected} were written")


def require_digest(found: str, expected: str) -> None:
    """Checks that a job has read what was written.

    Raises:
        WrongAnswer: it has not.
    """
    if found != expected:
        raise WrongAnswer(f"the job read input of the SHA-256 {found} where {expected} was written")


def require_jobs(found: int, expected: int) -> None:
    """Checks that an answer has as many jobs as there are.

    Raises:
        WrongAnswer: it has not.
    """
    if found != expected:
        raise WrongAnswer(f"{found} jobs were told of where there are {expected}")
