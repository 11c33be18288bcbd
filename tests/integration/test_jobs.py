"""The main job over real mTLS: start, follow, stop, and the truth about the end."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import trio
from purerpc.grpclib.exceptions import FailedPreconditionError, InvalidArgumentError, NotFoundError

from jobmaster.client import RpcFailedError
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.harness import Server, ended, is_alive, output_of, run, serving, until_output


async def test_output_and_exit_code(server: Server) -> None:
    """A job's stdout and stderr arrive in the order in which they were written, and its exit code is its own."""
    async with server.connect() as jobs:
        record, output = await run(jobs, "sh", "-c", "echo one; echo two >&2; echo three; exit 7")
    assert output == b"one\ntwo\nthree\n"
    assert (record.state, record.exit_code, record.signal_str) == (pb.JOBSTATE_COMPLETED, 7, "")
    assert record.cause.exited.code == 7
    assert record.started.ToDatetime() <= record.ended.ToDatetime()


async def test_running_record(server: Server) -> None:
    """A running job has state 1, its pid, its owner and command, and no `ended`."""
    async with server.connect() as jobs:
        job_id = await jobs.start("sleep", "1000")
        record = await jobs.status(job_id)
    assert (record.state, record.client, record.cmd.command, list(record.cmd.args)) == (
        pb.JOBSTATE_RUNNING,
        "client1",
        "sleep",
        ["1000"],
    )
    assert not record.HasField("ended")
    assert not record.HasField("cause")
    assert is_alive(record.pid)
    assert f"/{job_id}\n" in Path(f"/proc/{record.pid}/cgroup").read_text()


async def test_live_output(server: Server) -> None:
    """A follower sees a line while the job still runs."""
    async with server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", "echo early; sleep 1000")
        await until_output(jobs, job_id, b"early\n")
        assert (await jobs.status(job_id)).state == pb.JOBSTATE_RUNNING


async def test_a_stop_by_a_signal_of_its_own(server: Server) -> None:
    """A job that was started so gets that signal and no SIGTERM, all of its processes do, and its record says it."""
    child = "trap 'echo child; exit' INT; echo up; while :; do sleep 0.01; done"
    script = (
        f"trap 'echo term; exit 1' TERM; trap 'wait; echo int; exit 5' INT; ({child}) & while :; do sleep 0.01; done"
    )
    async with server.connect() as jobs:
        job_id = await jobs.start("bash", "-c", script, stop_signal=signal.SIGINT, grace_ms=60_000)
        await until_output(jobs, job_id, b"up\n")
        record = await jobs.stop(job_id)
        assert await output_of(jobs, job_id) == b"up\nchild\nint\n"
    stopped = record.cause.stopped
    assert (stopped.signal, stopped.returned, stopped.exit_code, stopped.killed) == (signal.SIGINT, True, 5, False)
    assert (record.cmd.stop_signal, record.cmd.grace_ms) == (signal.SIGINT, 60_000)


async def test_a_job_without_a_grace_period(server: Server) -> None:
    """One that was started so is killed at its stop, and says so."""
    async with server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done", grace_ms=0)
        await until_output(jobs, job_id, b"up\n")
        record = await jobs.stop(job_id)
    assert (record.cause.stopped.signal, record.cause.stopped.killed) == (signal.SIGKILL, True)


async def test_a_job_that_may_not_run_for_long(server: Server) -> None:
    """It is warned, and ended by its own stop signal when its time is over."""
    script = "trap 'echo soon' USR1; trap 'echo now; exit 3' INT; while :; do sleep 0.01; done"
    async with server.connect() as jobs:
        job_id = await jobs.start(
            "bash", "-c", script, max_run_ms=4_000, warn_before_ms=1_000, stop_signal=signal.SIGINT
        )
        assert await output_of(jobs, job_id) == b"soon\nnow\n"
        record = await jobs.status(job_id)
    assert record.cause.timed_out == pb.Cause.TimedOut(
        max_run_ms=4_000, signal=signal.SIGINT, returned=True, exit_code=3
    )


async def test_jobs_that_are_called_something(server: Server) -> None:
    """A list of jobs by name or labels has those that are called so, its caller's alone."""
    async with server.connect() as jobs, server.connect("client2") as others:
        first = await jobs.start("true", name="night", labels={"team": "blue"})
        second = await jobs.start("true", name="night", labels={"team": "red", "x": ""})
        await jobs.start("true")
        await others.start("true", name="night")

        async def found(**query: Any) -> list[str]:
            return [record.job_id_response.job_id async for record in jobs.list(pb.ListRequest(**query))]

        assert await found(name="night") == [second, first]
        assert await found(labels={"team": "blue"}) == [first]
        assert await found(name="night", labels={"x": "", "team": "red"}) == [second]
        assert await found(name="day") == []
        with pytest.raises(RpcFailedError, match="no key of a label"):
            await found(labels={"Team": "blue"})
        record = await jobs.status(second)
    assert (record.cmd.name, dict(record.cmd.labels)) == ("night", {"team": "red", "x": ""})


