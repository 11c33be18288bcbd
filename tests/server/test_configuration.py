"""What a server runs with: its command line over its file, and what of a new file takes the place of what is in force."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from jobmaster.errors import ConfigurationError
from jobmaster.host.cgroup.limits import IoLimits, Limits
from jobmaster.identity.policy import DEFAULT_POLICY, Identity, Policy, Role
from jobmaster.run.bounds import FreeSpace
from jobmaster.server import configuration as module
from jobmaster.server.config_file import keep_text
from jobmaster.server.configuration import (
    LASTING_FIELDS,
    LASTING_KEYS,
    LIVE_FIELDS,
    Configuration,
    clients_changed,
    followed_up,
    kept_form,
    load,
    load_kept,
    taken_up,
)
from jobmaster.server.options import CommandLine, ServerOptions, parse_command_line
from tests.server.test_schema import KEYS

ALICE: Final = '[clients.alice]\nrole = "user"\n'
OPTIONS: Final = ServerOptions(output_folder=Path("/srv/output"))
BEFORE: Final = Configuration(options=OPTIONS, file=Path("/etc/c.toml"))


def policy_of(*names: str, role: Role = Role.USER) -> Policy:
    """Clients of one role."""
    return Policy(identities=frozenset(Identity(name=name, role=role) for name in names))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file in a folder of its own."""
    tmp_path.chmod(0o755)
    return tmp_path / "config.toml"


def write(file: Path, text: str) -> None:
    """Writes a file that nobody else may write."""
    file.write_text(text)
    file.chmod(0o644)


def command_for(file: Path | None, *arguments: str) -> CommandLine:
    """A command line that names a file."""
    named = [] if file is None else ["--config", str(file)]
    return parse_command_line(["--output-dir", "/srv/output", *named, *arguments])


def test_options_win(file: Path) -> None:
    """What the command line says counts; the file says the rest."""
    write(file, f"[jobs]\nmax = 5\ngrace = 1\n{ALICE}")
    found = load(command_for(file, "--max-jobs", "7"))
    assert found.file == file
    assert (found.options.max_jobs, found.options.grace_seconds) == (7, 1.0)
    assert found.options.policy == policy_of("alice")


def test_the_default_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's server reads the one in /etc where it is there; others read none that they do not name."""
    monkeypatch.setattr(module, "DEFAULT_CONFIG", file)
    command = command_for(None)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert load(command) == Configuration(options=OPTIONS, file=None)
    write(file, ALICE)
    if os.stat(file).st_uid == 0:
        assert load(command).options.policy == policy_of("alice")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert load(command) == Configuration(options=OPTIONS, file=None)


