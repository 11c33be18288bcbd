"""What is measured: pairs of loads, in rounds in which both sides take turns."""

from __future__ import annotations

import os
import platform
import re
import ssl
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from types import MappingProxyType
from typing import Final

from tests.bench import servers
from tests.bench.command_line import CommandLine
from tests.bench.durability import Durability
from tests.bench.history import History
from tests.bench.idle import IdleJobs, most_jobs
from tests.bench.load import Client, Kind, Load, Outcome
from tests.bench.replacement import Adoption, Upgrades
from tests.bench.rounds import latency_rows, runs_of, take_turns, tell
from tests.bench.servers import Place, Server, Unable
from tests.bench.size import Size
from tests.bench.table import Better, Row, Runs
from tests.bench.transfers import Transfers

CIPHER: Final = "aes-256-gcm"
CIPHER_BLOCK: Final = 16 * 1024
"""Bytes of one TLS record at most (RFC 8446, 5.1)."""
MEGABYTE: Final = 1_000_000
_OPENSSL_RESULT: Final = re.compile(r"^\+F:\d+:[^:]+:([0-9.]+)$", re.MULTILINE)


class Contest:
    """Both servers, started when they are wanted first, and how much is asked of them."""

    def __init__(self, own: Place, size: Size, running: ExitStack) -> None:
        """Starts nothing yet.

        Args:
            own: where it is done.
            size: how much is measured.
            running: ends the servers.
        """
        self.own = own
        self.size = size
        self._running = running

    @cached_property
    def jobmaster(self) -> Server:
        """The server that is measured."""
        return self._running.enter_context(servers.jobmaster(self.own))

    @cached_property
    def peer(self) -> Server:
        """The server that it is compared with."""
        return self._running.enter_context(servers.peer(self.own))

    @cached_property
    def replaceable(self) -> Server:
        """A server that may be killed and replaced, after which its pid is another one, and the rest is as it was.

        It takes no more jobs than by default: those would leave it fewer descriptors for followers.
        """
        other = self._running.enter_context(servers.beside(self.own, "replaceable"))
        options = ("--durability", "full", "--max-crashes", "1000")  # the launcher does not give it up
        return self._running.enter_context(servers.jobmaster(other, options=options))

    @cached_property
    def cipher(self) -> Row:
        """What bounds every stream."""
        return cipher_speed()

    def start(self) -> Iterator[Row]:
        """Start, one after another."""
        count = self.size.starts
        ours, theirs = self._turns(
            self._load(self.jobmaster, Kind.START, Client.JOBMASTER, count),
            self._load(self.peer, Kind.START, Client.GRPCIO, count),
        )
        yield from latency_rows("Start to running", count, ours, theirs)

    def jobs(self) -> Iterator[Row]:
        """Jobs from Start to their end, several at a time."""
        count, starters = self.size.jobs, self.size.starters
        yield self._rate(
            f"jobs of `true` to their end, {starters} starters",
            "jobs/s",
            count,
            self._load(self.jobmaster, Kind.JOBS, Client.JOBMASTER, count, in_flight=starters),
            self._load(self.peer, Kind.JOBS, Client.GRPCIO, count, in_flight=starters),
        )

    def status(self) -> Iterator[Row]:
        """Status, one after another and many at a time."""
        yield self._status(self.size.calls_in_turn, 1)
        yield self._status(self.size.calls_at_once, self.size.calls_in_flight)

    def _status(self, count: int, in_flight: int) -> Row:
        return self._rate(
            f"Status, {in_flight} in flight, to grpcio client",
            "calls/s",
            count,
            self._load(self.jobmaster, Kind.STATUS, Client.GRPCIO, count, in_flight=in_flight),
            self._load(self.peer, Kind.STATUS, Client.GRPCIO, count, in_flight=in_flight),
        )

    def stream(self) -> Iterator[Row]:
        """The output of a job that has ended, to both clients."""
        write = self._load(self.jobmaster, Kind.WRITE, Client.JOBMASTER, self.size.output_bytes)
        job_id = _write(self.own, write)
        loads = [
            replace(write, kind=Kind.STREAM, client=client, port=server.port, server=server.pid, job_id=job_id)
            for client in (Client.GRPCIO, Client.JOBMASTER)
            for server in (self.jobmaster, self.peer)
        ]
        outcomes = self._turns(*loads)
        megabytes = self.size.output_bytes / MEGABYTE
        for number, client in enumerate((Client.GRPCIO, Client.JOBMASTER)):
            ours, theirs = outcomes[2 * number : 2 * number + 2]
            yield Row(
                name=f"StreamOutput of {self.size.output_bytes // 2**20} MiB to {client} client",
                unit="MB/s",
                better=Better.HIGHER,
                jobmaster=runs_of(ours, [megabytes / outcome.seconds for outcome in ours], megabytes),
                peer=runs_of(theirs, [megabytes / outcome.seconds for outcome in theirs], megabytes),
                limit=self.cipher.jobmaster.best(Better.HIGHER),
            )
        yield self._clients(outcomes[2], outcomes[0])
        yield self.cipher

    def _clients(self, ours: list[Outcome], theirs: list[Outcome]) -> Row:
        """What the two clients received from jobmaster's server, in the rounds of the rows before."""
        megabytes = self.size.output_bytes / MEGABYTE
        return Row(
            name="its server alone: jobmaster client beside grpcio client",
            unit="MB/s",
            better=Better.HIGHER,
            jobmaster=runs_of(ours, [megabytes / outcome.seconds for outcome in ours], megabytes),
            peer=runs_of(theirs, [megabytes / outcome.seconds for outcome in theirs], megabytes),
        )

    @property
    def transfers(self) -> Transfers:
        """Bytes in and out of jobs."""
        return Transfers(own=self.own, server=self.jobmaster, size=self.size)

    def followers(self) -> Iterator[Row]:
        """Many followers of one live job, over one connection. There is no peer: a plain server has no live jobs."""
        count, followers = self.size.live_bytes, self.size.followers
        (outcomes,) = self._turns(self._load(self.jobmaster, Kind.FOLLOW, Client.JOBMASTER, count, in_flight=followers))
        megabytes = count * followers / MEGABYTE
        yield Row(
            name=f"{followers} followers of one live job, together",
            unit="MB/s",
            better=Better.HIGHER,
            jobmaster=runs_of(outcomes, [megabytes / outcome.seconds for outcome in outcomes], megabytes),
            limit=self.cipher.jobmaster.best(Better.HIGHER),
        )
        yield Row(
            name="the server's memory at its highest until then",
            unit="MB",
            better=Better.LOWER,
            jobmaster=Runs(values=tuple(outcome.server_peak_bytes / MEGABYTE for outcome in outcomes)),
        )

    def latency(self) -> Iterator[Row]:
        """Lines on their way from a job to a follower."""
        count, jobs = self.size.lines, self.size.other_jobs
        (outcomes,) = self._turns(self._load(self.jobmaster, Kind.LATENCY, Client.JOBMASTER, count, in_flight=jobs))
        yield from latency_rows(f"a live line, written to received, {jobs} jobs running", count, outcomes)

    def command_line(self) -> Iterator[Row]:
        """The client program."""
        program = CommandLine(own=self.own, server=self.jobmaster, rounds=self.size.rounds, runs=self.size.commands)
        yield from program.rows()

    def idle(self) -> Iterator[Row]:
        """Running jobs that do nothing."""
        counts = self.size.idle_jobs or (1_000, most_jobs())
        yield from IdleJobs(
            own=self.own, counts=counts, seconds=self.size.idle_seconds, settle=self.size.settle_seconds
        ).rows()

    def durability(self) -> Iterator[Row]:
        """What a journal that waits for the disk costs a Start."""
        size, full = self.size, self.replaceable  # which nothing has used before
        yield from Durability(own=self.own, full=full, rounds=size.rounds, starts=size.starts).rows()

    def journal(self) -> Iterator[Row]:
        """What very many ended jobs cost."""
        size = self.size
        yield from History(own=self.own, rounds=size.rounds, jobs=size.kept_jobs, calls=size.kept_calls).rows()

    def adoption(self) -> Iterator[Row]:
        """How long a server that is killed is missed."""
        jobs = self.size.adopted_jobs
        yield from Adoption(own=self.own, server=self.replaceable, rounds=self.size.rounds, jobs=jobs).rows()

    def upgrade(self) -> Iterator[Row]:
        """How long a server that is replaced is missed."""
        size = self.size
        upgrades = Upgrades(
            own=self.own,
            server=self.replaceable,
            upgrades=size.upgrades,
            jobs=size.upgraded_jobs,
            pauses=size.upgrade_pauses,
        )
        yield from upgrades.rows()

    def _load(self, server: Server, kind: Kind, client: Client, count: int, *, in_flight: int = 1) -> Load:
        return Load(
            kind=kind,
            client=client,
            port=server.port,
            server=server.pid,
            certificates=self.own.certificates,
            count=count,
            in_flight=in_flight,
        )

    def _rate(self, name: str, unit: str, count: int, ours: Load, theirs: Load) -> Row:
        jobmaster, peer = self._turns(ours, theirs)
        return Row(
            name=name,
            unit=unit,
            better=Better.HIGHER,
            jobmaster=runs_of(jobmaster, [count / outcome.seconds for outcome in jobmaster], count),
            peer=runs_of(peer, [count / outcome.seconds for outcome in peer], count),
        )

    def _turns(self, *loads: Load) -> list[list[Outcome]]:
        return take_turns(self.own.clients, self.size.rounds, *loads)


