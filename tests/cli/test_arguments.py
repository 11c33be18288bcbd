"""The client's command line."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from jobmaster import __version__
from jobmaster.cli import arguments as module
from jobmaster.cli.actions import (
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
    IoLimit,
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
from jobmaster.cli.arguments import is_as_a_job, parse
from jobmaster.cli.parser import UsageError, new_parser, parse_moment

JOB: Final = "0ujtsYcgvSTl8PAuAdqWYSMnLOv"
DEFAULT: Final = Target(host="localhost", port=6443, name="client1", certificates=None)


@pytest.mark.parametrize(
    ("arguments", "action"),
    [
        (["start", "ls"], Start(("ls",))),
        (["start", "ls", "-l", "/etc"], Start(("ls", "-l", "/etc"))),
        (["start", "sh", "-c", "echo a; exit 3"], Start(("sh", "-c", "echo a; exit 3"))),
        (
            ["start", "ls", "-n", "client2", "--server", "x", "--json"],
            Start(("ls", "-n", "client2", "--server", "x", "--json")),
        ),
        (["start", "ls", "-h"], Start(("ls", "-h"))),
        (["start", "ls", "--version"], Start(("ls", "--version"))),
        (["start", "stop", JOB], Start(("stop", JOB))),
        (["start", "ls", "--", "-l"], Start(("ls", "--", "-l"))),
        (["start", "ls", "--memory", "1M"], Start(("ls", "--memory", "1M"))),
        (
            ["start", "--memory", "512M", "--swap=0", "--cpus", "1.5", "--pids=100", "--output-max=1M", "ls", "--cpus"],
            Start(
                ("ls", "--cpus"),
                Output(most=2**20),
                Terms(limits=Limits(memory_max=2**29, swap_max=0, cpu_millicores=1500, pids_max=100)),
            ),
        ),
        (
            ["run", "-d", "--memory=1G", "--memory-high", "1G", "--cpu-weight", "50", "--io-weight=200", "--", "ls"],
            Run(
                argv=("ls",),
                detach=True,
                terms=Terms(limits=Limits(memory_max=2**30, memory_high=2**30, cpu_weight=50, io_weight=200)),
            ),
        ),
        (
            [
                *("run", "--io-read", "10M", "--io-read=8:0=20M", "--io-write", "8:0=1G", "--io-write-iops=8:16=100"),
                *("--io-read-iops", "200", "--name", "copy", "ls"),
            ],
            Run(
                argv=("ls",),
                terms=Terms(
                    name="copy",
                    limits=Limits(
                        io=(
                            IoLimit(read_bps=10 * 2**20, read_iops=200),
                            IoLimit(device="8:0", read_bps=20 * 2**20, write_bps=2**30),
                            IoLimit(device="8:16", write_iops=100),
                        )
                    ),
                ),
            ),
        ),
        (["start", "--", "ls", "--", "-l"], Start(("ls", "--", "-l"))),
        (["start", "--", "-dashed", "x"], Start(("-dashed", "x"))),
        (["start", "-x"], Start(("-x",))),
        (["start", "-n", "ls"], Start(("-n", "ls"))),
        (["start", "--server"], Start(("--server",))),
        (["start", "--version"], Start(("--version",))),
        (["start", "--", "--help"], Start(("--help",))),
        (["start", "echo", "", " "], Start(("echo", "", " "))),
        (
            ["start", "--output-max", "64M", "--output-full=end", "yes", "--output-max", "1K"],
            Start(("yes", "--output-max", "1K"), Output(most=64 * 1024 * 1024, full="end")),
        ),
        (["start", "--output-max=1M", "--", "--output-full"], Start(("--output-full",), Output(most=1024 * 1024))),
        (
            ["start", "--timeout", "1.5h", "--warn=30s=INT", "sleep", "--timeout", "1s"],
            Start(
                ("sleep", "--timeout", "1s"),
                terms=Terms(max_run_ms=5_400_000, warn_before_ms=30_000, warn_signal=2),
            ),
        ),
        (
            ["start", "--timeout", "90", "--warn", "500ms", "x"],
            Start(("x",), terms=Terms(max_run_ms=90_000, warn_before_ms=500)),
        ),
        (["run", "--timeout", "1d", "-d", "x"], Run(argv=("x",), detach=True, terms=Terms(max_run_ms=86_400_000))),
        (
            ["run", "--stop-signal", "int", "--grace", "0", "x"],
            Run(argv=("x",), terms=Terms(stop_signal=2, grace_ms=0)),
        ),
        (["start", "--grace=1.5s", "--stop-signal=9", "x"], Start(("x",), terms=Terms(stop_signal=9, grace_ms=1500))),
        (
            ["start", "--name", "night", "-l", "a=1", "--label", "b=x=y", "x", "-l", "c=2"],
            Start(("x", "-l", "c=2"), terms=Terms(name="night", labels=(("a", "1"), ("b", "x=y")))),
        ),
        (["run", "--name=night", "-la=", "x"], Run(argv=("x",), terms=Terms(name="night", labels=(("a", ""),)))),
        (["list", "--name", "night", "-l", "a=1"], List(name="night", labels=(("a", "1"),), limit=100)),
        (
            ["start", "-e", "A=1=2", "--env", "B", "--env=C=", "-w", "/srv", "env", "-e", "x"],
            Start(
                ("env", "-e", "x"),
                terms=Terms(environment=(("A", "1=2"), ("B", None), ("C", "")), working_folder="/srv"),
            ),
        ),
        (
            ["run", "-e", "A=1", "-e", "A=2", "--workdir=/srv", "x"],
            Run(argv=("x",), terms=Terms(environment=(("A", "2"),), working_folder="/srv")),
        ),
        (["start", "-d", "--output-max", "1M"], Start(("-d", "--output-max", "1M"))),
        (["info"], Info(as_json=False)),
        (["info", "--json"], Info(as_json=True)),
        (["stop", JOB], Stop(job_id=JOB, as_json=False)),
        (["stop", "--json", JOB], Stop(job_id=JOB, as_json=True)),
        (["kill", JOB], Kill(job_id=JOB, as_json=False)),
        (["kill", "-s", "KILL", "--all", JOB], Kill(job_id=JOB, as_json=False, number=9, to_all=True)),
        (["kill", "--signal=sigusr1", "--json", JOB], Kill(job_id=JOB, as_json=True, number=10)),
        (["kill", "-s", "64", JOB], Kill(job_id=JOB, as_json=False, number=64)),
        (["pause", JOB], Pause(job_id=JOB, as_json=False)),
        (["resume", "--json", JOB], Resume(job_id=JOB, as_json=True)),
        (["status", JOB], Status(job_id=JOB, as_json=False)),
        (["status", JOB, "--json"], Status(job_id=JOB, as_json=True)),
        (["streamoutput", JOB], StreamOutput(JOB)),
        (["logs", JOB], Logs(job_id=JOB)),
        (["logs", "-f", JOB], Logs(job_id=JOB)),
        (["logs", "--no-follow", "--tail", "10", JOB], Logs(job_id=JOB, follow=False, tail=10)),
        (["logs", "--from-offset", "0", "-t", JOB], Logs(job_id=JOB, from_offset=0, timestamps=True)),
        (
            ["logs", "--since", "10m", "--until", "2026-01-02T03:04:05Z", "--stream", "stderr", JOB],
            Logs(
                job_id=JOB,
                since=timedelta(minutes=10),
                until=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
                stream="stderr",
            ),
        ),
        (
            ["stop", "--reason", "too old", "--force", JOB],
            Stop(job_id=JOB, as_json=False, reason="too old", force=True),
        ),
        (["wait", JOB], Wait(job_id=JOB, as_json=False)),
        (["wait", "--json", JOB], Wait(job_id=JOB, as_json=True)),
        (["run", "ls"], Run(argv=("ls",))),
        (["run", "ls", "-d", "--detach", "--"], Run(argv=("ls", "-d", "--detach", "--"))),
        (["run", "-d", "ls", "-l"], Run(argv=("ls", "-l"), detach=True)),
        (["run", "-i", "cat", "-i"], Run(argv=("cat", "-i"), stdin=True)),
        (["run", "--no-stdin", "cat"], Run(argv=("cat",), stdin=False)),
        (["run", "-t", "vi", "-t"], Run(argv=("vi", "-t"), tty=True)),
        (["run", "-dit", "sh"], Run(argv=("sh",), tty=True, stdin=True, detach=True)),
        (["run", "--tty", "--detach-keys", "ctrl-a,d", "sh"], Run(argv=("sh",), tty=True, detach_keys=b"\x01d")),
        (["attach", "--detach-keys=none", "job"], Attach(job_id="job", detach_keys=b"")),
        (
            ["run", "--output-full", "end", "-d", "--output-max", "0.5G", "yes"],
            Run(argv=("yes",), detach=True, output=Output(most=512 * 1024 * 1024, full="end")),
        ),
        (["attach", "job"], Attach(job_id="job")),
        (["attach", "--stdin", "--from-start", "job"], Attach(job_id="job", stdin=True, from_start=True)),
        (["run", "--detach", "--", "-x"], Run(argv=("-x",), detach=True)),
        (["run", "--", "--", "x"], Run(argv=("--", "x"))),
        (["run", "--request-id", "run", "run", "--help"], Run(argv=("run", "--help"), request_id="run")),
        (["run", "--secret-env", "A", "--secret-env=B", "run"], Run(argv=("run",), secret_env=("A", "B"))),
        (["run", "--request-id=a b", "-d", "run"], Run(argv=("run",), request_id="a b", detach=True)),
        (["list"], List(limit=100)),
        (["ps", "-q", "--json"], List(limit=100, only_ids=True, as_json=True)),
        (["list", "--table", "--limit", "0", "--client", "client2"], List(limit=0, as_json=False, client="client2")),
        (
            ["list", "--state", "running", "--state", "terminated", "--cause", "oom-killed"],
            List(limit=100, states=("RUNNING", "TERMINATED_BY_API"), causes=("OOM_KILLED",)),
        ),
        (
            ["list", "--since", "2h", "--until", "2026-01-02T03:04:05Z"],
            List(limit=100, since=timedelta(hours=2), until=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ),
        (["list", "--since", "0001-01-01"], List(limit=100, since=datetime(1, 1, 1, tzinfo=UTC))),
        (["stats", JOB], Stats(job_id=JOB)),
        (
            ["stats", "--interval", "100ms", "--no-follow", "--json", JOB],
            Stats(job_id=JOB, interval_ms=100, follow=False, as_json=True),
        ),
        (["drain"], Drain()),
        (["drain", "--note", "a disk", "--timeout", "1h"], Drain(note="a disk", timeout_ms=3_600_000)),
        (["undrain"], Undrain()),
        (["events"], Events()),
        (["events", "--after", "7", "--json"], Events(after=7, as_json=True)),
        (["events", "--all", "--table"], Events(after=0, as_json=False)),
        (["rm", JOB], Remove((JOB,))),
        (["rm", JOB, "other", JOB], Remove((JOB, "other", JOB))),
        (["backup", "a/b.db"], Backup(Path("a/b.db"))),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_actions(arguments: list[str], action: Action) -> None:
    """Each verb with its own arguments; all that comes after `start` and its options is the command's, whatever it is."""
    assert parse(["-n", "client1", *arguments]) == Command(DEFAULT, action)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["audit"], Audit()),
        (["-n", "client1", "--server", "here:1", "audit", "--json"], Audit(as_json=True)),
        (
            ["audit", "--client", "client2", "--job", JOB, "-f", "--table"],
            Audit(client="client2", job=JOB, follow=True, as_json=False),
        ),
        (["audit", "--since", "2h", "--until", "1h"], Audit(since=timedelta(hours=2), until=timedelta(hours=1))),
        (["audit", "--handshakes", "--audit-folder", "/a"], Audit(handshakes=True, folder=Path("/a"))),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_audit_needs_no_name(arguments: list[str], expected: Audit) -> None:
    """It is read on the host; who asks is nobody's client."""
    assert parse(arguments) == expected


