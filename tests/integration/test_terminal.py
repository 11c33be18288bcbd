"""Jobs with a terminal over the wire: keys, sizes, and a screen that outlives connections and servers."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
import trio

from jobmaster.client import Jobs, RpcFailedError
from jobmaster.client.attachment import Attachment
from jobmaster.grpc.purerpc_adapter import StatusCode
from jobmaster.jobs.v1 import jobs_pb2 as pb
from tests.harness import REPOSITORY, Server, ended, is_alive, output_of, run, serving, serving_program
from tests.integration.test_adoption import wait_for_successor
from tests.integration.test_command_line import command, jobmaster

DEADLINE: Final = 60.0
SIZE: Final = pb.WindowSize(rows=30, columns=100)
TERMINAL: Final = pb.Terminal(window=SIZE)
SHELL: Final = ("bash", "--norc", "-i")
LINES: Final = 60_000
COUNTS: Final = f"seq {LINES}; exit 42"
COUNTED: Final = "".join(f"{number}\r\n" for number in range(1, LINES + 1)).encode()


class Screen:
    """What somebody sees of a terminal and types into it."""

    def __init__(self, attachment: Attachment) -> None:
        self.attachment = attachment
        self.seen = b""
        self._keys, self._typed = trio.open_memory_channel[bytes](100)

    async def until(self, text: bytes) -> bytes:
        """What is on the screen until this is on it; what comes then is not there any more for the next one."""
        while text not in self.seen:
            self.seen += (await anext(self.attachment)).data
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, keys: bytes) -> None:
        """Types."""
        self._keys.send_nowait(keys)

    async def sent(self, keys: bytes) -> None:
        """Types what the terminal echoes, and returns when it has; what is on the screen stays there."""
        before = self.seen.count(keys)
        self.type(keys)
        while self.seen.count(keys) == before:
            self.seen += (await anext(self.attachment)).data

    async def send(self) -> None:
        """Sends what is typed."""
        await self.attachment.send(self._typed, ends=False)

    async def to_end(self) -> bytes:
        """All that comes until the job has ended."""
        return self.seen + b"".join([chunk.data async for chunk in self.attachment])


@asynccontextmanager
async def screen_of(
    jobs: Jobs, job_id: str, window: pb.WindowSize | None = None, offset: int = 0
) -> AsyncIterator[Screen]:
    """The terminal of a job, for the block."""
    with trio.fail_after(DEADLINE):
        async with (
            jobs.attach(job_id, window=window, output_offset=offset) as attachment,
            trio.open_nursery() as nursery,
        ):
            screen = Screen(attachment)
            nursery.start_soon(screen.send)
            yield screen
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def shell(jobs: Jobs) -> AsyncIterator[tuple[Screen, str]]:
    """A shell that waits for a line, and the id of its job."""
    job_id = await jobs.start(*SHELL, terminal=TERMINAL)
    async with screen_of(jobs, job_id) as screen:
        screen.type(b"PS1='re''ady> '; bind 'set enable-bracketed-paste off'\r")
        await screen.until(b"ready> ")
        yield screen, job_id


async def test_what_a_job_sees(server: Server) -> None:
    """Its standard streams are one terminal, which controls it, with the size and the kind that were asked for."""
    script = "tty; test -t 0 && test -t 1 && test -t 2 && echo all; stty size; echo $TERM; echo ctty > /dev/tty; stat -c %a:%u $(tty); id -u"
    terminal = pb.Terminal(window=SIZE, term="screen-256color")
    async with server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", script, terminal=terminal)
        name, *more = (await output_of(jobs, job_id)).decode().split("\r\n")
        assert name.startswith("/dev/pts/")
        record = await jobs.wait(job_id)
        assert more == ["all", "30 100", "screen-256color", "ctty", f"600:{record.user}", record.user, ""]
        assert (record.terminal, record.exit_code) == (True, 0)
        assert not (await run(jobs, "true"))[0].terminal


async def test_what_is_asked_for_in_vain(server: Server) -> None:
    """A terminal that cannot be is refused with the field that is wrong, and the streams of one cannot be apart."""
    async with server.connect() as jobs:
        for terminal, separate in ((pb.Terminal(term="a b"), False), (TERMINAL, True)):
            with pytest.raises(RpcFailedError) as refused:
                await jobs.start("true", terminal=terminal, separate_streams=separate)
            assert refused.value.status.status_code is StatusCode.INVALID_ARGUMENT
        job_id = await jobs.start("cat", stdin=True)
        with pytest.raises(RpcFailedError, match="no terminal") as refused:
            async with jobs.attach(job_id, window=SIZE) as attachment:
                await anext(attachment)
        assert refused.value.status.status_code is StatusCode.FAILED_PRECONDITION


async def test_keys(server: Server) -> None:
    """They are echoed and edited as in any terminal; Ctrl-D ends the input, and the job's exit code is its own."""
    async with server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", "cat; exit 7", terminal=TERMINAL)
        async with screen_of(jobs, job_id) as screen:
            screen.type(b"wro\x7f\x7f\x7fright\r")
            assert await screen.until(b"right\r\nright\r\n") == b"wro\b \b\b \b\b \b"
            screen.type(b"\x04")
            assert await screen.to_end() == b""
        assert (await jobs.wait(job_id)).exit_code == 7


