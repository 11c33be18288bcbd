"""What a job inherits (nothing it should not) and what it may do (nothing to its cgroup)."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from jobmaster.errors import TransportError
from jobmaster.host.uid_range import DEFAULT_UID_RANGE
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.harness import Server, run, serving, serving_program

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to see privileges dropped")


async def shell(server: Server, script: str) -> str:
    """What a shell script prints as a job."""
    async with server.connect() as jobs:
        _record, output = await run(jobs, "sh", "-c", script)
    return output.decode()


async def test_few_open_files(tmp_path: Path, certificates: Path) -> None:
    """Where the open files leave few connections, one client has a quarter of them; the others' are served."""
    limit = "--nofile=600:600"
    async with (
        serving_program(tmp_path, certificates, under=("prlimit", limit)) as (server, _),
        server.connect("client2", patience=0) as other,
        AsyncExitStack() as own,
    ):
        refused = None
        for number in range(100):
            try:
                jobs = await own.enter_async_context(server.connect("client1", patience=0))
                assert [job async for job in jobs.list(pb.ListRequest())] == []
            except TransportError as error:
                refused = number, str(error)
                break
        assert refused is not None
        assert refused[0] > 10
        assert f"client1 has {refused[0]} connections, as many as it may" in refused[1]
        assert [job async for job in other.list(pb.ListRequest())] == []


async def test_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job's environment is an allow-list; nothing of the server's is in it."""
    monkeypatch.setenv("SERVER_SECRET", "hunter2")
    names = {line.partition("=")[0] for line in (await shell(server, "env")).splitlines()}
    assert names == {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "PWD", "JOBMASTER_JOB_ID", "JOBMASTER_CLIENT"}


async def test_descriptors(server: Server) -> None:
    """A job has descriptors 0 to 2 only: /dev/null to read, one pipe to write."""
    links = dict(
        line.split(" ", 1)
        for line in (
            await shell(server, 'for f in 0 1 2; do echo "$f $(readlink /proc/$$/fd/$f)"; done; ls /proc/$$/fd')
        ).splitlines()
        if " " in line
    )
    assert links["0"] == "/dev/null"
    assert links["1"] == links["2"]
    assert links["1"].startswith("pipe:")
    numbers = (await shell(server, "exec ls /proc/self/fd")).split()
    assert numbers == ["0", "1", "2", "3"]  # 3 is the folder that ls reads


async def test_privileges(server: Server) -> None:
    """A job runs as its client's user, without groups of root, without a capability, and can gain none."""
    status = dict(
        line.split(":\t", 1) for line in (await shell(server, "cat /proc/self/status")).splitlines() if ":\t" in line
    )
    (number,) = {*status["Uid"].split(), *status["Gid"].split(), *status["Groups"].split()}
    assert int(number) in DEFAULT_UID_RANGE
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["SigBlk"], status["SigIgn"]) == ("1", "0" * 16, "0" * 16)


async def test_surroundings(server: Server) -> None:
    """A job has its own session, the folder /, umask 022, OOM score 0, the usual file limit, and no terminal."""
    script = "cut -d' ' -f5,6,7 /proc/$$/stat; echo $$; pwd; umask; cat /proc/$$/oom_score_adj; ulimit -Sn"
    ids, pid, folder, umask, score, files = (await shell(server, script)).splitlines()
    assert ids == f"{pid} {pid} 0"  # process group, session, terminal
    assert (folder, umask, score) == ("/", "0022", "0")
    assert int(files) <= 1_048_576


async def test_cgroup_of_the_first_instruction(server: Server) -> None:
    """The first thing a job does happens inside its own cgroup."""
    text = await shell(server, 'cat /proc/self/cgroup; echo "$JOBMASTER_JOB_ID $JOBMASTER_CLIENT"')
    job_id, client = text.splitlines()[-1].split()
    assert f"/jobs/{client}/{job_id}\n" in text


@pytest.mark.parametrize("run_as", ["nobody", "daemon"])
async def test_cannot_leave_its_cgroup(tmp_path: Path, certificates: Path, run_as: str) -> None:
    """A job cannot move itself out by writing any cgroup.procs, nor raise its limits, nor make cgroups."""
    async with serving(tmp_path, certificates, "--run-as", run_as) as server:
        mount = server.cgroup_root.parent
        script = (
            f"for f in {mount}/cgroup.procs {server.cgroup_root}/cgroup.procs {mount}/*/cgroup.procs; do "
            "echo $$ >$f && echo escaped; done 2>/dev/null; "
            f"mkdir {server.cgroup_root}/jobs/client1/$JOBMASTER_JOB_ID/sub 2>/dev/null && echo made; "
            "tail -1 /proc/self/cgroup"
        )
        text = await shell(server, script)
    assert "escaped" not in text
    assert "made" not in text
    assert "/jobs/client1/" in text


async def test_output_file_is_private(server: Server) -> None:
    """Output is kept in a folder of 0700, in files of 0600."""
    await shell(server, "echo secret")
    (log,) = server.logs
    assert (log.stat().st_mode & 0o777, server.output.stat().st_mode & 0o777) == (0o600, 0o700)


async def test_root_only_by_name(tmp_path: Path, certificates: Path) -> None:
    """Jobs run as root where that was asked for by name."""
    async with serving(tmp_path, certificates, "--run-as", "root") as server:
        assert (await shell(server, "id -u")).strip() == "0"
