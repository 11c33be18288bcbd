"""The server as a program: how it begins, how it ends, and what is left when it is killed."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from purerpc.grpclib.exceptions import RpcFailedError

from jobmaster.errors import ConfigurationError, TransportError
from jobmaster.server import program, succession
from tests.harness import (
    REPOSITORY,
    command_line_for,
    first_chunk,
    is_alive,
    options_for,
    own_cgroup_root,
    run,
    serving,
    serving_program,
    until_output,
)

DEAF = "trap '' TERM; echo up; while :; do sleep 1; done"


async def run_server(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """A server that is expected to give up at once."""
    command = [sys.executable, "-m", "jobmaster.serve", *arguments]
    return await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False, cwd=REPOSITORY)


async def exit_code(process: subprocess.Popen[bytes]) -> int:
    """How the server ended."""
    with trio.fail_after(60):
        return await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_ends_on_a_signal(tmp_path: Path, certificates: Path, number: signal.Signals) -> None:
    """Told to end, the server ends its jobs, gives a follower the last bytes and a good end, removes all cgroups, exits 0."""
    async with serving_program(tmp_path, certificates) as (server, process), server.connect() as jobs:
        job_id = await jobs.start(
            "sh", "-c", "trap 'echo last words; exit 0' TERM; echo up; while :; do sleep 0.05; done"
        )
        output = b""
        async with jobs.stream_output(job_id) as chunks:
            async for chunk in chunks:
                output += chunk
                if output == b"up\n":
                    process.send_signal(number)
        assert output.endswith(b"last words\n")
        assert await exit_code(process) == 0
        assert not server.cgroup_root.exists()


async def test_second_signal_hurries(tmp_path: Path, certificates: Path) -> None:
    """A second signal ends the grace period of a job that ignores SIGTERM."""
    async with (
        serving_program(tmp_path, certificates, "--grace", "3000") as (server, process),
        server.connect() as jobs,
    ):
        job_id = await jobs.start("sh", "-c", DEAF)
        await until_output(jobs, job_id, b"up\n")
        process.send_signal(signal.SIGTERM)
        while not (await jobs.status(job_id)).job_msg.startswith("stopping"):
            await trio.lowlevel.checkpoint()
        process.send_signal(signal.SIGTERM)
        assert await exit_code(process) == 0


async def test_a_port_that_is_taken_while_jobs_are_ended(tmp_path: Path, certificates: Path) -> None:
    """A server that dies while it ends the jobs is followed by one that ends them, though its port is another program's."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))  # which keeps it from everybody but who has that option set, as the server
        listen = ("--listen", f"127.0.0.1:{other.getsockname()[1]}")
        async with serving_program(tmp_path, certificates, *listen, "--grace", "4") as (server, process):
            async with server.connect() as jobs:
                job_id = await jobs.start("sh", "-c", DEAF)
                await until_output(jobs, job_id, b"up\n")
                process.send_signal(signal.SIGTERM)
                with trio.fail_after(30):
                    while not is_listening(other):
                        await trio.sleep(0.01)
            os.kill(server.pid, signal.SIGKILL)
            assert await exit_code(process) == 0
            assert not server.cgroup_root.exists()
    async with serving_program(tmp_path, certificates) as (server, _), server.connect() as jobs:
        assert (await jobs.status(job_id)).cause.HasField("server_shutdown")


def is_listening(sock: socket.socket) -> bool:
    """Listens, where nobody else does."""
    try:
        sock.listen()
    except OSError:
        return False
    return True


async def test_a_killed_launcher_leaves_no_job(tmp_path: Path, certificates: Path) -> None:
    """After SIGKILL of the launcher no process of any job is left, whatever the jobs did to escape."""
    async with serving_program(tmp_path, certificates, is_killed=True) as (server, process), server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", "setsid sh -c 'setsid sleep 1000 & echo $!; sleep 1000' & wait")
        pids = [int(await first_chunk(jobs, job_id)), (await jobs.status(job_id)).pid, server.pid]
        os.kill(server.launcher, signal.SIGKILL)
        with trio.fail_after(60):
            while any(is_alive(pid) for pid in pids):
                await trio.sleep(0.01)
        assert await exit_code(process) == -signal.SIGKILL


async def test_stop_while_starts_are_in_flight(tmp_path: Path, certificates: Path) -> None:
    """Told to end in the middle of Starts, the server refuses or ends each of them, leaves nothing and exits 0."""
    async with serving_program(tmp_path, certificates) as (server, process):
        answers: list[str] = []

        async def start_again_and_again() -> None:
            async with server.connect(patience=0) as jobs:
                with suppress(RpcFailedError, TransportError):
                    while True:
                        answers.append(await jobs.start("sleep", "1000"))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(start_again_and_again)
            while len(answers) < 20:
                await trio.sleep(0.001)
            process.send_signal(signal.SIGTERM)
        assert await exit_code(process) == 0
        assert not server.cgroup_root.exists()


