"""What a command line can ask for, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from jobmaster.cli.detaching import DEFAULT_KEYS, parse_keys

if TYPE_CHECKING:
    from datetime import datetime, timedelta

DETACH_KEYS: Final = parse_keys(DEFAULT_KEYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Which server, and as whom."""

    host: str
    port: int
    name: str
    certificates: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """How much of a job's output is kept.

    Attributes:
        most: bytes; 0: as many as the server keeps of any job.
        full: what happens when there are more: its middle is dropped, or the job ended.
    """

    most: int = 0
    full: Literal["drop", "end"] = "drop"


@dataclass(frozen=True, slots=True, kw_only=True)
class IoLimit:
    """Traffic with one disk; None: the server's default.

    Attributes:
        device: its MAJ:MIN; empty: the server's own choice.
        read_bps, write_bps: bytes a second.
        read_iops, write_iops: operations a second.
    """

    device: str = ""
    read_bps: int | None = None
    write_bps: int | None = None
    read_iops: int | None = None
    write_iops: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a job may use of the host; None: the server's default. Bytes, and thousandths of a core."""

    cpu_millicores: int | None = None
    memory_max: int | None = None
    memory_high: int | None = None
    swap_max: int | None = None
    pids_max: int | None = None
    cpu_weight: int | None = None
    io_weight: int | None = None
    io: tuple[IoLimit, ...] = ()


