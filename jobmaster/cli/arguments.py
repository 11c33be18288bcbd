"""The client's command line, as values."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jobmaster import __version__
from jobmaster.address import DEFAULT_PORT, argument, parse_address

_EPILOG: Final = """\
examples:
  jobmaster -n client1 start ls -l /etc
  jobmaster -n client1 streamoutput 2ZEkCWe4bCJVqFVdKOyc1nYAGDw
  jobmaster -n superuser status --json 2ZEkCWe4bCJVqFVdKOyc1nYAGDw

Everything after `start` is the command, untouched; no shell is involved: say `start sh -c '…'` for one.

exit status: 0 done, 1 the server refused or failed, 2 wrong usage, 130 interrupted
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Which server, and as whom."""

    host: str
    port: int
    name: str
    certificates: Path | None


@dataclass(frozen=True, slots=True)
class Start:
    """`start COMMAND [ARG…]`."""

    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """`stop JOB`."""

    job_id: str
    as_json: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """`status JOB`."""

    job_id: str
    as_json: bool


@dataclass(frozen=True, slots=True)
class StreamOutput:
    """`streamoutput JOB`, also called `logs`."""

    job_id: str


Action = Start | Stop | Status | StreamOutput


def parse(arguments: Sequence[str]) -> tuple[Target, Action]:
    """The target and the action of a command line. Exits 2, with the usage, when it is wrong."""
    parser = _parser()
    given = parser.parse_args(arguments)
    host, port = given.server
    target = Target(host=host, port=port, name=given.name.lower(), certificates=given.certs_dir)
    match given.verb:
        case "start":
            argv = tuple(given.command)
            if argv[:1] == ("--",):
                argv = argv[1:]
            if not argv:
                parser.error("start: name the command to run")
            return target, Start(argv)
        case "stop":
            return target, Stop(job_id=given.job, as_json=given.json)
        case "status":
            return target, Status(job_id=given.job, as_json=given.json)
        case _:
            return target, StreamOutput(given.job)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jobmaster",
        description="Runs commands on another Linux machine and follows them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"jobmaster {__version__}")
    parser.add_argument("-n", "--name", metavar="CLIENT", required=True, help="who you are: CLIENT_cert.pem is used")
    parser.add_argument(
        "--server",
        metavar="HOST:PORT",
        type=argument(parse_address),
        default=("localhost", DEFAULT_PORT),
        help=f"the server (default localhost:{DEFAULT_PORT})",
    )
    parser.add_argument(
        "--certs-dir",
        metavar="DIR",
        type=Path,
        help="the certificate folder (default: certs/ of a checkout, /etc/jobmaster/certs as root, otherwise "
        "$XDG_CONFIG_HOME/jobmaster/certs)",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    start = verbs.add_parser("start", help="start a command; prints the job's id", allow_abbrev=False)
    start.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND [ARG…]")
    for verb, text in (("stop", "stop a job and wait for its end"), ("status", "what a job does, or why it ended")):
        sub = verbs.add_parser(verb, help=text, allow_abbrev=False)
        sub.add_argument("--json", action="store_true", help="one line of JSON")
        sub.add_argument("job", metavar="JOB")
    output = verbs.add_parser(
        "streamoutput", aliases=["logs"], help="a job's output from its first byte, live", allow_abbrev=False
    )
    output.add_argument("job", metavar="JOB")
    return parser