async def test_signals_before_and_after_service(tmp_path: Path, certificates: Path) -> None:
    """Signals at any moment of the server's life, from before it is ready to its last step, lead to exit 0 and no words."""
    with own_cgroup_root() as root:
        command = [sys.executable, "-m", "jobmaster.serve", *command_line_for(tmp_path, certificates, root)]
        for number in (signal.SIGINT, signal.SIGTERM):
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY) as process:
                assert process.stdout is not None
                assert process.stderr is not None
                await trio.to_thread.run_sync(process.stdout.readline)  # its first word: it is not ready yet
                while process.poll() is None:
                    process.send_signal(number)
                    await trio.sleep(0.002)
                assert process.stderr.read() == b""
            assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_before_all_else(tmp_path: Path, certificates: Path, number: signal.Signals) -> None:
    """A signal that comes while the launcher, and after it the server, is still being started, ends both without words."""
    with own_cgroup_root() as root:
        script = f"""
import os, sys
from jobmaster import serve
execute = os.execv
def signal_and_execute(*arguments):
    os.kill(os.getpid(), {number:d})
    execute(*arguments)
os.execv = signal_and_execute
sys.argv[1:] = {command_line_for(tmp_path, certificates, root)!r}
serve.main()
"""
        result = await trio.run_process(
            [sys.executable, "-c", script], capture_stdout=True, capture_stderr=True, check=False, cwd=REPOSITORY
        )
        assert (result.returncode, result.stderr) == (0, b"")
        assert b"ready" not in result.stdout
        assert not root.exists()


@pytest.mark.parametrize("output", ["full", "closed", "unread"])
async def test_stdout_that_takes_nothing(tmp_path: Path, certificates: Path, output: str) -> None:
    """A server whose stdout is a full disk, or a pipe that is closed or full, serves all the same, and says no more."""
    with own_cgroup_root() as root:
        command = [
            sys.executable,
            "-m",
            "jobmaster.serve",
            *command_line_for(tmp_path, certificates, root),
            "--verbose",
        ]
        read_end, write_end = os.pipe()
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
        os.write(write_end, bytes(4096))
        if output != "unread":
            os.close(read_end)
        stdout = os.open("/dev/full", os.O_WRONLY) if output == "full" else os.dup(write_end)
        with subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, cwd=REPOSITORY) as process:
            os.close(stdout)
            os.close(write_end)
            while not (root / "jobs").exists():
                await trio.sleep(0.01)
            process.terminate()
            assert await exit_code(process) == 0
            assert process.stderr is not None
            assert process.stderr.read() == b""
        if output == "unread":
            os.close(read_end)
        assert not root.exists()


async def test_stderr_that_nobody_reads(tmp_path: Path, certificates: Path) -> None:
    """A server whose log goes to a pipe that is full (a pager, a terminal after Ctrl-S) serves, and ends when told to."""
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    os.write(write_end, bytes(4096))
    try:
        with trio.fail_after(60):
            async with (
                serving_program(tmp_path, certificates, "--verbose", stderr=write_end) as (server, process),
                server.connect() as jobs,
            ):
                record, _output = await run(jobs, "sh", "-c", "exit 7")
                assert record.exit_code == 7
                process.send_signal(signal.SIGTERM)
                assert await exit_code(process) == 0
    finally:
        os.close(read_end)
        os.close(write_end)


@pytest.mark.parametrize(("open_files", "status"), [(6, 1), (20, 2)])
async def test_too_few_open_files(tmp_path: Path, certificates: Path, open_files: int, status: int) -> None:
    """A host that allows too few open files for launcher or server is told so in a line."""
    with own_cgroup_root() as root:
        command = [sys.executable, "-m", "jobmaster.serve", *command_line_for(tmp_path, certificates, root)]
        limited = ["prlimit", f"--nofile={open_files}:{open_files}", *command]
        result = await trio.run_process(limited, capture_stderr=True, check=False, cwd=REPOSITORY)
    assert result.returncode == status
    assert re.fullmatch(rb"jobmaster: .*open files.*\n", result.stderr)


async def test_next_server_clears_up(tmp_path: Path, certificates: Path) -> None:
    """A server that follows a killed one on the same cgroup root starts with an empty tree."""
    async with serving_program(tmp_path, certificates) as (server, process):
        async with server.connect() as jobs:
            await jobs.start("sleep", "1000")
        process.kill()
        await exit_code(process)
        (tmp_path / "next").mkdir()
        command = command_line_for(tmp_path / "next", certificates, server.cgroup_root)
        with subprocess.Popen(
            [sys.executable, "-m", "jobmaster.serve", *command], stdout=subprocess.PIPE, cwd=REPOSITORY
        ) as following:
            assert following.stdout is not None
            while not (await trio.to_thread.run_sync(following.stdout.readline)).startswith(b"ready"):
                pass
            assert list((server.cgroup_root / "jobs").glob("*/*/")) == []
            following.terminate()
            assert await exit_code(following) == 0


