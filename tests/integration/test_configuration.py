"""The configuration of a real server: read at its start, read again at SIGHUP, and kept for the one that follows."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
import trio
from purerpc.grpclib.exceptions import UnauthenticatedError

from jobmaster.certs import authority
from jobmaster.certs.folder import CLIENT_AUTHORITY, certificate_path
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.server.config_file import KEPT_NAME
from tests.harness import (
    REPOSITORY,
    Server,
    command_line_for,
    first_chunk,
    output_of,
    own_cgroup_root,
    serving_program,
    started,
)
from tests.integration.test_upgrade import is_replaced

DEADLINE: Final = 20.0
COUNT: Final = "i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo $i; sleep 0.01; done"
COUNTED: Final = b"".join(b"%d\n" % number for number in range(1, 401))


def clients(**roles: str) -> str:
    """The tables of clients."""
    return "".join(f'[clients.{name}]\nrole = "{role}"\n' for name, role in roles.items())


class Configured:
    """A server with a configuration file, and what it logs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "etc" / "config.toml"
        self.file.parent.mkdir(0o755)
        self.certificates = folder / "certs"
        self.log = folder / "log"
        self.server: Server
        self.launcher: subprocess.Popen[bytes]

    def write(self, text: str) -> None:
        """Exchanges the file."""
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.chmod(0o644)
        new.rename(self.file)

    def said(self) -> str:
        """All that was logged."""
        return self.log.read_text()

    async def until_said(self, text: str, times: int = 1) -> None:
        """Returns when the log has it."""
        with trio.move_on_after(DEADLINE):
            while self.said().count(text) < times:
                await trio.sleep(0.01)
            return
        raise AssertionError(f"{text!r} was not said {times} times: {self.said()}")

    async def reload(self, text: str, said: str = "read again: certificates, and configuration") -> None:
        """Has the server read another file, and waits for what it says of it; the signal goes to the launcher."""
        self.write(text)
        await self.hang_up(said)

    async def hang_up(self, said: str) -> None:
        """Sends SIGHUP, and waits for what the server says."""
        before = self.said().count(said)
        self.launcher.send_signal(signal.SIGHUP)
        await self.until_said(said, before + 1)

    async def replace(self, number: signal.Signals) -> None:
        """Has the server hand over (SIGUSR2) or die (SIGKILL), and waits for the next one."""
        old = self.server.pid
        if number is signal.SIGKILL:
            os.kill(old, number)
        else:
            self.launcher.send_signal(number)
        with trio.fail_after(DEADLINE):
            while not is_replaced(self.server, old):
                await trio.sleep(0.01)
            async with self.server.connect("client1") as jobs:
                await jobs.status(await jobs.start("true"))


@asynccontextmanager
async def configured(tmp_path: Path, certificates: Path, text: str, *arguments: str) -> AsyncIterator[Configured]:
    """A server that runs with this file."""
    tmp_path.chmod(0o755)
    running = Configured(tmp_path)
    shutil.copytree(certificates, running.certificates, ignore=shutil.ignore_patterns("hostile"))
    running.write(text)
    with running.log.open("wb") as log:
        async with serving_program(
            tmp_path, running.certificates, "--config", str(running.file), *arguments, stderr=log.fileno()
        ) as (running.server, running.launcher):
            yield running


async def may_come_in(server: Server, name: str) -> bool:
    """Whether a client is served."""
    try:
        async with server.connect(name, patience=0) as jobs:
            await jobs.start("true")
    except UnauthenticatedError:
        return False
    return True


@pytest.fixture
def more_certificates(tmp_path: Path, certificates: Path) -> Path:
    """Those of the default clients, and of one more."""
    folder = tmp_path / "issued"
    shutil.copytree(certificates, folder, ignore=shutil.ignore_patterns("hostile"))
    authority.issue(folder, "newcomer")
    return folder


