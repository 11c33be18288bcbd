"""The parsers of the client's command line: its verbs and options, with what `--help` says of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from jobmaster import __version__
from jobmaster.address import DEFAULT_PORT, argument, parse_address
from jobmaster.cli.actions import DETACH_KEYS
from jobmaster.cli.detaching import DEFAULT_KEYS, NO_KEYS, parse_keys
from jobmaster.cli.durations import parse_duration, parse_grace, parse_interval, parse_warning
from jobmaster.cli.limit_options import USAGE as LIMITS_USAGE
from jobmaster.cli.limit_options import add_limit_options
from jobmaster.cli.signals import TERM, parse_signal
from jobmaster.sizes import parse_size

if TYPE_CHECKING:
    from datetime import datetime, timedelta

_EPILOG: Final = """\
examples:
  jobmaster -n client1 run make -C /srv/app
  jobmaster -n client1 start ls -l /etc
  jobmaster -n client1 logs 2ZEkCWe4bCJVqFVdKOyc1nYAGDw
  jobmaster -n superuser list --state running --client client1

Everything after `start` and `run` and their options is the command, untouched; no shell is involved: say
`run sh -c '…'` for one. `--` ends the options, for a command that is called like one.

exit status:
  0 done, 1 the server refused or failed, 2 wrong usage, 130 interrupted; of `run` and `wait` the job's own: its exit code,
  or 128 and the number of the signal that ended it; 124 it ran for as long as it may (--timeout), 125 the client or the server failed, 126 the command cannot be
  executed, 127 it is not found
