"""Jobs of two clients on one host: what the kernel lets one do to the other, by ordinary clients over TLS."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import trio
from purerpc import FailedPreconditionError

from jobmaster.client import Jobs
from jobmaster.host.uid_range import DEFAULT_UID_RANGE
from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.run.uid_book import FILE_NAME
from tests.harness import Server, is_alive, output_of, run, serving, serving_program
from tests.run.launching import DEADLINE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which alone can give clients users of their own")

REACH: Final = Path(__file__).with_name("reach.py")
"""What a job tries with another one's process, terminal and cgroup, as a program for the hosts' own Python."""
TERMINAL: Final = pb.Terminal(window=pb.WindowSize(rows=24, columns=80))
ALL: Final = {
    *("signal", "ptrace", "pidfd_getfd", "process_vm_readv", "prlimit", "setpriority", "sched_setaffinity"),
    *("environ", "mem", "maps", "cwd", "exe", "fd", "open fd 0", "open fd 1", "namespaces"),
}
OF_CGROUP: Final = {"cgroup.procs", "cgroup.kill", "cgroup.freeze", "make a cgroup", "remove the cgroup"}
REFUSED: Final = {"EPERM", "EACCES"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """A job that runs, with what others may try to reach of it."""

    id: str
    pid: int
    user: str
    terminal: str


@asynccontextmanager
async def victim(jobs: Jobs, terminal: pb.Terminal | None) -> AsyncIterator[Victim]:
    """A job for the block, which nothing has ended or stopped by then."""
    job_id = await jobs.start("sleep", "1000", terminal=terminal)
    record = await jobs.status(job_id)
    link = os.readlink(f"/proc/{record.pid}/fd/0")
    yield Victim(id=job_id, pid=record.pid, user=record.user, terminal=link if terminal is not None else "")
    assert is_alive(record.pid)
    assert Path(f"/proc/{record.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"
    assert (await jobs.status(job_id)).state == pb.JOBSTATE_RUNNING


async def reach(server: Server, jobs: Jobs, of: Victim) -> dict[str, str]:
    """What each try of a job comes to: "done", or the kernel's error."""
    cgroup = server.cgroup_of(of.id)
    record, output = await run(
        jobs, "/usr/bin/python3", "-I", "-c", REACH.read_text(), str(of.pid), str(cgroup), of.terminal
    )
    assert record.exit_code == 0, output
    tried: dict[str, str] = json.loads(output)
    assert tried.keys() >= ALL | OF_CGROUP
    return tried


@pytest.mark.parametrize("terminal", [None, TERMINAL], ids=["pipes", "terminal"])
async def test_a_job_of_another_client(server: Server, terminal: pb.Terminal | None) -> None:
    """It can't be signalled, traced, read, renamed in rank, or reached by its files, its terminal or its cgroup."""
    async with (
        server.connect("client1") as own,
        server.connect("client2") as others,
        victim(own, terminal) as of,
    ):
        tried = await reach(server, others, of)
    assert ("open terminal" in tried) == (terminal is not None)
    assert {name: said for name, said in tried.items() if said not in REFUSED} == {}


@pytest.mark.parametrize("terminal", [None, TERMINAL], ids=["pipes", "terminal"])
async def test_a_job_of_the_same_client(server: Server, terminal: pb.Terminal | None) -> None:
    """Jobs of one client are one user's processes, which can do all that to each other, but for cgroups: so nothing was tried in vain."""
    async with server.connect() as own, victim(own, terminal) as of:
        tried = await reach(server, own, of)
    refused = {name for name, said in tried.items() if said != "done"}
    assert (
        refused - {"ptrace", "process_vm_readv", "pidfd_getfd", "mem"} == OF_CGROUP
    )  # Yama may restrict those (ptrace_scope)