MEASUREMENTS: Final[Mapping[str, Callable[[Contest], Iterator[Row]]]] = MappingProxyType(
    {
        "start": Contest.start,
        "jobs": Contest.jobs,
        "stream": Contest.stream,
        "input": lambda contest: contest.transfers.input(),
        "following": lambda contest: contest.transfers.following(),
        "index": lambda contest: contest.transfers.index(),
        "streams": lambda contest: contest.transfers.streams(),
        "followers": Contest.followers,
        "latency": Contest.latency,
        "status": Contest.status,
        "command-line": Contest.command_line,
        "idle": Contest.idle,
        "durability": Contest.durability,
        "journal": Contest.journal,
        "adoption": Contest.adoption,
        "upgrade": Contest.upgrade,
    }
)
"""What can be measured, by name, in this order. Each gives its rows as soon as they are there."""


def _write(own: Place, load: Load) -> str:
    """Runs the job whose output is streamed: its id. The output is in the page cache and on the disk afterwards."""
    job_id = own.clients.run(load)[0].job_id
    with (own.output / f"{job_id}.log").open("rb") as log:
        os.fsync(log.fileno())
        while log.read(MEGABYTE):
            pass
    return job_id


def cipher_speed() -> Row:
    """What one core encrypts in a second of CPU time: above that no stream over TLS can be, on one core.

    Raises:
        Unable: openssl is not there or does not know the cipher.
    """
    command = ["openssl", "speed", "-mr", "-evp", CIPHER, "-bytes", str(CIPHER_BLOCK), "-seconds", "1"]
    tell(" ".join(command))
    try:
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unable(f"cannot measure the cipher: {error}; install openssl 3") from None
    found = _OPENSSL_RESULT.search(text)
    if found is None:
        raise Unable(f"openssl speed said something else than its -mr form: {text!r}")
    value = float(found[1]) / MEGABYTE
    return Row(
        name=f"openssl speed {CIPHER}, {CIPHER_BLOCK // 1024} KiB, one core",
        unit="MB/s",
        better=Better.HIGHER,
        jobmaster=Runs(values=(value,)),
    )