"""

NAME: Final = ("-n", "--name")
SERVER: Final = "--server"
CERTIFICATES: Final = "--certs-dir"
REQUEST_ID: Final = "--request-id"
SECRET_ENV: Final = "--secret-env"  # noqa: S105  # an option
KEYS: Final = "--detach-keys"
OUTPUT_MAX: Final = "--output-max"
OUTPUT_FULL: Final = "--output-full"
TIMEOUT: Final = "--timeout"
WARN: Final = "--warn"
STOP_SIGNAL: Final = "--stop-signal"
GRACE: Final = "--grace"
JOB_NAME: Final = "--name"
LABEL: Final = ("-l", "--label")
ENVIRONMENT: Final = ("-e", "--env")
FOLDER: Final = ("-w", "--workdir")

DEFAULT_LIMIT: Final = 100
STATES: Final = {"running": "RUNNING", "terminated": "TERMINATED_BY_API", "completed": "COMPLETED"}
CAUSES: Final = (
    "exited",
    "signalled",
    "stopped",
    "oom-killed",
    "failed-to-start",
    "server-shutdown",
    "server-lost",
    "output-capped",
    "timed-out",
)
_TERMS: Final = f"[{TIMEOUT} TIME] [{WARN} TIME[=SIGNAL]] [{STOP_SIGNAL} SIGNAL] [{GRACE} TIME] [{JOB_NAME} NAME] [-l KEY=VALUE]… [-e NAME[=VALUE]]… [-w DIR] {LIMITS_USAGE}"
_LARGEST: Final = 2**63 - 1
"""Bytes of an output that a message can ask for."""
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class UsageError(Exception):
    """The command line cannot be meant. The text is the usage and the reason, ready to print."""


class TextAsked(Exception):  # it takes argparse's way out of a parser that prints
    """The command line asks for a text and nothing else."""


def parse_moment(text: str) -> datetime | timedelta:
    """A time, or how long ago: `2026-01-02`, `2026-01-02T03:04:05Z`, `90s`, `10m`, `2h`, `3d`.

    Raises:
        ValueError: it is neither; says what would be.
    """
    from datetime import UTC, datetime, timedelta  # here, because most command lines name no time

    number, unit = text[:-1], text[-1:]
    try:
        if unit in _UNITS and number.isdecimal():
            ago = timedelta(seconds=int(number) * _UNITS[unit])
            datetime.now(UTC) - ago  # which may be before the first year
            return ago
        moment = datetime.fromisoformat(text)
        try:
            return moment.astimezone()
        except (ValueError, OverflowError):  # in the first or the last year of all, by the place's time
            return moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is no time: say 2026-01-31, 2026-01-31T12:00:00Z, or 90s, 10m, 2h or 3d ago"
        ) from None


def parse_number(text: str) -> int:
    """A count.

    Raises:
        ValueError: it is none.
    """
    if not text.isdecimal() or len(text) > 18:
        raise ValueError(f"{text!r} is no number")
    return int(text)


class _Parser(argparse.ArgumentParser):
    """A parser that raises what argparse would print."""

    def print_help(self, file: object = None) -> NoReturn:  # noqa: ARG002  # as in the base class
        raise TextAsked(self.format_help())

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.format_usage()}{self.prog}: error: {message}\n")


class _Version(argparse.Action):
    def __call__(self, *_: Any) -> NoReturn:
        raise TextAsked(f"jobmaster {__version__}\n")


def new_parser(*, needs_name: bool, has_limits: bool = True) -> argparse.ArgumentParser:
    """A parser of all but the command of a verb; it raises UsageError and TextAsked, and prints nothing.

    Args:
        needs_name: whether who one is has to be said.
        has_limits: whether there are the options that limit a job, which take a millisecond to be added.
    """
    parser = _Parser(
        prog="jobmaster",
        description="Runs commands on another Linux machine and follows them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    parser.add_argument(
        *NAME,
        metavar="CLIENT",
        required=needs_name,
        help="who you are: CLIENT_cert.pem is used; only `audit`, `doctor` and `install-unit` need it not",
    )
    parser.add_argument(
        SERVER,
        metavar="HOST:PORT",
        type=argument(parse_address),
        default=("localhost", DEFAULT_PORT),
        help=f"the server (default localhost:{DEFAULT_PORT})",
    )
    parser.add_argument(
        CERTIFICATES,
        metavar="DIR",
        type=Path,
        help="the certificate folder (default: certs/ of a checkout, /etc/jobmaster/certs as root, otherwise "
        "$XDG_CONFIG_HOME/jobmaster/certs)",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_starting_verbs(verbs, has_limits=has_limits)
    _add_job_verbs(verbs)
    _add_list(verbs)
    _add_events(verbs)
    _add_stats(verbs)
    drain = verbs.add_parser("drain", help="have the server take no new jobs, as an admin", allow_abbrev=False)
    drain.add_argument("--note", metavar="TEXT", default="", help="why; told to whoever starts a job")
    drain.add_argument(
        "--timeout", metavar="TIME", type=argument(parse_duration), help="take jobs again after that time"
    )
    verbs.add_parser("undrain", help="have the server take new jobs again, as an admin", allow_abbrev=False)
    backup = verbs.add_parser("backup", help="a copy of the server's journal, for an admin", allow_abbrev=False)
    info = verbs.add_parser(
        "info", help="what the server is, which limits it enforces, and what you may have and have", allow_abbrev=False
    )
    info.add_argument("--json", action="store_true", help="one line of JSON")
    _add_audit(verbs)
    _add_doctor(verbs)
    _add_install_unit(verbs)
    backup.add_argument("file", metavar="FILE", type=Path, help="where to; replaced only when the copy is whole")
    return parser


Verbs = argparse._SubParsersAction  # what add_subparsers returns; argparse has no public name for it


def _add_starting_verbs(verbs: Verbs[_Parser], *, has_limits: bool) -> None:
    start = verbs.add_parser(
        "start",
        help="start a command; prints the job's id",
        usage=f"%(prog)s [-h] [{OUTPUT_MAX} SIZE] [{OUTPUT_FULL} {{drop,end}}] {_TERMS} COMMAND [ARG…]",
        allow_abbrev=False,
    )
    _add_output(start)
    _add_terms(start)
    run = verbs.add_parser(
        "run",
        help="run a command to its end: its output, and its exit status",
        usage="%(prog)s [-h] [-d] [-t | -i | --no-stdin] [--detach-keys KEYS] [--separate-streams] [--request-id ID] "
        f"[--secret-env NAME]… [{OUTPUT_MAX} SIZE] [{OUTPUT_FULL} {{drop,end}}] {_TERMS} COMMAND [ARG…]",
        description="Starts a command, copies its output to stdout as it comes, and exits as it did. Standard input is "
        "the command's where it is a pipe or a file. Ctrl-C or SIGTERM asks the job to stop, a second one kills it, a "
        "third one leaves it. With -t all keys are the job's, but Ctrl-P Ctrl-Q, which leaves it as it is.",
        allow_abbrev=False,
    )
    run.add_argument("-d", "--detach", action="store_true", help="print the job's id and leave it running")
    _add_stdin(run, "with -d, the job's is kept open for `attach`")
    run.add_argument(
        "-t",
        "--tty",
        action="store_true",
        help="the command has a terminal, which is this one; with -d, it waits for `attach`",
    )
    _add_detach_keys(run)
    run.add_argument(
        "--separate-streams",
        action="store_true",
        help="the command's stderr comes to stderr; else both come to stdout, in the order of their writing",
    )
    run.add_argument(
        REQUEST_ID,
        metavar="ID",
        help="your own name for this job: a second `run` with the same one finds the first one's job",
    )
    run.add_argument(
        SECRET_ENV,
        metavar="NAME",
        action="append",
        default=[],
        help="the value of this environment variable of yours, which has to be set, is a secret: wherever the command has it, "
        "records, events and the server's audit have ***; where it does not, nothing is hidden, and the job does not get it; "
        "may be given more than once",
    )
    _add_output(run)
    _add_terms(run)
    for verb in (start, run) if has_limits else ():
        add_limit_options(verb)


def _add_terms(verb: _Parser) -> None:
    verb.add_argument(
        TIMEOUT,
        metavar="TIME",
        type=argument(parse_duration),
        default=0,
        help="how long it may run, such as 90s, 10m or 1.5h: then it is stopped",
    )
    verb.add_argument(
        WARN,
        metavar="TIME[=SIGNAL]",
        type=argument(parse_warning),
        default=(0, 0),
        help="so long before that, its main process gets a signal (default SIGUSR1)",
    )
    verb.add_argument(
        STOP_SIGNAL,
        metavar="SIGNAL",
        type=argument(parse_signal),
        default=0,
        help="what its processes get first when it is stopped, such as INT (default SIGTERM)",
    )
    verb.add_argument(
        GRACE,
        metavar="TIME",
        type=argument(parse_grace),
        help="how long they have then, an hour at most (default: as long as the server leaves any job)",
    )
    _add_names(verb, "what it is called in lists; no secret", "a label, for lists to be asked for; may be repeated")
    verb.add_argument(
        *ENVIRONMENT,
        metavar="NAME[=VALUE]",
        dest="environment",
        type=argument(parse_variable),
        action="append",
        default=[],
        help="an environment variable for it, without =VALUE with the value that it has here; records have the name alone; may "
        "be repeated",
    )
    verb.add_argument(
        *FOLDER,
        metavar="DIR",
        dest="working_folder",
        default="",
        help="where it begins: an absolute path there (default /)",
    )


def _add_names(verb: _Parser, name_help: str, label_help: str) -> None:
    verb.add_argument(JOB_NAME, metavar="NAME", dest="job_name", default="", help=name_help)
    verb.add_argument(
        *LABEL,
        metavar="KEY=VALUE",
        dest="labels",
        type=argument(parse_label),
        action="append",
        default=[],
        help=label_help,
    )


def parse_variable(text: str) -> tuple[str, str | None]:
    """A name and a value, from `LANG=C`; the value is None where only the name is said.

    Raises:
        ValueError: it has no name; the value is not shown.
    """
    name, separator, value = text.partition("=")
    if not name:
        raise ValueError("a variable has a name: say NAME=VALUE, or NAME")
    return name, value if separator else None


def parse_label(text: str) -> tuple[str, str]:
    """A key and a value, from `team=blue`.

    Raises:
        ValueError: it has no key, or no value.
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ValueError(f"{text!r} is no label: say KEY=VALUE")
    return key, value