@pytest.mark.parametrize(
    ("options", "target"),
    [
        (["-n", "client1"], DEFAULT),
        (["--name", "Client1"], DEFAULT),
        (["-n", "SUPERUSER"], Target(host="localhost", port=6443, name="superuser", certificates=None)),
        (
            ["-n", "client1", "--server", "[::1]:7000", "--certs-dir", "c"],
            Target(host="::1", port=7000, name="client1", certificates=Path("c")),
        ),
    ],
)
def test_targets(options: list[str], target: Target) -> None:
    """Which server, as whom, and with which certificates; a name is meant in lower case."""
    assert parse([*options, "status", JOB]) == Command(target, Status(job_id=JOB, as_json=False))


@pytest.mark.parametrize(
    "options", [["-n", "start", "--server=[::1]:7000"], ["-nstart", "--certs-dir", "start"], ["--name=client1"]]
)
def test_the_verb_is_found_behind_its_options(options: list[str]) -> None:
    """The command begins after the verb `start`, not after a value that reads like it."""
    parsed = parse([*options, "start", "-x"])
    assert isinstance(parsed, Command)
    assert parsed.action == Start(("-x",))


def options_with_a_value(parser: argparse.ArgumentParser) -> set[str]:
    """The options of a parser after which the next word is theirs."""
    return {option for action in parser._actions for option in action.option_strings if action.nargs is None}