async def test_signals_as_keys(server: Server) -> None:
    """Ctrl-C interrupts what is in the foreground, Ctrl-Z stops it until `fg`, and the shell lives on."""
    async with server.connect() as jobs, shell(jobs) as (screen, job_id):
        screen.type(b"sh -c 'echo up''; exec sleep 1000'\r")
        await screen.until(b"\r\nup\r\n")
        screen.type(b"\x03")
        await screen.until(b"ready> ")
        screen.type(b"echo $?\r")
        await screen.until(b"130\r\nready> ")
        screen.type(b"sh -c 'echo up''; exec cat'\r")
        await screen.until(b"\r\nup\r\n")
        screen.type(b"\x1a")
        assert b"Stopped" in await screen.until(b"ready> ")
        screen.type(b"fg\r")
        await screen.until(b"fg\r\n")
        screen.type(b"once\r")
        await screen.until(b"once\r\nonce\r\n")
        screen.type(b"\x03")
        await screen.until(b"ready> ")
        screen.type(b"exit 5\r")
        await screen.to_end()
        assert (await jobs.wait(job_id)).exit_code == 5


async def test_another_size(server: Server) -> None:
    """The foreground's programs get SIGWINCH and see the new size; the same one again is no news."""
    script = "trap 'stty size' WINCH; echo up; while :; do sleep 0.02; done"
    async with server.connect() as jobs:
        # bash forgets a signal that comes during its trap
        job_id = await jobs.start("sh", "-c", script, terminal=TERMINAL)
        async with screen_of(jobs, job_id, SIZE) as screen:
            await screen.until(b"up\r\n")
            for _ in range(2):
                screen.attachment.resize(pb.WindowSize(rows=31, columns=100))
                await screen.sent(b"x")
            screen.attachment.resize(pb.WindowSize(rows=24, columns=80))
            assert (await screen.until(b"24 80\r\n")).count(b"31 100") <= 1
        async with screen_of(jobs, job_id, pb.WindowSize(rows=5, columns=6), offset=screen.attachment.received) as late:
            await late.until(b"5 6\r\n")
        await jobs.stop(job_id, force=True)


async def test_attaching_again(server: Server) -> None:
    """Who leaves leaves the terminal as it is, and whoever comes then goes on in it; one at a time types."""
    async with server.connect() as jobs, server.connect() as others:
        async with shell(jobs) as (screen, job_id):
            screen.type(b"here=$((6*7))\r")
            await screen.until(b"ready> ")
            offset = screen.attachment.received
            with pytest.raises(RpcFailedError, match="another client is attached"):
                async with others.attach(job_id, window=SIZE) as second:
                    await anext(second)
        async with screen_of(others, job_id, SIZE, offset) as again:
            again.type(b"echo $here; exit\r")
            assert b"42\r\n" in await again.to_end()


async def test_the_end_of_a_terminal(server: Server) -> None:
    """When the session's leader has ended, so have the processes that it leaves in the background, and all output is there."""
    async with server.connect() as jobs:
        script = "trap '' HUP; (sleep 1000; echo never) & echo $!; seq 5000; exit 9"
        job_id = await jobs.start("sh", "-c", script, terminal=TERMINAL)
        pid, *numbers = (await output_of(jobs, job_id)).split()
        assert numbers == [b"%d" % number for number in range(1, 5001)]
        assert (await jobs.wait(job_id)).exit_code == 9
        assert not is_alive(int(pid))


async def test_a_job_that_closes_its_terminal(server: Server) -> None:
    """It goes on without one, to its own exit code; what is typed harms nobody."""
    async with server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", "echo up; exec <&- >&- 2>&-; sleep 0.3; exit 6", terminal=TERMINAL)
        async with screen_of(jobs, job_id, SIZE) as screen:
            await screen.until(b"up\r\n")
            screen.type(b"anybody?\r")
            screen.attachment.resize(pb.WindowSize(rows=3, columns=3))
            await screen.to_end()
        assert (await jobs.wait(job_id)).exit_code == 6


async def test_a_terminal_that_is_opened_again(tmp_path: Path, certificates: Path) -> None:
    """A job that has redirected all its streams and asks at /dev/tty is seen and answered, also by the next server."""
    script = (
        f"exec </dev/null >/dev/null 2>&1; kill -STOP $$; exec </dev/tty >/dev/tty; printf Password:; read it; {COUNTS}"
    )
    async with serving_program(tmp_path, certificates) as (server, _process), server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", script, terminal=TERMINAL)
        pid = (await jobs.status(job_id)).pid
        async with screen_of(jobs, job_id, SIZE) as screen:
            while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
                await trio.sleep(0.01)
            await kill(server)
            os.kill(pid, signal.SIGCONT)
            await screen.until(b"Password:")
            screen.type(b"hunter2\r")
            await screen.to_end()
        assert await output_of(jobs, job_id) == b"Password:hunter2\r\n" + COUNTED
        assert (await jobs.wait(job_id)).exit_code == 42