def _add_output(verb: _Parser) -> None:
    verb.add_argument(
        OUTPUT_MAX,
        metavar="SIZE",
        type=argument(parse_output_size),
        default=0,
        help="output that is kept, such as 64M: 256K at least, and what the server keeps of any job, which is the default, "
        "at most",
    )
    verb.add_argument(
        OUTPUT_FULL,
        choices=["drop", "end"],
        default="drop",
        help="what happens when there is more: its middle is dropped (default), or the job is ended",
    )


def parse_output_size(text: str) -> int:
    """Bytes from `64M` or `4096`; 0 for what the server keeps of any job.

    Raises:
        ValueError: it is no such size.
    """
    size = parse_size(text)
    if size is None or size > _LARGEST:
        raise ValueError(f"{text!r} is not a size: use bytes, or a number with K, M, G or T (of 1024)")
    return size


def _add_stdin(verb: _Parser, more: str) -> None:
    stdin = verb.add_mutually_exclusive_group()
    stdin.add_argument(
        "-i",
        "--stdin",
        action="store_true",
        default=None,
        help=f"standard input is the command's, also a terminal; {more}",
    )
    stdin.add_argument("--no-stdin", action="store_false", dest="stdin", help="it is not, also where it is a pipe")


def _add_detach_keys(verb: _Parser) -> None:
    verb.add_argument(
        KEYS,
        metavar="KEYS",
        type=argument(parse_keys),
        default=DETACH_KEYS,
        help=f"what leaves a job's terminal, as ctrl-a,d or {NO_KEYS} (default {DEFAULT_KEYS})",
    )