def test_options_with_a_value_are_known() -> None:
    """What finds the verb, and the command of `run`, knows every option before it that has a value."""
    parser = new_parser(needs_name=True)
    assert options_with_a_value(parser) == module._WITH_VALUE
    (verbs,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    assert options_with_a_value(verbs.choices["run"]) == module._WITH_VALUE_OF_RUN


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-n", "client1", "run", "ls"], True),
        (["-n", "run", "list"], False),
        (["-n", "client1", "--nonsense", "wait"], True),
        (["run"], True),
        (["start", "run"], False),
        (["-n", "client1"], False),
        ([], False),
    ],
)
def test_verbs_that_exit_as_a_job(arguments: list[str], expected: bool) -> None:
    """Of `run` and `wait`, also where the rest is wrong, the exit status is a job's."""
    assert is_as_a_job(arguments) == expected


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", timedelta(seconds=90)),
        ("10m", timedelta(minutes=10)),
        ("2h", timedelta(hours=2)),
        ("3d", timedelta(days=3)),
        ("2026-01-02T03:04:05+01:00", datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC)),
        ("2026-01-02", datetime(2026, 1, 2).astimezone()),
    ],
)
def test_moments(text: str, moment: datetime | timedelta) -> None:
    """A time has the zone that it names, or that of the place; a number with a unit is so long ago."""
    assert parse_moment(text) == moment


