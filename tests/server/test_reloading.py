"""Reading the configuration again: all of what is new, or nothing."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import trio
import trio.testing

from jobmaster.certs.contexts import ServerCredentials
from jobmaster.certs.folder import CLIENT_AUTHORITY, certificate_path
from jobmaster.host.cgroup import devices
from jobmaster.host.cgroup.controllers import EVERY_CONTROLLER
from jobmaster.identity.policy import Identity, Policy, Role
from jobmaster.server import checking, preparation, reloading
from jobmaster.server.config_file import KEPT_NAME
from jobmaster.server.configuration import Configuration, load
from jobmaster.server.options import CommandLine, ServerOptions, parse_command_line
from jobmaster.server.reloading import Reloader

ALICE: Final = '[clients.alice]\nrole = "user"\n'
STAYS: Final = "what was in force stays in force"


class Reloaded:
    """A reloader whose server notes what is put in force."""

    def __init__(self, folder: Path, certificates: Path) -> None:
        folder.chmod(0o755)
        self.file = folder / "config.toml"
        self.output = folder / "output"
        self.output.mkdir(0o700)
        self.write(ALICE)
        arguments = ["--config", str(self.file), "--output-dir", str(self.output), "--certs-dir", str(certificates)]
        self.command: CommandLine = parse_command_line(arguments)
        self.taken: list[ServerOptions] = []
        self.settled = 0
        self.reloader = self.with_command(self.command)

    def with_command(self, command: CommandLine | None) -> Reloader:
        """One that reads the file, or none."""
        configuration = load(self.command)
        return Reloader(command, configuration, take_up=self._take_up, settle=self._settle)

    def _take_up(self, options: ServerOptions, credentials: ServerCredentials) -> None:
        assert credentials.authorities
        self.taken.append(options)

    async def _settle(self) -> None:
        self.settled += 1

    def write(self, text: str) -> None:
        """Another file."""
        self.file.write_text(text)
        self.file.chmod(0o644)


@pytest.fixture
def reloaded(tmp_path: Path, certificates: Path) -> Reloaded:
    """A reloader of a file that names one client."""
    return Reloaded(tmp_path, certificates)


def policy_of(*names: str) -> Policy:
    """Users of these names."""
    return Policy(identities=frozenset(Identity(name=name, role=Role.USER) for name in names))


async def test_what_is_new(reloaded: Reloaded, caplog: pytest.LogCaptureFixture) -> None:
    """It is put in force, kept for the next server, and told."""
    reloaded.write(f'{ALICE}[clients.bob]\nrole = "user"\n[records]\nkeep_days = 1\n[jobs]\nmax = 1\n')
    await reloaded.reloader.reload()
    (options,) = reloaded.taken
    assert options.policy == policy_of("alice", "bob")
    assert options.max_jobs == 1000
    assert reloaded.settled == 1
    assert reloaded.reloader.configuration == Configuration(options=options, file=reloaded.file)
    assert load(replace(reloaded.command, config=reloaded.output / KEPT_NAME)).options == replace(
        options, audit_folder=options.audit
    )
    assert "records.keep_days is 1, and not 30; clients: new: bob" in caplog.text
    assert "jobs.max is 1000, and not 1, which needs another server (SIGUSR2)" in caplog.text


async def test_nothing_new(reloaded: Reloaded, caplog: pytest.LogCaptureFixture) -> None:
    """The certificates are read all the same, and the log says that nothing has changed."""
    before = reloaded.reloader.configuration
    await reloaded.reloader.reload()
    assert (reloaded.reloader.configuration, len(reloaded.taken)) == (before, 1)
    assert f"read again: certificates, and configuration {reloaded.file}: no change" in caplog.text


async def test_a_server_without_a_file(reloaded: Reloaded, caplog: pytest.LogCaptureFixture) -> None:
    """One that was given options alone reads its certificates, and no file; nor does it keep one."""
    reloader = reloaded.with_command(None)
    reloaded.write("")
    await reloader.reload()
    assert len(reloaded.taken) == 1
    assert list(reloaded.output.iterdir()) == []
    assert STAYS not in caplog.text


@pytest.mark.parametrize("spoiled", ["file", "certificates"])
async def test_half_of_it(tmp_path: Path, certificates: Path, spoiled: str, caplog: pytest.LogCaptureFixture) -> None:
    """Where the file is good and the certificates are not, or the other way round, nothing changes."""
    folder = tmp_path / "certs"
    folder.mkdir(0o700)
    for path in certificates.glob("*.pem"):
        (folder / path.name).write_bytes(path.read_bytes())
        (folder / path.name).chmod(0o600)
    reloaded = Reloaded(tmp_path, folder)
    before = reloaded.reloader.configuration
    reloaded.write("[clients.bob]\n" if spoiled == "file" else f'{ALICE}[clients.bob]\nrole = "user"\n')
    if spoiled == "certificates":
        certificate_path(folder, CLIENT_AUTHORITY).write_text("no certificate")
    await reloaded.reloader.reload()
    assert STAYS in caplog.text
    assert (reloaded.taken, reloaded.settled, reloaded.reloader.configuration) == ([], 0, before)
    assert list(reloaded.output.iterdir()) == []


async def test_a_host_without_threads(
    reloaded: Reloaded, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no thread nothing changes, and the log says why; so it is where one is there to read and none to keep."""
    reloaded.write(f'{ALICE}[clients.bob]\nrole = "user"\n')
    real, answers = trio.to_thread.run_sync, [False, True, False]

    async def run_sync(*arguments: object, **options: object) -> object:
        if answers.pop(0):
            return await real(*arguments, **options)  # type: ignore[arg-type]  # as they come
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("trio.to_thread.run_sync", run_sync)
    await reloaded.reloader.reload()
    assert reloaded.taken == []
    assert f"no thread left; try again later; {STAYS}" in caplog.text
    await reloaded.reloader.reload()
    assert [options.policy for options in reloaded.taken] == [policy_of("alice", "bob")]
    assert "cannot be kept in" in caplog.text


