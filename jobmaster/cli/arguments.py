"""The client's command line, as values. Pure: nothing is printed, and nothing ends the process."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

from jobmaster.cli.actions import (
    NO_LIMITS,
    Action,
    Attach,
    Audit,
    Backup,
    Command,
    Doctor,
    Drain,
    Events,
    Info,
    InstallUnit,
    Kill,
    Limits,
    List,
    Logs,
    Output,
    Pause,
    Remove,
    Resume,
    Run,
    Start,
    Stats,
    Status,
    Stop,
    StreamOutput,
    Target,
    Terms,
    Text,
    Undrain,
    Wait,
)
from jobmaster.cli.limit_options import OPTIONS as LIMIT_OPTIONS
from jobmaster.cli.limit_options import limits_of
from jobmaster.cli.parser import (
    CERTIFICATES,
    ENVIRONMENT,
    FOLDER,
    GRACE,
    JOB_NAME,
    KEYS,
    LABEL,
    NAME,
    OUTPUT_FULL,
    OUTPUT_MAX,
    REQUEST_ID,
    SECRET_ENV,
    SERVER,
    STATES,
    STOP_SIGNAL,
    TIMEOUT,
    WARN,
    TextAsked,
    new_parser,
)

_WITH_VALUE: Final = frozenset({*NAME, SERVER, CERTIFICATES})
"""The options before the verb that have a value; the word after one of them is not the verb."""

_OF_START: Final = LIMIT_OPTIONS | {
    *(OUTPUT_MAX, OUTPUT_FULL, TIMEOUT, WARN, STOP_SIGNAL, GRACE, JOB_NAME, *LABEL, *ENVIRONMENT, *FOLDER)
}
"""The options of `start`, all of which have a value: any other word is the command, whatever it looks like."""

_LIMITS_OR_HELP: Final = LIMIT_OPTIONS | {"-h", "--help"}
"""Where none of these is given, there are no limits."""

_WITH_VALUE_OF_RUN: Final = _OF_START | {REQUEST_ID, SECRET_ENV, KEYS}
"""The options of `run` that have one; the word after one of them is not the command."""

_OF_DOCTOR: Final = frozenset({"--json", "-h", "--help"})
"""The options of `doctor` that are no server's."""

_LOCAL: Final = frozenset({"audit", "doctor", "install-unit"})
"""The verbs that ask no server."""

JOBS_OF_JOB: Final = frozenset({"run", "attach", "wait"})
"""The verbs whose exit status is that of a job."""


def parse(arguments: Sequence[str]) -> Command | Audit | Doctor | InstallUnit | Text:
    """What a command line asks for.

    Raises:
        UsageError: it is wrong.
    """
    words = list(arguments)
    place = _verb_place(words)
    end, begin = _command_place(words)
    if place is not None and words[place] == "doctor":
        words, end, begin = _server_options_last(words, place)
    parser = new_parser(
        needs_name=place is None or words[place] not in _LOCAL,
        has_limits=any(word.partition("=")[0] in _LIMITS_OR_HELP for word in words[:end]),
    )
    try:
        given = parser.parse_args(words[:end])
        if given.verb == "audit":
            return _audit(given)
        if given.verb == "doctor":
            return Doctor(as_json=given.json, options=(*_certificates(given), *words[begin:]))
        if given.verb == "install-unit":
            options = (*_certificates(given), *words[begin:])
            return InstallUnit(only_print=given.print, force=given.force, folder=given.directory, options=options)
        _require_text(parser, "the name", given.name)
        host, port = given.server
        target = Target(host=host, port=port, name=given.name.lower(), certificates=given.certs_dir)
        return Command(target, _action(parser, given, words[begin:]))
    except TextAsked as asked:
        return Text(str(asked))


def is_as_a_job(arguments: Sequence[str]) -> bool:
    """Whether a command line, right or wrong, has a verb whose exit status is that of a job."""
    place = _verb_place(arguments)
    return place is not None and arguments[place] in JOBS_OF_JOB


