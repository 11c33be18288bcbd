"""The server's options: what the command line says, as values that are valid once they exist."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, cast

from jobmaster import __version__
from jobmaster.address import DEFAULT_PORT, argument, parse_address
from jobmaster.audit.names import FOLDER as AUDIT_FOLDER
from jobmaster.errors import ConfigurationError
from jobmaster.host.cgroup.limits import IoLimits, Limits, OomPolicy, parse_cores, parse_count
from jobmaster.host.uid_range import DEFAULT_UID_RANGE, UidRange, parse_uid_range
from jobmaster.identity.policy import DEFAULT_POLICY, Policy
from jobmaster.job.specification import SMALLEST_OUTPUT
from jobmaster.journal.connection import Synchronous
from jobmaster.places import default_output_folder
from jobmaster.run.bounds import FreeSpace, OutputBounds
from jobmaster.run.client_terms import ClientTerms
from jobmaster.sizes import parse_size, size_text

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

DEFAULT_CONFIG: Final = Path("/etc/jobmaster/config.toml")
"""The configuration file of a server that root runs."""
DEFAULT_PIDS: Final = 4096
DEFAULT_LIMITS: Final = Limits(pids_max=DEFAULT_PIDS)
DEFAULT_GRACE_SECONDS: Final = 10.0
DEFAULT_MAX_JOBS: Final = 1_000
DEFAULT_KEPT_JOBS: Final = 10_000
DEFAULT_KEPT_DAYS: Final = 30
DEFAULT_OUTPUT_MAX: Final = 1024 * 1024 * 1024
DEFAULT_OUTPUT_FREE: Final = FreeSpace(size=1024 * 1024 * 1024, percent=5)
DEFAULT_MAX_GAP: Final = 300
DEFAULT_MAX_CRASHES: Final = 5
DEFAULT_AUDIT_SIZE: Final = 64 * 1024 * 1024
DEFAULT_AUDIT_FILES: Final = 16
LEAST_AUDIT_SIZE: Final = 64 * 1024
LEAST_OUTPUT_FOLDER: Final = 1024 * 1024
_MOST_PERCENT: Final = 90
_MOST_JOBS: Final = 100_000
_MOST_KEPT: Final = 1_000_000
_MOST_DAYS: Final = 3_650
_MOST_GAP: Final = 86_400
_MOST_CRASHES: Final = 1_000
_MOST_AUDIT_FILES: Final = 100_000
_MAX_GRACE_SECONDS: Final = 3600.0

_DESCRIPTION: Final = """\
Runs commands for clients that connect over gRPC with mutual TLS. A client's certificate is who it is; each command
runs as a job in a cgroup of its own, and its output is kept and can be streamed while it runs and after.

The server runs in the foreground and logs to stderr. On stdout it says what this host enforces, and then, in one
line, that it is ready and where. SIGTERM and SIGINT end it: it takes no more jobs, ends those there are (SIGTERM, the
grace period, SIGKILL), lets followers have the last bytes, and exits 0. A second signal ends the grace period.

What the options say, a file may say as well (--config), and who may connect; an option wins over the file.
"""

_EPILOG: Final = """\
sizes:
  a number of bytes, or one with K, M, G or T (powers of 1024); `max` sets no limit.

exit status:
  0  ended by SIGTERM or SIGINT; or the configuration is good (--check-config)
  1  the host failed the server while it ran
  2  an option is wrong, or this host cannot do what was asked; stderr says what and the remedy