def profile(own: Place, size: Size, server: Server, what: str) -> None:
    """Does one load on a server that runs under a profiler: a stream or unary calls of grpcio's client, input, or starts."""
    load = Load(
        kind=Kind.START,
        client=Client.JOBMASTER,
        port=server.port,
        server=server.pid,
        certificates=own.certificates,
        count=size.starts,
    )
    match what:
        case "stream":
            write = replace(load, kind=Kind.WRITE, count=size.output_bytes)
            job_id = _write(own, write)
            own.clients.run(replace(write, kind=Kind.STREAM, client=Client.GRPCIO, job_id=job_id))
        case "unary":
            count, in_flight = size.calls_at_once, size.calls_in_flight
            own.clients.run(replace(load, kind=Kind.STATUS, client=Client.GRPCIO, count=count, in_flight=in_flight))
        case "input":
            own.clients.run(replace(load, kind=Kind.STDIN, count=size.output_bytes))
        case "start":
            own.clients.run(load)
        case _:
            raise ValueError(f"{what}: nothing is known to profile under this name")


def conditions(size: Size) -> dict[str, object]:
    """What the numbers depend on."""
    return {
        "processors": os.cpu_count(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "load_average": os.getloadavg(),
        **{package: version(package) for package in ("trio", "purerpc", "protobuf", "grpcio")},
        "rounds": size.rounds,
    }