def _action(parser: argparse.ArgumentParser, given: argparse.Namespace, command: list[str]) -> Action:
    match given.verb:
        case "start":
            return Start(_argv(parser, "start", command), _output(given), _terms(parser, given))
        case "run":
            return _run(parser, given, command)
        case "list" | "ps":
            return _list(parser, given)
        case "events":
            return Events(as_json=given.json, after=given.after)
        case "stats":
            _require_text(parser, "JOB", given.job)
            return Stats(job_id=given.job, interval_ms=given.interval, follow=not given.no_follow, as_json=given.json)
        case "drain":
            return Drain(note=given.note, timeout_ms=given.timeout or 0)
        case "undrain":
            return Undrain()
        case "info":
            return Info(as_json=given.json)
        case "backup":
            return Backup(given.file)
        case "rm":
            for job in given.jobs:
                _require_text(parser, "JOB", job)
            return Remove(tuple(given.jobs))
        case _:
            _require_text(parser, "JOB", given.job)
            return _action_on_job(parser, given)


def _run(parser: argparse.ArgumentParser, given: argparse.Namespace, command: list[str]) -> Run:
    if given.request_id == "":
        parser.error(f"run: {REQUEST_ID} is empty, by which no job is found again: is a variable of a script not set?")
    _require_text(parser, REQUEST_ID, given.request_id or "")
    if given.tty and (given.separate_streams or given.stdin is False):
        parser.error(
            "run: a job with a terminal has all three streams there: -t goes without --separate-streams, --no-stdin"
        )
    return Run(
        argv=_argv(parser, "run", command, has_secrets=bool(given.secret_env)),
        detach=given.detach,
        request_id=given.request_id,
        stdin=given.stdin,
        separate=given.separate_streams,
        tty=given.tty,
        detach_keys=given.detach_keys,
        output=_output(given),
        terms=_terms(parser, given),
        secret_env=tuple(given.secret_env),
    )


def _action_on_job(parser: argparse.ArgumentParser, given: argparse.Namespace) -> Action:
    match given.verb:
        case "stop":
            _require_text(parser, "--reason", given.reason)
            return Stop(job_id=given.job, as_json=given.json, reason=given.reason, force=given.force)
        case "kill":
            return Kill(job_id=given.job, as_json=given.json, number=given.signal, to_all=given.all)
        case "pause":
            return Pause(job_id=given.job, as_json=given.json)
        case "resume":
            return Resume(job_id=given.job, as_json=given.json)
        case "status":
            return Status(job_id=given.job, as_json=given.json)
        case "attach":
            return Attach(
                job_id=given.job, stdin=given.stdin, from_start=given.from_start, detach_keys=given.detach_keys
            )
        case "wait":
            return Wait(job_id=given.job, as_json=given.json)
        case "logs":
            return Logs(
                job_id=given.job,
                follow=given.follow,
                from_offset=given.from_offset,
                tail=given.tail,
                since=given.since,
                until=given.until,
                timestamps=given.timestamps,
                stream=given.stream,
            )
        case _:
            return StreamOutput(given.job)


def _list(parser: argparse.ArgumentParser, given: argparse.Namespace) -> List:
    _require_text(parser, "--client", given.client)
    return List(
        as_json=given.json,
        client=given.client,
        states=tuple(STATES[state] for state in given.state),
        causes=tuple(cause.replace("-", "_").upper() for cause in given.cause),
        name=given.job_name,
        labels=_labels(parser, given),
        since=given.since,
        until=given.until,
        limit=given.limit,
        only_ids=given.quiet,
    )


def _audit(given: argparse.Namespace) -> Audit:
    return Audit(
        as_json=given.json,
        folder=given.audit_folder,
        handshakes=given.handshakes,
        client=given.client,
        job=given.job,
        since=given.since,
        until=given.until,
        follow=given.follow,
    )


def _argv(
    parser: argparse.ArgumentParser, verb: str, command: list[str], *, has_secrets: bool = False
) -> tuple[str, ...]:
    argv = tuple(command)
    if not argv:
        parser.error(f"{verb}: name the command to run")
    for position, word in enumerate(argv):
        what = f"argument {position} of the command" if position else "the command"
        _require_text(parser, what, word, is_secret=has_secrets)
    return argv


