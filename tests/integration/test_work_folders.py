"""The folder that each job has of its own: where it works, what is in it and when it goes."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.harness import Server, first_chunk, output_of, run, serving, serving_program
from tests.run.launching import DEADLINE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give the folders to jobs' users")


@pytest.fixture
def work() -> Iterator[Path]:
    """A place for them that jobs' users can get to."""
    with tempfile.TemporaryDirectory(prefix="jobmaster-work-") as name:
        Path(name).chmod(0o711)
        yield Path(name) / "work"


async def until_removed(work: Path) -> None:
    """Returns when no job has a folder."""
    with trio.fail_after(DEADLINE):
        while [path for path in work.iterdir() if path.name != ".jobmaster"]:
            await trio.sleep(0.01)


async def test_where_a_job_works(tmp_path: Path, certificates: Path, work: Path) -> None:
    """It is its working and temporary folder, and its home, its own, for it alone, and gone after its end with all in it."""
    async with serving(tmp_path, certificates, "--work-dir", str(work)) as server, server.connect() as jobs:
        script = (
            "echo $JOBMASTER_JOB_ID; pwd; echo $TMPDIR; echo $HOME; stat -c '%u %g %a' .; id -u; mktemp; mkdir -p a/b/c; "
            "touch a/b/c/d; ln -s /etc e; ls -a | wc -l"
        )
        record, output = await run(jobs, "sh", "-c", script)
        job_id, *folders, owner, user, made, _count = output.decode().splitlines()
        assert job_id == record.job_id_response.job_id
        assert folders == [str(work / job_id)] * 3
        assert owner == f"{user} {user} 700"
        assert Path(made).parent == work / job_id
        await until_removed(work)


async def test_what_a_start_says_itself(tmp_path: Path, certificates: Path, work: Path) -> None:
    """A working folder and variables of its caller's own win over those of the job's folder, which is there all the same."""
    async with serving(tmp_path, certificates, "--work-dir", str(work)) as server, server.connect() as jobs:
        script = 'pwd; echo $TMPDIR; echo $HOME; stat -c %a "$0/$JOBMASTER_JOB_ID"'
        own = {"TMPDIR": "/own", "HOME": "/home"}
        job_id = await jobs.start("sh", "-c", script, str(work), working_folder="/usr", environment=own)
        assert await output_of(jobs, job_id) == b"/usr\n/own\n/home\n700\n"
        await until_removed(work)


async def test_too_little_room(tmp_path: Path, certificates: Path, work: Path) -> None:
    """No job is started where less of the disk is free than has to be, which its caller is told; nothing is left of it."""
    given = ("--work-dir", str(work), "--work-free", "1000000T")
    async with serving(tmp_path, certificates, *given) as server, server.connect(patience=0) as jobs:
        with pytest.raises(Exception, match="the disk of the jobs' own folders has less than 1000000T free"):
            await jobs.start("true")
        assert [path.name for path in work.iterdir()] == [".jobmaster"]


async def test_a_folder_of_another_client(tmp_path: Path, certificates: Path, work: Path) -> None:
    """Another client's job can't look into it, and can't list what folders there are."""
    async with (
        serving(tmp_path, certificates, "--work-dir", str(work)) as server,
        server.connect("client1") as own,
        server.connect("client2") as others,
    ):
        job_id = await own.start("sh", "-c", "echo secret > file; echo there; exec sleep 1000")
        await first_chunk(own, job_id)
        for path in (work, work / job_id):
            record, output = await run(others, "ls", str(path))
            assert record.exit_code == 2
            assert b"Permission denied" in output
        assert (await run(own, "cat", str(work / job_id / "file")))[1] == b"secret\n"


async def test_a_start_that_fails(tmp_path: Path, certificates: Path, work: Path) -> None:
    """It leaves no folder."""
    async with serving(tmp_path, certificates, "--work-dir", str(work)) as server, server.connect() as jobs:
        with pytest.raises(Exception, match="not found"):
            await jobs.start("no-such-command")
        await until_removed(work)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR2])
async def test_over_a_server_that_is_replaced(
    tmp_path: Path, certificates: Path, work: Path, number: signal.Signals
) -> None:
    """A job that runs keeps its folder, whether the server was killed or upgraded; it goes when the job ends under the next one."""
    async with (
        serving_program(tmp_path, certificates, "--work-dir", str(work)) as (server, process),
        server.connect() as jobs,
    ):
        job_id = await jobs.start("sh", "-c", "echo kept > file; echo there; read line; cat file", stdin=True)
        await first_chunk(jobs, job_id)
        old = server.pid
        os.kill(process.pid if number == signal.SIGUSR2 else old, number)
        await wait_for_successor(server, old)
        assert (await run(jobs, "true"))[0].state == pb.JOBSTATE_COMPLETED
        assert (work / job_id / "file").read_text() == "kept\n"
        await jobs.stop(job_id)
        await until_removed(work)


async def test_what_a_dead_server_left(tmp_path: Path, certificates: Path, work: Path) -> None:
    """The folder of a job that died with launcher and server is removed by the next start; what else is there stays."""
    async with (
        serving_program(tmp_path, certificates, "--work-dir", str(work), is_killed=True) as (server, process),
        server.connect() as jobs,
    ):
        job_id = await jobs.start("sh", "-c", "touch file; echo there; exec sleep 1000")
        await first_chunk(jobs, job_id)
        pids = [server.pid, process.pid]
        for pid in reversed(pids):
            os.kill(pid, signal.SIGKILL)
    (work / "notes").touch()
    assert (work / job_id / "file").exists()
    async with serving_program(tmp_path, certificates, "--work-dir", str(work)):
        with trio.fail_after(DEADLINE):
            while (work / job_id).exists():
                await trio.sleep(0.01)
    assert (work / "notes").exists()


async def wait_for_successor(server: Server, old: int) -> None:
    """Returns when another server is there."""
    with trio.fail_after(DEADLINE):
        while server.servers() in ([], [old]):
            await trio.sleep(0.01)
