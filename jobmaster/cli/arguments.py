"""The client's command line, as values. Pure: nothing is printed, and nothing ends the process."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

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

NAME: Final = ("-n", "--name")
SERVER: Final = "--server"
CERTIFICATES: Final = "--certs-dir"
_WITH_VALUE: Final = frozenset({*NAME, SERVER, CERTIFICATES})
"""The options before the verb that have a value; the word after one of them is not the verb."""


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


@dataclass(frozen=True, slots=True)
class Command:
    """What to ask of a server."""

    target: Target
    action: Action


@dataclass(frozen=True, slots=True)
class Text:
    """What `--help` or `--version` is to print."""

    text: str


class UsageError(Exception):
    """The command line cannot be meant. The text is the usage and the reason, ready to print."""


class _TextAsked(Exception):  # it takes argparse's way out of a parser that prints
    """The command line asks for a text and nothing else."""


def parse(arguments: Sequence[str]) -> Command | Text:
    """What a command line asks for.

    Raises:
        UsageError: it is wrong.
    """
    parser = _parser()
    words = list(arguments)
    begin = _command_begin(words)
    try:
        given = parser.parse_args(words[:begin])
        _require_text(parser, "the name", given.name)
        host, port = given.server
        target = Target(host=host, port=port, name=given.name.lower(), certificates=given.certs_dir)
        return Command(target, _action(parser, given, words[begin:]))
    except _TextAsked as asked:
        return Text(str(asked))


def _action(parser: argparse.ArgumentParser, given: argparse.Namespace, command: list[str]) -> Action:
    if given.verb == "start":
        return _start(parser, command)
    _require_text(parser, "JOB", given.job)
    match given.verb:
        case "stop":
            return Stop(job_id=given.job, as_json=given.json)
        case "status":
            return Status(job_id=given.job, as_json=given.json)
        case _:
            return StreamOutput(given.job)


def _start(parser: argparse.ArgumentParser, command: list[str]) -> Start:
    argv = tuple(command[1:] if command[:1] == ["--"] else command)
    if not argv:
        parser.error("start: name the command to run")
    for position, word in enumerate(argv):
        _require_text(parser, f"argument {position} of the command" if position else "the command", word)
    return Start(argv)


def _command_begin(arguments: list[str]) -> int:
    """Where the words begin that are the command of `start`, whatever they look like; at the end for other verbs.

    Argparse would take a first word with a dash for an option of `start`. Only a help that is asked for is left to it.
    """
    words = enumerate(arguments)
    for position, word in words:
        if word in _WITH_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            if word != "start" or arguments[position + 1 : position + 2] in (["-h"], ["--help"]):
                break
            return position + 1
    return len(arguments)


def _require_text(parser: argparse.ArgumentParser, what: str, value: str) -> None:
    """Refuse what is no UTF-8, which Python shows as surrogates: the contract's texts have no form for it."""
    try:
        value.encode()
    except UnicodeEncodeError:
        parser.error(f"{what}, {value!r}, is not UTF-8: a server takes nothing else")


class _Parser(argparse.ArgumentParser):
    """A parser that raises what argparse would print."""

    def print_help(self, file: object = None) -> NoReturn:  # noqa: ARG002  # as in the base class
        raise _TextAsked(self.format_help())

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.format_usage()}{self.prog}: error: {message}\n")


class _Version(argparse.Action):
    def __call__(self, *_: Any) -> NoReturn:
        raise _TextAsked(f"jobmaster {__version__}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="jobmaster",
        description="Runs commands on another Linux machine and follows them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    parser.add_argument(*NAME, metavar="CLIENT", required=True, help="who you are: CLIENT_cert.pem is used")
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
    verbs.add_parser(
        "start",
        help="start a command; prints the job's id",
        usage="%(prog)s COMMAND [ARG…]",
        allow_abbrev=False,
    )
    for verb, text in (("stop", "stop a job and wait for its end"), ("status", "what a job does, or why it ended")):
        sub = verbs.add_parser(verb, help=text, allow_abbrev=False)
        sub.add_argument("--json", action="store_true", help="one line of JSON")
        sub.add_argument("job", metavar="JOB")
    output = verbs.add_parser(
        "streamoutput", aliases=["logs"], help="a job's output from its first byte, live", allow_abbrev=False
    )
    output.add_argument("job", metavar="JOB")
    return parser