async def test_clients_come_and_go(tmp_path: Path, more_certificates: Path) -> None:
    """At SIGHUP to the launcher one that is taken out loses its streams, and its jobs go on; others lose no byte; one comes in."""
    before = clients(client1="user", client2="user", superuser="admin")
    async with configured(tmp_path, more_certificates, before) as running:
        server = running.server
        assert not await may_come_in(server, "client3")  # built in, and not named
        async with (
            server.connect("client1") as stays,
            server.connect("client2") as goes,
            server.connect("superuser") as admin,
        ):
            job_id = await stays.start("sh", "-c", COUNT)
            other_id = await goes.start("sh", "-c", "echo up; read line </dev/null; sleep 1000")
            await first_chunk(goes, other_id)
            async with trio.open_nursery() as nursery:
                read: list[bytes] = []
                refused: list[str] = []

                async def follow() -> None:
                    read.append(await output_of(stays, job_id))

                async def lose() -> None:
                    with pytest.raises(UnauthenticatedError) as loss:
                        await output_of(goes, other_id)
                    refused.append(str(loss.value))

                nursery.start_soon(follow)
                nursery.start_soon(lose)
                await first_chunk(stays, job_id)
                await running.reload(clients(client1="user", newcomer="user", superuser="admin"))
                with trio.fail_after(5):
                    while not refused:
                        await trio.sleep(0.01)
                assert "this server does not know client2 any more; ask its operator" in refused[0]
                assert not await may_come_in(server, "client2")
                assert await may_come_in(server, "newcomer")
            assert read == [COUNTED]
            assert (await admin.status(other_id)).state == pb.JOBSTATE_RUNNING
            await admin.stop(other_id, force=True)
        assert "clients: new: newcomer; gone: client2" in running.said()


async def test_another_role(tmp_path: Path, certificates: Path) -> None:
    """Who gets another role loses its connection, comes back by itself, and has that role."""
    async with configured(tmp_path, certificates, clients(client1="user", client2="admin")) as running:
        async with running.server.connect("client1") as owner, running.server.connect("client2") as other:
            job_id = await owner.start("sleep", "1000")
            assert (await other.status(job_id)).state == pb.JOBSTATE_RUNNING
            await running.reload(clients(client1="user", client2="user"))
            with pytest.raises(Exception, match="no such job"):
                await other.status(job_id)
            await owner.stop(job_id, force=True)
        assert "the role of client2 has changed: connect again" in running.said()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda file: file.unlink(), "config.toml: it was in force, and is not there"),
        (lambda file: file.write_text(""), "config.toml: it is empty"),
        (lambda file: file.write_text("verbose = true\n"), "config.toml: it has no [clients]"),
        (lambda file: file.write_text('[jobs]\nrun_as = "ghost"\n[clients]\n'), "jobs.run_as: --run-as ghost: no such"),
    ],
    ids=["none", "empty", "cut off", "unusable"],
)
async def test_a_broken_file(tmp_path: Path, certificates: Path, spoil: Callable[[Path], object], said: str) -> None:
    """It changes nothing, and the log says what is wrong: no built-in client comes in, and connections go on."""
    async with (
        configured(tmp_path, certificates, clients(client1="user")) as running,
        running.server.connect("client1") as jobs,
    ):
        job_id = await jobs.start("sh", "-c", "echo up; sleep 1000")
        await first_chunk(jobs, job_id)
        connections = running.said().count("are ended")
        spoil(running.file)
        await running.hang_up("what was in force stays in force")
        assert said in running.said()
        assert (await jobs.status(job_id)).state == pb.JOBSTATE_RUNNING
        assert running.said().count("are ended") == connections
        assert not await may_come_in(running.server, "superuser")
        await running.reload(clients(client1="user", superuser="admin"))
        assert await may_come_in(running.server, "superuser")
        await jobs.stop(job_id, force=True)


async def test_other_authorities(tmp_path: Path, certificates: Path) -> None:
    """Who is not signed by the authorities of now loses its connections; where both are trusted, nobody does."""
    async with configured(tmp_path, certificates, clients(client1="user", client2="user")) as running:
        file = certificate_path(running.certificates, CLIENT_AUTHORITY)
        old = file.read_bytes()
        authority.initialise(tmp_path / "renewed", hosts=[])
        new = certificate_path(tmp_path / "renewed", CLIENT_AUTHORITY).read_bytes()
        async with running.server.connect("client1") as jobs:
            job_id = await jobs.start("sh", "-c", "echo up; sleep 1000")
            await first_chunk(jobs, job_id)
            file.write_bytes(old + new)
            await running.hang_up("read again: certificates")
            for name in ("client2_cert.pem", "client2_key.pem"):
                shutil.copy(tmp_path / "renewed" / name, running.certificates)
            async with running.server.connect("client2") as renewed:
                assert "of client1 are ended" not in running.said()
                file.write_bytes(new)
                await running.hang_up("read again: certificates")
                await running.until_said("of client1 are ended: the client's certificate is not signed by an authority")
                assert await may_come_in(running.server, "client2")
                await renewed.start("true")
                assert "of client2 are ended" not in running.said()
                file.write_bytes(old)
                await running.hang_up("read again: certificates")
            assert (await jobs.status(job_id)).state == pb.JOBSTATE_RUNNING  # by itself again
            file.write_text("nothing")
            await running.hang_up("client_ca_cert.pem holds no sound certificate")
            await jobs.stop(job_id, force=True)


