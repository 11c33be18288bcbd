"""`run` and its sisters as a user types them, against a real server, also one that dies or is replaced under them."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from jobmaster.jobs.v1 import jobs_pb2 as pb
from jobmaster.journal.database import Database
from jobmaster.journal.stored import JobQuery
from tests.harness import REPOSITORY, Server, serving_program, until_output
from tests.harness import output_of as all_output
from tests.integration.test_command_line import command, exit_status, jobmaster, output_of, start, started
from tests.processes import servers_of

LINES = 2_000


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (("true",), 0),
        (("sh", "-c", "exit 3"), 3),
        (("sh", "-c", "exit 255"), 255),
        (("sh", "-c", "kill -TERM $$"), 143),
        (("sh", "-c", "kill -KILL $$"), 137),
        (("sh", "-c", "kill -SEGV $$"), 139),
        (("sh", "-c", "sh -c 'kill -KILL $$'; exit $?"), 137),
        (("no-such-command",), 127),
        (("/no/such/file",), 127),
        (("/etc/passwd",), 126),
        (("/etc",), 126),
        (("sh", "-c", "no-such-command"), 127),
        (("sh", "-c", "/etc/passwd"), 126),
        (("--foo", "true"), 125),
        ((), 125),
        (("",), 125),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_exit_status(server: Server, argv: tuple[str, ...], status: int) -> None:
    """The exit status is what `docker run` and a shell give: the command's own, 128 and a signal, 125, 126 or 127."""
    result = await jobmaster(server, "run", *argv)
    assert result.returncode == status, result.stderr
    assert b"Traceback" not in result.stderr


async def test_no_server_and_no_certificate(certificates: Path) -> None:
    """What fails before a server is reached is 125, too."""
    for options in (["-n", "client1"], ["-n", "stranger"]):
        arguments = [*options, "--server", "127.0.0.1:1", "--certs-dir", str(certificates), "run", "true"]
        argv = [sys.executable, "-m", "jobmaster", *arguments]
        result = await trio.run_process(argv, capture_stderr=True, check=False, cwd=REPOSITORY)
        assert result.returncode == 125


async def test_output(server: Server) -> None:
    """What the job writes, to whichever descriptor, comes to stdout in its order, byte for byte, and nothing else."""
    script = r"printf 'a\0\377b'; echo err >&2; echo out; exit 4"
    result = await jobmaster(server, "run", "sh", "-c", script)
    assert (result.returncode, result.stdout, result.stderr) == (4, b"a\0\xffberr\nout\n", b"")


async def test_a_bounded_output(server: Server) -> None:
    """With --output-max so much of the output is kept; with --output-full end, a job that writes more is ended."""
    bounded = await jobmaster(server, "run", "-d", "--output-max", "256K", "--output-full", "end", "yes")
    waited = await jobmaster(server, "wait", "--json", bounded.stdout.decode().strip())
    assert waited.returncode == 143
    record = json.loads(waited.stdout)
    assert record["cause"]["outputCapped"]["outputMax"] == str(256 * 1024)
    assert record["outputBytes"] == str(256 * 1024)
    whole = await jobmaster(server, "run", "-d", "--output-max", "256K", "head", "-c", "1M", "/dev/zero")
    async with server.connect() as jobs:
        ended = await jobs.wait(whole.stdout.decode().strip())
    assert ended.output_bytes <= (256 + 64) * 1024
    assert ended.output_bytes + ended.output_bytes_dropped == 1024 * 1024
    small = await jobmaster(server, "start", "--output-max", "1K", "true")
    assert small.returncode == 1
    assert b"output_max is 262144 bytes at least" in small.stderr


