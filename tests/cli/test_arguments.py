"""The client's command line."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from jobmaster import __version__
from jobmaster.cli import arguments as module
from jobmaster.cli.arguments import Action, Command, Start, Status, Stop, StreamOutput, Target, Text, UsageError, parse

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
        (["start", "--", "ls", "--", "-l"], Start(("ls", "--", "-l"))),
        (["start", "--", "-dashed", "x"], Start(("-dashed", "x"))),
        (["start", "-x"], Start(("-x",))),
        (["start", "-n", "ls"], Start(("-n", "ls"))),
        (["start", "--server"], Start(("--server",))),
        (["start", "--version"], Start(("--version",))),
        (["start", "--", "--help"], Start(("--help",))),
        (["start", "echo", "", " "], Start(("echo", "", " "))),
        (["stop", JOB], Stop(job_id=JOB, as_json=False)),
        (["stop", "--json", JOB], Stop(job_id=JOB, as_json=True)),
        (["status", JOB], Status(job_id=JOB, as_json=False)),
        (["status", JOB, "--json"], Status(job_id=JOB, as_json=True)),
        (["streamoutput", JOB], StreamOutput(JOB)),
        (["logs", JOB], StreamOutput(JOB)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_actions(arguments: list[str], action: Action) -> None:
    """Each verb with its own arguments; all that comes after `start` is the command's, whatever it looks like."""
    assert parse(["-n", "client1", *arguments]) == Command(DEFAULT, action)


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


def test_options_with_a_value_are_known() -> None:
    """What finds the verb knows every option before it that has a value."""
    with_value = {
        option for action in module._parser()._actions for option in action.option_strings if action.nargs is None
    }
    assert with_value == module._WITH_VALUE


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "required: -n/--name, VERB"),
        (["status", JOB], "required: -n/--name"),
        (["-n", "client1"], "required: VERB"),
        (["-n", "client1", "dance", JOB], "dance"),
        (["-n", "client1", "start"], "name the command"),
        (["-n", "client1", "start", "--"], "name the command"),
        (["-n", "client1", "stop"], "required: JOB"),
        (["-n", "client1", "status", JOB, "more"], "unrecognized arguments: more"),
        (["-n", "client1", "logs", "--json", JOB], "unrecognized arguments: --json"),
        (["-n", "client1", "--server", "here", "status", JOB], "'here' is not HOST:PORT"),
        (["-n", "client1", "--serv", "here:1", "status", JOB], "--serv"),
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
        (["-n", "client1", "status", "\udcff"], r"JOB, '\udcff', is not UTF-8"),
        (["-n", "client1", "logs", "\udcff"], r"JOB, '\udcff', is not UTF-8"),
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
    words = ["start", "stop", "status", "streamoutput", "logs", "--name", "--server", "--certs-dir", "--version"]
    assert [word for word in [*words, "exit status"] if word not in shown] == []


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("verb", ["start", "stop", "status", "streamoutput", "logs"])
def test_help_of_each_verb(verb: str, option: str) -> None:
    """Each verb explains itself."""
    own = {"logs": "streamoutput"}.get(verb, verb)
    assert text_of("-n", "client1", verb, option).startswith(f"usage: jobmaster {own} ")


def test_version() -> None:
    """--version needs no name and no verb."""
    assert text_of("--version") == f"jobmaster {__version__}\n"
