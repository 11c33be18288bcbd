"""Jobs with FUSE file systems of their own, which hold their processes in the kernel beyond SIGKILL."""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import trio

from jobmaster.client import Jobs
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.harness import Server, output_of, serving_program, until_output
from tests.integration.test_pipe_locks import ended, until_waits
from tests.integration.test_upgrade import is_replaced

DEADLINE: Final = 60.0
PYTHON: Final = "/usr/bin/python3"
PROGRAM: Final = Path(__file__).with_name("fuse_job.py").read_text()
FUSE: Final = os.makedev(10, 229)
"""/dev/fuse (Documentation/admin-guide/devices.txt)."""
ANSWER: Final = ("request_wait_answer", "fuse_simple_request")
"""Where in the kernel a process waits for a daemon."""


PENDING: Final = re.compile(r"^ShdPnd:\t(\w+)$", re.MULTILINE)


@pytest.fixture
def device() -> Iterator[str]:
    """A /dev/fuse that the jobs' user may open and mount; a test is skipped where there is none."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    folder = Path(tempfile.mkdtemp())  # pytest's own is root's alone
    alone = Path(__file__).open("rb")  # noqa: SIM115  # closed below
    fcntl.flock(alone, fcntl.LOCK_EX)  # two servers with one user for their jobs cannot tell apart what is hidden
    try:
        folder.chmod(0o755)
        path = folder / "fuse"
        try:
            os.mknod(path, 0o666 | stat.S_IFCHR, FUSE)
        except OSError as error:
            pytest.skip(f"needs a device of FUSE: mknod(2): {error.strerror}")
        path.chmod(0o666)
        nobody = pwd.getpwnam("nobody")
        probe = subprocess.run(
            [PYTHON, "-c", PROGRAM, path, "probe"],
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
        )
        if probe.returncode != 0:
            pytest.skip(f"needs FUSE file systems in user namespaces: {probe.stderr.strip()[-200:]}")
        yield str(path)
    finally:
        alone.close()
        shutil.rmtree(folder)


async def start(jobs: Jobs, device: str, *words: str) -> str:
    """Starts such a job."""
    return await jobs.start(PYTHON, "-c", PROGRAM, device, *words)


async def begin(pid: int) -> None:
    """Has it ask its daemon for the page; where the kernel tells nobody what a thread waits for, it may not have come so far."""
    wchan = Path(f"/proc/{pid}/wchan")
    tells = "sigtimedwait" in wchan.read_text()  # it waits for the signal
    os.kill(pid, signal.SIGUSR1)
    while int(PENDING.findall(Path(f"/proc/{pid}/status").read_text())[0], 16):
        await trio.sleep(0.01)
    if tells:
        await until_waits(pid, *ANSWER)


async def start_hostile(jobs: Jobs, server: int, device: str, *words: str) -> str:
    """Starts one for whose pipe a thread of the server waits."""
    job_id = await start(jobs, device, *words)
    await until_output(jobs, job_id, b"up\n")
    pid = (await jobs.status(job_id)).pid
    os.kill(server, signal.SIGSTOP)  # so that it comes for the line when the job has the lock
    await begin(pid)
    os.kill(server, signal.SIGCONT)
    await until_waits(server, "pipe", "splice")
    return job_id


async def until_replaced(server: Server, old: int) -> None:
    """Waits for the next server."""
    while not is_replaced(server, old):
        await trio.sleep(0.01)


async def ends_well(jobs: Jobs, job_id: str) -> bool:
    """Whether a job that reads from its own file system still does, and has read all the time."""
    os.kill((await jobs.status(job_id)).pid, signal.SIGUSR1)
    lines = (await output_of(jobs, job_id)).decode().split()
    assert lines == [*map(str, range(1, len(lines))), "last"]
    return (await jobs.wait(job_id)).exit_code == 7


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR2])
@pytest.mark.parametrize("words", ["one", "two", "one hidden"])
async def test_another_server_follows(
    tmp_path: Path, certificates: Path, device: str, words: str, number: signal.Signals
) -> None:
    """The job is ended and gone, and recorded as ended by the server; another one keeps its own file system and goes on."""
    with (tmp_path / "stderr").open("wb") as stderr, trio.fail_after(DEADLINE):
        async with (
            serving_program(tmp_path, certificates, stderr=stderr.fileno()) as (server, _),
            server.connect("client1") as jobs,
            server.connect("client2") as others,
        ):
            other = await start(others, device, "reads")
            await until_output(others, other, b"1\n")
            old = server.pid
            holder = await start_hostile(jobs, old, device, *words.split())
            os.kill(old if number == signal.SIGKILL else server.launcher, number)
            await until_replaced(server, old)
            record = await jobs.wait(holder)
            assert not server.cgroup_of(holder).exists()
            assert await ends_well(others, other)
    assert (record.state, record.cause.stopped.by) == (pb.JOBSTATE_TERMINATED_BY_API, "")
    assert record.cause.stopped.reason.startswith("it held the lock of a pipe")
    said = (tmp_path / "stderr").read_text()
    assert f"they are ended: {holder}\n" in said


@pytest.mark.parametrize("words", [[], ["hidden"]], ids=["seen", "hidden"])
async def test_an_accomplice(tmp_path: Path, certificates: Path, device: str, words: list[str]) -> None:
    """A job holds the lock by a file system of another client's job, which shows it as its own: it is aborted at last.

    That takes one user for both: with one for each client the kernel has the borrower ask for no page.
    """
    with trio.fail_after(DEADLINE):
        async with (
            serving_program(tmp_path, certificates, "--run-as", "nobody") as (server, _),
            server.connect("client1") as jobs,
            server.connect("client2") as others,
        ):
            name = str(tmp_path)
            lender = await start(others, device, "lends", name)
            await until_output(others, lender, b"up\n")
            old = server.pid
            holder = await start_hostile(jobs, old, device, "borrows", name, *words)
            os.kill(old, signal.SIGKILL)
            await until_replaced(server, old)
            record = await jobs.wait(holder)
            assert (await others.status(lender)).state == pb.JOBSTATE_RUNNING
    assert record.cause.stopped.reason.startswith("it held the lock of a pipe")


async def test_a_stop_while_the_server_lives(tmp_path: Path, certificates: Path, device: str) -> None:
    """Its processes die, its cgroup is removed, and its record says who stopped it."""
    with trio.fail_after(DEADLINE):
        async with serving_program(tmp_path, certificates) as (server, _), server.connect("client1") as jobs:
            holder = await start(jobs, device, "one")
            await until_output(jobs, holder, b"up\n")
            await begin((await jobs.status(holder)).pid)
            with trio.fail_after(15):  # a server that waits for the processes to die by themselves gives up after 20 s
                await jobs.stop(holder, force=True)
                record = await jobs.wait(holder)
            assert record.cause.stopped.by == "client1"
            assert record.signal_str in ("terminated", "killed")  # which of both the kernel took first
            assert not server.cgroup_of(holder).exists()
            assert await output_of(jobs, holder) == b"up\nline\n"


async def test_a_stop_of_one_that_syncs(tmp_path: Path, certificates: Path, device: str) -> None:
    """It waits for the writing of a page, by a daemon of its own, and dies all the same."""
    with trio.fail_after(DEADLINE):
        async with serving_program(tmp_path, certificates) as (server, _), server.connect("client1") as jobs:
            holder = await start(jobs, device, "syncs")
            await until_output(jobs, holder, b"up\n")
            pid = (await jobs.status(holder)).pid
            while not Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].startswith(" D"):
                await trio.sleep(0.01)
            await jobs.stop(holder, force=True)
            record = await jobs.wait(holder)
            assert record.cause.stopped.by == "client1"
            assert not server.cgroup_of(holder).exists()


async def test_a_stop_beside_a_crowd(tmp_path: Path, certificates: Path, device: str) -> None:
    """Jobs that have too many mounts to be looked at, its own client's and another's, keep nothing from being freed."""
    with trio.fail_after(DEADLINE):
        async with (
            serving_program(tmp_path, certificates) as (server, _),
            server.connect("client1") as jobs,
            server.connect("client2") as others,
        ):
            for each in (jobs, others):
                await until_output(each, await start(each, device, "crowds"), b"up\n")
            holder = await start(jobs, device, "one", "hidden")
            await until_output(jobs, holder, b"up\n")
            pid = (await jobs.status(holder)).pid
            await begin(pid)
            while "/file\n" in Path(f"/proc/{pid}/maps").read_text():
                await trio.sleep(0.01)
            await jobs.stop(holder, force=True)
            await jobs.wait(holder)
            assert not server.cgroup_of(holder).exists()


async def test_a_gap_that_is_too_long(tmp_path: Path, certificates: Path, device: str) -> None:
    """Nothing of the jobs is left when the launcher has ended them all, nor of the server that it could not reap."""
    with (tmp_path / "stderr").open("wb") as stderr, trio.fail_after(DEADLINE):
        async with (
            serving_program(tmp_path, certificates, "--max-gap", "1", is_killed=True, stderr=stderr.fileno()) as (
                server,
                process,
            ),
            server.connect("client1") as jobs,
        ):
            holder = await start_hostile(jobs, server.pid, device, "one", "hidden")
            os.kill(server.pid, signal.SIGKILL)
            assert await ended(process) == 1
            assert (server.cgroup_of(holder) / "cgroup.procs").read_text() == ""
    said = (tmp_path / "stderr").read_text()
    assert "(--max-gap); its jobs are ended" in said
    assert "processes are left" not in said