examples:
  python -m jobmaster.serve
  python -m jobmaster.serve --listen 0.0.0.0:6443 --memory-max 2G --cpu-max 1.5 --require-limits
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How a server is to run.

    Attributes:
        io_device: as given by the user, None for the disk under `output_folder`.
        certificates: the certificate folder, None for the default one.
        cgroup_root: None to choose one.
        work_folder: where the jobs' own folders are made; None for beside the output folder, if their users can get there.
        work_free: without so much of that disk free, no job is started.
        run_as: the user of the jobs; None for the server's own, or, where that is root, for one of each client's own.
        uid_range: what those are taken from; None for the default.
        grace_seconds: between SIGTERM and SIGKILL.
        max_jobs: running jobs, of all clients together.
        output_max: bytes that are kept of a job's output, at most; None: all.
        output_folder_max: bytes of the disk that all outputs may take; None: no bound.
        output_free: what they leave free of their disk.
        durability: how the journal is written.
        keep_jobs: ended jobs that are kept, of all clients together.
        keep_for: how long after its end a job is kept.
        max_gap_seconds: how long jobs may be without a server, while it is started again.
        max_crashes: deaths of the server in five minutes, at which its jobs are ended.
        audit_folder: where the audit is kept; None for the default one.
        audit_size: bytes at which a file of the audit is complete.
        audit_files: complete files that are kept of each trail; 0: all.
        policy: who may connect, and in what role.
        terms: of the clients that have other ones than all.
    """

    output_folder: Path
    host: str = "localhost"
    port: int = DEFAULT_PORT
    io_device: str | None = None
    certificates: Path | None = None
    cgroup_root: Path | None = None
    require_limits: bool = False
    work_folder: Path | None = None
    work_free: FreeSpace = DEFAULT_OUTPUT_FREE
    run_as: str | None = None
    uid_range: UidRange | None = None
    oom_policy: OomPolicy = OomPolicy.JOB
    limits: Limits = DEFAULT_LIMITS
    grace_seconds: float = DEFAULT_GRACE_SECONDS
    max_jobs: int = DEFAULT_MAX_JOBS
    output_max: int | None = DEFAULT_OUTPUT_MAX
    output_folder_max: int | None = None
    output_free: FreeSpace = DEFAULT_OUTPUT_FREE
    durability: Synchronous = Synchronous.FULL
    keep_jobs: int = DEFAULT_KEPT_JOBS
    keep_for: timedelta | None = timedelta(days=DEFAULT_KEPT_DAYS)
    max_gap_seconds: int = DEFAULT_MAX_GAP
    max_crashes: int = DEFAULT_MAX_CRASHES
    audit_folder: Path | None = None
    audit_size: int = DEFAULT_AUDIT_SIZE
    audit_files: int = DEFAULT_AUDIT_FILES
    verbose: bool = False
    policy: Policy = DEFAULT_POLICY
    terms: Mapping[str, ClientTerms] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = {
            "--output-dir": self.output_folder,
            "--audit-folder": self.audit_folder,
            "--work-dir": self.work_folder,
        }
        for option, folder in named.items():
            if folder is not None and (not folder.is_absolute() or ".." in folder.parts):
                raise ConfigurationError(f"{option} {folder}: must be an absolute path without '..'")

    @property
    def audit(self) -> Path:
        """The folder of the audit."""
        return self.audit_folder or self.output_folder / AUDIT_FOLDER

    @property
    def needs_disk(self) -> bool:
        """Whether a limit of all jobs, or of a client's, is about a disk."""
        return self.limits.io.limited or any(terms.bounds_disk for terms in self.terms.values())

    @property
    def output_bounds(self) -> OutputBounds:
        """What the outputs of all jobs may take of their disk."""
        return OutputBounds(most=self.output_folder_max, free=self.output_free)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """What the command line says of the configuration; its options are good, as far as that can be told without the file.

    Attributes:
        arguments: all of them.
        config: the file that it names; None where it names none.
        only_checks: the configuration is to be told, and nothing served.
        verbose: it asks for a log of everything.
    """

    arguments: tuple[str, ...]
    config: Path | None
    only_checks: bool
    verbose: bool


PROGRAM: Final = "python -m jobmaster.serve"


def parse(arguments: Sequence[str]) -> ServerOptions:
    """The options of a command line, without a file. Exits 2, with the usage, when it is wrong."""
    try:
        _require_one_choice_of_users(new_parser().parse_args(arguments))
        return options_of(arguments, {})
    except (ConfigurationError, ValueError) as error:
        new_parser().error(str(error))