@pytest.mark.parametrize(
    "text", ["", "h", "-1h", "1.5h", "10", "10w", "99999999999999999d", "99999999d", "2026-13-01", "now"]
)
def test_what_is_no_moment(text: str) -> None:
    """Anything else is refused with what would be right."""
    with pytest.raises(ValueError, match=r"is no time: say 2026-01-31.*3d ago"):
        parse_moment(text)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "required: -n/--name, VERB"),
        (["status", JOB], "required: -n/--name"),
        (["-n", "client1"], "required: VERB"),
        (["-n", "client1", "dance", JOB], "dance"),
        (["-n", "client1", "start"], "name the command"),
        (["-n", "client1", "start", "--"], "name the command"),
        (["-n", "client1", "start", "--output-max"], "expected one argument"),
        (["-n", "client1", "start", "--timeout", "soon", "ls"], "'soon' is no time: say 500ms"),
        (["-n", "client1", "run", "--timeout", "9s", "--warn", "3s=NOPE", "ls"], "'NOPE' is no signal"),
        (["-n", "client1", "run", "--warn", "3s", "ls"], "run: --warn comes before --timeout is over"),
        (["-n", "client1", "start", "--timeout", "3s", "--warn", "3s", "ls"], "start: --warn comes before"),
        (["-n", "client1", "start", "--grace", "2h", "x"], "'2h' is longer than a grace period can be"),
        (["-n", "client1", "start", "--stop-signal", "STOPP", "x"], "'STOPP' is no signal"),
        (["-n", "client1", "start", "-l", "a", "x"], "'a' is no label: say KEY=VALUE"),
        (["-n", "client1", "list", "-l", "=a"], "'=a' is no label"),
        (["-n", "client1", "run", "-l", "a=1", "-l", "a=2", "x"], "run: a label is given twice"),
        (["-n", "client1", "start", "--name", "\udcff", "x"], "is not UTF-8"),
        (["-n", "client1", "start", "-e", "=hunter2", "x"], "a variable has a name: say NAME=VALUE, or NAME"),
        (["-n", "client1", "start", "-e", "A=\udcff", "x"], "the value of A is not UTF-8"),
        (["-n", "client1", "start", "--output-max", "1M"], "name the command"),
        (["-n", "client1", "start", "--output-max", "max", "ls"], "'max' is not a size: use bytes, or a number"),
        (["-n", "client1", "run", "--output-max", "99999999T", "ls"], "'99999999T' is not a size"),
        (["-n", "client1", "run", "--output-full", "wait", "ls"], "invalid choice: 'wait'"),
        (["-n", "client1", "stop"], "required: JOB"),
        (["-n", "client1", "kill"], "required: JOB"),
        (["-n", "client1", "kill", "-s", "0", JOB], "'0' is no signal: give a name, as TERM, or a number from 1 to 64"),
        (["-n", "client1", "kill", "-s", "65", JOB], "'65' is no signal"),
        (["-n", "client1", "kill", "-s", "SIG_IGN", JOB], "'SIG_IGN' is no signal"),
        (["-n", "client1", "kill", "-s", "", JOB], "'' is no signal"),
        (["-n", "client1", "status", JOB, "more"], "unrecognized arguments: more"),
        (["-n", "client1", "logs", "--json", JOB], "unrecognized arguments: --json"),
        (["-n", "client1", "logs", "--tail", "1", "--since", "1m", JOB], "not allowed with argument --tail"),
        (["-n", "client1", "logs", "--tail", "all", JOB], "'all' is no number"),
        (["-n", "client1", "logs", "--stream", "both", JOB], "invalid choice: 'both'"),
        (["-n", "client1", "stats", "--interval", "50ms", JOB], "'50ms' is no interval"),
        (["-n", "client1", "stats", "--interval", "61s", JOB], "'61s' is no interval"),
        (["-n", "client1", "--server", "here", "status", JOB], "'here' is not HOST:PORT"),
        (["-n", "client1", "--serv", "here:1", "status", JOB], "--serv"),
        (["-n", "client1", "run"], "run: name the command"),
        (["-n", "client1", "run", "--request-id", "", "ls"], "--request-id is empty"),
        (["-n", "client1", "run", "--request-id=", "ls"], "--request-id is empty"),
        (["-n", "client1", "run", "-d", "--"], "run: name the command"),
        (["-n", "client1", "run", "--quick", "ls"], "unrecognized arguments: --quick"),
        (["-n", "client1", "run", "--request-id"], "expected one argument"),
        (["-n", "client1", "run", "-t", "--separate-streams", "vi"], "all three streams"),
        (["-n", "client1", "run", "--no-stdin", "-t", "vi"], "all three streams"),
        (["-n", "client1", "run", "-t", "--detach-keys", "pq", "vi"], "'pq' names no keys: say ctrl-p,ctrl-q"),
        (["-n", "client1", "attach", "--detach-keys", "", JOB], "names no keys"),
        (["-n", "client1", "list", "--json", "--table"], "not allowed with argument"),
        (["-n", "client1", "list", "--state", "idle"], "invalid choice: 'idle'"),
        (["-n", "client1", "list", "--limit", "-1"], "'-1' is no number"),
        (["-n", "client1", "list", "--limit", "x"], "'x' is no number"),
        (["-n", "client1", "list", "--since", "soon"], "'soon' is no time: say 2026-01-31"),
        (["-n", "client1", "events", "--all", "--after", "1"], "not allowed with argument"),
        (["-n", "client1", "events", JOB], "unrecognized arguments"),
        (["-n", "client1", "backup"], "required: FILE"),
        (["-n", "client1", "rm"], "required: JOB"),
        (["audit", JOB], "unrecognized arguments"),
        (["audit", "--since", "soon"], "'soon' is no time"),
    ],
)
def test_wrong_usage(arguments: list[str], complaint: str) -> None:
    """What cannot be meant is refused with the usage and the reason."""
    with pytest.raises(UsageError) as refusal:
        parse(arguments)
    assert str(refusal.value).startswith("usage: jobmaster")
    assert complaint in str(refusal.value)
    assert str(refusal.value).endswith("\n")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["-n", "client1", "start", "\udcff"], r"the command, '\udcff', is not UTF-8"),
        (["-n", "client1", "start", "ls", "a", "x\udc80"], r"argument 2 of the command, 'x\udc80', is not UTF-8"),
        (["-n", "client1", "run", "--secret-env", "A", "ls", "x\udcff"], "argument 1 of the command is not UTF-8"),
        (["-n", "client1", "status", "\udcff"], r"JOB, '\udcff', is not UTF-8"),
        (["-n", "client1", "logs", "\udcff"], r"JOB, '\udcff', is not UTF-8"),
        (["-n", "client1", "run", "--request-id", "\udcff", "ls"], r"--request-id, '\udcff', is not UTF-8"),
        (["-n", "client1", "stop", "--reason", "\udcff", JOB], r"--reason, '\udcff', is not UTF-8"),
        (["-n", "client1", "list", "--client", "\udcff"], r"--client, '\udcff', is not UTF-8"),
        (["-n", "\udcff", "status", JOB], r"the name, '\udcff', is not UTF-8"),
        (["-n", "client1", "--server", "\udcff:1", "status", JOB], r"'\udcff' is no host name"),
    ],
)
def test_arguments_that_are_not_utf8(arguments: list[str], what: str) -> None:
    """Bytes that are not UTF-8, which Python hands on as surrogates, are refused by the name of the argument."""
    with pytest.raises(UsageError) as refusal:
        parse(arguments)
    assert what in str(refusal.value)