async def test_jobs_of_a_common_user(tmp_path: Path, certificates: Path) -> None:
    """With --run-as, clients share a user, and their jobs can reach each other."""
    async with (
        serving(tmp_path, certificates, "--run-as", "nobody") as server,
        server.connect("client1") as own,
        server.connect("client2") as others,
        victim(own, None) as of,
    ):
        tried = await reach(server, others, of)
        assert of.user == "nobody"
    assert (tried["signal"], tried["environ"], tried["open fd 1"]) == ("done", "done", "done")
    assert not (server.output / FILE_NAME).exists()


async def test_what_a_job_knows_of_itself(server: Server) -> None:
    """The record tells the user that its processes have; its pipes are that user's, and it can open them by their names."""
    async with server.connect() as jobs:
        script = "id -u; id -g; id -G; echo $USER $LOGNAME $HOME; echo again >/dev/stdout; echo more >/proc/self/fd/2"
        record, output = await run(jobs, "sh", "-c", script)
    *numbers, names, again, more = output.decode().splitlines()
    assert numbers == [record.user] * 3
    assert int(record.user) in DEFAULT_UID_RANGE
    assert (names, again, more) == ("jobmaster-client1 jobmaster-client1 /nonexistent", "again", "more")


async def test_files_of_another_client(server: Server, shared: Path) -> None:
    """What a job leaves for its own client's eyes is read by that client's next job, and by no other client's."""
    secret = shared / "secret"
    async with server.connect("client1") as own, server.connect("client2") as others:
        await run(own, "sh", "-c", f"umask 077; echo hello > {secret}")
        assert (await run(own, "cat", str(secret)))[1] == b"hello\n"
        record, output = await run(others, "cat", str(secret))
    assert record.exit_code == 1
    assert b"Permission denied" in output


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that everybody can write, as /tmp is."""
    with tempfile.TemporaryDirectory(prefix="jobmaster-shared-") as name:
        Path(name).chmod(0o1777)
        yield Path(name)


async def test_a_client_keeps_its_user(tmp_path: Path, certificates: Path) -> None:
    """After a crash, an upgrade and a new start it has the same; a file tells which, for the operator alone."""
    users: list[dict[str, str]] = []
    for number in (signal.SIGKILL, signal.SIGUSR2):
        async with serving_program(tmp_path, certificates) as (server, process):
            users.append(await users_of(server))
            async with server.connect() as jobs:
                running = await jobs.start("sh", "-c", "read line; exit 3", stdin=True)
                old = server.pid
                os.kill(old if number == signal.SIGKILL else process.pid, number)
                with trio.fail_after(DEADLINE):
                    while server.servers() in ([], [old]):
                        await trio.sleep(0.01)
                assert (await jobs.status(running)).user == users[0]["client1"]
                assert (await jobs.stop(running)).user == users[0]["client1"]
            users.append(await users_of(server))
    assert users == users[:1] * 4
    assert len(set(users[0].values())) == len(users[0])
    book = tmp_path / "output" / FILE_NAME
    assert json.loads(book.read_text())["clients"] == {name: [int(user)] for name, user in users[0].items()}
    assert book.stat().st_mode & 0o777 == 0o600


async def users_of(server: Server) -> dict[str, str]:
    """The user of each client's next job, as the job has it."""
    users = {}
    for name in ("client1", "client2", "superuser"):
        async with server.connect(name) as jobs:
            users[name] = (await output_of(jobs, await jobs.start("id", "-u"))).decode().strip()
    return users


async def test_a_range_of_ones_own(tmp_path: Path, certificates: Path) -> None:
    """Users come from the range that was named; one that nobody is left in refuses, with the remedy, and who has one goes on."""
    async with serving(tmp_path, certificates, "--uid-range", "1999999998-1999999998") as server:
        async with server.connect("client1") as jobs:
            assert (await run(jobs, "id", "-u"))[1] == b"1999999998\n"
        async with server.connect("client2") as jobs:
            with pytest.raises(FailedPreconditionError, match="larger --uid-range"):
                await jobs.start("true")
        async with server.connect("client1") as jobs:
            assert (await run(jobs, "true"))[0].user == "1999999998"
