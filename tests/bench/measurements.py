"""What is measured: pairs of loads, in rounds in which both sides take turns."""

from __future__ import annotations

import os
import platform
import re
import ssl
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from statistics import median, quantiles
from typing import Final

from tests.bench.command_line import CommandLine
from tests.bench.idle import IdleJobs, most_jobs
from tests.bench.load import Client, Kind, Load, Outcome
from tests.bench.servers import Place, Server, Unable, run_client
from tests.bench.table import Better, Row, Runs

CIPHER: Final = "aes-256-gcm"
CIPHER_BLOCK: Final = 16 * 1024
"""Bytes of one TLS record at most (RFC 8446, 5.1)."""
MEGABYTE: Final = 1_000_000
_OPENSSL_RESULT: Final = re.compile(r"^\+F:\d+:[^:]+:([0-9.]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured. `starters` and `calls_in_flight` are how many do it at once."""

    rounds: int
    starts: int
    jobs: int
    starters: int
    output_bytes: int
    calls_in_turn: int
    calls_at_once: int
    calls_in_flight: int
    followers: int
    live_bytes: int
    lines: int
    other_jobs: int
    idle_jobs: tuple[int, ...]
    """None: a thousand, and as many as this host allows."""
    idle_seconds: float
    commands: int


FULL: Final = Size(
    rounds=7,
    starts=200,
    jobs=300,
    starters=8,
    output_bytes=1024 * 1024 * 1024,
    calls_in_turn=2000,
    calls_at_once=5000,
    calls_in_flight=50,
    followers=100,
    live_bytes=8 * 1024 * 1024,
    lines=300,
    other_jobs=100,
    idle_jobs=(),
    idle_seconds=20,
    commands=5,
)
QUICK: Final = replace(
    FULL,
    rounds=1,
    starts=10,
    jobs=16,
    output_bytes=16 * 1024 * 1024,
    calls_in_turn=100,
    calls_at_once=200,
    followers=5,
    live_bytes=1024 * 1024,
    lines=10,
    other_jobs=3,
    idle_jobs=(8,),
    idle_seconds=1,
    commands=1,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """Both servers, ready, and how much is asked of them."""

    own: Place
    size: Size
    jobmaster: Server
    peer: Server

    def rows(self) -> Iterator[Row]:
        """Measures everything; a row is yielded as soon as it is there."""
        yield from self._start()
        yield self._jobs()
        cipher = cipher_speed()
        yield from self._stream(cipher)
        yield from self._followers(cipher)
        yield from self._latency()
        yield self._status(self.size.calls_in_turn, 1)
        yield self._status(self.size.calls_at_once, self.size.calls_in_flight)
        program = CommandLine(own=self.own, server=self.jobmaster, rounds=self.size.rounds, runs=self.size.commands)
        yield from program.rows()
        idle = IdleJobs(
            own=self.own, counts=self.size.idle_jobs or (1_000, most_jobs()), seconds=self.size.idle_seconds
        )
        yield from idle.rows()

    def _start(self) -> Iterator[Row]:
        count = self.size.starts
        ours, theirs = self._turns(
            self._load(self.jobmaster, Kind.START, Client.JOBMASTER, count),
            self._load(self.peer, Kind.START, Client.GRPCIO, count),
        )
        for name, figure in (("median", median), ("p99", _p99)):
            yield Row(
                name=f"Start to running, {name} of {count}",
                unit="ms",
                better=Better.LOWER,
                jobmaster=_runs(ours, [1000 * figure(outcome.latencies) for outcome in ours], count),
                peer=_runs(theirs, [1000 * figure(outcome.latencies) for outcome in theirs], count),
            )

    def _jobs(self) -> Row:
        count, starters = self.size.jobs, self.size.starters
        return self._rate(
            f"jobs of `true` to their end, {starters} starters",
            "jobs/s",
            count,
            self._load(self.jobmaster, Kind.JOBS, Client.JOBMASTER, count, in_flight=starters),
            self._load(self.peer, Kind.JOBS, Client.GRPCIO, count, in_flight=starters),
        )

    def _status(self, count: int, in_flight: int) -> Row:
        return self._rate(
            f"Status, {in_flight} in flight, to grpcio client",
            "calls/s",
            count,
            self._load(self.jobmaster, Kind.STATUS, Client.GRPCIO, count, in_flight=in_flight),
            self._load(self.peer, Kind.STATUS, Client.GRPCIO, count, in_flight=in_flight),
        )

    def _stream(self, cipher: Row) -> Iterator[Row]:
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
                jobmaster=_runs(ours, [megabytes / outcome.seconds for outcome in ours], megabytes),
                peer=_runs(theirs, [megabytes / outcome.seconds for outcome in theirs], megabytes),
                limit=cipher.jobmaster.best(Better.HIGHER),
            )
        yield self._clients(outcomes[2], outcomes[0])
        yield cipher

    def _clients(self, ours: list[Outcome], theirs: list[Outcome]) -> Row:
        """What the two clients received from jobmaster's server, in the rounds of the rows before."""
        megabytes = self.size.output_bytes / MEGABYTE
        return Row(
            name="its server alone: jobmaster client beside grpcio client",
            unit="MB/s",
            better=Better.HIGHER,
            jobmaster=_runs(ours, [megabytes / outcome.seconds for outcome in ours], megabytes),
            peer=_runs(theirs, [megabytes / outcome.seconds for outcome in theirs], megabytes),
        )

    def _followers(self, cipher: Row) -> Iterator[Row]:
        """Many followers of one live job, over one connection. There is no peer: a plain server has no live jobs."""
        count, followers = self.size.live_bytes, self.size.followers
        (outcomes,) = self._turns(self._load(self.jobmaster, Kind.FOLLOW, Client.JOBMASTER, count, in_flight=followers))
        megabytes = count * followers / MEGABYTE
        yield Row(
            name=f"{followers} followers of one live job, together",
            unit="MB/s",
            better=Better.HIGHER,
            jobmaster=_runs(outcomes, [megabytes / outcome.seconds for outcome in outcomes], megabytes),
            limit=cipher.jobmaster.best(Better.HIGHER),
        )
        yield Row(
            name="the server's memory at its highest until then",
            unit="MB",
            better=Better.LOWER,
            jobmaster=Runs(values=tuple(outcome.server_peak_bytes / MEGABYTE for outcome in outcomes)),
        )

    def _latency(self) -> Iterator[Row]:
        count, jobs = self.size.lines, self.size.other_jobs
        (outcomes,) = self._turns(self._load(self.jobmaster, Kind.LATENCY, Client.JOBMASTER, count, in_flight=jobs))
        for name, figure in (("median", median), ("p99", _p99)):
            yield Row(
                name=f"a live line, written to received, {jobs} jobs running, {name}",
                unit="ms",
                better=Better.LOWER,
                jobmaster=_runs(outcomes, [1000 * figure(outcome.latencies) for outcome in outcomes], count),
            )

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
            jobmaster=_runs(jobmaster, [count / outcome.seconds for outcome in jobmaster], count),
            peer=_runs(peer, [count / outcome.seconds for outcome in peer], count),
        )

    def _turns(self, *loads: Load) -> list[list[Outcome]]:
        outcomes: list[list[Outcome]] = [[] for _ in loads]
        for number in range(self.size.rounds):
            _tell(f"{loads[0].kind}: round {number + 1} of {self.size.rounds}")
            for rounds, load in zip(outcomes, loads, strict=True):
                rounds.append(run_client(load))
        return outcomes