def test_a_folder_may_have_any_name() -> None:
    """The certificate folder is not sent to anybody, and may be called what the file system allows."""
    parsed = parse(["-n", "client1", "--certs-dir", "/\udcff", "status", JOB])
    assert isinstance(parsed, Command)
    assert parsed.target.certificates == Path("/\udcff")


def text_of(*arguments: str) -> str:
    """What a command line prints instead of asking a server."""
    asked = parse(arguments)
    assert isinstance(asked, Text)
    return asked.text


def test_help_has_everything() -> None:
    """--help lists every verb and option, and says what the exit status means."""
    shown = text_of("--help")
    words = [
        "run",
        "start",
        "list",
        "ps",
        "wait",
        "events",
        "backup",
        "audit",
        "stop",
        "kill",
        "pause",
        "resume",
        "status",
        "streamoutput",
        "logs",
        "--name",
        "--server",
        "--certs-dir",
        "--version",
    ]
    assert [word for word in [*words, "exit status"] if word not in shown] == []


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize(
    "verb",
    [
        "start",
        "run",
        "stop",
        "kill",
        "pause",
        "resume",
        "status",
        "wait",
        "streamoutput",
        "logs",
        "list",
        "ps",
        "events",
        "backup",
        "audit",
    ],
)
def test_help_of_each_verb(verb: str, option: str) -> None:
    """Each verb explains itself."""
    own = {"ps": "list"}.get(verb, verb)
    assert text_of("-n", "client1", verb, option).startswith(f"usage: jobmaster {own} ")