def parse_command_line(arguments: Sequence[str], program: str = PROGRAM) -> CommandLine:
    """The command line of this program, whose file is still to be read. Exits 2, with the usage, when it is wrong."""
    parser = new_parser(program)
    given = parser.parse_args(arguments)
    try:
        _require_one_choice_of_users(given)
        options_of(arguments, {"output_dir": given.output_dir or Path("/")})  # else the file may name it
    except (ConfigurationError, ValueError) as error:
        parser.error(str(error))
    return CommandLine(
        arguments=tuple(arguments), config=given.config, only_checks=given.check_config, verbose=given.verbose
    )


def _require_one_choice_of_users(given: argparse.Namespace) -> None:
    """Raises ConfigurationError where a command line has two; of a file and a command line, --run-as counts."""
    if given.run_as is not None and given.uid_range is not None:
        raise ConfigurationError("--run-as and --uid-range exclude each other: all jobs run as that user")


def options_of(
    arguments: Sequence[str],
    values: Mapping[str, Any],
    policy: Policy | None = None,
    terms: Mapping[str, ClientTerms] | None = None,
) -> ServerOptions:
    """The options of a command line over those of a file.

    Args:
        arguments: of the command line. Exits 2, with the usage, where one is wrong.
        values: of the file, by the names that the parser gives to its options; defaults where an option is not given.
        policy: the clients of the file; None for those that are built in.
        terms: of those clients.

    Raises:
        ConfigurationError, ValueError: what there is does not go together, or no folder can be chosen for the output.
    """
    parser = new_parser()
    parser.set_defaults(**values)
    given = parser.parse_args(arguments)
    host, port = given.listen
    return ServerOptions(
        output_folder=given.output_dir or default_output_folder(os.environ, is_root=os.geteuid() == 0),
        host=host,
        port=port,
        io_device=given.iodevice_id,
        certificates=given.certs_dir,
        cgroup_root=given.cgroup_root,
        require_limits=given.require_limits,
        work_folder=given.work_dir,
        work_free=given.work_free,
        run_as=given.run_as,
        uid_range=given.uid_range,
        oom_policy=OomPolicy(given.oom_policy),
        limits=_limits(given),
        grace_seconds=given.grace,
        max_jobs=given.max_jobs,
        output_max=given.output_max or None,
        output_folder_max=given.output_folder_max or None,
        output_free=given.output_free,
        durability=Synchronous[given.durability.upper()],
        keep_jobs=given.keep_jobs,
        keep_for=timedelta(days=given.keep_days) if given.keep_days else None,
        max_gap_seconds=given.max_gap,
        max_crashes=given.max_crashes,
        audit_folder=given.audit_folder,
        audit_size=given.audit_size,
        audit_files=given.audit_files,
        verbose=given.verbose,
        policy=DEFAULT_POLICY if policy is None else policy,
        terms=terms or {},
    )


def _limits(given: argparse.Namespace) -> Limits:
    return Limits(
        cpu_max=given.cpu_max,
        memory_max=given.memory_max,
        pids_max=given.pids_max,
        io=IoLimits(
            read_bps=given.io_read_bps,
            write_bps=given.io_write_bps,
            read_iops=given.io_read_iops,
            write_iops=given.io_write_iops,
        ),
    )