def _add_job_verbs(verbs: Verbs[_Parser]) -> None:
    texts = {
        "stop": "stop a job and wait for its end",
        "kill": "send a signal to a running job",
        "pause": "freeze the processes of a running job",
        "resume": "let a paused job go on",
        "status": "what a job does, or why it ended",
        "wait": "wait for a job's end; exits as the job did",
    }
    for verb, text in texts.items():
        sub = verbs.add_parser(verb, help=text, allow_abbrev=False)
        sub.add_argument("--json", action="store_true", help="one line of JSON")
        if verb == "stop":
            sub.add_argument("--reason", metavar="TEXT", default="", help="why; kept in the job's record")
            sub.add_argument("--force", action="store_true", help="kill it, without a grace period")
        if verb == "kill":
            sub.add_argument(
                "-s",
                "--signal",
                metavar="SIGNAL",
                type=argument(parse_signal),
                default=TERM,
                help="its name or number (default TERM)",
            )
            sub.add_argument("--all", action="store_true", help="to all of its processes, not to the main one alone")
        sub.add_argument("job", metavar="JOB")
    remove = verbs.add_parser("rm", help="remove ended jobs with their output", allow_abbrev=False)
    remove.add_argument("jobs", metavar="JOB", nargs="+")
    attach = verbs.add_parser(
        "attach",
        help="a running job's output from now on, and its stdin; exits as the job did",
        description="Copies a job's output to stdout as it comes, and standard input to the job where that has a stdin "
        "that nobody else writes; its end is the job's. Ctrl-C leaves the job as it is; where that has a terminal, which "
        "is then this one, Ctrl-P Ctrl-Q does.",
        allow_abbrev=False,
    )
    _add_stdin(attach, "refused where the job takes none")
    _add_detach_keys(attach)
    attach.add_argument("--from-start", action="store_true", help="all of the output, from its first byte on")
    attach.add_argument("job", metavar="JOB")
    output = verbs.add_parser(
        "streamoutput", help="a job's output from its first byte, live, and nothing else", allow_abbrev=False
    )
    output.add_argument("job", metavar="JOB")
    _add_logs(verbs)


def _add_logs(verbs: Verbs[_Parser]) -> None:
    sub = verbs.add_parser(
        "logs",
        help="a job's output, or a part of it, live",
        description="Copies a job's output to stdout as it comes, from its first byte until the job has ended. What of it "
        "is not there is told on stderr.",
        allow_abbrev=False,
    )
    follow = sub.add_mutually_exclusive_group()
    follow.add_argument("-f", "--follow", action="store_true", default=True, help="until the job has ended (default)")
    follow.add_argument("--no-follow", action="store_false", dest="follow", help="end at the present end")
    number, moment = argument(parse_number), argument(parse_moment)
    begin = sub.add_mutually_exclusive_group()
    begin.add_argument("--tail", metavar="N", type=number, help="begin with the last N lines")
    begin.add_argument("--since", metavar="WHEN", type=moment, help="begin with what came then: a time, or 10m ago")
    begin.add_argument("--from-offset", metavar="N", type=number, help="begin with this byte, counted from 0")
    sub.add_argument("--until", metavar="WHEN", type=moment, help="end with what came before then")
    sub.add_argument("-t", "--timestamps", action="store_true", help="put its time before each line")
    sub.add_argument(
        "--stream", choices=["stdout", "stderr"], default="", help="one of them, of a job that has them apart"
    )
    sub.add_argument("job", metavar="JOB")


def _add_list(verbs: Verbs[_Parser]) -> None:
    sub = verbs.add_parser("list", aliases=["ps"], help="your jobs, the newest first", allow_abbrev=False)
    sub.add_argument("--client", metavar="CLIENT", default="", help="those of one client; for an admin")
    sub.add_argument(
        "--state", choices=STATES, action="append", default=[], help="those in this state; may be repeated"
    )
    sub.add_argument(
        "--cause", choices=CAUSES, action="append", default=[], help="those that ended so; may be repeated"
    )
    _add_names(sub, "those that are called so", "those with this label; may be repeated")
    moment = argument(parse_moment)
    sub.add_argument(
        "--since", metavar="WHEN", type=moment, help="those that started then or later: a time, or 10m ago"
    )
    sub.add_argument("--until", metavar="WHEN", type=moment, help="those that started before then")
    sub.add_argument(
        "--limit",
        metavar="N",
        type=argument(parse_number),
        default=DEFAULT_LIMIT,
        help=f"how many at most (default {DEFAULT_LIMIT}); 0: all",
    )
    sub.add_argument("-q", "--quiet", action="store_true", help="the ids alone")
    _add_form(sub)