async def test_the_terms_of_a_job(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is started on terms of its own has them: variables, folder, name, label, time, signal and grace period."""
    monkeypatch.setenv("HERE", "there")
    terms = ("--name", "night", "-l", "team=blue", "-e", "HERE", "-e", "X=1", "-w", "/usr", "--grace", "30s")
    limited = ("--timeout", "1s", "--stop-signal", "INT")
    script = "trap 'echo int; exit 3' INT; echo $HERE $X $PWD; while :; do sleep 0.01; done"
    result = await jobmaster(server, "run", *terms, *limited, "bash", "-c", script)
    assert (result.returncode, result.stdout) == (124, b"there 1 /usr\nint\n")
    assert b"timed out: it may run for 1 s (interrupt, exited with code 3)" in result.stderr
    found = await jobmaster(server, "list", "-q", "--name", "night", "-l", "team=blue", "--cause", "timed-out")
    job_id = found.stdout.decode().strip()
    assert len(job_id) == 27
    shown = (await jobmaster(server, "status", job_id)).stdout.decode()
    for line in ("folder     /usr", "variables  HERE X", "time       1 s at most", "stop       signal 2 and 30 s"):
        assert line in shown.splitlines()
    started = await jobmaster(server, "start", *terms, "--timeout", "1h", "true")
    assert (started.returncode, len(started.stdout)) == (0, 28)
    for verb, status in (("start", 1), ("run", 125)):
        missing = await jobmaster(server, verb, "-e", "NOT_SET_ANYWHERE", "true")
        assert missing.returncode == status
        assert b"-e NOT_SET_ANYWHERE: there is no such environment variable here" in missing.stderr
    nowhere = await jobmaster(server, "run", "-w", "/no/such", "true")
    assert nowhere.returncode == 126
    assert b"the working folder '/no/such' cannot be entered" in nowhere.stderr


async def test_detached_and_awaited(server: Server) -> None:
    """`run --detach` prints the id alone; `wait` shows how the job ended and exits as it did."""
    result = await jobmaster(server, "run", "-d", "sh", "-c", "exit 9")
    assert (result.returncode, len(result.stdout), result.stderr) == (0, 28, b"")
    waited = await jobmaster(server, "wait", "--json", result.stdout.decode().strip())
    assert waited.returncode == 9
    assert json.loads(waited.stdout)["exitCode"] == 9
    assert (await jobmaster(server, "wait", "0" * 27)).returncode == 125


async def test_the_same_request_is_the_same_job(server: Server) -> None:
    """Two `run`s with one request id are one job, whose output both show; with another command it is refused."""
    run = partial(jobmaster, server, "run", "--request-id", "nightly")
    first, second = await run("sh", "-c", "echo $$; exit 5"), await run("sh", "-c", "echo $$; exit 5")
    assert (first.returncode, first.stdout) == (second.returncode, second.stdout)
    assert first.returncode == 5
    other = await run("true")
    assert other.returncode == 125
    assert b"ALREADY_EXISTS" in other.stderr


@asynccontextmanager
async def running(server: Server, script: str) -> AsyncIterator[trio.Process]:
    """A `run` of a shell script that has said "up"."""
    async with started(*command(server, "run", "sh", "-c", script)) as process:
        assert await output_of(process).receive_some() == b"up\n"
        yield process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interruption_stops_the_job(server: Server, number: signal.Signals) -> None:
    """The first one lets the job clean up, shows what it says, and exits as it did."""
    script = 'exec 2>/dev/null; trap "echo cleaning; exit 3" TERM; echo up; while :; do sleep 0.05; done'
    async with running(server, script) as process:
        process.send_signal(number)
        assert await output_of(process).receive_some() == b"cleaning\n"
        assert await exit_status(process) == 3
    async with running(server, "echo up; exec sleep 1000") as process:
        process.send_signal(number)
        assert await exit_status(process) == 143


async def test_a_second_interruption_kills_the_job(server: Server) -> None:
    """A job that does not want to stop is killed, whatever its grace period."""
    async with running(server, "trap '' TERM; echo up; while :; do sleep 1; done") as process, server.connect() as jobs:
        process.send_signal(signal.SIGINT)
        async with jobs.watch(0) as events:
            async for event in events:
                if event.HasField("stop_ordered"):
                    assert event.stop_ordered.reason == "SIGINT at the client"
                    break
        process.send_signal(signal.SIGINT)
        assert await exit_status(process) in {137, 143}  # whichever signal came first
        (record,) = [record async for record in jobs.list()]
        assert record.cause.stopped.killed
        assert record.cause.stopped.reason == "SIGINT at the client"


async def test_a_reader_that_has_seen_enough(server: Server) -> None:
    """A closed pipe ends `run` with 125; the job goes on, and that is said."""
    line = " ".join(command(server, "run", "yes"))
    script = f"set -o pipefail; {line} | head -n 1"
    result = await trio.run_process(
        ["bash", "-c", script], capture_stdout=True, capture_stderr=True, check=False, cwd=REPOSITORY
    )
    assert (result.returncode, result.stdout) == (125, b"y\n")
    assert b"goes on" in result.stderr
    async with server.connect() as jobs:
        (record,) = [record async for record in jobs.list()]
        assert record.state == pb.JOBSTATE_RUNNING


async def test_stop_with_a_reason(server: Server) -> None:
    """A reason is kept with who asked."""
    job_id = await start(server, "sleep", "1000")
    result = await jobmaster(server, "stop", "--json", "--reason", "it is too old", job_id)
    stopped = json.loads(result.stdout)["cause"]["stopped"]
    assert (stopped["by"], stopped["reason"]) == ("client1", "it is too old")
    assert (await jobmaster(server, "stop", "--reason", "x" * 201, job_id)).returncode == 1


# --- lists and events -------------------------------------------------------------------------------------------------


async def test_list(server: Server) -> None:
    """Piped, a list is a line of JSON for each job; the newest is first; filters and limits hold."""
    first = await start(server, "sh", "-c", "exit 1")
    async with server.connect() as jobs:
        await jobs.wait(first)
    second = await start(server, "sleep", "1000")

    async def listed(*options: str, name: str = "client1") -> list[str]:
        result = await jobmaster(server, "list", *options, name=name)
        assert result.returncode == 0, result.stderr
        return [json.loads(line)["jobIDResponse"]["jobID"] for line in result.stdout.splitlines()]

    assert await listed() == [second, first]
    assert await listed("--limit", "1") == [second]
    assert await listed("--state", "running") == [second]
    assert await listed("--cause", "exited", "--cause", "stopped") == [first]
    assert await listed("--since", "1h", "--until", "0s") == [second, first]
    assert await listed("--until", "1h") == []
    assert await listed(name="client2") == []
    assert await listed("--client", "client1", name="superuser") == [second, first]
    quiet = await jobmaster(server, "ps", "-q")
    assert quiet.stdout.decode().split() == [second, first]
    assert (await jobmaster(server, "list", "--client", "client2")).returncode == 1


async def test_list_on_a_terminal(server: Server) -> None:
    """On a terminal, a list is a table no wider than that."""
    job_id = await start(server, "true", "x" * 500)
    leader, follower = pty.openpty()
    try:
        await trio.run_process(
            command(server, "list"), stdout=follower, cwd=REPOSITORY, env={**os.environ, "COLUMNS": "90"}
        )
        text = b""
        while text.count(b"\n") < 2:  # a terminal hands on what it has by and by
            text += os.read(leader, 65536)
        shown = text.decode().splitlines()
    finally:
        os.close(leader)
        os.close(follower)
    assert shown[0].startswith("JOB ")
    assert shown[1].startswith(job_id)
    assert len(shown[1]) == 90


async def test_events(server: Server) -> None:
    """`events` shows what happens from now on; with --all, what has happened before, too."""
    await start(server, "true")
    async with started(*command(server, "events", "--all")) as process:
        seen = b""
        while b'"finished"' not in seen:
            seen += await output_of(process).receive_some()
        await start(server, "false")
        while seen.count(b'"finished"') < 2:
            seen += await output_of(process).receive_some()
        process.send_signal(signal.SIGINT)
        assert await exit_status(process) == 130
    events = [json.loads(line) for line in seen.splitlines()]
    assert [event["finished"]["exitCode"] for event in events if "finished" in event] == [0, 1]
    numbers = [int(event["seq"]) for event in events]
    assert numbers == sorted(set(numbers))


async def test_backup(server: Server, tmp_path: Path) -> None:
    """An admin gets a journal that has every job; a user gets nothing."""
    job_id = await start(server, "true")
    async with server.connect() as jobs:
        await jobs.wait(job_id)
    file = tmp_path / "copy.db"
    refused = await jobmaster(server, "backup", str(file))
    assert (refused.returncode, file.exists()) == (1, False)
    assert b"only an admin may copy the server's journal (PERMISSION_DENIED)" in refused.stderr
    done = await jobmaster(server, "backup", str(file), name="superuser")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    database = Database.open(file)
    try:
        assert [job.record.id for job in database.page(JobQuery()).jobs] == [job_id]
    finally:
        database.close()


# --- a server that dies or is replaced --------------------------------------------------------------------------------


async def replace(server: Server, process: subprocess.Popen[bytes], how: str) -> None:
    """Has another server take the place of the one there is; returns when there is that other one."""
    old = set(servers_of(server.launcher))
    match how:
        case "killed":
            for pid in old:
                os.kill(pid, signal.SIGKILL)
        case "upgraded":
            process.send_signal(signal.SIGUSR2)
    with trio.fail_after(60):
        while not set(servers_of(server.launcher)) - old:
            await trio.sleep(0.01)


async def until_ready(server: Server) -> None:
    """Returns when a server answers."""
    async with server.connect() as jobs:
        assert [record async for record in jobs.list(limit=1)]


@pytest.mark.parametrize("how", ["killed", "upgraded"])
async def test_run_over_another_server(tmp_path: Path, certificates: Path, how: str) -> None:
    """Whatever becomes of the server, `run` shows every byte once and exits as the job did; there is one job."""
    script = f"trap go=1 USR1; seq 1 {LINES}; while [ -z $go ]; do sleep 0.02; done; seq 1 {LINES}; exit 6"
    async with serving_program(tmp_path, certificates) as (server, process), server.connect() as jobs:
        async with started(*command(server, "run", "sh", "-c", script)) as client:
            seen = b""
            while not seen.endswith(b"\n%d\n" % LINES):
                seen += await output_of(client).receive_some()
            for _ in range(2):
                await replace(server, process, how)
                await until_ready(server)
            (record,) = [record async for record in jobs.list()]
            os.kill(record.pid, signal.SIGUSR1)
            async for chunk in output_of(client):
                seen += chunk
            assert await exit_status(client) == 6
        assert seen == 2 * b"".join(b"%d\n" % number for number in range(1, LINES + 1))


async def test_run_says_what_it_waits_for(tmp_path: Path, certificates: Path) -> None:
    """Where no server comes back for some seconds, who looks at the terminal reads why nothing happens."""
    async with (
        serving_program(tmp_path, certificates, is_killed=True) as (server, process),
        started(*command(server, "run", "sh", "-c", "echo up; exec sleep 60")) as client,
    ):
        assert await output_of(client).receive_some() == b"up\n"
        for pid in (process.pid, *servers_of(process.pid)):
            os.kill(pid, signal.SIGKILL)
        assert client.stderr is not None
        assert (await client.stderr.receive_some()).endswith(b"; trying again\n")
        client.kill()


@pytest.mark.parametrize("how", ["killed", "upgraded"])
async def test_wait_and_events_over_another_server(tmp_path: Path, certificates: Path, how: str) -> None:
    """`wait` waits on, and `events` goes on after the last event, each once."""
    async with serving_program(tmp_path, certificates) as (server, process), server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", "echo up; trap 'exit 8' TERM; while :; do sleep 0.02; done")
        await until_output(jobs, job_id, b"up\n")
        async with (
            started(*command(server, "wait", job_id)) as waiting,
            started(*command(server, "events", "--all")) as watching,
        ):
            seen = b""
            while b'"executed"' not in seen:
                seen += await output_of(watching).receive_some()
            await replace(server, process, how)
            await jobs.stop(job_id)
            assert await exit_status(waiting) == 8
            while b'"finished"' not in seen:
                seen += await output_of(watching).receive_some()
        numbers = [json.loads(line)["seq"] for line in seen.splitlines()]
        assert len(numbers) == len(set(numbers))


async def test_starts_while_servers_are_killed(tmp_path: Path, certificates: Path) -> None:
    """Each of many starts makes one job, which runs once, however often the server dies meanwhile."""
    count = 30
    ids: list[str] = []
    async with serving_program(tmp_path, certificates) as (server, process), server.connect() as jobs:

        async def start_one() -> None:
            ids.append(await jobs.start("sh", "-c", "echo $$; exec sleep 1000"))

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(start_one)
            for _ in range(3):
                await replace(server, process, "killed")
        assert len(set(ids)) == count
        assert {record.job_id_response.job_id async for record in jobs.list()} == set(ids)
        for job_id in ids:
            record = await jobs.status(job_id)
            await until_output(jobs, job_id, b"%d\n" % record.pid)
            await jobs.stop(job_id)
            assert await all_output(jobs, job_id) == b"%d\n" % record.pid


async def with_input(server: Server, data: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Runs the client to its end with a pipe as its standard input."""
    argv = command(server, *arguments)
    return await trio.run_process(
        argv, stdin=data, capture_stdout=True, capture_stderr=True, check=False, cwd=REPOSITORY
    )


async def test_a_pipe_into_run(server: Server) -> None:
    """Standard input that is a pipe is the command's, as if it ran here; `--no-stdin` leaves it alone."""
    data = os.urandom(300_000)
    result = await with_input(server, data, "run", "sh", "-c", "cat; exit 4")
    assert (result.returncode, result.stdout == data, result.stderr) == (4, True, b"")
    result = await with_input(server, data, "run", "--no-stdin", "cat")
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


async def test_a_command_that_reads_little(server: Server) -> None:
    """It is not waited for what it does not read: neither an error nor a hang."""
    result = await with_input(server, bytes(1_000_000), "run", "head", "-c", "3")
    assert (result.returncode, result.stdout, result.stderr) == (0, bytes(3), b"")


async def test_a_file_into_run(server: Server, tmp_path: Path) -> None:
    """A file is as good as a pipe; the null device is nothing to send."""
    (tmp_path / "file").write_bytes(b"1\n2\n")
    shell = f"{' '.join(command(server, 'run', 'readlink', '/proc/self/fd/0'))} < "
    for name, stdin in ((tmp_path / "file", b"pipe:"), ("/dev/null", b"/dev/null")):
        result = await trio.run_process(
            ["sh", "-c", f"{shell}{name}"], capture_stdout=True, capture_stderr=True, check=False, cwd=REPOSITORY
        )
        assert (result.returncode, result.stdout[:5]) == (0, stdin[:5]), result.stderr


async def test_detached_and_attached_to(server: Server) -> None:
    """`run -d -i` leaves the stdin open; `attach` writes it, shows what comes from then on, and exits as the job does."""
    started_job = await jobmaster(server, "run", "-d", "-i", "sh", "-c", "echo before; cat; exit 7")
    job_id = started_job.stdout.decode().strip()
    async with server.connect() as jobs:
        await until_output(jobs, job_id, b"before")
    result = await with_input(server, b"typed", "attach", job_id)
    assert (result.returncode, result.stdout, result.stderr) == (7, b"typed", b"")
    result = await with_input(server, b"late", "attach", "--from-start", job_id)
    assert (result.returncode, result.stdout, result.stderr) == (7, b"before\ntyped", b"")


async def test_attached_to_a_job_without_stdin(server: Server) -> None:
    """Its output comes all the same, and stderr says that nothing is sent; `--stdin` insists."""
    job_id = await start(server, "sh", "-c", "echo out; exec sleep 1000")
    insisting = await with_input(server, b"typed", "attach", "--stdin", job_id)
    assert (insisting.returncode, b"no stdin" in insisting.stderr) == (125, True)
    async with started(*command(server, "attach", "--from-start", job_id)) as process, server.connect() as jobs:
        assert await output_of(process).receive_some() == b"out\n"
        await jobs.stop(job_id, force=True)
        assert await exit_status(process) in {137, 143}  # whichever signal came first


async def test_stderr_apart(server: Server) -> None:
    """With `--separate-streams` the command's stderr is `run`'s own."""
    script = "echo out; echo err >&2; cat; exit 3"
    result = await with_input(server, b"typed", "run", "--separate-streams", "sh", "-c", script)
    assert (result.returncode, result.stdout, result.stderr) == (3, b"out\ntyped", b"err\n")