NO_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On what terms a job runs; what is not asked for is as the server has it.

    Attributes:
        max_run_ms: milliseconds for which it may run; 0: for ever.
        warn_before_ms: its main process gets a signal so many before that; 0: none.
        warn_signal: that signal; 0: the server's choice.
        stop_signal: what its processes get first when it is stopped; 0: SIGTERM.
        grace_ms: milliseconds that they have then; None: as the server has it.
        name, labels: what it is called.
        environment: variables that it gets; without a value, with that of this program's.
        working_folder: where it begins; empty: as the server has it.
        limits: what it may use of the host.
    """

    max_run_ms: int = 0
    warn_before_ms: int = 0
    warn_signal: int = 0
    stop_signal: int = 0
    grace_ms: int | None = None
    name: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    environment: tuple[tuple[str, str | None], ...] = field(default=(), repr=False)
    working_folder: str = ""
    limits: Limits = NO_LIMITS


@dataclass(frozen=True, slots=True)
class Start:
    """`start COMMAND [ARG…]`."""

    argv: tuple[str, ...]
    output: Output = Output()
    terms: Terms = Terms()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """`run COMMAND [ARG…]`.

    Attributes:
        detach: print the id and leave.
        request_id: None for one that nothing else has.
        stdin: whether the job has an input, which is standard input unless it is detached; None: where that is a pipe or
            a file.
        separate: the job's stderr is standard error; else all of its output is standard output.
        tty: the job has a terminal, which is this one unless it is detached.
        detach_keys: the bytes of the keys that detach from it; none: none do.
        output: how much of its output is kept.
        terms: on what terms it runs.
        secret_env: the environment variables whose values nobody is to read in the command.
    """

    argv: tuple[str, ...]
    detach: bool = False
    request_id: str | None = None
    stdin: bool | None = None
    separate: bool = False
    tty: bool = False
    detach_keys: bytes = DETACH_KEYS
    output: Output = Output()
    terms: Terms = Terms()
    secret_env: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attach:
    """`attach JOB`.

    Attributes:
        stdin: whether standard input is the job's; None: where the job has one that nobody else writes.
        from_start: all of the output, not only what comes from now on.
        detach_keys: as of `Run`.
    """

    job_id: str
    stdin: bool | None = None
    from_start: bool = False
    detach_keys: bytes = DETACH_KEYS


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """`stop JOB`."""

    job_id: str
    as_json: bool
    reason: str = ""
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """`kill JOB`.

    Attributes:
        number: of the signal.
        to_all: to all processes of the job, not to the main one alone.
    """

    job_id: str
    as_json: bool
    number: int = 15
    to_all: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """`pause JOB`."""

    job_id: str
    as_json: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """`resume JOB`."""

    job_id: str
    as_json: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """`status JOB`."""

    job_id: str
    as_json: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """`info`."""

    as_json: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """`wait JOB`."""

    job_id: str
    as_json: bool


@dataclass(frozen=True, slots=True)
class Remove:
    """`rm JOB…`."""

    job_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StreamOutput:
    """`streamoutput JOB`."""

    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    """`logs JOB`.

    Attributes:
        follow: go on until the job has ended; else end at the present end.
        from_offset, tail, since: where to begin: at a byte, so many lines before the end, or at a time; one of them at most.
        until: where to end, by time.
        timestamps: put its time before each line.
        stream: "stdout" or "stderr"; empty: both.
    """

    job_id: str
    follow: bool = True
    from_offset: int | None = None
    tail: int | None = None
    since: datetime | timedelta | None = None
    until: datetime | timedelta | None = None
    timestamps: bool = False
    stream: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether all of the output is wanted, and nothing else."""
        return self == Logs(job_id=self.job_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class List:
    """`list`, also called `ps`.

    Attributes:
        as_json: None: where standard output is no terminal.
        client: of whom; empty: of oneself, or as an admin of all.
        states, causes: by the names of the contract without their prefix; none: all.
        name, labels: what a job is called; empty: anything.
        since, until: when a job started; a time, or how long ago.
        limit: how many at most; 0: all.
        only_ids: print nothing else.
    """

    as_json: bool | None = None
    client: str = ""
    states: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()
    name: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    since: datetime | timedelta | None = None
    until: datetime | timedelta | None = None
    limit: int
    only_ids: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """`events`.

    Attributes:
        as_json: None: where standard output is no terminal.
        after: the number of the last event that is known; None: only what happens from now on.
    """

    as_json: bool | None = None
    after: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """`stats JOB`.

    Attributes:
        interval_ms: milliseconds between two lines.
        follow: go on until the job has ended; else end with the first.
        as_json: None: where standard output is no terminal.
    """

    job_id: str
    interval_ms: int = 1_000
    follow: bool = True
    as_json: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """`drain`.

    Attributes:
        timeout_ms: milliseconds until jobs are taken again; 0: until `undrain`.
    """

    note: str = ""
    timeout_ms: int = 0


@dataclass(frozen=True, slots=True)
class Undrain:
    """`undrain`."""


@dataclass(frozen=True, slots=True)
class Backup:
    """`backup FILE`."""

    file: Path


ActionOnJob = Stop | Kill | Pause | Resume | Status | Wait
"""What is answered by the record of a job."""
Action = (
    Start
    | Run
    | Attach
    | ActionOnJob
    | Remove
    | StreamOutput
    | Logs
    | List
    | Events
    | Stats
    | Backup
    | Info
    | Drain
    | Undrain
)


@dataclass(frozen=True, slots=True)
class Command:
    """What to ask of a server."""

    target: Target
    action: Action


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """`audit`: of this host, without a server.

    Attributes:
        as_json: None: where standard output is no terminal.
        folder: None for the default one.
        handshakes: the refused connections, instead of calls and jobs.
        client, job: of these alone; empty: of all.
        since, until: a time, or how long ago.
        follow: go on with what is added.
    """

    as_json: bool | None = None
    folder: Path | None = None
    handshakes: bool = False
    client: str = ""
    job: str = ""
    since: datetime | timedelta | None = None
    until: datetime | timedelta | None = None
    follow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Doctor:
    """`doctor`: of this host, without a server.

    Attributes:
        as_json: one line of JSON instead of a line for each finding.
        options: of the server that the host is to be fit for, as its command line has them.
    """

    as_json: bool = False
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallUnit:
    """`install-unit`: of this host, without a server.

    Attributes:
        only_print: print the unit and write nothing.
        force: replace one that differs.
        folder: where to; None for systemd's own.
        options: of the server, as its command line has them.
    """

    only_print: bool = False
    force: bool = False
    folder: Path | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """What `--help` or `--version` is to print."""

    text: str