def _verb_place(arguments: Sequence[str]) -> int | None:
    """Where the verb is; None where there is none."""
    words = enumerate(arguments)
    for position, word in words:
        if word in _WITH_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            return position
    return None


def _command_place(arguments: list[str]) -> tuple[int, int]:
    """Where the words end that are for the parser, and where those begin that are a job's command, whatever they look like.

    Of `install-unit`: those of a server's options.

    Argparse would take a first word with a dash for an option. Of `start` only a help that is asked for and the options
    that it has are left to it, of `run` all before the first word that is no option.
    """
    end = len(arguments)
    place = _verb_place(arguments)
    if place is not None and arguments[place] == "install-unit" and "--" in arguments[place:]:
        end = arguments.index("--", place)
        return end, end + 1
    if place is None or arguments[place] not in {"start", "run"}:
        return end, end
    begin = place + 1
    if arguments[place] == "start":
        if arguments[begin : begin + 1] in (["-h"], ["--help"]):
            return end, end
        while begin < end and arguments[begin].partition("=")[0] in _OF_START:
            begin += 1 if "=" in arguments[begin] else 2
    else:
        while begin < end and arguments[begin].startswith("-") and arguments[begin] != "--":
            begin += 2 if arguments[begin] in _WITH_VALUE_OF_RUN else 1
    begin = min(begin, end)
    return begin, begin + 1 if arguments[begin : begin + 1] == ["--"] else begin


def _server_options_last(words: list[str], place: int) -> tuple[list[str], int, int]:
    """The words with those of `doctor` itself before those of a server: where the former end, and the latter begin."""
    before, after = words[: place + 1], words[place + 1 :]
    own = [word for word in after if word in _OF_DOCTOR]
    others = [word for word in after if word not in _OF_DOCTOR]
    end = len(before) + len(own)
    return [*before, *own, *others], end, end


def _certificates(given: argparse.Namespace) -> tuple[str, ...]:
    """The certificate folder that was named before the verb, as an option of a server, which may be started elsewhere."""
    return () if given.certs_dir is None else (CERTIFICATES, str(given.certs_dir.absolute()))


def _require_text(parser: argparse.ArgumentParser, what: str, value: str, *, is_secret: bool = False) -> None:
    """Refuse what is no UTF-8, which Python shows as surrogates: the contract's texts have no form for it."""
    try:
        value.encode()
    except UnicodeEncodeError:
        shown = "" if is_secret else f", {value!r},"
        parser.error(f"{what}{shown} is not UTF-8: a server takes nothing else")


def _terms(parser: argparse.ArgumentParser, given: argparse.Namespace) -> Terms:
    warn_before_ms, warn_signal = given.warn
    if warn_before_ms and not warn_before_ms < given.timeout:
        parser.error(
            f"{given.verb}: {WARN} comes before {TIMEOUT} is over: say both, and the first less than the second"
        )
    for name, value in given.environment:
        _require_text(parser, "-e", name)
        _require_text(parser, f"the value of {name}", value or "", is_secret=True)
    _require_text(parser, "-w", given.working_folder)
    return Terms(
        max_run_ms=given.timeout,
        warn_before_ms=warn_before_ms,
        warn_signal=warn_signal,
        stop_signal=given.stop_signal,
        grace_ms=given.grace,
        name=given.job_name,
        labels=_labels(parser, given),
        environment=tuple(dict(given.environment).items()),
        working_folder=given.working_folder,
        limits=_limits(parser, given),
    )


def _labels(parser: argparse.ArgumentParser, given: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """The name and the labels that were given are text, and each label is given once."""
    _require_text(parser, JOB_NAME, given.job_name)
    for key, value in given.labels:
        _require_text(parser, "-l", f"{key}={value}")
    if len(dict(given.labels)) < len(given.labels):
        parser.error(f"{given.verb}: a label is given twice")
    return tuple(given.labels)


def _output(given: argparse.Namespace) -> Output:
    return Output(most=given.output_max, full=given.output_full)


def _limits(parser: argparse.ArgumentParser, given: argparse.Namespace) -> Limits:
    if "memory_max" not in given:
        return NO_LIMITS
    try:
        return limits_of(given)
    except ValueError as error:
        parser.error(f"{given.verb}: {error}")