def _grace(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _MAX_GRACE_SECONDS:
        raise ValueError(f"{text!r} is not a number of seconds from 0 to {_MAX_GRACE_SECONDS:.0f}")
    return seconds


def limit_type(name: str, parse_text: Callable[[str], float | None]) -> Callable[[str], float | None]:
    """The parser of a limit that also refuses what `Limits` does; ValueError."""

    def parse_limit(text: str) -> float | None:
        value = parse_text(text)
        Limits(**{name: value})  # type: ignore[arg-type]  # the parser of that limit gives its type
        return value

    return parse_limit


def _rate(name: str, parse_text: Callable[[str], int | None]) -> Callable[[str], int | None]:
    """The same of `IoLimits`."""

    def parse_rate(text: str) -> int | None:
        value = parse_text(text)
        IoLimits(**{name: value})
        return value

    return parse_rate


def number(what: str, low: int, high: int) -> Callable[[str], int]:
    """A parser of a whole number within bounds, which raises ValueError for any other text."""

    def parse_number(text: str) -> int:
        count = parse_count(text)
        if count is None or not low <= count <= high:
            raise ValueError(f"{text!r} is not a number of {what} from {low} to {high}")
        return count

    return parse_number


def _audit_size(text: str) -> int:
    size = parse_size(text)
    if size is None or size < LEAST_AUDIT_SIZE:
        raise ValueError(f"{text!r} is not a size of {LEAST_AUDIT_SIZE // 1024}K or more")
    return size


def _output_max(text: str) -> int:
    size = 0 if text == "0" else parse_size(text)
    if size is None or 0 < size < SMALLEST_OUTPUT:
        raise ValueError(f"{text!r} is not a size of {SMALLEST_OUTPUT // 1024}K or more, or 0 to keep all")
    return size


def _output_folder_max(text: str) -> int:
    size = 0 if text == "0" else parse_size(text)
    if size is None or 0 < size < LEAST_OUTPUT_FOLDER:
        raise ValueError(f"{text!r} is not a size of {size_text(LEAST_OUTPUT_FOLDER)} or more, or 0 for no bound")
    return size


def _free(text: str) -> FreeSpace:
    if text.endswith("%"):
        percent = parse_count(text.removesuffix("%"))
        if percent is None or percent > _MOST_PERCENT:
            raise ValueError(f"{text!r} is not a share of a disk from 0% to {_MOST_PERCENT}%")
        return FreeSpace(percent=percent)
    size = parse_size(text)
    if size is None:
        raise ValueError(f"{text!r} is not a size, or a share of the disk such as 5%")
    return FreeSpace(size=size)


class _Parser(argparse.ArgumentParser):
    """Exits as it would where nobody reads what it says, or a full disk does not take it."""

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        stream = sys.stderr if file is None else cast(IO[str], file)  # which is one of the two
        try:
            stream.write(message)
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())  # or the interpreter's end would try again
            os.close(null)


def new_parser(program: str = PROGRAM) -> argparse.ArgumentParser:
    """A parser of the command line. The type of an option reads what a file says of it, too (`schema`)."""
    parser = _Parser(
        prog=program,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"jobmaster {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log every connection and job too")
    _add_file_options(parser.add_argument_group("configuration file"))
    _add_place_options(parser.add_argument_group("places"))
    _add_job_options(parser.add_argument_group("jobs"))
    _add_record_options(parser.add_argument_group("records and restarts"))
    _add_audit_options(parser.add_argument_group("audit"))
    _add_limit_options(parser.add_argument_group("default limits of every job"))
    return parser


def parse_path(text: str) -> Path:
    """A path that can be told in every text: in UTF-8.

    Raises:
        ValueError: it is empty, or no UTF-8.
    """
    if not text:
        raise ValueError("a folder has a name")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{text!r} is not UTF-8: name another folder") from None
    return Path(text)


def _add_file_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--config",
        metavar="FILE",
        type=argument(parse_path),
        help=f"the configuration, in TOML (default {DEFAULT_CONFIG} where root runs the server and it is there); SIGHUP has "
        "it read again",
    )
    group.add_argument(
        "--check-config",
        action="store_true",
        help="say on stdout what would be in force, as such a file, and on stderr what is wrong with it, and exit 0 or 2",
    )