def test_version() -> None:
    """--version needs no name and no verb."""
    assert text_of("--version") == f"jobmaster {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["doctor"], Doctor()),
        (["doctor", "--json"], Doctor(as_json=True)),
        (
            ["doctor", "-o", "/x", "--json", "--require-limits"],
            Doctor(as_json=True, options=("-o", "/x", "--require-limits")),
        ),
        (["--certs-dir", "/c", "doctor", "--max-jobs=3"], Doctor(options=("--certs-dir", "/c", "--max-jobs=3"))),
        (["-n", "client1", "doctor", "--", "-x"], Doctor(options=("--", "-x"))),
    ],
)
def test_doctor(arguments: list[str], expected: Doctor) -> None:
    """No name is needed; what is not of the verb itself is for a server's parser, as it is."""
    assert parse(arguments) == expected


def test_help_of_doctor() -> None:
    """It is the verb's own, and names the server's options."""
    assert "python -m jobmaster.serve" in str(parse(["doctor", "-o", "/x", "--help"]))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["install-unit"], InstallUnit()),
        (["install-unit", "--print", "--force"], InstallUnit(only_print=True, force=True)),
        (
            ["--certs-dir", "/c", "install-unit", "--directory", "/d", "--", "--print", "--", "-v"],
            InstallUnit(folder=Path("/d"), options=("--certs-dir", "/c", "--print", "--", "-v")),
        ),
    ],
)
def test_install_unit(arguments: list[str], expected: InstallUnit) -> None:
    """No name is needed; what is behind the first `--` is for a server's parser, as it is."""
    assert parse(arguments) == expected


def test_options_of_a_server_before_the_dashes() -> None:
    """They are no options of the verb, and refused."""
    with pytest.raises(UsageError, match="--max-jobs"):
        parse(["install-unit", "--max-jobs", "3"])