async def test_stop(server: Server) -> None:
    """Stop ends a job by SIGTERM, says by whom, and asked again answers the same."""
    async with server.connect() as jobs:
        job_id = await jobs.start("sleep", "1000")
        first = await jobs.stop(job_id)
        again = await jobs.stop(job_id)
    assert first == again
    assert (first.state, first.exit_code, first.signal_str) == (pb.JOBSTATE_TERMINATED_BY_API, -1, "terminated")
    assert (first.cause.stopped.by, first.cause.stopped.killed) == ("client1", False)
    assert not is_alive(first.pid)


async def test_stop_of_a_deaf_job(tmp_path: Path, certificates: Path) -> None:
    """A job that ignores SIGTERM is killed after the grace period, and the record says so."""
    async with serving(tmp_path, certificates, "--grace", "0.2") as server, server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done")
        await until_output(jobs, job_id, b"deaf\n")
        record = await jobs.stop(job_id)
    assert (record.signal_str, record.cause.stopped.killed) == ("killed", True)


async def test_stop_of_a_frozen_job(server: Server) -> None:
    """A job that was stopped by SIGSTOP still gets its SIGTERM."""
    async with server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", "kill -STOP $$; echo never")
        pid = (await jobs.status(job_id)).pid
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            await trio.lowlevel.checkpoint()
        record = await jobs.stop(job_id)
    assert record.signal_str == "terminated"


async def test_stop_lets_a_handler_finish(server: Server) -> None:
    """A job that handles SIGTERM may use its grace period; it counts as stopped whatever it returns."""
    script = 'trap "echo cleaning; echo clean; exit 3" TERM; echo up; while :; do sleep 0.05; done'
    async with server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", script)
        await until_output(jobs, job_id, b"up\n")
        record = await jobs.stop(job_id)
        output = await output_of(jobs, job_id)
    assert output.endswith(b"cleaning\nclean\n")
    assert (record.state, record.exit_code) == (pb.JOBSTATE_TERMINATED_BY_API, -1)


async def test_foreign_signal(server: Server) -> None:
    """A signal that the server did not send is told as a signal, not as a stop."""
    async with server.connect() as jobs:
        job_id = await jobs.start("sleep", "1000")
        os.kill((await jobs.status(job_id)).pid, signal.SIGKILL)
        record = await ended(jobs, job_id)
    assert (record.state, record.exit_code, record.signal_str) == (pb.JOBSTATE_COMPLETED, -1, "killed")
    assert record.cause.signalled.signal == signal.SIGKILL


async def test_forgotten_grandchild(server: Server) -> None:
    """A grandchild that holds the pipe open neither delays the end nor outlives the job."""
    async with server.connect() as jobs:
        record, output = await run(jobs, "sh", "-c", "setsid sleep 1000 & echo $!; exit 3")
    assert record.exit_code == 3
    assert not is_alive(int(output))


async def test_binary_output(server: Server) -> None:
    """Output is bytes: NULs, no newline, not UTF-8."""
    async with server.connect() as jobs:
        _record, output = await run(jobs, "head", "-c", "3000000", "/usr/bin/python3")
    expected = Path("/usr/bin/python3").read_bytes()[:3_000_000]
    assert hashlib.sha256(output).digest() == hashlib.sha256(expected).digest()


async def test_no_output(server: Server) -> None:
    """A job without output streams nothing and ends well."""
    async with server.connect() as jobs:
        record, output = await run(jobs, "true")
    assert (output, record.exit_code, record.output_bytes) == (b"", 0, 0)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("",), "command is empty"),
        (("ls", "a\0b"), "argument 1 contains a NUL byte"),
        (("l\0s",), "command contains a NUL byte"),
        (("true", "x" * 200_000), "more arguments or environment than the kernel takes"),
        (("true", *["y" * 100] * 30_000), "more than 2 MiB of arguments"),
        (("true", *[""] * 70_000), "more than 65536 arguments"),
    ],
)
async def test_invalid_requests(server: Server, argv: tuple[str, ...], words: str) -> None:
    """What no Linux can run is INVALID_ARGUMENT, says why, and leaves nothing behind."""
    async with server.connect() as jobs:
        with pytest.raises(InvalidArgumentError, match=words):
            await jobs.start(*argv)
    await nothing_is_left(server)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("no-such-command", "'no-such-command' not found in the jobs' PATH"),
        ("/no/such/file", "'/no/such/file' not found"),
        ("/etc/passwd", "'/etc/passwd' is not executable for the jobs' user '21000[0-9]{5}'"),
        ("/etc", "'/etc' is not executable"),
    ],
)
async def test_commands_that_cannot_run(server: Server, command: str, words: str) -> None:
    """A command that is not there or not executable is FAILED_PRECONDITION, named, and leaves nothing behind."""
    async with server.connect() as jobs:
        with pytest.raises(FailedPreconditionError, match=words):
            await jobs.start(command)
    await nothing_is_left(server)