async def test_bounds_are_taken_up(tmp_path: Path, certificates: Path) -> None:
    """What is kept of ended jobs and of outputs changes in place; what cannot is named, with what it needs."""
    async with configured(tmp_path, certificates, clients(client1="user")) as running:
        async with running.server.connect("client1") as jobs:
            ids = [await jobs.start("true") for _ in range(3)]
            for job_id in ids:
                await jobs.wait(job_id)
            text = (
                f'[records]\nkeep_jobs = 4\n[output]\nmax = "256K"\n[restarts]\nmax_gap = 5\n{clients(client1="user")}'
            )
            await running.reload(text)
            assert "restarts.max_gap is 300, and not 5, which needs another server (SIGUSR2)" in running.said()
            assert "records.keep_jobs is 4, and not 10000" in running.said()
            assert (await jobs.server_info()).output_max == 256 * 1024
            big = await jobs.start("sh", "-c", "head -c 1000000 /dev/zero")
            assert (await jobs.wait(big)).output_bytes_dropped
            with trio.fail_after(DEADLINE):
                while len([each async for each in jobs.list()]) != 1:  # a quarter of four
                    await trio.sleep(0.05)
        in_force = tomllib.loads((running.server.output / KEPT_NAME).read_text())
        assert (in_force["records"]["keep_jobs"], in_force["restarts"]["max_gap"]) == (4, 300)


async def test_under_load(tmp_path: Path, certificates: Path) -> None:
    """Of fifty clients with streams one is taken out, and loses its own within seconds; none of the others loses a byte."""
    names = [f"c{number}" for number in range(50)]
    issued = tmp_path / "issued"
    shutil.copytree(certificates, issued, ignore=shutil.ignore_patterns("hostile"))
    for name in names:
        authority.issue(issued, name)
    read: dict[str, bytes] = {}
    begun: set[str] = set()
    refused = trio.Event()

    async def follow(running: Configured, name: str) -> None:
        async with running.server.connect(name) as jobs:
            job_id = await jobs.start("sh", "-c", "echo up; sleep 1000" if name == "c0" else COUNT)
            await first_chunk(jobs, job_id)
            begun.add(name)
            if name != "c0":
                read[name] = await output_of(jobs, job_id)
                return
            with pytest.raises(UnauthenticatedError):
                await output_of(jobs, job_id)
            refused.set()

    async with configured(tmp_path, issued, clients(**dict.fromkeys(names, "user")), "--max-jobs", "400") as running:
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(follow, running, name)
            while len(begun) < len(names):
                await trio.sleep(0.01)
            await running.reload(clients(**dict.fromkeys(names[1:], "user")))
            with trio.fail_after(5):
                await refused.wait()
        assert read == dict.fromkeys(names[1:], COUNTED)


async def test_at_any_moment(tmp_path: Path, certificates: Path) -> None:
    """SIGHUP ends no server: not before it is ready, not while it reads, hands over, dies or ends its jobs."""
    async with configured(tmp_path, certificates, clients(client1="user")) as running:

        async def hang_up() -> None:
            while running.launcher.poll() is None:
                running.launcher.send_signal(signal.SIGHUP)
                await trio.sleep(0.003)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hang_up)
            async with running.server.connect("client1") as jobs:
                job_id = await jobs.start("sleep", "1000")
                for number in (signal.SIGUSR2, signal.SIGKILL):
                    await running.replace(number)
                assert (await jobs.status(job_id)).state == pb.JOBSTATE_RUNNING
            running.launcher.send_signal(signal.SIGTERM)
            with trio.fail_after(DEADLINE):
                while running.launcher.poll() is None:
                    await trio.sleep(0.01)
        assert running.launcher.returncode == 0
        assert "Traceback" not in running.said()