def _add_place_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--listen",
        metavar="HOST:PORT",
        type=argument(parse_address),
        default=("localhost", DEFAULT_PORT),
        help=f"address to serve on (default localhost:{DEFAULT_PORT}); port 0 picks a free one",
    )
    group.add_argument(
        "-o",
        "--output-dir",
        metavar="DIR",
        type=argument(parse_path),
        help="absolute path of the folder for the jobs' output (default /var/lib/jobmaster as root, otherwise "
        "$XDG_STATE_HOME/jobmaster); made if missing, 0700; refused when it is a symbolic link or others may write it",
    )
    group.add_argument(
        "--certs-dir",
        metavar="DIR",
        type=argument(parse_path),
        help="the certificate folder (default: certs/ of a checkout, /etc/jobmaster/certs as root, otherwise "
        "$XDG_CONFIG_HOME/jobmaster/certs); an absent default one is made, see `python -m jobmaster.certs`",
    )
    group.add_argument(
        "--cgroup-root",
        metavar="DIR",
        type=argument(parse_path),
        help="cgroup v2 folder for the jobs' cgroups (default: the delegated cgroup of this service, else "
        "`jobmaster` at the top of the cgroup v2 mount)",
    )
    group.add_argument(
        "-d",
        "--iodevice-id",
        metavar="MAJ:MIN",
        help="block device that the IO limits apply to (default: the disk under the output folder); a partition "
        "stands for its disk",
    )


def _add_job_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--work-dir",
        metavar="DIR",
        type=argument(parse_path),
        help="absolute path of the folder for the jobs' own folders, which every job's user has to be able to enter (default: "
        "the output folder's with -work behind its name, where they can); made if missing, 0711; one that is there has to be empty, and is the server's alone from then on",
    )
    group.add_argument(
        "--work-free",
        metavar="SIZE|N%",
        type=argument(_free),
        default=DEFAULT_OUTPUT_FREE,
        help="what has to be free of that disk for a job to be started (default 5%% of it, or 1G where that is less); 0: nothing",
    )
    group.add_argument(
        "--run-as",
        metavar="USER",
        help="user that the jobs of all clients run as (default, when the server is root: a user of each client's own). "
        "With root, jobs keep all of root's power and can leave their cgroup",
    )
    group.add_argument(
        "--uid-range",
        metavar="FIRST-LAST",
        type=argument(parse_uid_range),
        help="user ids, and group ids of the same numbers, of which each client gets one for good that nobody else on this "
        f"host has (default {DEFAULT_UID_RANGE})",
    )
    group.add_argument(
        "--grace",
        metavar="SECONDS",
        type=argument(_grace),
        default=DEFAULT_GRACE_SECONDS,
        help=f"between SIGTERM and SIGKILL of a stop (default {DEFAULT_GRACE_SECONDS:.0f})",
    )
    group.add_argument(
        "--max-jobs",
        metavar="N",
        type=argument(number("jobs", 1, _MOST_JOBS)),
        default=DEFAULT_MAX_JOBS,
        help=f"jobs that may run at a time (default {DEFAULT_MAX_JOBS}); a client may have a quarter of them",
    )
    group.add_argument(
        "--output-max",
        metavar="SIZE",
        type=argument(_output_max),
        default=DEFAULT_OUTPUT_MAX,
        help="output that is kept of a job (default 1G): of more, the first quarter and the newest rest; 0 keeps all. A "
        "job may be started with less",
    )
    group.add_argument(
        "--output-folder-max",
        metavar="SIZE",
        type=argument(_output_folder_max),
        default=0,
        help="what the outputs of all jobs may take of the disk (default 0: no bound but --output-free). Above it the "
        "outputs of ended jobs are removed, of the client that takes most the oldest first; where none is left, no job is "
        "started and what running ones write is lost",
    )
    group.add_argument(
        "--output-free",
        metavar="SIZE|N%",
        type=argument(_free),
        default=DEFAULT_OUTPUT_FREE,
        help="what is left free of the disk of the outputs, by the same means (default 5%% of it, or 1G where that is less); "
        "0 leaves nothing",
    )
    group.add_argument(
        "--oom-policy",
        choices=[policy.value for policy in OomPolicy],
        default=OomPolicy.JOB.value,
        help="who dies when a job runs out of memory: all of the job (default), or the process the kernel picks",
    )