def _add_events(verbs: Verbs[_Parser]) -> None:
    sub = verbs.add_parser("events", help="what happens to your jobs, live", allow_abbrev=False)
    begin = sub.add_mutually_exclusive_group()
    begin.add_argument(
        "--after",
        metavar="SEQ",
        type=argument(parse_number),
        help="begin after this event (default: with the next one)",
    )
    begin.add_argument("--all", action="store_const", const=0, dest="after", help="begin with the first that is kept")
    _add_form(sub)


def _add_stats(verbs: Verbs[_Parser]) -> None:
    sub = verbs.add_parser("stats", help="what a job uses, until it has ended", allow_abbrev=False)
    sub.add_argument(
        "--interval",
        metavar="TIME",
        type=argument(parse_interval),
        default=1_000,
        help="between two lines, from 100ms to 60s (default 1s)",
    )
    sub.add_argument("--no-follow", action="store_true", help="one line, of now")
    _add_form(sub)
    sub.add_argument("job", metavar="JOB")


def _add_audit(verbs: Verbs[_Parser]) -> None:
    sub = verbs.add_parser(
        "audit",
        help="who asked this host's server for what; for its administrator",
        description="Reads the audit from its files on this host; no server is asked, and no certificate needed.",
        allow_abbrev=False,
    )
    moment = argument(parse_moment)
    sub.add_argument(
        "--client", metavar="CLIENT", default="", help="what one client did, and what happened to its jobs"
    )
    sub.add_argument("--job", metavar="JOB", default="", help="what was done to one job")
    sub.add_argument("--since", metavar="WHEN", type=moment, help="from then on: a time, or 10m ago")
    sub.add_argument("--until", metavar="WHEN", type=moment, help="before then")
    sub.add_argument("-f", "--follow", action="store_true", help="go on with what is added")
    sub.add_argument("--handshakes", action="store_true", help="the connections that were refused, instead")
    sub.add_argument(
        "--audit-folder",
        metavar="DIR",
        type=Path,
        help="the server's --audit-folder (default: `audit` in its default output folder)",
    )
    _add_form(sub)


def _add_doctor(verbs: Verbs[_Parser]) -> None:
    sub = verbs.add_parser(
        "doctor",
        help="what this host can do for a server, and what is to be done about the rest",
        usage="%(prog)s [-h] [--json] [OPTION…]",
        description="Looks at this host and changes nothing: kernel, cgroups and which limits are enforced, systemd, disks, "
        "certificates, clock, limits of this shell, users. The options are those of `python -m jobmaster.serve`, such as "
        "--output-dir, --certs-dir and --cgroup-root, for a server that is to run with them; see its --help. A line for "
        "each finding: ok, warning or missing, and the remedy. Exit status: 1 where something needed is missing.",
        allow_abbrev=False,
    )
    sub.add_argument("--json", action="store_true", help="one line of JSON")


def _add_install_unit(verbs: Verbs[_Parser]) -> None:
    sub = verbs.add_parser(
        "install-unit",
        help="make jobmaster a service of this host's systemd",
        usage="%(prog)s [-h] [--print] [--force] [--directory DIR] [-- OPTION…]",
        description="Writes the unit jobmaster.service, whose server has the options behind `--` (those of "
        "`python -m jobmaster.serve`) and this jobmaster's interpreter. Nothing is started, and systemd not told: "
        "`systemctl daemon-reload` does.",
        allow_abbrev=False,
    )
    sub.add_argument("--print", action="store_true", help="print it and write nothing")
    sub.add_argument("--force", action="store_true", help="replace one that is there and differs")
    sub.add_argument("--directory", metavar="DIR", type=Path, help="where to write it (default /etc/systemd/system)")


def _add_form(sub: argparse.ArgumentParser) -> None:
    form = sub.add_mutually_exclusive_group()
    form.add_argument(
        "--json",
        action="store_true",
        default=None,
        help="a line of JSON for each (default where stdout is no terminal)",
    )
    form.add_argument("--table", action="store_false", dest="json", help="a table, also where stdout is no terminal")