async def test_stopping(server: Server) -> None:
    """A stop ends every process of a terminal, those that its user has stopped included."""
    async with server.connect() as jobs, shell(jobs) as (screen, job_id):
        screen.type(b"sh -c 'echo up''; exec sleep 1000'\r")
        await screen.until(b"\r\nup\r\n")
        screen.type(b"\x1a")
        await screen.until(b"ready> ")
        record = await jobs.stop(job_id, force=True)
        assert record.cause.HasField("stopped")
        assert not server.cgroup_of(job_id).exists()


async def test_nothing_typed_is_in_the_audit(tmp_path: Path, certificates: Path) -> None:
    """The audit tells who was attached to which job, and no key; nor does the server's journal."""
    audit = tmp_path / "audit"
    options = ("--audit-folder", str(audit))
    async with serving(tmp_path, certificates, *options) as server, server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", "stty -echo; echo up; read secret; echo done", terminal=TERMINAL)
        async with screen_of(jobs, job_id, SIZE) as screen:
            await screen.until(b"up\r\n")
            screen.type(b"hunter2\r")
            assert b"done" in await screen.to_end()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    lines = [
        json.loads(line) for path in audit.iterdir() for line in path.read_bytes().splitlines() if line[:1] == b"{"
    ]
    assert any(line.get("method", "").endswith("Attach") and line.get("job") == job_id for line in lines)
    assert b"hunter2" not in written


async def test_a_server_that_is_killed(tmp_path: Path, certificates: Path) -> None:
    """Its successor goes on with the terminal: every byte of the screen comes once, and so does every key."""
    async with serving_program(tmp_path, certificates) as (server, _process), server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", f"read line; {COUNTS}", terminal=TERMINAL)
        async with screen_of(jobs, job_id, SIZE) as screen:
            screen.type(b"before ")
            await screen.until(b"before ")
            await kill(server)
            screen.type(b"after\r")
            await screen.until(b"after\r\n")
            await screen.until(b"\r\n1000\r\n")
            await kill(server)
            await screen.to_end()
        assert await output_of(jobs, job_id) == b"before after\r\n" + COUNTED
        assert (await jobs.wait(job_id)).exit_code == 42


async def kill(server: Server) -> None:
    """Kills the server, and returns when the next one is being started."""
    old = server.pid
    os.kill(old, signal.SIGKILL)
    await wait_for_successor(server, old)


async def test_an_upgrade(tmp_path: Path, certificates: Path) -> None:
    """A shell outlives the server that started it: its variables, its size, and the one who types."""
    async with serving_program(tmp_path, certificates) as (server, process), server.connect() as jobs:
        async with shell(jobs) as (screen, job_id):
            screen.type(b"here=$((6*7))\r")
            await screen.until(b"ready> ")
            for _ in range(2):
                old = server.pid
                process.send_signal(signal.SIGUSR2)
                await wait_for_successor(server, old)
                screen.type(b"echo $here; stty size\r")
                await screen.until(b"42\r\n30 100\r\nready> ")
            screen.type(b"exit 3\r")
            await screen.to_end()
        assert (await ended(jobs, job_id)).exit_code == 3


async def test_a_server_that_is_away_for_the_end(tmp_path: Path, certificates: Path) -> None:
    """A job that ends while there is no server: its last words and its exit code are there."""
    async with serving_program(tmp_path, certificates) as (server, _process), server.connect() as jobs:
        job_id = await jobs.start("sh", "-c", "read line; seq 500; exit 4", terminal=TERMINAL)
        pid = (await jobs.status(job_id)).pid
        async with screen_of(jobs, job_id) as screen:
            screen.type(b"now\r")
            await screen.until(b"now\r\n")
            old = server.pid
            os.kill(old, signal.SIGKILL)
            while is_alive(pid):
                await trio.sleep(0.01)
            await screen.to_end()
        numbers = "".join(f"{number}\r\n" for number in range(1, 501)).encode()
        assert await output_of(jobs, job_id) == b"now\r\n" + numbers
        assert (await jobs.wait(job_id)).exit_code == 4


async def test_without_a_terminal_here(server: Server) -> None:
    """`run -t` starts nothing then, and says what it lacks; detached it needs none, and a pipe types into the job's."""
    refused = await jobmaster(server, "run", "-t", "true")
    assert (refused.returncode, refused.stdout) == (125, b"")
    assert b"no terminal, so no job was started" in refused.stderr
    assert server.logs == []
    detached = await jobmaster(
        server, "run", "-d", "-t", "sh", "-c", "stty -echo; stty size; read line; echo $line; exit 3"
    )
    assert (detached.returncode, detached.stderr) == (0, b"")
    argv = command(server, "attach", "--from-start", detached.stdout.decode().strip())
    typed = await trio.run_process(argv, stdin=b"hi there\n", capture_stdout=True, check=False, cwd=REPOSITORY)
    assert typed.returncode == 3
    assert sorted(typed.stdout.splitlines()) in ([b"24 80", b"hi there"], [b"24 80", b"hi there", b"hi there"])