@pytest.mark.parametrize(
    ("number", "spoil"),
    [
        (signal.SIGUSR2, lambda file: file.write_text("[clients.client1\n")),
        (signal.SIGKILL, lambda file: file.unlink()),
        (
            signal.SIGUSR2,
            lambda file: file.write_text('[jobs]\nrun_as = "ghost"\n[clients.superuser]\nrole = "admin"\n'),
        ),
    ],
    ids=["no TOML", "none", "unusable"],
)
async def test_the_next_server_with_a_broken_file(
    tmp_path: Path, certificates: Path, number: signal.Signals, spoil: Callable[[Path], object]
) -> None:
    """It goes on with the jobs and with what was in force, of the file that was taken up last; and says so."""
    async with (
        configured(tmp_path, certificates, clients(client1="user", superuser="admin")) as running,
        running.server.connect("client1") as jobs,
    ):
        job_id = await jobs.start("sh", "-c", "echo up; sleep 1000")
        await first_chunk(jobs, job_id)
        await running.reload(f"[restarts]\nmax_gap = 5\n[jobs]\nmax = 30\n{clients(client1='user')}")
        spoil(running.file)
        await running.replace(number)
        await running.until_said("this server goes on with what was in force before")
        assert (await jobs.status(job_id)).state == pb.JOBSTATE_RUNNING
        assert not await may_come_in(running.server, "superuser")
        kept = tomllib.loads((running.server.output / KEPT_NAME).read_text())
        assert (kept["jobs"]["max"], kept["restarts"]["max_gap"]) == (1000, 300)  # what that server had declined
        await running.reload(f"[jobs]\nmax = 30\n{clients(client1='user')}")
        await running.replace(number)
        kept = tomllib.loads((running.server.output / KEPT_NAME).read_text())
        assert kept["jobs"]["max"] == 30
        await jobs.stop(job_id, force=True)


async def test_the_next_server_with_other_places(tmp_path: Path, certificates: Path) -> None:
    """Of a file that wants the journal elsewhere, and an address that is taken, it takes all else, and the jobs go on."""
    running = Configured(tmp_path)
    shutil.copytree(certificates, running.certificates, ignore=shutil.ignore_patterns("hostile"))
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    taken = listeners[0].socket.getsockname()[1]
    with own_cgroup_root() as root, running.log.open("wb") as log:

        def text(name: str, port: int, most: int) -> str:
            certificates = f'certificates = "{running.certificates}"'
            folders = f'[folders]\noutput = "{tmp_path}/{name}"\n{certificates}\ncgroup_root = "{root}{name}"\n'
            return f'listen = "localhost:{port}"\n{folders}[jobs]\nmax = {most}\n'

        running.write(text("output", 0, 50).replace(f"{root}output", str(root)))
        config = ("--config", str(running.file))
        async with (
            listeners[0],
            started(tmp_path, running.certificates, root, *config, stderr=log.fileno(), alone=True) as (
                running.server,
                running.launcher,
            ),
            running.server.connect("client1") as jobs,
        ):
            job_id = await jobs.start("sh", "-c", "echo up; sleep 1000")
            await first_chunk(jobs, job_id)
            await running.reload(text("elsewhere", taken, 30))
            for said in ("folders.output", "folders.cgroup_root"):
                assert f"{said} is " in running.said()
            assert running.said().count("needs a restart") == 2
            await running.replace(signal.SIGUSR2)
            assert (await jobs.status(job_id)).state == pb.JOBSTATE_RUNNING
            kept = tomllib.loads((running.server.output / KEPT_NAME).read_text())
            assert (kept["jobs"]["max"], kept["listen"]) == (30, "localhost:0")
            assert not (tmp_path / "elsewhere").exists()
            await jobs.stop(job_id, force=True)


