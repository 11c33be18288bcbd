"""What a job inherits (nothing it should not) and what it may do (nothing to its cgroup)."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from purerpc.grpclib.exceptions import FailedPreconditionError

from jobmaster.errors import TransportError
from jobmaster.host.account import SEARCH_PATH, own_account
from jobmaster.host.uid_range import DEFAULT_UID_RANGE
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.harness import Server, output_of, run, serving, serving_program

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
    ours = {"JOBMASTER_JOB_ID", "JOBMASTER_CLIENT"}
    assert names == {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TMPDIR", "PWD"} | ours


async def test_variables_that_it_is_given(server: Server) -> None:
    """They are beside the server's or in their place, byte for byte, and nothing of the server's is lost by them."""
    given = {"HOME": "/srv", "TERM": "dumb", "EMPTY": "", "A.b-c": "é 'quoted'\nline", "LD_PRELOAD": ""}
    async with server.connect() as jobs:
        job_id = await jobs.start("env", "-0", environment=given)
        output = await output_of(jobs, job_id)
    found = dict(line.split("=", 1) for line in output.decode().split("\0")[:-1])
    user = "jobmaster-client1" if os.geteuid() == 0 else own_account().name
    assert found == {
        "PATH": SEARCH_PATH,
        "USER": user,
        "LOGNAME": user,
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",
        "JOBMASTER_JOB_ID": job_id,
        "JOBMASTER_CLIENT": "client1",
        **given,
    }


async def test_a_working_folder(server: Server) -> None:
    """A job begins there, and its command is looked up from there, along its own PATH."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "é").mkdir()
        (folder / "é" / "here").write_text("#!/bin/sh\npwd -P\n")
        (folder / "é" / "here").chmod(0o755)
        (folder / "link").symlink_to("é")
        async with server.connect() as jobs:
            for command, variables, at in (("./here", {}, "é"), ("here", {"PATH": "."}, "link"), ("é/here", {}, ".")):
                job_id = await jobs.start(command, working_folder=f"{name}/{at}", environment=variables)
                cwd = folder.resolve() if at == "." else folder.resolve() / "é"
                assert (await output_of(jobs, job_id)).decode() == f"{cwd}\n"
                assert (await jobs.status(job_id)).cmd.working_folder == f"{name}/{at}"


async def test_a_working_folder_is_entered_as_the_jobs_user(server: Server) -> None:
    """One that root alone may enter, or see, or that is none, starts nothing; the error names it, and comes again."""
    with tempfile.TemporaryDirectory() as name:  # of mode 0700
        Path(name, "inside").mkdir()
        Path(name, "inside").chmod(0o777)
        for folder, why in (
            (name, "Permission denied"),
            (f"{name}/inside", "Permission denied"),
            (f"/proc/{os.getpid()}/cwd", "Permission denied"),
            ("/no/such", "No such file or directory"),
            ("/etc/passwd", "Not a directory"),
        ):
            async with server.connect() as jobs:
                for _ in range(2):
                    with pytest.raises(FailedPreconditionError) as refused:
                        await jobs.start("true", working_folder=folder, request_id=folder.replace("/", "-"))
                    told = (
                        rf"the working folder '{re.escape(folder)}' cannot be entered by the jobs' user '[\w-]+': {why}"
                    )
                    assert re.search(told, str(refused.value))
                assert [record async for record in jobs.list()] == []
    assert server.logs == []


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
    """A job has its own session, the folder /, umask 077, OOM score 200, the usual file limit, and no terminal."""
    script = "cut -d' ' -f5,6,7 /proc/$$/stat; echo $$; pwd; umask; cat /proc/$$/oom_score_adj; ulimit -Sn"
    ids, pid, folder, umask, score, files = (await shell(server, script)).splitlines()
    assert ids == f"{pid} {pid} 0"  # process group, session, terminal
    assert (folder, umask, score) == ("/", "0077", "200")
    assert int(files) <= 1_048_576


def can_set_resources() -> bool:
    """Whether this process has CAP_SYS_RESOURCE (capability 24), with which a score is for good."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:")]
    return bool(int(line.split()[1], 16) >> 24 & 1)


@pytest.mark.skipif(not can_set_resources(), reason="needs CAP_SYS_RESOURCE, without which no score is below 0 either")
async def test_its_oom_score(server: Server) -> None:
    """A job can raise its score and set it back, and has no way to the server's or to less than it was given."""
    script = (
        "cd /proc/self; for score in 300 200 199 0 -1000; do "
        "echo $score 2>/dev/null >oom_score_adj && echo $score; done; cat oom_score_adj"
    )
    assert (await shell(server, script)).split() == ["300", "200", "200"]


async def test_what_a_job_makes_is_for_its_user(server: Server) -> None:
    """Its files and folders have no rights for others, unless it gives them some."""
    script = 'd=$(mktemp -d) && cd "$d" && mkdir d && touch f && (umask 022; touch g) && stat -c %a . d f g; rm -r "$d"'
    assert (await shell(server, script)).split() == ["700", "700", "600", "644"]


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