async def test_one_server_for_a_cgroup_root(
    tmp_path: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second server on the same cgroup root is refused, with the remedy, and harms no job of the first."""
    monkeypatch.setattr(succession, "LOCK_SECONDS", 0.2)
    async with serving_program(tmp_path, certificates) as (server, _process), server.connect() as jobs:
        job_id = await jobs.start("sleep", "1000")
        (tmp_path / "second").mkdir()
        refusal = pytest.RaisesExc(
            ConfigurationError, match=r"another jobmaster server has the cgroup .* --cgroup-root"
        )
        with pytest.RaisesGroup(refusal, flatten_subgroups=True):
            await program.serve(options_for(tmp_path / "second", certificates, server.cgroup_root))
        among = pytest.RaisesExc(ConfigurationError, match=r"is among the jobs of another server: .* --cgroup-root")
        with pytest.RaisesGroup(among, flatten_subgroups=True):
            await program.serve(options_for(tmp_path / "second", certificates, server.cgroup_root / "jobs" / "mine"))
        assert not (server.cgroup_root / "jobs" / "mine").exists()
        assert is_alive((await jobs.status(job_id)).pid)


async def test_host_without_controllers(tmp_path: Path, certificates: Path) -> None:
    """Where a controller is missing, --require-limits exits 2 with the reason; without it the server says so and serves."""
    with own_cgroup_root() as root:
        enforcing = "memory" in (root.parent / "cgroup.controllers").read_text().split()
        if enforcing:
            pytest.skip("this host has the memory controller")
        result = await run_server(*command_line_for(tmp_path, certificates, root, "--require-limits"))
    assert result.returncode == 2
    assert b"--require-limits: this host does not enforce every limit" in result.stderr
    assert b"memory: this host binds the memory controller to cgroup v1" in result.stderr
    assert b"Traceback" not in result.stderr
    async with serving(tmp_path, certificates, "--memory-max", "50M") as server, server.connect() as jobs:
        record = await jobs.status(await jobs.start("true"))
    limits = {limit.name: limit for limit in record.limits}
    assert (limits["memory"].value, limits["memory"].enforced) == ("memory.max 52428800", False)
    assert "cgroup v1" in limits["memory"].reason


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--output-dir", "relative"), "must be an absolute path"),
        (("--listen", "nowhere"), "is not HOST:PORT"),
        (("--memory-max", "lots"), "--memory-max"),
        (("-d", "nonsense"), "MAJ:MIN"),
        (("-d", "4000:1"), "there are:"),
        (("--run-as", "no-such-user-here"), "no such user on this host"),
        (("--cgroup-root", "/tmp"), "is not in the cgroup v2 mount"),
        (("--certs-dir", "/no/such/folder"), "jobmaster.certs init"),
        (("--listen", "192.0.2.1:0"), "name an address of this host"),
    ],
)
async def test_wrong_options(tmp_path: Path, certificates: Path, arguments: tuple[str, ...], words: str) -> None:
    """A wrong option exits 2 and says which, why and the remedy, without a traceback."""
    with own_cgroup_root() as root:
        result = await run_server(*command_line_for(tmp_path, certificates, root), *arguments)
    text = result.stderr.decode()
    assert result.returncode == 2, text
    assert words in text
    assert "Traceback" not in text


async def test_output_folder_must_be_ours(tmp_path: Path, certificates: Path) -> None:
    """An output folder that is a symbolic link, or that others may write, is refused."""
    (tmp_path / "real").mkdir()
    (tmp_path / "output").symlink_to(tmp_path / "real")
    with own_cgroup_root() as root:
        linked = await run_server(*command_line_for(tmp_path, certificates, root))
        (tmp_path / "output").unlink()
        (tmp_path / "output").mkdir(mode=0o777)
        (tmp_path / "output").chmod(0o777)
        writable = await run_server(*command_line_for(tmp_path, certificates, root))
    assert (linked.returncode, writable.returncode) == (2, 2)
    assert b"is a symbolic link" in linked.stderr
    assert b"can be written by others" in writable.stderr


async def test_port_in_use(tmp_path: Path, certificates: Path) -> None:
    """A port that is taken exits 2 and names it and the remedy."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    with own_cgroup_root() as root:
        result = await run_server(*command_line_for(tmp_path, certificates, root), "--listen", f"127.0.0.1:{port}")
    await listeners[0].aclose()
    assert result.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}".encode() in result.stderr


async def test_first_start_makes_certificates(tmp_path: Path) -> None:
    """With no certificates at the default place the server makes them and says in one line how a client uses them."""
    checkout = tmp_path / "checkout"
    shutil.copytree(REPOSITORY / "jobmaster", checkout / "jobmaster")
    shutil.copy(REPOSITORY / "pyproject.toml", checkout)
    with own_cgroup_root() as root:
        places = ["--output-dir", str(tmp_path / "output"), "--cgroup-root", str(root)]
        command = [sys.executable, "-m", "jobmaster.serve", "--listen", "localhost:0", *places]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=checkout) as process:
            assert process.stdout is not None
            first = (await trio.to_thread.run_sync(process.stdout.readline)).decode()
            process.terminate()
            rest = await trio.to_thread.run_sync(process.stdout.read)
    certs = checkout / "certs"
    assert (
        first == f"made new certificates in {certs}; try: jobmaster --certs-dir {certs} -n client1 start ls -l /etc\n"
    )
    assert b"ready on " in rest
    assert (certs / "client1_key.pem").stat().st_mode & 0o777 == 0o600