def _write(own: Place, load: Load) -> str:
    """Runs the job whose output is streamed: its id. The output is in the page cache and on the disk afterwards."""
    job_id = run_client(load).job_id
    with (own.output / f"{job_id}.log").open("rb") as log:
        os.fsync(log.fileno())
        while log.read(MEGABYTE):
            pass
    return job_id


def _runs(outcomes: Sequence[Outcome], values: Iterable[float], operations: float) -> Runs:
    costs = tuple(1000 * outcome.server_seconds / operations for outcome in outcomes)
    return Runs(values=tuple(values), cpu_milliseconds=costs)


def _p99(latencies: Sequence[float]) -> float:
    return quantiles(latencies, n=100, method="inclusive")[98]


def cipher_speed() -> Row:
    """What one core encrypts in a second of CPU time: above that no stream over TLS can be, on one core.

    Raises:
        Unable: openssl is not there or does not know the cipher.
    """
    command = ["openssl", "speed", "-mr", "-evp", CIPHER, "-bytes", str(CIPHER_BLOCK), "-seconds", "1"]
    _tell(" ".join(command))
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
    """Does one load on a server that runs under a profiler: a stream or unary calls of grpcio's client, or starts."""
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
            run_client(replace(write, kind=Kind.STREAM, client=Client.GRPCIO, job_id=job_id))
        case "unary":
            count, in_flight = size.calls_at_once, size.calls_in_flight
            run_client(replace(load, kind=Kind.STATUS, client=Client.GRPCIO, count=count, in_flight=in_flight))
        case "start":
            run_client(load)
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


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