async def test_a_program_that_the_kernel_refuses(server: Server, tmp_path: Path) -> None:
    """What only execve(2) can refuse is an error of Start that says why, and no job."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    script, arm = tmp_path / "script", tmp_path / "arm"
    script.write_text("#!/no/such/interpreter\n")
    arm.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00" + bytes(200))
    for program in (script, arm):
        program.chmod(0o755)
    async with server.connect() as jobs:
        with pytest.raises(FailedPreconditionError, match="names an interpreter"):
            await jobs.start(str(script))
        with pytest.raises(FailedPreconditionError, match="it is for another machine"):
            await jobs.start(str(arm))
    await nothing_is_left(server)


async def nothing_is_left(server: Server) -> None:
    """Returns when no log and no cgroup of a job is left."""
    with trio.fail_after(60):
        while server.logs or (server.cgroup_root / "jobs" / "client1").exists():
            await trio.sleep(0.005)


async def test_exit_codes_of_setpriv_are_a_jobs_too(server: Server) -> None:
    """A job that returns 127 by itself has exited, not failed to start."""
    async with server.connect() as jobs:
        record, _output = await run(jobs, "sh", "-c", "exit 127")
    assert record.cause.exited.code == 127


async def test_ownership(server: Server) -> None:
    """client2 cannot see, stop or stream client1's job, and learns nothing of it; superuser can do all three."""
    async with server.connect() as owner, server.connect("client2") as stranger, server.connect("superuser") as admin:
        job_id = await owner.start("sh", "-c", "echo mine; sleep 1000")
        await until_output(owner, job_id, b"mine\n")
        for call in (stranger.status, stranger.stop, lambda job: output_of(stranger, job)):
            with pytest.raises(NotFoundError) as foreign:
                await call(job_id)
            with pytest.raises(NotFoundError) as missing:
                await call("0" * 27)
            assert foreign.value.status.status_message == missing.value.status.status_message
        assert (await admin.status(job_id)).client == "client1"
        await until_output(admin, job_id, b"mine\n")
        assert (await admin.stop(job_id)).cause.stopped.by == "superuser"


async def test_caller_that_leaves_start(server: Server) -> None:
    """A Start whose caller leaves at once leaves a job that is whole or none at all, never half of one."""
    async with server.connect() as jobs:
        with trio.move_on_after(0.001):
            await jobs.start("sleep", "1000")
    async with server.connect() as jobs:
        record, _output = await run(jobs, "true")
    assert record.exit_code == 0


async def test_remove(server: Server) -> None:
    """A running job is not removed; an ended one is gone, and who reads its output at that moment has it to the end."""
    size = 64 * 2**20
    async with server.connect() as jobs:
        running = await jobs.start("sleep", "1000")
        with pytest.raises(FailedPreconditionError, match="stop it first"):
            await jobs.remove(running)
        job_id = await jobs.start("head", "-c", str(size), "/dev/zero")
        await jobs.wait(job_id)
        async with jobs.stream_output(job_id) as chunks:
            seen = len(await anext(aiter(chunks)))
            await jobs.remove(job_id)
            assert [path for path in server.output.iterdir() if path.stem == job_id] == []
            with pytest.raises(NotFoundError):
                await jobs.status(job_id)
            async for chunk in chunks:
                seen += len(chunk)
        assert seen == size
        with pytest.raises(NotFoundError):
            await jobs.remove(job_id)
        assert [record.job_id_response.job_id async for record in jobs.list()] == [running]


async def test_stop_after_the_caller_left(server: Server) -> None:
    """A stop order stands when its caller does not wait for the end."""
    async with server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", "trap 'echo told' TERM; sleep 1000 & echo up; wait; wait; echo done")
        await until_output(jobs, job_id, b"up\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(jobs.stop, job_id)
            await until_output(jobs, job_id, b"told\n")
            nursery.cancel_scope.cancel()
        record = await ended(jobs, job_id)
    assert record.cause.stopped.by == "client1"
