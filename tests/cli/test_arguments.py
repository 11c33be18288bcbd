"""The client's command line."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from jobmaster import __version__
from jobmaster.cli.arguments import Action, Start, Status, Stop, StreamOutput, Target, parse

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
    assert parse(["-n", "client1", *arguments]) == (DEFAULT, action)


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
    assert parse([*options, "status", JOB])[0] == target


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
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str) -> None:
    """What cannot be meant exits 2, with the usage and the reason on stderr and nothing on stdout."""
    with pytest.raises(SystemExit) as exit_info:
        parse(arguments)
    assert exit_info.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: jobmaster")
    assert complaint in captured.err


def test_help_has_everything(capsys: pytest.CaptureFixture[str]) -> None:
    """--help lists every verb and option, and says what the exit status means."""
    with pytest.raises(SystemExit) as exit_info:
        parse(["--help"])
    assert exit_info.value.code == 0
    shown = capsys.readouterr().out
    words = ["start", "stop", "status", "streamoutput", "logs", "--name", "--server", "--certs-dir", "--version"]
    assert [word for word in [*words, "exit status"] if word not in shown] == []


@pytest.mark.parametrize("verb", ["start", "stop", "status", "streamoutput", "logs"])
def test_help_of_each_verb(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    """Each verb explains itself."""
    with pytest.raises(SystemExit) as exit_info:
        parse(["-n", "client1", verb, "--help"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out.startswith("usage: jobmaster")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version needs no name and no verb."""
    with pytest.raises(SystemExit) as exit_info:
        parse(["--version"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out == f"jobmaster {__version__}\n"