def _add_record_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--durability",
        choices=[each.name.lower() for each in Synchronous],
        default=Synchronous.FULL.name.lower(),
        help="when what happens counts as recorded: full (default) when it is on the disk; normal when the system has "
        "it, so that a power cut may lose the last seconds; off leaves also the journal's form to luck",
    )
    group.add_argument(
        "--keep-jobs",
        metavar="N",
        type=argument(number("jobs", 1, _MOST_KEPT)),
        default=DEFAULT_KEPT_JOBS,
        help=f"ended jobs that are kept with their output (default {DEFAULT_KEPT_JOBS}); a client may have a quarter",
    )
    group.add_argument(
        "--keep-days",
        metavar="DAYS",
        type=argument(number("days", 0, _MOST_DAYS)),
        default=DEFAULT_KEPT_DAYS,
        help=f"how long after its end a job is kept, in days on which a server runs (default {DEFAULT_KEPT_DAYS}); "
        "0 keeps it until others need its place",
    )
    group.add_argument(
        "--max-gap",
        metavar="SECONDS",
        type=argument(number("seconds", 1, _MOST_GAP)),
        default=DEFAULT_MAX_GAP,
        help="how long jobs run on while the server, which has died or is being upgraded, cannot be started again "
        f"(default {DEFAULT_MAX_GAP}); then they are killed",
    )
    group.add_argument(
        "--max-crashes",
        metavar="N",
        type=argument(number("crashes", 1, _MOST_CRASHES)),
        default=DEFAULT_MAX_CRASHES,
        help=f"crashes of the server in five minutes at which the jobs are killed (default {DEFAULT_MAX_CRASHES})",
    )


def _add_audit_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--audit-folder",
        metavar="DIR",
        type=argument(parse_path),
        help=f"absolute path of the folder for the audit (default `{AUDIT_FOLDER}` in the output folder); made if missing, "
        "0700; refused as the output folder is",
    )
    group.add_argument(
        "--audit-size",
        metavar="SIZE",
        type=argument(_audit_size),
        default=DEFAULT_AUDIT_SIZE,
        help="size at which a file of the audit is complete and the next one begins (default 64M)",
    )
    group.add_argument(
        "--audit-files",
        metavar="N",
        type=argument(number("files", 0, _MOST_AUDIT_FILES)),
        default=DEFAULT_AUDIT_FILES,
        help=f"complete files that are kept (default {DEFAULT_AUDIT_FILES}), as many again of refused connections; 0 keeps "
        "all: whoever removes them then is you",
    )


def _add_limit_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--require-limits",
        action="store_true",
        help="exit 2 unless this host enforces CPU, memory, process and IO limits",
    )
    group.add_argument(
        "--cpu-max", metavar="CORES", type=argument(limit_type("cpu_max", parse_cores)), help="CPU time, e.g. 0.5 or 2"
    )
    group.add_argument(
        "--memory-max",
        metavar="SIZE",
        type=argument(limit_type("memory_max", parse_size)),
        help="memory, e.g. 512M; no swap on top",
    )
    group.add_argument(
        "--pids-max",
        metavar="N",
        type=argument(limit_type("pids_max", parse_count)),
        default=DEFAULT_PIDS,
        help=f"processes and threads (default {DEFAULT_PIDS})",
    )
    for what, unit in (("bps", "bytes a second"), ("iops", "operations a second")):
        for direction in ("read", "write"):
            group.add_argument(
                f"--io-{direction}-{what}",
                metavar="SIZE" if what == "bps" else "N",
                type=argument(_rate(f"{direction}_{what}", parse_size if what == "bps" else parse_count)),
                help=f"{unit} {'read from' if direction == 'read' else 'written to'} the IO device",
            )