async def test_a_disk_that_does_not_answer(
    reloaded: Reloaded,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A read that takes too long changes nothing when it comes back; until then no other one begins."""
    answers, has_begun = threading.Event(), []

    def wait(*_: object) -> Configuration:
        has_begun.append(True)
        answers.wait(60)
        return load(reloaded.command)

    limiter = trio.CapacityLimiter(1)
    monkeypatch.setattr(reloading, "READERS", limiter)
    monkeypatch.setattr(reloading, "load", wait)
    reloaded.write(f'{ALICE}[clients.bob]\nrole = "user"\n')
    autojump_clock.autojump_threshold = 0.05
    for _ in range(2):
        await reloaded.reloader.reload()
    autojump_clock.autojump_threshold = float("inf")
    assert has_begun == [True]
    assert caplog.text.count(f"was not read within 10 s: does its disk answer?; {STAYS}") == 2
    answers.set()
    while limiter.borrowed_tokens:
        await trio.lowlevel.checkpoint()
    assert reloaded.taken == []
    await reloaded.reloader.reload()
    assert [options.policy for options in reloaded.taken] == [policy_of("alice", "bob")]


async def test_many_who_ask(reloaded: Reloaded) -> None:
    """What is asked for while it is read is read once more, and once for all."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reloaded.reloader.run)
        for _ in range(5):
            reloaded.reloader.ask()
        while len(reloaded.taken) < 1:
            await trio.sleep(0.01)
        reloaded.write(f'{ALICE}[clients.bob]\nrole = "user"\n')
        for _ in range(5):
            reloaded.reloader.ask()
        while reloaded.reloader.configuration.options.policy != policy_of("alice", "bob"):
            await trio.sleep(0.01)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(reloaded.taken) <= 3


async def test_how_much_is_logged(reloaded: Reloaded) -> None:
    """The log's detail is a setting, too."""
    root = logging.getLogger()
    before = root.level
    try:
        reloaded.write(f"verbose = true\n{ALICE}")
        await reloaded.reloader.reload()
        assert root.level == logging.INFO
        reloaded.write(ALICE)
        await reloaded.reloader.reload()
        assert root.level == logging.WARNING
    finally:
        root.setLevel(before)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(5, "Input/output error"), f"the configuration cannot be read: Input/output error; {STAYS}"),
        (ArithmeticError("a bug"), f"a bug in reading the configuration; {STAYS}"),
    ],
)
async def test_what_nobody_thought_of(
    reloaded: Reloaded,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    said: str,
) -> None:
    """A disk that fails in the middle, or a bug, ends no server, and changes nothing."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(reloading, "server_credentials", fail)
    reloaded.write(f'{ALICE}[clients.bob]\nrole = "user"\n')
    await reloaded.reloader.reload()
    assert said in caplog.text
    assert reloaded.taken == []


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ('io_read_bps = "10M"', "limits.io_device: IO limits need a block device"),
        ("require = true", "limits.require: --require-limits: this host does not enforce every limit (cpu: not here; "),
    ],
)
async def test_limits_that_no_next_server_could_have(
    reloaded: Reloaded, limits: str, said: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are refused, as it would start with none of them, and its jobs would end."""
    monkeypatch.setattr(devices, "device_under", lambda _folder: None)
    monkeypatch.setattr(checking, "jobs_named_in", lambda _file: Path("/sys/fs/cgroup/jobmaster/jobs"))
    monkeypatch.setattr(preparation, "foresee_controllers", lambda *_: EVERY_CONTROLLER.without("not here"))
    reloaded.write(f"{ALICE}[limits]\n{limits}\n")
    await reloaded.reloader.reload()
    assert said in caplog.text
    assert reloaded.taken == []


async def test_what_has_not_changed(reloaded: Reloaded) -> None:
    """A user who has gone since the server began, or a name server that is slow, keeps no client in whom the file takes out."""
    before = replace(reloaded.reloader.configuration.options, run_as="ghost", host="slow.invalid", io_device="4000:1")
    reloaded.reloader.configuration = replace(reloaded.reloader.configuration, options=before)
    same = 'listen = "slow.invalid:6443"\n[limits]\nio_device = "4000:1"\n[jobs]\nrun_as = "ghost"\n'
    reloaded.write(f'{same}[clients.bob]\nrole = "user"\n')
    await reloaded.reloader.reload()
    assert [options.policy for options in reloaded.taken] == [policy_of("bob")]