async def test_the_next_server_with_certificates_that_are_not_there(tmp_path: Path, certificates: Path) -> None:
    """At SIGHUP the log says that there are none; a server that follows a dead one goes on with those that were in force."""
    running = Configured(tmp_path)
    shutil.copytree(certificates, running.certificates, ignore=shutil.ignore_patterns("hostile"))
    with own_cgroup_root() as root, running.log.open("wb") as log:

        def text(folder: Path) -> str:
            folders = f'[folders]\noutput = "{tmp_path}/output"\ncertificates = "{folder}"\ncgroup_root = "{root}"\n'
            return f'listen = "localhost:0"\n{folders}'

        running.write(text(running.certificates))
        config = ("--config", str(running.file))
        async with (
            started(tmp_path, running.certificates, root, *config, stderr=log.fileno(), alone=True) as (
                running.server,
                running.launcher,
            ),
            running.server.connect("client1") as jobs,
        ):
            job_id = await jobs.start("sleep", "1000")
            await running.reload(text(tmp_path / "crets"), "what was in force stays in force")
            assert f"folders.certificates: {tmp_path}/crets/client_ca_cert.pem is missing" in running.said()
            await running.replace(signal.SIGKILL)
            assert "this server goes on with what was in force before" in running.said()
            assert (await jobs.status(job_id)).state == pb.JOBSTATE_RUNNING
            await jobs.stop(job_id, force=True)


# --- the first start, and --check-config --------------------------------------------------------------------------------


async def serve(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """A server that is expected to end at once, through its launcher."""
    command = [sys.executable, "-m", "jobmaster.serve", *arguments]
    return await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False, cwd=REPOSITORY)


def file_with(folder: Path, text: str) -> str:
    """The path of a file that nobody else may write."""
    folder.chmod(0o755)
    path = folder / "config.toml"
    path.write_text(text)
    path.chmod(0o644)
    return str(path)


@pytest.mark.parametrize("text", ["[clients", "", "unknown = 1\n"])
async def test_a_first_start_with_a_broken_file(tmp_path: Path, certificates: Path, text: str) -> None:
    """It is refused, with one line and status 2, and nothing is made."""
    with own_cgroup_root() as root:
        arguments = command_line_for(tmp_path, certificates, root, "--config", file_with(tmp_path, text))
        told = await serve(*arguments)
        assert told.returncode == 2
        assert told.stderr.startswith(b"jobmaster: configuration ")
        assert told.stderr.count(b"\n") == 1
        assert not (tmp_path / "output").exists()
        assert not root.exists()


async def test_check_config(tmp_path: Path) -> None:
    """What would be in force is a file that loads, and says the same of itself."""
    text = f'[limits]\nmemory_max = "50M"\n[folders]\noutput = "{tmp_path}/output"\n{clients(alice="admin")}'
    first = await serve("--check-config", "--config", file_with(tmp_path, text), "--max-jobs", "7")
    assert (first.returncode, first.stderr) == (0, b"")
    document = tomllib.loads(first.stdout.decode())
    assert document["limits"]["memory_max"] == "50M"
    assert document["jobs"]["max"] == 7
    assert document["clients"] == {"alice": {"role": "admin"}}
    again = await serve("--check-config", "--config", file_with(tmp_path, first.stdout.decode()))
    assert (again.returncode, again.stdout, again.stderr) == (0, first.stdout, b"")
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[jobs]\nrun_as = "ghost"\n', b"jobmaster: jobs.run_as: --run-as ghost: no such user on this host"),
        ('listen = "192.0.2.1:6443"\n', b"jobmaster: listen: cannot listen on 192.0.2.1:6443: Cannot assign"),
        ('[limits]\nio_device = "4000:1"\n', b"jobmaster: limits.io_device: no block device 4000:1"),
        ('[folders]\naudit = "/dev/null"\n', b"jobmaster: folders.audit: audit folder /dev/null is not a folder"),
        ('[folders]\ncertificates = "/nonexistent"\n', b"jobmaster: folders.certificates: /nonexistent/"),
    ],
)
async def test_check_config_of_what_is_not_there(tmp_path: Path, text: str, said: bytes) -> None:
    """It is named, with the remedy; the rest is said all the same, and the status is 2."""
    told = await serve(
        "--check-config", "--config", file_with(tmp_path, text), "--output-dir", str(tmp_path / "output")
    )
    assert told.returncode == 2
    assert said in told.stderr
    assert tomllib.loads(told.stdout.decode())


async def test_check_config_on_a_full_disk(tmp_path: Path) -> None:
    """Nobody takes a configuration for good that could not be told."""
    command = [sys.executable, "-m", "jobmaster.serve", "--check-config", "--output-dir", str(tmp_path / "output")]
    with Path("/dev/full").open("wb") as full:
        told = await trio.run_process(command, stdout=full, capture_stderr=True, check=False, cwd=REPOSITORY)
    assert told.returncode == 1
    assert told.stderr == b"jobmaster: stdout does not take the configuration: No space left on device\n"