def test_the_folder_of_the_output_may_be_in_the_file_alone(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home needs no option where the file names the folder."""
    monkeypatch.setattr(module, "config_path", lambda _command: file)
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.geteuid", lambda: os.stat(file.parent).st_uid or 1000)
    monkeypatch.setattr("jobmaster.server.config_file._require_own", lambda *_: None)
    write(file, '[folders]\noutput = "/srv/mine"\n')
    assert load(parse_command_line([])).options.output_folder == Path("/srv/mine")
    write(file, "verbose = true\n")
    with pytest.raises(ConfigurationError, match="give --output-dir"):
        load(parse_command_line([]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no such file"),
        ("", "it is empty"),
        ("verbose = maybe", "no TOML: Invalid value (at line 1, column 11)"),
        ("verbos = true", "unknown key verbos: did you mean verbose?"),
        (
            '[folders]\naudit = "/a/../b"',
            "folders.audit: --audit-folder /a/../b: must be an absolute path without '..'",
        ),
    ],
)
def test_a_file_that_cannot_be_used(file: Path, text: str | None, said: str) -> None:
    """It is named, with what is wrong and where."""
    if text is not None:
        write(file, text)
    with pytest.raises(ConfigurationError) as refusal:
        load(command_for(file))
    assert str(refusal.value).startswith(f"configuration {file}: ")
    assert said in str(refusal.value)


def test_a_wrong_option(capsys: pytest.CaptureFixture[str]) -> None:
    """The command line is refused before any file is read, with the usage."""
    with pytest.raises(SystemExit) as exit_info:
        parse_command_line(["--output-dir", "relative"])
    assert exit_info.value.code == 2
    assert "--output-dir relative: must be an absolute path" in capsys.readouterr().err


# --- once a file was in force -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "it was in force, and is not there"),
        ("", "it is empty"),
        ("verbose = true\n", "it has no [clients], and what is in force has"),
        ("# all is to come\n", "it has no [clients]"),
    ],
)
def test_a_file_that_is_not_whole_brings_nobody_back(file: Path, text: str | None, said: str) -> None:
    """Where a file with clients was in force, its absence, or that of its clients, is a mistake: no built-in one comes in."""
    write(file, ALICE)
    command = command_for(file)
    before = load(command)
    file.unlink()
    if text is not None:
        write(file, text)
    with pytest.raises(ConfigurationError) as refusal:
        load(command, before)
    assert said in str(refusal.value)


def test_the_default_file_that_is_gone(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of the file that need not be there, once it was."""
    monkeypatch.setattr(module, "config_path", lambda _command: file)
    before = Configuration(options=OPTIONS, file=file)
    with pytest.raises(ConfigurationError, match="it was in force, and is not there"):
        load(command_for(None), before)
    assert load(command_for(None), replace(before, file=None)).options.policy == DEFAULT_POLICY


def test_clients_that_are_named_again(file: Path) -> None:
    """Those that are built in may come back by name, and a file that never named any need not begin to."""
    write(file, kept_form(BEFORE))
    before = replace(BEFORE, options=replace(OPTIONS, policy=policy_of("alice")))
    assert load(command_for(file), before).options.policy == DEFAULT_POLICY
    write(file, "verbose = true\n")
    assert load(command_for(file), BEFORE).options.verbose


# --- what a running server takes up, and what the next one does ---------------------------------------------------------


def test_what_is_taken_up() -> None:
    """A running server takes up what it can, and tells of all else that it needs another one, or a restart."""
    changes: dict[str, object] = {}
    for _, more in KEYS.values():
        changes |= more
    io = IoLimits(read_bps=2**23, write_bps=2**24, read_iops=300, write_iops=400)
    changes |= {"limits": Limits(cpu_max=1, memory_max=2, pids_max=3, io=io), "policy": policy_of("alice")}
    options = replace(OPTIONS, **changes)  # type: ignore[arg-type]  # checked by the class
    change = taken_up(BEFORE, Configuration(options=options, file=BEFORE.file))
    live = {name: getattr(options, name) for name in LIVE_FIELDS}
    assert change.configuration == replace(BEFORE, options=replace(OPTIONS, **live))
    declined = {line.partition(" is ")[0]: line.rpartition(", which ")[2] for line in change.declined}
    lasting = dict.fromkeys(LASTING_KEYS, "needs a restart")
    live_keys = {key for key, (_, more) in KEYS.items() if more.keys() <= set(LIVE_FIELDS)}
    assert declined == {key: lasting.get(key, "needs another server (SIGUSR2)") for key in KEYS.keys() - live_keys}
    assert 'listen is "localhost:6443", and not "[::]:7000", which needs another server (SIGUSR2)' in change.declined


def test_outputs_that_nobody_counts() -> None:
    """A server that began without any bound of all outputs cannot take one up."""
    unbounded = replace(OPTIONS, output_free=FreeSpace(), output_folder_max=None)
    before = replace(BEFORE, options=unbounded)
    change = taken_up(before, replace(BEFORE, options=replace(unbounded, output_folder_max=2**30, keep_jobs=5)))
    assert change.configuration.options == replace(unbounded, keep_jobs=5)
    assert change.declined == ('output.folder_max is 0, and not "1G", which needs another server (SIGUSR2)',)


def test_what_the_next_server_takes_up() -> None:
    """All but where the jobs and the journal are; and but the address, where it cannot listen on another."""
    options = replace(
        OPTIONS,
        output_folder=Path("/other"),
        cgroup_root=Path("/sys/fs/cgroup/other"),
        work_folder=Path("/other-work"),
        port=7000,
        keep_for=timedelta(days=1),
        policy=policy_of("alice"),
    )
    after = replace(BEFORE, options=options)
    lasting = {name: getattr(OPTIONS, name) for name in LASTING_FIELDS}
    change = followed_up(BEFORE, after)
    assert change.configuration.options == replace(options, **lasting)
    assert [line.partition(" is ")[0] for line in change.declined] == [
        "folders.output",
        "folders.audit",
        *LASTING_KEYS[1:],
    ]
    assert all(line.endswith("which needs a restart") for line in change.declined)
    change = followed_up(BEFORE, after, keeps_address=True)
    assert change.configuration.options == replace(options, **lasting, port=6443)
    assert change.declined[0] == 'listen is "localhost:6443", and not "localhost:7000", which needs a restart'


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (policy_of("a", "b"), policy_of("a", "b"), ""),
        (policy_of("a", "b"), policy_of("b", "c"), "new: c; gone: a"),
        (policy_of("a"), policy_of("a", role=Role.ADMIN), "in another role: a"),
        (
            policy_of(),
            policy_of(*(f"c{n:02}" for n in range(22))),
            f"new: {', '.join(f'c{n:02}' for n in range(20))} and 2 more",
        ),
    ],
)
def test_what_is_said_of_clients(before: Policy, after: Policy, said: str) -> None:
    """Who comes, goes or changes is named, up to a number."""
    assert clients_changed(before, after) == said


# --- what is kept -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, "config.toml"])
def test_what_is_kept_is_what_was_in_force(tmp_path: Path, name: str | None) -> None:
    """The next server reads of it what this one ran with, clients and all, and whether a file was in force."""
    command = command_for(tmp_path / "config.toml", "--max-jobs", "7")
    file = None if name is None else tmp_path / name
    options = replace(
        OPTIONS, max_jobs=7, keep_jobs=3, audit_folder=Path("/srv/output/audit"), policy=policy_of("alice")
    )
    in_force = Configuration(options=options, file=file)
    place = os.open(tmp_path, os.O_RDONLY)
    try:
        assert load_kept(command, place) is None
        keep_text(tmp_path, kept_form(in_force))
        assert load_kept(command, place) == in_force
        keep_text(tmp_path, "verbose = true\n")
        with pytest.raises(ConfigurationError, match="not whole"):
            load_kept(command, place)
    finally:
        os.close(place)
